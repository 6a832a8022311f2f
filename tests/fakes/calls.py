"""A scripted wire, vault and policy, so that the pipeline and its driver run without a network."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fazt.core import limits as limits_of
from fazt.core import profiles
from fazt.core.call import Fields, Phases, Profile, ResponseHead, Target, Upload
from fazt.core.limits import Limits
from fazt.core.policy import AppMeta, Policy, SecretMeta
from fazt.core.record import CallRecord
from fazt.core.rules import Rule, RuleIndex, expand_target

LIMITS: Limits = limits_of.defaults(total_ram=2 << 30, available_ram=1 << 30, cpu_cores=2)
APP = AppMeta("fazt_app_000000000001", "hello")
OTHER = AppMeta("fazt_app_000000000002", "other")


def rule(target: str, *, app: str = APP.id, **settings: Any) -> Rule:
    """Return the one rule that a target stands for."""
    (only,) = expand_target(target, scope=app, **settings)
    return only


def policy(
    *rules: Rule,
    secrets: Iterable[SecretMeta] = (),
    limits: Mapping[str, int] | None = None,
    revision: int = 1,
) -> Policy:
    """Return a snapshot with two apps."""
    return Policy(
        revision=revision,
        rules=RuleIndex.build(rules),
        secrets={(meta.scope, meta.name): meta for meta in secrets},
        apps={APP.id: APP, OTHER.id: OTHER},
        limits=limits_of.with_values(LIMITS, dict(limits or {})),
    )


def secret(name: str = "KEY", *, host: str = "api.example.com", kind: Any = "bearer", key: str = "") -> SecretMeta:
    """Return the meta data of an app's secret."""
    return SecretMeta(name, APP.id, (host,), any_domain=False, kind=kind, key=key, version=1)


def profile(held: Policy, app: str = APP.id) -> Profile:
    """Return the profile of functions for one app."""
    return profiles.functions(held.limits_for(app))


@dataclass
class FixedPolicies:
    """One snapshot, which a test may replace."""

    current: Policy


@dataclass
class Ledger:
    """Keeps the records."""

    rows: list[CallRecord] = field(default_factory=list)

    def append(self, record: CallRecord) -> None:
        self.rows.append(record)


@dataclass
class FixedVault:
    """Secret values by name."""

    values: dict[str, str] = field(default_factory=dict)

    def value(self, scope: str, name: str, *, version: int | None = None) -> str:
        return self.values[name]


@dataclass
class Answer:
    """What the scripted wire answers to one request."""

    status: int = 200
    headers: Fields = ()
    body: bytes = b"ok"


Step = Callable[[str], None]
"""Called with the name of each wire step; may raise to make it fail."""


class ScriptedConnection:
    """Answers with what the wire's script says next."""

    def __init__(self, wire: ScriptedWire, target: Target) -> None:
        self.wire, self.target = wire, target
        self.reused = False
        self.address = "203.0.113.1"
        self.ended: list[str] = []
        self._answer = Answer()

    async def send(
        self,
        head: bytes,
        body: bytes | None,
        *,
        deadline: float,
        on_sent: Callable[[], None],
        method: str = "GET",
        upload: Upload | None = None,
        phases: Phases | None = None,
    ) -> ResponseHead:
        self.wire.step("send")
        if upload is not None:
            pieces = upload.open()
            parts = [piece async for piece in pieces] if isinstance(pieces, AsyncIterable) else list(pieces)
            body = b"".join(parts)
        self.wire.sent.append((self.target, head, body))
        self.wire.deadlines.append(deadline)
        on_sent()
        self.wire.step("head")
        self._answer = self.wire.answer(head)
        return ResponseHead(self._answer.status, self._answer.headers)

    complete = True
    trailers: Fields = ()

    async def read(self, *, cap: int, deadline: float, idle: float | None = None) -> bytes:
        self.wire.step("read")
        self.wire.caps.append(cap)
        body, self._answer = self._answer.body, replace(self._answer, body=b"")
        return body

    async def read_some(self, *, deadline: float = math.inf, idle: float | None = None) -> bytes:
        self.wire.step("read_some")
        whole = self._answer.body
        self._answer = replace(self._answer, body=whole[4:])
        return whole[:4]

    def release(self) -> None:
        self.ended.append("release")

    def abort(self) -> None:
        self.ended.append("abort")


class ScriptedWire:
    """A wire whose answers and failures a test writes down."""

    tls_id = "test"

    def __init__(self, *answers: Answer, step: Step | None = None) -> None:
        self.answers = list(answers)
        self.step: Step = step or (lambda _name: None)
        self.sent: list[tuple[Target, bytes, bytes | None]] = []
        self.deadlines: list[float] = []
        self.caps: list[int] = []
        self.made: list[ScriptedConnection] = []

    def answer(self, head: bytes) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else (self.answers or [Answer()])[0]

    async def acquire(
        self,
        target: Target,
        *,
        deadline: float,
        on_attempt: Callable[[], None],
        fresh: bool = False,
        phases: Phases | None = None,
    ) -> ScriptedConnection:
        self.step("acquire")
        on_attempt()
        self.step("connect")
        connection = ScriptedConnection(self, target)
        self.made.append(connection)
        return connection
