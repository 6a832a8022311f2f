"""The record of one counted call: exactly one is written, whatever the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fazt.core.call import Hop


@dataclass(slots=True)
class Attempt:
    """One trip to the network inside a call that made several: ended by a redirect, or to be tried again.

    `ts` is seconds since the epoch; `hop` and `number` count from 1; `redirect` is where it led, without its query.
    `retry_after` is what the server asked for, in seconds, and `delay` what was waited before the next attempt.
    """

    ts: float
    hop: int
    number: int
    method: str
    scheme: str
    host: str
    port: int
    path: str
    status: int | None = None
    code: str | None = None
    reason: str | None = None
    duration_ms: float = 0.0
    ttfb_ms: float | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    version: str = ""
    address: str | None = None
    redirect: str | None = None
    retry_after: float | None = None
    delay: float = 0.0


@dataclass(slots=True)
class CallRecord:
    """What the network log keeps of a call. Filled while the call runs, written once by the driver's lease.

    `ts` is seconds since the epoch (UTC) at the start; `duration_ms` covers everything from the count to the end of
    the body. `path` carries no query. `auth` is the name of the secret, never its value. `scrubbed` counts secret
    values taken out of the response. `address` and `detail` are for the operator.

    `attempts` holds the trips to the network before the last one, None when there was only one; of the last one
    `attempt_ts` and `attempt_ms` are the start (seconds since the epoch) and the length, and `ttfb_ms` the time from
    its start to the head of the answer, None when none came. `waited_ms` is time spent waiting for rate and retries.
    `trace` is the request's `traceparent` field, by which spans are joined.
    """

    call_id: str
    ts: float
    app: str
    door: str
    method: str = ""
    scheme: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    status: int | None = None
    code: str | None = None
    reason: str | None = None
    duration_ms: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0
    cache: str = ""
    redirects: Sequence[Hop] = ()
    rule_id: str | None = None
    revision: int = 0
    auth: str | None = None
    scrubbed: int = 0
    address: str | None = None
    address_class: str | None = None
    hop: int | None = None
    detail: str | None = None
    service: str = ""
    role: str = ""
    version: str = ""
    ttfb_ms: float | None = None
    attempt_ts: float | None = None
    attempt_ms: float = 0.0
    number: int = 1
    attempts: list[Attempt] | None = None
    waited_ms: float = 0.0
    breaker: str = ""
    error: str = ""
    trace: str = ""

    @property
    def failed(self) -> bool:
        """Whether the log is to be flushed at once: a code, or a status of 400 and above."""
        return self.code is not None or (self.status is not None and self.status >= 400)

    def public(self) -> dict[str, Any]:
        """Return the fields of `net logs --json` (contracts, "Command line"), in their order."""
        return {
            "callId": self.call_id,
            "ts": self.ts,
            "app": self.app,
            "door": self.door,
            "method": self.method,
            "host": self.host,
            "port": self.port,
            "path": self.path,
            "status": self.status,
            "code": self.code,
            "reason": self.reason,
            "durationMs": round(self.duration_ms, 3),
            "requestBytes": self.request_bytes,
            "responseBytes": self.response_bytes,
            "cache": self.cache,
            "redirects": [{"status": hop.status, "url": hop.url} for hop in self.redirects],
            "ruleId": self.rule_id,
            "revision": self.revision,
            "auth": self.auth,
            "scrubbed": self.scrubbed,
        }
