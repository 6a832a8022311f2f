"""When a failed attempt is made again, and after how long (C.8): a policy that decides, and the reading of Retry-After.

Nothing here waits or draws: the engine hands in a draw and the times, and sleeps as long as it is told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from fazt.core.dates import parse_http_date
from fazt.core.tables import Table, check_number, check_statuses, check_whole
from fazt.errors import ConfigError, FaztError, Reason, StaleConnectionError

SAFE_TO_REPEAT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""Methods whose repetition changes nothing more (RFC 9110 section 9.2.2); TRACE is never sent."""
STATUSES: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses after which another attempt may succeed; 408 may be added."""

_DELAY = re.compile(r"([0-9]+)(?:\.([0-9]+))?")
_LONGEST: Final = 1e9  # some thirty years: a longer wait means the same

_TIMEOUTS: Final = frozenset(
    {Reason.DNS, Reason.CONNECT, Reason.TLS_HANDSHAKE, Reason.WRITE, Reason.FIRST_BYTE, Reason.BODY}
)
_BROKEN: Final = frozenset({Reason.DNS_FAILED, Reason.CONNECT_FAILED, Reason.PROTOCOL})
_BEFORE_SENDING: Final = frozenset({Reason.DNS, Reason.DNS_FAILED, Reason.CONNECT, Reason.TLS_HANDSHAKE})

Why = Literal["done", "attempts", "method", "body", "failure", "retry_after", "deadline", "ceiling"]
"""What ended the attempts: nothing to retry; their number; a method, a body or a failure that is not tried again; a
Retry-After beyond the cap; no time left in the call; the policy's own ceiling."""


class Again(NamedTuple):
    """Try again after `delay` seconds."""

    delay: float


class Stop(NamedTuple):
    """Hand out what there is, for this reason."""

    why: Why


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again. Immutable and hashable: one serves any number of calls and clients.

    Args:
        attempts: how often a request may be sent in all, the first time included.
        statuses: those that are tried again.
        methods: those that may be sent again; a subset of GET, HEAD, PUT, DELETE, OPTIONS. Any other method is sent
            again only with an `Idempotency-Key` header, or under `idempotent`.
        idempotent: the caller vouches that its requests may be repeated, whatever their method.
        base: seconds; the n-th pause is drawn evenly from 0 to `base * 2**(n - 1)`.
        cap: seconds that this bound does not exceed. A Retry-After is never cut down to it.
        retry_after_cap: seconds; a Retry-After of more ends the attempts.
        ceiling: seconds from the first attempt after which none begins; None leaves that to the call's deadline.
        connect: how often a connection may be tried, in all, while nothing of the request was sent; any method.
        timeouts: whether an attempt that took too long is tried again.
        protocol: whether an attempt whose connection broke, or whose answer was no HTTP, is tried again.

    Raises:
        ConfigError: a value is negative or not finite, or a method is not safe to repeat.
    """

    attempts: int = 4
    statuses: frozenset[int] = STATUSES
    methods: frozenset[str] = SAFE_TO_REPEAT
    idempotent: bool = False
    base: float = 0.75
    cap: float = 60.0
    retry_after_cap: float = 900.0
    ceiling: float | None = None
    connect: int = 3
    timeouts: bool = True
    protocol: bool = True
    _reasons: frozenset[Reason] = field(init=False, repr=False, compare=False, default=frozenset())

    def __post_init__(self) -> None:
        keep: dict[str, Any] = {
            "attempts": check_whole(self.attempts, "attempts", least=1),
            "connect": check_whole(self.connect, "connect", least=1),
            "statuses": check_statuses(self.statuses, "statuses"),
            "methods": _methods(self.methods),
        }
        for name in ("base", "cap", "retry_after_cap"):
            keep[name] = check_number(getattr(self, name), name)
        if self.ceiling is not None:
            keep["ceiling"] = check_number(self.ceiling, "ceiling")
        for name in ("idempotent", "timeouts", "protocol"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false")
        keep["_reasons"] = (_TIMEOUTS if self.timeouts else frozenset()) | (_BROKEN if self.protocol else frozenset())
        for name, value in keep.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, given: object, where: str = "retry", *, default: RetryPolicy | None = None) -> RetryPolicy:
        """Make a policy of a table; keys it leaves out are those of `default`.

        Raises:
            ConfigError: with the name of the key.
        """
        plain = default if default is not None else DEFAULT
        table = given if isinstance(given, Table) else Table(given, where)
        methods = table.raw("methods")
        ceiling = table.number("ceiling", math.inf) if "ceiling" in table else plain.ceiling
        made = cls(
            attempts=table.whole("attempts", plain.attempts, least=1),
            statuses=table.statuses("statuses", plain.statuses),
            methods=plain.methods if methods is None else _methods(methods, table.name("methods")),
            idempotent=table.flag("idempotent", plain.idempotent),
            base=table.number("base", plain.base),
            cap=table.number("cap", plain.cap),
            retry_after_cap=table.number("retry_after_cap", plain.retry_after_cap),
            ceiling=ceiling,
            connect=table.whole("connect", plain.connect, least=1),
            timeouts=table.flag("timeouts", plain.timeouts),
            protocol=table.flag("protocol", plain.protocol),
        )
        table.done()
        return made

    @classmethod
    def read(cls, given: object, where: str, *, default: RetryPolicy | None = None) -> RetryPolicy | None:
        """Make a policy of whatever a setting may hold: a policy, true, false, a table; None when there is none.

        Raises:
            ConfigError: with the name of the key.
        """
        if given is None or isinstance(given, RetryPolicy):
            return given
        if isinstance(given, bool):
            return (default if default is not None else DEFAULT) if given else None
        return cls.of(given, where, default=default)

    def repeatable(self, method: str, headers: Iterable[tuple[str, str]] = ()) -> bool:
        """Tell whether a request may be sent again after something of it was sent (the method gate)."""
        if method in self.methods:
            return True
        if method in SAFE_TO_REPEAT:
            return False
        return self.idempotent or any(name.lower() == "idempotency-key" and value.strip() for name, value in headers)

    def decide(
        self,
        *,
        attempt: int,
        method: str,
        draw: float,
        headers: Iterable[tuple[str, str]] = (),
        status: int | None = None,
        reason: Reason | None = None,
        retry_after: float | None = None,
        replayable: bool = True,
        sent: bool | None = None,
        elapsed: float = 0.0,
        left: float = math.inf,
    ) -> Again | Stop:
        """Say what follows an attempt.

        Args:
            attempt: its number, from 1.
            method: of the request, in upper case.
            draw: an even random number from 0 to 1.
            headers: of the request.
            status: of the answer, None when the attempt failed.
            reason: why it failed.
            retry_after: seconds that the answer asks for (`parse_retry_after`).
            replayable: whether the body can be sent again.
            sent: whether anything of the request was sent (`was_sent`); None concludes from the reason, and takes a
                failed connection for one that had been used.
            elapsed: seconds since the first attempt began.
            left: seconds until the call's deadline.

        Source: RFC 9110 section 9.2.2 for the gate, section 10.2.3 for Retry-After.
        """
        if status is not None:
            if status not in self.statuses:
                return Stop("done")
            sent = True
        elif reason is None or reason not in self._reasons:
            # Certificates, unsupported schemes, refusals of a policy, an open breaker: they answer the same next time.
            return Stop("failure")
        elif sent is None:
            sent = reason not in _BEFORE_SENDING
        # "A client SHOULD NOT automatically retry a request with a non-idempotent method unless it has some means to
        # know that the request semantics are actually idempotent ... or some means to detect that the original request
        # was never applied."
        gate = self.repeatable(method, headers)
        if sent and not gate:
            return Stop("method")
        if attempt >= (self.attempts if sent else max(self.connect, self.attempts if gate else 1)):
            return Stop("attempts")
        if not replayable:
            return Stop("body")
        delay = draw * min(self.cap, math.ldexp(self.base, min(attempt - 1, 64)))
        if retry_after is not None:
            # Waiting less than was asked for is what gets a client banned: wait in full, or hand it to the caller.
            if retry_after > self.retry_after_cap:
                return Stop("retry_after")
            delay = max(delay, retry_after)
        if delay >= left:
            return Stop("deadline")
        if self.ceiling is not None and elapsed + delay > self.ceiling:
            return Stop("ceiling")
        return Again(delay)


def was_sent(error: FaztError) -> bool:
    """Tell whether something of the request may have reached the server before this failure."""
    if isinstance(error, StaleConnectionError):
        return error.sent
    return error.reason not in _BEFORE_SENDING and error.reason is not Reason.CONNECT_FAILED


def parse_retry_after(value: str | None, *, wall_now: float) -> float | None:
    """Return the seconds that a Retry-After field asks for, None when it is absent or cannot be read.

    Args:
        value: of the field: seconds or an HTTP-date. A fraction of a second, which some servers send, is read too.
        wall_now: seconds since the epoch.

    Source: RFC 9110 section 10.2.3.
    """
    if value is None:
        return None
    text = value.strip(" \t")
    found = _DELAY.fullmatch(text)
    if found is not None:
        return min(float(f"{found[1]}.{found[2] or 0}"), _LONGEST)
    moment = parse_http_date(text, wall_now=wall_now)
    return None if moment is None else min(max(0.0, moment - wall_now), _LONGEST)


def retry_after_of(fields: Iterable[tuple[str, str]], *, wall_now: float) -> float | None:
    """Return what a response's header fields ask for; of several fields the longest wait."""
    waits = [parse_retry_after(value, wall_now=wall_now) for name, value in fields if name == "retry-after"]
    return max((wait for wait in waits if wait is not None), default=None)


def _methods(given: object, name: str = "methods") -> frozenset[str]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ConfigError(f"{name} must be a list of methods")
    found = frozenset(str(one).upper() for one in given)
    for one in sorted(found - SAFE_TO_REPEAT):
        raise ConfigError(
            f"{name}: {one} is not safe to repeat",
            hint="send an Idempotency-Key header, or say idempotent=True where the server tells repetitions apart",
        )
    return found


DEFAULT: Final = RetryPolicy()
"""Four attempts."""
