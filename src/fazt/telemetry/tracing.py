"""Trace context of OpenTelemetry: what a request carries, and how its spans find their parent afterwards.

Spans are made when a call is over. So the id of a span is drawn when the request leaves, sent in `traceparent`, and
kept with the id of the span it belongs under until the event of that call comes by.
"""

from __future__ import annotations

import os
import random
import re
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass

from fazt.core.call import Fields

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class SpanIds:
    """Where the span of a call belongs. `span_id` and `parent_id` are 0 for "draw one" and "none"."""

    trace_id: int
    span_id: int
    parent_id: int
    sampled: bool


class Tracing:
    """The trace context of one process."""

    def __init__(self) -> None:
        self._ratios: list[float] = []
        self.forget()

    @property
    def ratio(self) -> float | None:
        """The share of traces begun here that is exported; None while nobody exports spans."""
        return self._ratios[-1] if self._ratios else None

    def join(self, ratio: float) -> None:
        """Note that somebody exports spans from now on."""
        self._ratios.append(ratio)

    def leave(self, ratio: float) -> None:
        """Note that somebody stopped."""
        self._ratios.remove(ratio)

    def forget(self) -> None:
        """Begin anew in a forked child."""
        self._lock = threading.Lock()
        self._sent: OrderedDict[str, SpanIds] = OrderedDict()

    def headers(self) -> dict[str, str]:
        """Return what the next request should carry, {} when no trace is under way and none is exported."""
        ratio = self.ratio
        if ratio is not None:
            return self._begun(ratio)
        # A program that has no spans has not imported it, and need not pay for it.
        return _injected() if "opentelemetry.trace" in sys.modules else {}

    def ids(self, header: str) -> SpanIds:
        """Return where the span of a call belongs.

        Args:
            header: the `traceparent` that its request carried, "" for none.
        """
        with self._lock:
            known = self._sent.pop(header, None)
        if known is not None:
            return known
        found = _HEADER.fullmatch(header)
        # W3C Trace Context section 3.2.2: version ff, and ids of zeros only, are invalid.
        if found is None or found[1] == "ff" or not int(found[2], 16) or not int(found[3], 16):
            sampled = random.random() < (1.0 if self.ratio is None else self.ratio)  # noqa: S311 - not a secret
            return SpanIds(_drawn(128), 0, 0, sampled)
        return SpanIds(int(found[2], 16), 0, int(found[3], 16), bool(int(found[4], 16) & 1))

    def _begun(self, ratio: float) -> dict[str, str]:
        from opentelemetry.trace import get_current_span

        context = get_current_span().get_span_context()
        state = ""
        if context.is_valid:
            flags = int(context.trace_flags) & 3  # sampled; and that the trace id is random, which stays true
            ids = SpanIds(context.trace_id, _drawn(64), context.span_id, bool(flags & 1))
            state = context.trace_state.to_header()
        else:
            ids = SpanIds(_drawn(128), _drawn(64), 0, random.random() < ratio)  # noqa: S311
            flags = int(ids.sampled)
        header = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{flags:02x}"
        with self._lock:
            self._sent[header] = ids
            while len(self._sent) > _KEPT:  # of requests that never became a call
                self._sent.popitem(last=False)
        return {"traceparent": header, "tracestate": state} if state else {"traceparent": header}


def trace_headers() -> dict[str, str]:
    """Return the fields by which the callee joins the caller's trace: `traceparent`, and `tracestate` if there is one.

    With an `OtlpSink` open they name the span that fazt will export for the call; otherwise the current span of the
    program, in the form that its OpenTelemetry propagators write. {} when there is neither. They belong into one
    request only.

    Source: W3C Trace Context.
    """
    return TRACING.headers()


def with_trace(fields: Fields) -> Fields:
    """Return the fields of a request with those of `trace_headers`, unless it carries a `traceparent` already."""
    for name, _ in fields:
        if len(name) == 11 and name.lower() == "traceparent":
            return fields
    return (*fields, *trace_headers().items())


def _injected() -> dict[str, str]:
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def _drawn(bits: int) -> int:
    while True:
        drawn = random.getrandbits(bits)
        if drawn:
            return drawn


TRACING = Tracing()
os.register_at_fork(after_in_child=TRACING.forget)
