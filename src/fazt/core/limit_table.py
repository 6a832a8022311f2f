"""The table of limits: every default, range and word about a limit, once. `core.limits` is what to import.

A limit stands here only if something obeys it, but for `hardware` (measured) and `capacity` (estimated), which are
read-only. Times and sizes are plain integers in the unit their field names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KIB = 1024
MIB = 1024 * KIB
HARD_MAX_RESPONSE = 10 * MIB
"""No setting lets a function buffer a response body above this many bytes."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the defaults are computed from. RAM in bytes."""

    total_ram: int
    available_ram: int
    cores: int

    @property
    def scale(self) -> int:
        """Cores, of which those past the fourth count half: they share memory bandwidth and one database writer."""
        return self.cores if self.cores <= 4 else 4 + (self.cores - 4) // 2


@dataclass(frozen=True, slots=True)
class LimitInfo:
    """What is known of one limit beside its value.

    Args:
        label: a few words for a form.
        desc: one sentence: what happens when the limit is reached.
        unit: `bytes`, `ms` or `req/s`; empty for plain counts.
        low: smallest allowed value, or None where there is no range.
        high: largest allowed value, or None where there is no range.
        read_only: measured or estimated, never set.
        per_app: whether an app may be given a value of its own; a limit of the whole process has none.
        zero_lifts: 0 switches the limit off, so that for an app 0 is the widest value, not the narrowest.
    """

    label: str
    desc: str
    unit: str = ""
    low: int | None = None
    high: int | None = None
    read_only: bool = False
    per_app: bool = False
    zero_lifts: bool = False


def _limit(
    label: str,
    desc: str,
    *,
    default: int | Callable[[Machine], int],
    unit: str = "",
    span: tuple[int, int] | None = None,
    read_only: bool = False,
    per_app: bool = False,
    zero_lifts: bool = False,
) -> Any:
    low, high = span if span is not None else (None, None)
    info = LimitInfo(label, desc, unit, low, high, read_only, per_app, zero_lifts)
    return field(metadata={"info": info, "default": default})


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine, or the share of it that a control group grants."""

    total_ram: int = _limit(
        "Memory",
        "Memory this process may use: the control group's limit, else the machine's.",
        default=lambda m: m.total_ram,
        unit="bytes",
        read_only=True,
    )
    available_ram: int = _limit(
        "Free memory",
        "Memory that could be used now without swapping or being killed, measured when fazt started.",
        default=lambda m: m.available_ram,
        unit="bytes",
        read_only=True,
    )
    cpu_cores: int = _limit(
        "CPU cores",
        "Cores this process may run on, after affinity and quota.",
        default=lambda m: m.cores,
        read_only=True,
    )


@dataclass(frozen=True, slots=True)
class Storage:
    """What is kept on disk."""

    max_upload: int = _limit(
        "Largest request body",
        "A request to an app with a longer body is refused with status 413.",
        default=lambda m: _clamp(m.total_ram // 10, 10 * MIB, 100 * MIB),
        unit="bytes",
        span=(MIB, 100 * MIB),
        per_app=True,
    )
    max_file_size: int = _limit(
        "Largest file of an app",
        "A deploy that holds a larger file is refused.",
        default=100 * MIB,
        unit="bytes",
        span=(MIB, 1024 * MIB),
        per_app=True,
    )
    max_site_size: int = _limit(
        "Largest app",
        "A deploy whose files sum to more is refused.",
        default=500 * MIB,
        unit="bytes",
        span=(10 * MIB, 5 * 1024 * MIB),
        per_app=True,
    )
    max_log_rows: int = _limit(
        "Rows kept in each log",
        "The oldest rows beyond this number are deleted.",
        default=500_000,
        span=(10_000, 5_000_000),
    )


@dataclass(frozen=True, slots=True)
class Runtime:
    """What one invocation of an app may use."""

    exec_timeout: int = _limit(
        "Time limit of an invocation",
        "An invocation that takes longer, waiting included, is stopped.",
        default=5000,
        unit="ms",
        span=(100, 10_000),
        per_app=True,
    )
    cpu_time: int = _limit(
        "CPU time of an invocation",
        "An invocation that computes for longer is stopped; time spent waiting does not count.",
        default=2000,
        unit="ms",
        span=(50, 10_000),
        per_app=True,
    )
    max_memory: int = _limit(
        "Memory of an invocation",
        "A script that needs more fails.",
        default=50 * MIB,
        unit="bytes",
        span=(MIB, 256 * MIB),
        per_app=True,
    )
    max_output: int = _limit(
        "Largest answer of an app",
        "A script that responds with a longer body fails.",
        default=MIB,
        unit="bytes",
        span=(KIB, 10 * MIB),
        per_app=True,
    )
    max_log_lines: int = _limit(
        "Log lines of an invocation",
        "Further console and log lines are dropped, and a last line says so.",
        default=200,
        span=(0, 5000),
        per_app=True,
    )


@dataclass(frozen=True, slots=True)
class Capacity:
    """Estimates of what this machine carries, for planning; `max_requests` also bounds what the server holds open."""

    users: int = _limit(
        "Comfortable users",
        "Estimate of people who can be active at once without anyone noticing.",
        default=lambda m: 50 * m.scale,
        read_only=True,
    )
    users_max: int = _limit(
        "Most users",
        "Estimate of people active at once where answers begin to slow down.",
        default=lambda m: 100 * m.scale,
        read_only=True,
    )
    reads: int = _limit(
        "Reads",
        "Estimate of requests that only read.",
        default=lambda m: 200 * m.scale,
        unit="req/s",
        read_only=True,
    )
    writes: int = _limit(
        "Writes",
        "Estimate of requests that write; one writer at a time, so cores help little.",
        default=lambda m: 100 + 25 * (m.scale - 1),
        unit="req/s",
        read_only=True,
    )
    mixed: int = _limit(
        "Mixed load",
        "Estimate for requests of which about a third write.",
        default=lambda m: 150 * m.scale,
        unit="req/s",
        read_only=True,
    )
    max_requests: int = _limit(
        "Requests at once",
        "Estimate of requests that can be open at the same time.",
        default=500,
        span=(50, 5000),
        read_only=True,
    )
    timeout_ms: int = _limit(
        "Answer time under load",
        "Estimate of how long the slowest request takes when the machine is full.",
        default=5000,
        unit="ms",
        span=(1000, 30_000),
        read_only=True,
    )


@dataclass(frozen=True, slots=True)
class Net:
    """Outbound calls."""

    max_calls: int = _limit(
        "Calls per invocation",
        "Every further call is refused with calls_exceeded.",
        default=5,
        span=(1, 20),
        per_app=True,
    )
    call_timeout: int = _limit(
        "Time limit of a call",
        "A call that takes longer, redirects and body included, fails with NET_TIMEOUT.",
        default=4000,
        unit="ms",
        span=(1000, 10_000),
        per_app=True,
    )
    budget: int = _limit(
        "Shared time of all calls",
        "Calls of one invocation share this time; when it is used up, further ones are refused.",
        default=4000,
        unit="ms",
        span=(1000, 10_000),
        per_app=True,
    )
    app_concurrency: int = _limit(
        "Calls of one app at once",
        "A call beyond this number is refused at once with app_concurrency.",
        default=5,
        span=(1, 20),
        per_app=True,
    )
    concurrency: int = _limit(
        "Calls of all apps at once",
        "A call beyond this number is refused at once with global_concurrency.",
        default=lambda m: _clamp(10 * m.scale, 20, 100),
        span=(5, 100),
    )
    max_req_body: int = _limit(
        "Largest request body of a call",
        "A call with a longer body is refused before anything is sent.",
        default=MIB,
        unit="bytes",
        span=(KIB, 10 * MIB),
        per_app=True,
    )
    max_response: int = _limit(
        "Largest response body of a call",
        "A call whose response is longer fails, unless its rule grants more.",
        default=MIB,
        unit="bytes",
        span=(KIB, HARD_MAX_RESPONSE),
        per_app=True,
    )
    max_redirects: int = _limit(
        "Redirects followed",
        "The next redirect after this number fails the call.",
        default=3,
        span=(0, 10),
        per_app=True,
    )
    rate_limit: int = _limit(
        "Requests a minute to one rule's hosts",
        "Used by rules without a rate of their own; 0 switches it off.",
        default=0,
        span=(0, 1000),
        per_app=True,
        zero_lifts=True,
    )
    rate_burst: int = _limit(
        "Requests in one burst",
        "Requests that may follow each other without waiting where a rate applies; 0 counts as 1.",
        default=0,
        span=(0, 100),
        per_app=True,
    )
    log_buffer: int = _limit(
        "Buffered log rows",
        "When more calls than this wait to be written, the oldest rows are dropped and counted.",
        default=1000,
        span=(100, 10_000),
    )
    log_flush: int = _limit(
        "Pause between log writes",
        "Rows of successful calls reach the disk after at most this time; failures are written at once.",
        default=1000,
        unit="ms",
        span=(500, 10_000),
    )
    cache_max_items: int = _limit(
        "Responses in the cache",
        "The least recently used response leaves when another comes; 0 switches the cache off.",
        default=0,
        span=(0, 10_000),
    )
    cache_max_bytes: int = _limit(
        "Size of the cache",
        "The least recently used responses leave until the rest fits; 0 switches the cache off.",
        default=0,
        unit="bytes",
        span=(0, 100 * MIB),
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits, in groups."""

    hardware: Hardware
    storage: Storage
    runtime: Runtime
    capacity: Capacity
    net: Net


GROUPS: dict[str, type[Any]] = {
    "hardware": Hardware,
    "storage": Storage,
    "runtime": Runtime,
    "capacity": Capacity,
    "net": Net,
}
