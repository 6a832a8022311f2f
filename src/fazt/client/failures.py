"""Errors of the client: every one is a `FaztError` and the exception that httpx2 or httpx raises in the same case.

The classes are made when they are first needed, one for each library and exception, so that neither library is
imported before it is used. A refusal is moreover an error of each SDK that retries whatever it does not know
(openai, anthropic), if that SDK is loaded: both pass errors of their own on at once, and asking again would only be
refused again.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from types import ModuleType
from typing import Any

from fazt.errors import Code, FaztError, Reason, StaleConnectionError

_NAMES: dict[Reason, str] = {
    Reason.DNS: "ConnectTimeout",
    Reason.CONNECT: "ConnectTimeout",
    Reason.TLS_HANDSHAKE: "ConnectTimeout",
    Reason.WRITE: "WriteTimeout",
    Reason.FIRST_BYTE: "ReadTimeout",
    Reason.BODY: "ReadTimeout",
    Reason.TOTAL: "TimeoutException",
    Reason.ABORTED: "ReadError",
    Reason.POOL_WAIT: "PoolTimeout",
    Reason.DNS_FAILED: "ConnectError",
    Reason.CONNECT_FAILED: "ConnectError",
    Reason.TLS_FAILED: "ConnectError",
    Reason.PROTOCOL: "RemoteProtocolError",
    Reason.RESPONSE_HEADERS: "RemoteProtocolError",
    Reason.DECODE: "DecodingError",
    Reason.DECODED_BODY: "DecodingError",
    Reason.BAD_OPTION: "LocalProtocolError",
    Reason.REDIRECT_LIMIT: "TooManyRedirects",
    Reason.REDIRECT_LOOP: "TooManyRedirects",
}
"""What httpx calls a failure; a refusal, which it knows none of, is a plain `RequestError`."""

_FINAL_CODES = frozenset({Code.NET_BLOCKED, Code.NET_AUTH, Code.NET_SIZE, Code.NET_BUDGET, Code.NET_RATE})
"""What fazt itself says no to. A rate or an open breaker gives way later, but an SDK would ask again after half a
second, whatever `retry_after` says, and then hide the refusal behind an error of its own."""
_FINAL_REASONS = frozenset({Reason.BAD_OPTION, Reason.NOT_CACHED})
_SDKS = (("openai", "OpenAIError"), ("anthropic", "AnthropicError"))


def translate(library: ModuleType, error: FaztError, request: Any) -> FaztError:
    """Make an error the matching exception of a library as well, and return it.

    It stays the same object: its cause, its traceback and all that it carries are kept.

    Args:
        library: httpx2 or httpx.
        error: as the engine raised it.
        request: the library's request, for `error.request`.
    """
    if not isinstance(error, library.RequestError):
        error.__class__ = _class(library.__name__, _name(error, request), _loaded_sdks(error))
    error._request = request  # type: ignore[attr-defined]
    return error


def translate_url(library: ModuleType, error: FaztError) -> FaztError:
    """Make a refusal of a URL that the library cannot read its `InvalidURL` too, which is no `RequestError` there."""
    error.__class__ = _class(library.__name__, "InvalidURL", _loaded_sdks(error))
    error._request = None  # type: ignore[attr-defined]
    return error


def _name(error: FaztError, request: Any) -> str:
    reason = error.reason
    if isinstance(error, StaleConnectionError):
        return "RemoteProtocolError"
    if reason is Reason.BAD_URL and error.hop is not None:
        return "RemoteProtocolError"  # the server named a target that is none
    unsupported = error.hop is None and request is not None and request.url.scheme not in ("http", "https")
    if unsupported and reason in (Reason.SCHEME_NOT_ALLOWED, Reason.BAD_URL):
        return "UnsupportedProtocol"
    return _NAMES.get(reason, "RequestError")


def _loaded_sdks(error: FaztError) -> tuple[str, ...]:
    """Return the SDKs that must not retry this error."""
    if error.code not in _FINAL_CODES and error.reason not in _FINAL_REASONS:
        return ()
    return tuple(name for name, _ in _SDKS if name in sys.modules)


@lru_cache(maxsize=128)
def _class(library: str, name: str, sdks: tuple[str, ...]) -> type[FaztError]:
    bases: list[type] = [FaztError, getattr(sys.modules[library], name)]
    if name == "InvalidURL":
        bases.append(sys.modules[library].RequestError)  # as every refusal of fazt's
    for sdk, base in _SDKS:
        kind = getattr(sys.modules.get(sdk), base, None) if sdk in sdks else None
        if isinstance(kind, type) and issubclass(kind, Exception):
            bases.append(kind)
    members = {
        "__module__": __name__,
        "__doc__": f"A `FaztError` that is {library}.{name} too.",
        "__reduce__": _reduce,
        "_made_of": (library, name),
    }
    return type(name, tuple(bases), members)


def _reduce(error: Any) -> tuple[Any, ...]:
    state = dict(error.__dict__)
    if state.get("_request") is not None:
        state["_request"] = _bare(state["_request"])
    return _again, (*error._made_of, error.args, state)


def _bare(request: Any) -> Any:
    """Return a request without what may be a credential: a pickle lands in queues, result stores and logs."""
    url = request.url.copy_with(userinfo=b"", query=None, fragment=None)
    return type(request)(request.method, url)


def _again(library: str, name: str, args: tuple[Any, ...], state: dict[str, Any]) -> FaztError:
    """Make an error anew from what `pickle` kept."""
    __import__(library)
    error = FaztError(state["reason"], state["message"])
    error.__class__ = _class(library, name, _loaded_sdks(error))
    error.args = args
    error.__dict__.update(state)
    return error
