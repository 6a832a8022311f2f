"""Build an event by hand: for what is no call of the engine, or fails after the call's record was written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from fazt.core.url import parse_url
from fazt.errors import Code, FaztError, Reason
from fazt.telemetry.event import ATTEMPT, FROM_CACHE, HTTP_ERROR, Event, EventStatus, status_of
from fazt.telemetry.redact import NAME_CAP, TEXT_CAP, clean, normal_host, plain, redact_text, redact_url

_TIMEOUT_NAMES = frozenset({"TimeoutException", "Timeout"})
"""Bases of the timeouts of httpx and requests, which are no `TimeoutError`."""
_NETWORK_NAMES = frozenset({"TransportError", "NetworkError", "ConnectionError"})
_MOST = 2**63 - 1
_VERSIONS = {"1.0": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2", "2.0": "HTTP/2", "h2": "HTTP/2", "3": "HTTP/3"}


class EventBuilder:
    """Collects the fields of one event; nothing that is handed in can make it fail.

    Times are measured from `with_request` (or from the construction) to `build` unless they are given.

    Args:
        event_type: of the event.
        wall: seconds since the epoch.
        clock: seconds of a clock that only goes forward.
    """

    __slots__ = ("_at", "_clock", "_elapsed", "_error", "_event", "_started", "_wall")

    def __init__(
        self,
        event_type: str = ATTEMPT,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._wall, self._clock = wall, clock
        self._at, self._started = wall(), clock()
        self._elapsed: float | None = None
        self._error: EventStatus | None = None
        self._event = Event(self._at, clean(event_type) or ATTEMPT)

    def __repr__(self) -> str:
        return f"<EventBuilder {self._event.event_type} {self._event.request_id}>"

    def with_request(self, method: object, url: object, *, request_id: object = "") -> EventBuilder:
        """Say what is asked for, and start the clock."""
        self._at, self._started = self._wall(), self._clock()
        text = _url_text(url)
        return self._with(
            method=clean(method),
            url=redact_url(text),
            host=normal_host(text),
            request_id=clean(request_id) or self._event.request_id,
        )

    def with_response(
        self, response: object = None, *, status: object = None, http_version: object = None
    ) -> EventBuilder:
        """Take status and HTTP version of a response (httpx2's, httpx's, fazt's), or as given beside it."""
        found = _status(status) or _status(_peek(response, "status_code")) or _status(_peek(response, "status"))
        version = _version(http_version) or _version(_peek(response, "http_version"))
        return self._with(
            status_code=found or self._event.status_code,
            http_version=version or _version(_peek(response, "version")) or self._event.http_version,
        )

    def with_timing(self, *, elapsed_ms: object = None, ttfb_ms: object = None, at: object = None) -> EventBuilder:
        """Set times instead of measuring them: milliseconds, and seconds since the epoch for the start."""
        elapsed, first, start = _number(elapsed_ms), _number(ttfb_ms), _number(at)
        if elapsed is not None:
            self._elapsed = elapsed
        if start is not None and start < 2**37:  # the year 6325; what comes later is no time
            self._at = start
        return self if first is None else self._with(ttfb_ms=first)

    def with_cache(self, cache: object, *, from_cache: bool | None = None) -> EventBuilder:
        """Say what the cache did: hit, revalidated, miss, stale or bypass."""
        state = clean(cache, 32)
        return self._with(cache=state, from_cache=state in FROM_CACHE if from_cache is None else bool(from_cache))

    def with_data(self, *, bytes_read: object = None, bytes_written: object = None) -> EventBuilder:
        """Set the bytes of bodies, on the wire."""
        read, written = _count(bytes_read), _count(bytes_written)
        return self._with(
            bytes_read=self._event.bytes_read if read is None else read,
            bytes_written=self._event.bytes_written if written is None else written,
        )

    def with_error(
        self, error: BaseException | None = None, *, code: object = None, message: object = None
    ) -> EventBuilder:
        """Say that it failed.

        The text of an exception is shown only when it is fazt's own, which holds no secrets; of others the class is.
        Status and HTTP version are those of the exception's response when it has one.

        Args:
            error: the exception.
            code: instead of the code that follows from the exception.
            message: instead of the exception's; it must hold no secret (URLs in it are redacted).
        """
        if error is not None:
            response = _peek(error, "response")
            if response is not None:
                self.with_response(response)
        found, reason, status, said = _of_exception(error, self._event.status_code)
        if code is not None:
            found = clean(code, 64) or found
            status = _status_of_code(found) or status
        self._error = status
        given = plain(message)
        text = said if given is None else redact_text(given, TEXT_CAP)
        return self._with(error_code=found, reason=reason, error_message=text)

    def with_redirect(self, target: object) -> EventBuilder:
        """Say where the answer led."""
        found = _target(_url_text(target), self._event.url)
        return self._with(redirect_target=found) if found else self

    def with_attempt(self, attempt: object, *, hop: object = None) -> EventBuilder:
        """Say which attempt it was, of which hop, both from 1."""
        return self._with(attempt=_count(attempt) or self._event.attempt, hop=_count(hop) or self._event.hop)

    def with_context(
        self,
        *,
        service: object = None,
        role: object = None,
        app: object = None,
        door: object = None,
        rule_id: object = None,
    ) -> EventBuilder:
        """Say what it belongs to; None leaves a field as it is."""
        given = {"service": service, "role": role, "app": app, "door": door, "rule_id": rule_id}
        return self._with(**{name: clean(value) for name, value in given.items() if value is not None})

    def build(self) -> Event:
        """Return the event; the builder may go on from here."""
        event = self._event
        elapsed = (self._clock() - self._started) * 1000.0 if self._elapsed is None else self._elapsed
        code = event.error_code
        if code is None and event.status_code >= 400:
            code = HTTP_ERROR
        status = self._error or status_of(
            event.status_code, None, event.reason, redirected=event.redirect_target is not None
        )
        return replace(event, at=self._at, elapsed_ms=max(0.0, elapsed), error_code=code, status=status)

    def _with(self, **fields: object) -> EventBuilder:
        self._event = replace(self._event, **fields)  # type: ignore[arg-type]
        return self


def _of_exception(error: BaseException | None, status: int) -> tuple[str, str | None, EventStatus, str | None]:
    """Return error code, reason, status and text of an exception."""
    if error is None:
        return (HTTP_ERROR if status >= 400 else "error"), None, EventStatus.ERROR, None
    kind = type(error)
    if issubclass(kind, FaztError):
        code, reason = _peek(error, "code"), _peek(error, "reason")
        if type(code) is Code and type(reason) is Reason:
            message = plain(_peek(error, "message"))
            said = None if message is None else redact_text(message)
            return code.value, reason.value, status_of(0, code.value, reason.value), said
    name = clean(kind.__name__, NAME_CAP)
    names = {base.__name__ for base in kind.__mro__}
    if issubclass(kind, TimeoutError) or names & _TIMEOUT_NAMES:
        return "timeout", None, EventStatus.TIMEOUT, name
    if status >= 400:
        return HTTP_ERROR, None, EventStatus.ERROR, name
    if names & _NETWORK_NAMES:
        return "network_error", None, EventStatus.NETWORK_ERROR, name
    return "error", None, EventStatus.ERROR, name


def _status_of_code(code: str) -> EventStatus | None:
    if code in ("timeout", "network_error"):
        return EventStatus(code)
    return EventStatus.TIMEOUT if code == Code.NET_TIMEOUT else None


def _peek(thing: object, name: str) -> object:
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - a foreign property may raise anything (httpx's do), and telemetry breaks nothing
        return None


def _url_text(url: object) -> str:
    text = plain(url)
    if text is not None:
        return text
    try:
        found = str(url)
    except Exception:  # noqa: BLE001 - as above
        return ""
    return found if "://" in found else ""


def _target(text: str, base: str) -> str:
    if "://" in text:
        return redact_url(text)
    try:
        return redact_url(str(parse_url(text, base=parse_url(base))))
    except FaztError:
        return ""


def _status(value: object) -> int:
    number = _count(value) or 0
    return number if 100 <= number <= 999 else 0


def _version(value: object) -> str:
    text = clean(value, 16)
    return _VERSIONS.get(text, text)


def _number(value: object) -> float | None:
    if not issubclass(type(value), float):
        count = _count(value)
        return None if count is None else float(count)
    number = float.__float__(cast("float", value))
    return number if math.isfinite(number) and number >= 0 else None


def _count(value: object) -> int | None:
    kind = type(value)
    if not issubclass(kind, int) or kind is bool:
        return None
    number = int.__int__(cast("int", value))
    return number if 0 <= number <= _MOST else None
