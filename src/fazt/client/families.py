"""The two libraries whose clients fazt's are: httpx2 and httpx 0.28, alike in all but a few places.

What differs is collected here. Objects that every request makes are made from templates: the constructors of both
libraries check and copy at every call what is known to be right, which costs several times as much as the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from fazt.client.asked import CONNECT, POOL, READ, WRITE
from fazt.core.call import Fields
from fazt.net.decode import Decoder, Joined, Stepped

_MEMO_TEXT = 512
_MEMO_PLACES = 1024


class Place(NamedTuple):
    """Where a request goes, in the forms that are needed of it."""

    url: Any
    """The library's URL."""
    netloc: bytes
    """What Host says."""
    text: str
    """What the gates judge."""

    def __repr__(self) -> str:  # the caller's query is in it
        return f"<Place {self.netloc.decode('latin-1')}>"


def _place(url: Any) -> Place:
    return Place(url, url.netloc, str(url))


class Family:
    """One library: its classes, and ways to make requests and responses of it quickly.

    Args:
        name: "httpx2" or "httpx".
    """

    def __init__(self, name: str) -> None:
        library: Any = importlib.import_module(name)
        self.name = name
        self.library = library
        self.request_class: Any = library.Request
        self.response_class: Any = library.Response
        self.headers_class: Any = library.Headers
        self.url_class: Any = library.URL
        self.unset: Any = library.USE_CLIENT_DEFAULT
        self.opened: Any = library._client.ClientState.OPENED
        self.closed: Any = library._client.ClientState.CLOSED
        self.unopened: Any = library._client.ClientState.UNOPENED
        self.no_body: Any = library.ByteStream(b"")
        self.unchosen_timeout: Any = _unchosen(library)
        """Makes fazt's limits of single waits, for a client that was given none."""
        self.steps = library.__name__ == "httpx2"  # which httpx2.alias_httpx() makes of httpx
        """Whether content decoders give what they decode in steps (httpx2), or as a whole (httpx 0.28)."""
        made = library.Response(200, stream=self.no_body)
        self._response = dict(vars(made))
        self._request = dict(vars(library.Request("GET", "http://x/", headers={})))
        self._headers = dict(vars(library.Headers()))
        self._places: dict[str, Place] = {}
        self._by_url: dict[int, Place] = {}

    def place(self, text: str) -> Place:
        """Return where a URL leads; remembered, since parsing one costs more than a fifth of a small request.

        Raises:
            InvalidURL: as the library does.
        """
        found = self._places.get(text)
        if found is None:
            found = _place(self.url_class(text))
            if len(text) <= _MEMO_TEXT:
                if len(self._places) >= _MEMO_PLACES:
                    self._places, self._by_url = {}, {}
                self._places[text] = self._by_url[id(found.url)] = found
        return found

    def place_of(self, url: Any) -> Place:
        """Return the same for one of the library's URLs."""
        found = self._by_url.get(id(url))
        return found if found is not None and found.url is url else _place(url)

    def headers(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> Any:
        """Return header fields of (name, lower-case name, value) that are known to be well-formed."""
        headers = self.headers_class.__new__(self.headers_class)
        found = headers.__dict__
        found.update(self._headers)
        found["_list"] = list(items)
        return headers

    def received(self, fields: Fields) -> Any:
        """Return the fields of an answer, whose names are in lower case."""
        items = []
        for name, value in fields:
            key = name.encode("latin-1")
            items.append((key, key, value.encode("latin-1")))
        return self.headers(items)

    def bodiless(self, method: str, url: Any, headers: Any, extensions: dict[str, Any]) -> Any:
        """Return a request without a body; method in upper case, Host among the headers."""
        request = self.request_class.__new__(self.request_class)
        found = request.__dict__
        found.update(self._request)
        found["method"] = method
        found["url"] = url
        found["headers"] = headers
        found["extensions"] = extensions
        found["stream"] = self.no_body
        found["_content"] = b""
        return request

    def whole(self, status: int, headers: Any, content: bytes, *, request: Any, extensions: dict[str, Any]) -> Any:
        """Return a response that has been read to its end."""
        response = self.response_class.__new__(self.response_class)
        found = response.__dict__
        found.update(self._response)
        found["status_code"] = status
        found["headers"] = headers
        found["_request"] = request
        found["extensions"] = extensions
        found["history"] = []
        found["is_closed"] = True
        found["is_stream_consumed"] = True
        found["_content"] = content
        return response

    def decoder(self, decoder: Decoder) -> Any:
        """Return what the library's responses decode their bodies with."""
        return Stepped(decoder) if self.steps else Joined(decoder)


def _unchosen(library: Any) -> Callable[[], Any]:
    """Return what makes fazt's own timeouts, as those that nobody chose.

    SDKs (openai, anthropic) tell by comparing whether a client was given timeouts: those that equal the library's own
    default were not, and give way to the SDK's, which leave a model ten minutes to think. So these equal them too.
    """

    class Timeout(library.Timeout):  # type: ignore[misc]
        __doc__ = library.Timeout.__doc__

        def __eq__(self, other: object) -> bool:
            return other == usual or library.Timeout(**self.as_dict()) == other  # type: ignore[no-any-return]

        __hash__ = None  # type: ignore[assignment]  # as its base: it can be changed

    usual = library._config.DEFAULT_TIMEOUT_CONFIG
    return partial(Timeout, connect=CONNECT, read=READ, write=WRITE, pool=POOL)


@lru_cache(maxsize=2)
def family(name: str) -> Family:
    """Return the family of a library, imported now if it was not.

    Raises:
        ImportError: it is not installed.
    """
    return Family(name)
