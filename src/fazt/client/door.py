"""What the blocking and the asynchronous client share: construction, building requests, per-request options."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from fazt.client.arguments import header_names, pool_limits, refuse_bypasses, refuse_environment, tls_config, unexpected
from fazt.client.asked import MODES, NAMES, NOTHING, Asked, asked
from fazt.client.backend import Setup, as_tuple, policy_for
from fazt.client.cache import OwnCookies, cache_from
from fazt.client.families import Family, family
from fazt.client.intake import EXTENSION, Intake
from fazt.client.pace import pace_for
from fazt.client.trips import following
from fazt.errors import ConfigError
from fazt.net.decode import accept_encoding
from fazt.version import __version__

if TYPE_CHECKING:
    from fazt.client.policies import Policy
    from fazt.core.call import Fields
    from fazt.telemetry.hooks import Hooks

Q = TypeVar("Q")
"""The library's request."""
R = TypeVar("R")
"""The library's response."""
UNSET: Any = object()
"""In place of an argument that was not given."""
USER_AGENT = f"fazt/{__version__}"
_DEFAULT_FIELDS = {
    "Accept": "*/*",
    "Accept-Encoding": accept_encoding(),
    "Connection": "keep-alive",
    "User-Agent": USER_AGENT,
}
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_BODY_ARGUMENTS = frozenset({"content", "data", "files", "json"})
_OF_HTTPX = _BODY_ARGUMENTS | {"params", "headers", "cookies"}
"""What httpx's own `build_request` takes beside method, URL, timeout and extensions."""
_HOOK_NAMES = frozenset({"on_request", "on_response", "on_error"})


def setup_of(
    *,
    policy: Policy | None = None,
    app: str | None = None,
    verify: Any = True,
    cert: Any = None,
    trust_env: bool = False,
    http1: bool = True,
    http2: bool = False,
    limits: Any = None,
    cache: Any = None,
    services: Mapping[str, Any] | None = None,
    traffic: Any = None,
    sinks: Any = None,
    sensitive_headers: Iterable[str] = (),
    **others: Any,
) -> Setup:
    """Return how a client or transport reaches the network; arguments as `fazt.Client`.

    Raises:
        ConfigError: an argument that would go around the policy, or that cannot be used.
        TypeError: an unknown argument.
    """
    refuse_bypasses(others)
    refuse_environment(trust_env)
    if not http1:
        raise ConfigError("http1=False is not supported: HTTP/2 is used where the server offers it, see http2=")
    held, owned = policy_for(policy, app)
    try:
        pool, tls = pool_limits(limits), tls_config(verify, cert, held)
        again = functools.partial(tls_config, verify, cert, held) if verify is True else None
        pace = pace_for(held, traffic, services)
        return Setup(
            policy=held,
            owned=owned,
            pool=pool,
            tls=tls,
            tls_again=again,
            http2=_http2(http2),
            sinks=as_tuple(sinks),
            cache=cache_from(cache),
            traffic=pace.traffic,
            tune=pace.tune,
            closing=pace.closing,
            sensitive=header_names(sensitive_headers),
        )
    except BaseException:
        if owned:
            held.close()
        raise


def _http2(wanted: bool) -> bool:
    """Tell whether HTTP/2 is offered to servers: where it was asked for and its libraries are there."""
    if not wanted:
        return False
    from fazt.net.http2_sharing import available

    return available()


class Door(Generic[Q, R]):
    """The part of a client that knows neither threads nor loops. `_library` names the family of its subclass."""

    _library: ClassVar[str]
    _intake: Intake
    _family: Family
    _hooks: Hooks | None
    _borrowed: bool
    _own_cookies: OwnCookies

    # Typed as what they are in both libraries, whose classes stand beside this one in the client's bases.
    if TYPE_CHECKING:
        cookies: Any
        timeout: Any
        base_url: Any
        params: Any
        max_redirects: int
        follow_redirects: bool
        _cookies: Any
        _event_hooks: dict[str, list[Any]]
        _default_encoding: Any
        _auth: Any
        _headers: Any
        _timeout: Any
        _base_url: Any
        _params: Any
        _state: Any

        _merge_headers: Callable[..., Any]
        _merge_cookies: Callable[..., Any]
        _merge_url: Callable[..., Any]
        _build_request_auth: Callable[..., Any]
        _build_redirect_request: Callable[..., Any]
        _set_timeout: Callable[..., None]

    @classmethod
    def _family_of(cls) -> Family:
        return family(cls._library)

    def _httpx_arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take the arguments of httpx's own constructor out of `given`, with fazt's defaults, and return them."""
        arguments: dict[str, Any] = {
            name: given.pop(name)
            for name in (
                "auth",
                "params",
                "headers",
                "cookies",
                "timeout",
                "follow_redirects",
                "max_redirects",
                "event_hooks",
                "base_url",
                "default_encoding",
            )
            if name in given
        }
        return arguments

    def _fazt_arguments(self, given: dict[str, Any]) -> tuple[Asked, dict[str, Any]]:
        """Take the defaults of per-request options and the hooks out of `given`, and return them."""
        cache = given.get("cache")
        defaults = {name: given.pop(name) for name in NAMES & given.keys() if name != "cache"}
        if isinstance(cache, str) and cache in MODES:
            defaults["cache"] = given.pop("cache")
        hooks = {name: given.pop(name) for name in _HOOK_NAMES & given.keys()}
        return asked(defaults, NOTHING), hooks

    def _finish(self, intake: Intake, hooks: Mapping[str, Any], *, timed: bool) -> None:
        """Complete a client whose httpx part is made."""
        self._intake = intake
        self._family = intake.family
        self._own_cookies = OwnCookies()
        self._hooks = None
        if not timed:
            self._timeout = intake.family.unchosen_timeout()
        if any(hook is not None for hook in hooks.values()):
            from fazt.telemetry.hooks import Hooks

            self._hooks = Hooks(**hooks)
            if not intake.asynchronous:
                self._hooks.check_sync()

    @property
    def headers(self) -> Any:
        """Fields that every request carries; what is assigned is added to fazt's own defaults."""
        return self._headers

    @headers.setter
    def headers(self, headers: Any) -> None:
        fields = self._family_of().headers_class(_DEFAULT_FIELDS)
        fields.update(headers)
        self._headers = fields

    @property
    def is_closed(self) -> bool:
        """Whether the client, or what it shares with others, was closed."""
        return self._state is self._family.closed or self._intake.backend.closed

    @property
    def policy(self) -> Policy:
        """The policy that decides this client's calls."""
        return self._intake.policy

    def introspect(self) -> dict[str, Any]:
        """Return what is really used: pool limits, open connections, TLS configuration, policy, protocol."""
        return self._intake.backend.introspect()

    def service(self, name: str) -> Self:
        """Return this client for calls that are part of a service: its limits, breaker, retries and events.

        It shares everything else with this one, the connections too; closing it closes nothing.

        Args:
            name: of the service, as in `services=`.
        """
        other = copy.copy(self)
        other._intake = self._intake.with_defaults(asked({"service": name}, self._intake.defaults))
        other._borrowed = True
        other._state = self._family.unopened
        return other

    def build_request(self, method: str, url: Any, **options: Any) -> Q:
        """Build a request as httpx does; fazt's own options go into its extensions.

        Args:
            method, url: of the request; the URL is merged with `base_url`.
            options: httpx's own (`content`, `data`, `files`, `json`, `params`, `headers`, `cookies`, `timeout`,
                `extensions`) and fazt's (`secret`, `deadline`, `max_bytes`, `cache`, `retry`, `service`, `role`).

        Raises:
            TypeError, ValueError: an option that is unknown or out of range.
            FaztError: the URL cannot be read; it is httpx's `InvalidURL` too.
        """
        extensions: dict[str, Any] = {}
        if options:
            extensions = self._extensions(options)
        timeout = options.pop("timeout", self._family.unset)
        if "timeout" not in extensions:
            given = self._timeout if timeout is self._family.unset else self._family.library.Timeout(timeout)
            extensions["timeout"] = given.as_dict()
        method = method.upper()
        try:
            if options.keys() <= {"headers", "cookies"} and method in _BODILESS and not self._params:
                made: Q = self._bodiless(method, url, options.get("headers"), options.get("cookies"), extensions)
            else:
                if not options.keys() <= _OF_HTTPX:
                    from fazt.client.keywords import BodyOptions

                    raise unexpected(min(options.keys() - _OF_HTTPX), BodyOptions.__annotations__)
                made = super().build_request(method, url, extensions=extensions, **options)  # type: ignore[misc]
        except self._family.library.InvalidURL as error:
            raise self._intake.refuse_url(method, str(url)) from error
        return made

    def _extensions(self, options: dict[str, Any]) -> dict[str, Any]:
        """Take fazt's options and the extensions out of `options`; return the extensions with both in them."""
        given = options.pop("extensions", None)
        extensions = dict(given) if given else {}
        own = {name: options.pop(name) for name in NAMES & options.keys()}
        if EXTENSION in extensions or own:
            merged = {**(extensions.get(EXTENSION) or {}), **own}
            asked(merged)  # a mistake is said where it was made
            extensions[EXTENSION] = merged
        return extensions

    def _bodiless(self, method: str, url: Any, headers: Any, cookies: Any, extensions: dict[str, Any]) -> Any:
        """Build the most common request without httpx's constructors, which cost more than all the rest."""
        known = self._family
        if type(url) is str and not self._base_url.host:
            place = known.place(url)
            if not place.url.is_absolute_url:
                place = known.place_of(self._merge_url(url))
        else:
            place = known.place_of(self._merge_url(url))
        merged = self._headers if headers is None else self._merge_headers(headers)
        items = merged._list
        if not any(key == b"host" for _, key, _ in items) and place.netloc:
            items = [(b"Host", b"host", place.netloc), *items]
        request = known.bodiless(method, place.url, known.headers(items), extensions)
        jar = self._cookies if cookies is None else self._merge_cookies(cookies)
        if jar:
            jar.set_cookie_header(request)
        return request

    def _open(self, known: Family) -> None:
        """Begin to be used.

        Raises:
            RuntimeError: the client was closed.
        """
        if self.is_closed:
            raise RuntimeError("Cannot send a request, as the client has been closed.")
        self._state = known.opened

    def _complete(self, response: Any, fields: Fields, history: list[Any], *, follow: bool) -> None:
        """Let cookies, history and the next request of a redirect be known, as httpx does."""
        response.default_encoding = self._default_encoding
        if history:
            response.history = list(history)
        for name, _ in fields:
            if name == "set-cookie":
                self.cookies.extract_cookies(response)
                self._own_cookies.learn(response.request.method, fields)
                break
        if not follow and 300 <= response.status_code < 400 and response.has_redirect_location:
            with contextlib.suppress(self._family.library.RemoteProtocolError):
                response.next_request = following(self, response)

    def _request_options(self, request: Any, options: dict[str, Any]) -> None:
        """Put options that were given with a request into it."""
        if options:
            request.extensions = {
                **request.extensions,
                **self._extensions({"extensions": request.extensions, **options}),
            }
            if options.keys() - NAMES:
                unknown = sorted(options.keys() - NAMES)[0]
                raise TypeError(f"unexpected keyword argument {unknown!r}")


def refuse_body(verb: str, options: Mapping[str, Any]) -> None:
    """Refuse a body for a method that has none, as httpx does.

    Raises:
        TypeError: `content`, `data`, `files` or `json` is given.
    """
    found = _BODY_ARGUMENTS & options.keys()
    if found:
        raise TypeError(f"{verb}() got an unexpected keyword argument {sorted(found)[0]!r}; request() takes any")
