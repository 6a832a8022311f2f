"""What a call may be asked for beside httpx's own arguments: checked once, merged with the client's own settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from fazt.core.call import CacheMode, Options, Phases

if TYPE_CHECKING:
    from fazt.core.retry import RetryPolicy
    from fazt.core.traffic import Traffic

CALL_SECONDS = 60.0
"""Total time of a call whose body is not streamed, unless the caller says otherwise (contracts, "Doors")."""
CONNECT, READ, WRITE, POOL = 5.0, 30.0, 30.0, 5.0
"""Seconds of single waits, unless the caller says otherwise (C.2)."""
STREAM_IDLE = 60.0
"""Seconds between two reads of a streamed body, unless the caller says otherwise."""

_MEMO = 256
MODES = ("default", "bypass", "validate", "reload", "only-if-cached")
"""Uses of the response cache (`core.call.CacheMode`)."""


class Asking(TypedDict, total=False):
    """Keyword arguments of every request, and the keys of `extensions={"fazt": {…}}`."""

    secret: str | None
    deadline: float | None
    max_bytes: int | None
    cache: CacheMode | None
    retry: RetryPolicy | bool | None
    service: str
    role: str


NAMES = frozenset(Asking.__annotations__)
"""Their names."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for, by one call or by all calls of a client.

    Args:
        secret: name of a secret to send along.
        deadline: seconds the whole call may take, redirects, retries and body included; None: as long as it takes.
        timed: whether `deadline` was given; otherwise it is 60 s, and none for streams.
        max_bytes: bytes of body, as sent and as decoded; None: no limit of the caller's own.
        cache: use of the response cache.
        retry: when to try again; None leaves it to the service, False is never.
        service: name of the service the call is part of.
        role: what the call is for.
    """

    secret: str | None = None
    deadline: float | None = CALL_SECONDS
    timed: bool = False
    max_bytes: int | None = None
    cache: CacheMode = "default"
    retry: RetryPolicy | Literal[False] | None = None
    service: str = ""
    role: str = ""


NOTHING = Asked()
"""Nothing but the defaults."""


def asked(given: Mapping[str, Any], base: Asked = NOTHING) -> Asked:
    """Return what is asked for, checked.

    Args:
        given: keyword arguments of a request, or what stands under "fazt" in its extensions.
        base: what holds where nothing is given.

    Raises:
        TypeError: an unknown name, or a value of the wrong type.
        ValueError: a number out of range, an unknown use of the cache.
    """
    if not given:
        return base
    changes: dict[str, Any] = {}
    for name, value in given.items():
        check = _CHECKS.get(name)
        if check is None:
            raise TypeError(f"fazt knows no option {name!r}; there are: {', '.join(sorted(NAMES))}")
        changes[name] = check(name, value)
    if "deadline" in changes:
        changes["timed"] = True
    return replace(base, **changes)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    return value


def _text_or_none(name: str, value: Any) -> str | None:
    return None if value is None else _text(name, value)


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds or None, not {type(value).__name__}")
    if not 0 < value < math.inf:  # false for NaN too
        raise ValueError(f"{name} must be a number of seconds above zero, or None for no limit")
    return float(value)


def _bytes(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a number of bytes or None, not {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must not be below zero")
    return value


def _mode(name: str, value: Any) -> CacheMode:
    if value is None:
        return "default"
    if value not in MODES:
        raise ValueError(f"{name} must be one of {', '.join(MODES)}, not {value!r}")
    return cast("CacheMode", value)


def _retry(name: str, value: Any) -> RetryPolicy | Literal[False] | None:
    if value is None or value is False:
        return value
    from fazt.core.retry import DEFAULT, RetryPolicy

    if value is True:
        return DEFAULT
    if not isinstance(value, RetryPolicy):
        raise TypeError(f"{name} must be a fazt.RetryPolicy, True, False or None, not {type(value).__name__}")
    return value


_CHECKS = {
    "secret": _text_or_none,
    "deadline": _seconds,
    "max_bytes": _bytes,
    "cache": _mode,
    "retry": _retry,
    "service": _text,
    "role": _text,
}

Timeouts = tuple[float | None, float | None, float | None, float | None]
"""Connect, read, write, pool, as httpx has them."""
DEFAULT_TIMEOUTS: Timeouts = (CONNECT, READ, WRITE, POOL)


def timeouts_of(extension: Mapping[str, float | None] | None) -> Timeouts:
    """Return the four limits of a request's `timeout` extension; what is missing has no limit, as in httpcore."""
    if extension is None:
        return DEFAULT_TIMEOUTS
    return extension.get("connect"), extension.get("read"), extension.get("write"), extension.get("pool")


@dataclass(frozen=True, slots=True)
class Settled:
    """What the engine is given beside the request: shared by all requests that ask for the same.

    Args:
        options: for `core.call.Request`.
        timeout_ms: total time of the call in ms, None for no limit.
        secret: name of the secret to send along.
        max_bytes: limit of the decoded body.
    """

    options: Options
    timeout_ms: float | None
    secret: str | None
    max_bytes: int | None


class Settler:
    """Turns what is asked for into the engine's options; remembers what it made, since most requests ask for the same.

    Args:
        traffic: read timeouts of services, None for none.
        sensitive: lower-case names of fields that stay with their origin, beside those known to hold credentials.
    """

    __slots__ = ("_known", "_sensitive", "_traffic")

    def __init__(self, traffic: Traffic | None, sensitive: frozenset[str] = frozenset()) -> None:
        self._traffic = traffic
        self._sensitive = sensitive
        self._known: dict[tuple[Any, ...], Settled] = {}

    def clear(self) -> None:
        """Forget what was made, as after a change of the services."""
        self._known = {}

    def __call__(
        self,
        wanted: Asked,
        timeouts: Timeouts,
        *,
        coding: str,
        stream: bool,
        max_redirects: int | None,
        total: bool = True,
    ) -> Settled:
        """Return the options of one call.

        Args:
            wanted: by the call, or by all calls of the client.
            timeouts: of single waits.
            coding: value of `Accept-Encoding`.
            stream: whether the body is handed out as it comes.
            max_redirects: how many redirects to follow, None to follow none.
            total: whether the call ends within a default time when it asks for none.
        """
        key = (wanted, timeouts, coding, stream, max_redirects, total)
        found = self._known.get(key)
        if found is None:
            known = self._known
            if len(known) >= _MEMO:
                known = self._known = {}
            found = known[key] = self._settle(wanted, timeouts, coding, stream, max_redirects, total)
        return found

    def _settle(
        self, wanted: Asked, timeouts: Timeouts, coding: str, stream: bool, max_redirects: int | None, total: bool
    ) -> Settled:
        connect, read, write, pool = timeouts
        service = wanted.service
        traffic = self._traffic
        usual = timeouts == DEFAULT_TIMEOUTS
        deadline = wanted.deadline
        if not wanted.timed:
            if not total:
                deadline = None
            elif not usual:
                # who allows single waits more time than a whole call has by default has said how long it may take
                deadline = None if read is None or read == math.inf else max(CALL_SECONDS, read)
        if usual:
            own = traffic.read_timeout_for(service) if traffic is not None and service else None
            read = own if own is not None else read if total else STREAM_IDLE
        retry = wanted.retry
        if retry is False:
            from fazt.core.retry import RetryPolicy

            retry = RetryPolicy(attempts=1, connect=1)
        options = Options(
            follow=max_redirects is not None,
            max_redirects=max_redirects,
            max_response=wanted.max_bytes,
            phases=Phases(connect=connect, read=read, write=write, pool=pool),
            cache=wanted.cache,
            retry=retry,
            service=service,
            role=wanted.role,
            coding=coding,
            sensitive=self._sensitive,
            stream=stream,
        )
        timeout_ms = None if deadline is None else deadline * 1000.0
        return Settled(options=options, timeout_ms=timeout_ms, secret=wanted.secret, max_bytes=wanted.max_bytes)


assert frozenset(field.name for field in fields(Asked)) >= NAMES
