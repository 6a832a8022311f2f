"""What happened on the network, told to whoever wants to know: events, sinks, hooks, trace context."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fazt.telemetry.event import Event, EventStatus
from fazt.telemetry.fanout import Fanout, Tee
from fazt.telemetry.hooks import HookRun, Hooks
from fazt.telemetry.records import events_of
from fazt.telemetry.sinks.base import Sink
from fazt.telemetry.tracing import trace_headers

if TYPE_CHECKING:
    from fazt.telemetry.builder import EventBuilder
    from fazt.telemetry.config import fanout_from_config, sinks_from_config
    from fazt.telemetry.redact import normal_host, redact_url
    from fazt.telemetry.sinks.lines import CsvSink, JsonlSink
    from fazt.telemetry.sinks.otlp import OtlpSink
    from fazt.telemetry.sinks.prometheus import PrometheusSink
    from fazt.telemetry.sinks.sqlite import SqliteSink
    from fazt.telemetry.sinks.text import ConsoleSink, LogSink

_LAZY = {
    "ConsoleSink": "fazt.telemetry.sinks.text",
    "CsvSink": "fazt.telemetry.sinks.lines",
    "EventBuilder": "fazt.telemetry.builder",
    "JsonlSink": "fazt.telemetry.sinks.lines",
    "LogSink": "fazt.telemetry.sinks.text",
    "OtlpSink": "fazt.telemetry.sinks.otlp",
    "PrometheusSink": "fazt.telemetry.sinks.prometheus",
    "SqliteSink": "fazt.telemetry.sinks.sqlite",
    "fanout_from_config": "fazt.telemetry.config",
    "normal_host": "fazt.telemetry.redact",
    "redact_url": "fazt.telemetry.redact",
    "sinks_from_config": "fazt.telemetry.config",
}

__all__ = [
    "ConsoleSink",
    "CsvSink",
    "Event",
    "EventBuilder",
    "EventStatus",
    "Fanout",
    "HookRun",
    "Hooks",
    "JsonlSink",
    "LogSink",
    "OtlpSink",
    "PrometheusSink",
    "Sink",
    "SqliteSink",
    "Tee",
    "events_of",
    "fanout_from_config",
    "normal_host",
    "redact_url",
    "sinks_from_config",
    "trace_headers",
]


def __getattr__(name: str) -> Any:
    where = _LAZY.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(where), name)
