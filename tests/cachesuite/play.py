"""Play a case: its requests one after the other through an engine, on a clock of its own, and say what went wrong."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from fazt.core.cache.memory import MemoryStore
from fazt.core.cache.responses import ResponseCache
from fazt.core.cache.storing import CacheRules
from fazt.core.call import Options, Request, Response
from fazt.core.profiles import client
from fazt.engine import AsyncEngine, Engine
from fazt.errors import FaztError
from fazt.net.aio import Wire
from fazt.net.resolve import Resolver
from fazt.net.sync import SyncWire
from fazt.net.sync_resolve import SyncResolver
from tests.cachesuite.case import PAUSE, Ask, Case
from tests.cachesuite.origin import CaseOrigin, Heads
from tests.fakes.calls import APP, LIMITS, FixedPolicies, FixedVault, Ledger, policy, rule

HOST = "cases.example.com"
STATIC = {HOST: ("127.0.0.1",)}
SHARED = CacheRules(shared=True, targets=("cdn-cache-control",))
PRIVATE = CacheRules()
GUESSING = CacheRules(heuristics=True)
_tokens = count(1)


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    fields: Heads
    text: str
    cache: str


class Player:
    """An engine with a cache, in front of an origin; methods block, whichever engine it is."""

    def __init__(self, kind: Literal["sync", "async"], rules: CacheRules, store: Any = None) -> None:
        self.origin = CaseOrigin()
        self.rules = rules
        if store is None:
            store = MemoryStore(1 << 24, salt=b"0123456789abcdef", lock=threading.Lock())
        self.cache = ResponseCache(store, rules, credentials=True)
        self.records = Ledger()
        held = policy(rule(f"http://{HOST}:{self.origin.port}", addresses=("127.0.0.0/8",)))
        parts: dict[str, Any] = {
            "policies": FixedPolicies(held),
            "vault": FixedVault(),
            "sink": self.records,
            "cache": self.cache,
            "wall": lambda: self.origin.now,
        }
        self.loop = asyncio.new_event_loop() if kind == "async" else None
        self.engine: Any
        if self.loop is None:
            self.engine = Engine(wire=SyncWire(resolver=SyncResolver(STATIC)), **parts)
        else:
            self.engine = AsyncEngine(wire=Wire(resolver=Resolver(STATIC)), **parts)
        self.profile = client(LIMITS)

    def call(self, request: Request) -> Response:
        made = self.engine.call(request, profile=self.profile)
        return made if self.loop is None else self.loop.run_until_complete(made)  # type: ignore[no-any-return]

    def settle(self) -> None:
        """Wait for what is asked in the background."""
        if self.loop is not None and self.engine._tasks:
            self.loop.run_until_complete(asyncio.wait(list(self.engine._tasks)))
        for thread in threading.enumerate():
            if thread.name == "fazt-refresh":
                thread.join()

    def close(self) -> None:
        self.settle()
        if self.loop is None:
            self.engine.close()
        else:
            self.loop.run_until_complete(self.engine.close())
            self.loop.close()
        self.origin.stop()

    def play(self, case: Case) -> str:
        """Return what went wrong, "" when nothing did."""
        token = f"t{next(_tokens)}"
        self.origin.cases[token] = case.asks
        for number, ask in enumerate(case.asks, 1):
            answered = self._ask(ask, token, number)
            self.settle()
            wrong = self._judge(ask, answered, token, number)
            if wrong:
                return f"answer {number}: {wrong}"
            if ask.pause:
                self.origin.now += PAUSE
        return ""

    def request(self, token: str, ask: Ask | None = None, *, number: int, stream: bool = False) -> Request:
        """Return a request of a case, told by its number so that the origin knows what to answer."""
        ask = ask or Ask()
        fields = tuple((name, self.origin.value(name, value, token)) for name, value in ask.send)
        query = f"?{ask.query}" if ask.query else ""
        return Request(
            f"http://{HOST}:{self.origin.port}/{token}{ask.path}{query}",
            ask.method,
            (*fields, ("Test-ID", token), ("Req-Num", str(number))),
            ask.body.encode() if ask.body else None,
            app=APP.id,
            door="client",
            options=Options(follow=False, stream=stream),
        )

    def _ask(self, ask: Ask, token: str, number: int) -> Answered:
        try:
            response = self.call(self.request(token, ask, number=number))
        except FaztError as error:  # as a gateway tells its client
            return Answered(502, {}, repr(error), "")
        answered: Heads = {}
        for name, value in response.headers:
            answered[name] = f"{answered[name]}, {value}" if name in answered else value
        return Answered(response.status, answered, response.body.decode("latin-1"), response.cache)

    def _judge(self, ask: Ask, answered: Answered, token: str, number: int) -> str:
        seen = [request for request in self.origin.seen[token] if request.number == number]
        from_store = answered.fields.get("client-request-count") != str(number)
        if ask.expect == "stored":
            if not from_store or (seen and answered.cache not in ("stale", "hit")):
                return f"it comes from the origin ({answered.cache})"
        elif ask.expect and not seen:
            return "it comes from the store"
        elif ask.expect == "origin" and from_store:
            return "it comes from the store although the origin was asked"
        elif ask.expect == "etag" and "if-none-match" not in seen[-1].fields:
            return "the origin saw no If-None-Match"
        elif ask.expect == "modified" and "if-modified-since" not in seen[-1].fields:
            return "the origin saw no If-Modified-Since"
        validated = ask.expect in ("etag", "modified")
        status = ask.want_status or (200 if validated else ask.status)
        if answered.status != status:
            return f"status {answered.status}, not {status} {answered.text if answered.status == 502 else ''}"
        for name, value in ask.want.items():
            found = answered.fields.get(name.lower())
            if isinstance(value, int):
                if found is None or not found.isdigit() or int(found) <= value:
                    return f"{name} is {found}, not above {value}"
            elif value == "the origin's":
                if found != dict(self.origin.seen[token][0].sent)["Date"]:
                    return f"{name} was changed to {found}"
            elif found != value:
                return f"{name} is {found!r}, not {value!r}"
        for name, value in ask.want_sent.items():
            if seen[-1].fields.get(name) != value:
                return f"the origin saw {name}: {seen[-1].fields.get(name)!r}"
        text = ask.text if ask.want_text == "" else ask.want_text
        if text is not None and ask.method != "HEAD" and answered.text != text:
            return f"the body is {answered.text!r}"
        return ""
