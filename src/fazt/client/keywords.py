"""Keyword arguments of clients and calls by name and type, for type checkers, editors and `inspect.signature`.

What they mean stands with `Client` and `request`; here is nothing that runs in a call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from fazt.client.asked import Asking

if TYPE_CHECKING:
    from fazt.client.policies import Policy
    from fazt.core.retry import RetryPolicy

F = TypeVar("F", bound=Callable[..., Any])


class Connecting(TypedDict, total=False):
    """How the network is reached: of clients and transports."""

    policy: Policy | None
    app: str | None
    verify: Any
    cert: Any
    trust_env: bool
    http1: bool
    http2: bool
    limits: Any
    services: Mapping[str, Any] | None
    traffic: Any
    sinks: Any
    sensitive_headers: Iterable[str]
    secret: str | None
    deadline: float | None
    max_bytes: int | None
    cache: Any
    retry: RetryPolicy | bool | None
    service: str
    role: str


class ClientArguments(Connecting, total=False):
    """Of a client: httpx's own, too."""

    auth: Any
    params: Any
    headers: Any
    cookies: Any
    timeout: Any
    follow_redirects: bool
    max_redirects: int
    event_hooks: Mapping[str, list[Callable[..., Any]]] | None
    base_url: Any
    default_encoding: str | Callable[[bytes], str]
    on_request: Callable[[Any], Any] | None
    on_response: Callable[[Any], Any] | None
    on_error: Callable[[Any], Any] | None


class CallOptions(Asking, total=False):
    """Of a call that sends no body."""

    params: Any
    headers: Any
    cookies: Any
    auth: Any
    follow_redirects: Any
    timeout: Any
    extensions: Any


class BodyOptions(CallOptions, total=False):
    """Of a call that may send one."""

    content: Any
    data: Any
    files: Any
    json: Any


class OneCall(BodyOptions, total=False):
    """Of `fazt.get(…)` and its like, which make one call."""

    policy: Policy | None
    app: str | None
    max_redirects: int


class _LeftOut:
    """The default of an argument in a signature: what holds when it is left out depends on the others."""

    def __repr__(self) -> str:
        return "..."


_LEFT_OUT = _LeftOut()


class Signature:
    """Tells `inspect.signature`, and so a prompt that completes names, which arguments a class takes by name."""

    def __init__(self, arguments: type) -> None:
        self._arguments = arguments

    def __get__(self, _instance: object, _owner: type) -> inspect.Signature:
        return _signature(self._arguments)


def accepts(arguments: type, *positional: str) -> Callable[[F], F]:
    """Return a decorator that tells `inspect.signature` which arguments a function takes."""

    def signed(function: F) -> F:
        function.__signature__ = _signature(arguments, positional)  # type: ignore[attr-defined]
        return function

    return signed


@functools.cache
def _signature(arguments: type, positional: tuple[str, ...] = ()) -> inspect.Signature:
    kinds = inspect.Parameter
    own = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in positional]
    named = []
    for name, kind in arguments.__annotations__.items():
        text = getattr(kind, "__forward_arg__", kind)  # as it is in the source
        annotation = kinds.empty if text == "Any" else text
        named.append(kinds(name, kinds.KEYWORD_ONLY, default=_LEFT_OUT, annotation=annotation))
    return inspect.Signature([*own, *named])
