"""How circuits behave (C.10): thresholds, the rolling window, and what the outcome of an attempt says about a host."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fazt.core.tables import Table, check_number, check_statuses, check_whole
from fazt.errors import ConfigError, Reason

FAILURES: Final = frozenset({408, 429, 500, 502, 503, 504})
NEUTRAL: Final = frozenset({401, 403, 404, 410, 451})
FAILED: Final = frozenset(
    {
        Reason.DNS,
        Reason.DNS_FAILED,
        Reason.CONNECT,
        Reason.CONNECT_FAILED,
        Reason.TLS_HANDSHAKE,
        Reason.TLS_FAILED,
        Reason.WRITE,
        Reason.FIRST_BYTE,
        Reason.BODY,
        Reason.PROTOCOL,
    }
)
"""Reasons that speak against the host; all others (a policy's refusal, the caller's own deadline, a body that is too
large) say nothing about it."""


class Outcome(StrEnum):
    """What an attempt says about the host."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Threshold:
    """When a circuit opens and how it closes again.

    Args:
        fail_max: failures in a row that open it.
        reset: seconds that it stays open.
        success_threshold: successful trials that close it.
        trial_calls: trials that may be under way at a time.

    Raises:
        ConfigError: a value is out of range.
    """

    fail_max: int = 5
    reset: float = 60.0
    success_threshold: int = 1
    trial_calls: int = 1

    def __post_init__(self) -> None:
        check_whole(self.fail_max, "fail_max", least=1)
        check_number(self.reset, "reset", above=0)
        check_whole(self.success_threshold, "success_threshold", least=1)
        check_whole(self.trial_calls, "trial_calls", least=1)

    @classmethod
    def read(cls, table: Table, default: Threshold) -> Threshold:
        """Read the keys of a table that may hold more.

        Raises:
            ConfigError: with the name of the key.
        """
        return cls(
            table.whole("fail_max", default.fail_max, least=1),
            table.number("reset", default.reset, above=0),
            table.whole("success_threshold", default.success_threshold, least=1),
            table.whole("trial_calls", default.trial_calls, least=1),
        )


@dataclass(frozen=True, slots=True)
class Rolling:
    """Opens for `cooldown` seconds when `threshold` failures fell within `window` seconds, successes or not."""

    threshold: int = 3
    window: float = 10.0
    cooldown: float = 30.0

    def __post_init__(self) -> None:
        check_whole(self.threshold, "rolling.threshold", least=1)
        check_number(self.window, "rolling.window", above=0)
        check_number(self.cooldown, "rolling.cooldown", above=0)

    @classmethod
    def read(cls, given: Table | bool | None) -> Rolling | None:
        """Make it of true, false or a table with `enabled`, `threshold`, `window` and `cooldown`.

        Raises:
            ConfigError: with the name of the key.
        """
        if given is None or given is False:
            return None
        plain = cls()
        if given is True:
            return plain
        assert isinstance(given, Table)
        enabled = given.flag("enabled", True)
        made = cls(
            given.whole("threshold", plain.threshold, least=1),
            given.number("window", plain.window, above=0),
            given.number("cooldown", plain.cooldown, above=0),
        )
        given.done()
        return made if enabled else None


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """How circuits of hosts, or of a service, behave.

    Args:
        threshold: of the circuit itself.
        roles: role and threshold, for roles that have a circuit of their own; others share the host's.
        rolling: the window beside the failures in a row, None for none.
        retry_after_cap: seconds; a server that names a longer time is believed that much.
        failures: statuses that speak against the host.
        neutral: statuses that say nothing; all that are in neither set are successes.

    Raises:
        ConfigError: a value is out of range, or a status is in both sets.
    """

    threshold: Threshold = field(default_factory=Threshold)
    roles: tuple[tuple[str, Threshold], ...] = ()
    rolling: Rolling | None = None
    retry_after_cap: float = 900.0
    failures: frozenset[int] = FAILURES
    neutral: frozenset[int] = NEUTRAL

    def __post_init__(self) -> None:
        check_number(self.retry_after_cap, "retry_after_cap")
        object.__setattr__(self, "failures", check_statuses(self.failures, "failures"))
        object.__setattr__(self, "neutral", check_statuses(self.neutral, "neutral"))
        both = sorted(self.failures & self.neutral)
        if both:
            raise ConfigError(f"status {both[0]} cannot be both a failure and neutral")

    @classmethod
    def read(cls, value: object, where: str, *, default: BreakerPolicy | None = None) -> BreakerPolicy | None:
        """Make a policy of whatever a setting may hold: a policy, true, false, a table; None when there is none.

        Args:
            value: the setting.
            where: its name, for errors.
            default: what a table leaves out.

        Raises:
            ConfigError: with the name of the key.
        """
        if value is None or isinstance(value, BreakerPolicy):
            return value
        plain = default if default is not None else cls()
        if isinstance(value, bool):
            return plain if value else None
        given = value if isinstance(value, Table) else Table(value, where)
        threshold = Threshold.read(given, plain.threshold)
        roles = dict(plain.roles)
        named = given.table("roles")
        for role, table in named.tables() if named is not None else ():
            roles[role] = Threshold.read(table, roles.get(role, threshold))
            table.done()
        failures = given.statuses("failures", plain.failures - given.statuses("neutral", frozenset()))
        made = cls(
            threshold,
            tuple(sorted(roles.items())),
            Rolling.read(given.switch("rolling")) if "rolling" in given else plain.rolling,
            given.number("retry_after_cap", plain.retry_after_cap),
            failures,
            given.statuses("neutral", plain.neutral - failures),
        )
        given.done()
        return made

    def judge(self, status: int | None, reason: Reason | None) -> Outcome:
        """Say what an attempt with this status, or with this failure, says about the host."""
        if status is not None:
            if status in self.failures:
                return Outcome.FAILURE
            return Outcome.NEUTRAL if status in self.neutral else Outcome.SUCCESS
        return Outcome.FAILURE if reason in FAILED else Outcome.NEUTRAL

    def cools(self, status: int | None) -> bool:
        """Tell whether a Retry-After beside this status stops all requests: 429 always, 503 unless it is neutral."""
        return status == 429 or (status == 503 and 503 not in self.neutral)
