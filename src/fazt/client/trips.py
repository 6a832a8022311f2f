"""A call with redirects as httpx shows it: cookies, event hooks, history, one request object for each hop.

The engine follows; what it hands over between two hops is turned into the library's objects here. Cookies are kept and
sent by the client's jar, for every hop anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fazt.client.incoming import redirecting
from fazt.client.outgoing import fields_of
from fazt.core.call import Earlier, Fields
from fazt.core.headers import first
from fazt.core.redirects import is_credential
from fazt.core.url import Url

if TYPE_CHECKING:
    from fazt.client.door import Door


class Trip:
    """One call that follows redirects.

    Args:
        door: the client.
        request: the first request.
        history: responses before it (of an authentication).
    """

    __slots__ = ("door", "history", "left", "request")

    def __init__(self, door: Door[Any, Any], request: Any, history: list[Any]) -> None:
        self.door = door
        self.request = request
        self.history = history
        self.left = False
        """Whether a redirect has led to another origin."""

    def between(self, earlier: Earlier, method: str, url: Url, fields: Fields) -> Fields:
        """Show a redirect and the next request to cookies, history and hooks; return the fields to send."""
        response = self._arrived(earlier)
        for hook in self.door._event_hooks["response"]:
            hook(response)
        request = self._next(earlier, method, url, fields)
        for hook in self.door._event_hooks["request"]:
            hook(request)
        self.request = request
        return fields_of(request.headers)

    async def between_async(self, earlier: Earlier, method: str, url: Url, fields: Fields) -> Fields:
        """Do the same with hooks that are awaited."""
        response = self._arrived(earlier)
        for hook in self.door._event_hooks["response"]:
            await hook(response)
        request = self._next(earlier, method, url, fields)
        for hook in self.door._event_hooks["request"]:
            await hook(request)
        self.request = request
        return fields_of(request.headers)

    def _arrived(self, earlier: Earlier) -> Any:
        head, door = earlier.head, self.door
        response = redirecting(
            door._family,
            head.status,
            head.headers,
            phrase=head.phrase,
            version=head.version,
            request=self.request,
        )
        response.default_encoding = door._default_encoding
        if first(head.headers, "set-cookie") is not None:
            door.cookies.extract_cookies(response)
            door._own_cookies.learn(self.request.method, head.headers)
        response.history = list(self.history)
        self.history.append(response)
        return response

    def _next(self, earlier: Earlier, method: str, url: Url, fields: Fields) -> Any:
        """Return the library's request of the next hop."""
        door, known = self.door, self.door._family
        text = str(url)
        fragment = (first(earlier.head.headers, "location") or "").partition("#")[2] or self.request.url.fragment
        place = known.place(f"{text}#{fragment}" if fragment else text)
        items = [(b"Host", b"host", place.netloc)]
        for name, value in fields:
            key = name.encode("latin-1")
            if key.lower() != b"cookie":
                items.append((key, key.lower(), value.encode("latin-1")))
        request = known.bodiless(method, place.url, known.headers(items), self.request.extensions)
        if method == self.request.method and earlier.head.status in (307, 308):
            request.stream = self.request.stream
            request.__dict__.pop("_content")
            if "_content" in self.request.__dict__:
                request._content = self.request._content
            for name in ("Content-Length", "Transfer-Encoding"):
                if name in self.request.headers:
                    request.headers[name] = self.request.headers[name]
        self.left = self.left or earlier.url.origin != url.origin
        if door._cookies:
            _jar(door, left=self.left).set_cookie_header(request)
        return request


def following(door: Door[Any, Any], response: Any) -> Any:
    """Return the request that a redirect asks for, which the caller may send: to another origin without credentials.

    Raises:
        RemoteProtocolError: of the library, when it names no URL.
    """
    request = response.request
    made = door._build_redirect_request(request, response)
    if _origin(made.url) == _origin(request.url):
        return made
    own = door._intake.backend.setup.sensitive
    for name in [name for name in made.headers if is_credential(name) or name.lower() in own]:
        del made.headers[name]
    if door._cookies:
        _jar(door, left=True).set_cookie_header(made)
    return made


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _jar(door: Door[Any, Any], *, left: bool) -> Any:
    """Return the cookies that may be sent: once the origin was left, only those that say for which host they are.

    Those that the program set without a domain go to whatever host is asked, which a redirect must not choose.
    """
    kept = door._cookies
    if not left or all(cookie.domain for cookie in kept.jar):
        return kept
    jar = type(kept)()
    for cookie in kept.jar:
        if cookie.domain:
            jar.jar.set_cookie(cookie)
    return jar
