"""What the guest's tests share: engines that are opened once, and a short way to run a handler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fazt.functions.guestapi import (
    AppBundle,
    EngineUnavailableError,
    GuestEngine,
    Image,
    Result,
    build_request,
    open_engine,
    pack,
    parse_result,
    unpack,
    write_image,
)


def refuse(frame: bytes) -> bytes:
    """The host of a handler that is not meant to call out."""
    raise AssertionError(f"unexpected call: {unpack(frame)[0]}")


@dataclass
class Guest:
    """An engine, with everything that an invocation needs filled in."""

    engine: GuestEngine
    directory: Path
    logs: list[tuple[str, str]] = field(default_factory=list)
    made: int = 0

    def app(
        self, main: str | bytes, files: Mapping[str, str | bytes] | None = None, *, memory: int = 64 << 20
    ) -> Image:
        """Bake an app from its handler and other files ("lib/x.js")."""
        given = {"main.js": main, **(files or {})}
        content = {f"api/{name}": text.encode() if isinstance(text, str) else text for name, text in given.items()}
        data = self.engine.bake(AppBundle("app_1", "shop", content, version="7"), memory=memory)
        self.made += 1
        path = self.directory / f"{self.made}.img"
        write_image(path, data)
        return self.engine.open_image(path)

    def run(
        self,
        main: str | bytes | Image,
        files: Mapping[str, str | bytes] | None = None,
        *,
        host: Callable[[bytes], bytes] = refuse,
        request: Mapping[str, Any] | None = None,
        **limits: Any,
    ) -> Result:
        """Bake and invoke; log lines go to `logs`."""
        image = self.app(main, files) if isinstance(main, str | bytes) else main
        wanted: dict[str, Any] = {"method": "GET", "path": "/api/x", "app_id": "app_1", "app_name": "shop"}
        settings: dict[str, Any] = {
            "cpu_ms": 5_000,
            "wall_ms": 10_000,
            "memory": 32 << 20,
            "max_output": 1 << 20,
            "max_log_lines": 100,
            "seed": os.urandom(16),
        }
        self.logs.clear()
        frame = self.engine.invoke(
            image,
            build_request(**(wanted | dict(request or {}))),
            host=host,
            post=self._note,
            **(settings | limits),
        )
        if isinstance(main, str | bytes):
            image.close()
        return parse_result(frame)

    def text(self, main: str | bytes | Image, files: Mapping[str, str | bytes] | None = None, **options: Any) -> str:
        """Run a handler that is to answer; return the body."""
        result = self.run(main, files, **options)
        assert result.error is None, result.error
        return result.body.decode()

    def _note(self, frame: bytes) -> None:
        line = unpack(frame)[0]
        assert line["op"] == "log"
        self.logs.append((line["level"], line["message"]))


def _open(kind: Any) -> GuestEngine:
    try:
        return open_engine(kind)
    except EngineUnavailableError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def wasm_engine() -> Iterator[GuestEngine]:
    engine = _open("wasm")
    yield engine
    engine.close()


@pytest.fixture(scope="session", params=["wasm", "jsbox"])
def engine(request: pytest.FixtureRequest) -> Iterator[GuestEngine]:
    if request.param == "wasm":
        yield request.getfixturevalue("wasm_engine")
        return
    opened = _open(request.param)
    yield opened
    opened.close()


@pytest.fixture
def guest(engine: GuestEngine, tmp_path: Path) -> Guest:
    """Runs each test on every engine."""
    return Guest(engine, tmp_path)


@pytest.fixture
def wasm(wasm_engine: GuestEngine, tmp_path: Path) -> Guest:
    """For what only the WebAssembly engine promises."""
    return Guest(wasm_engine, tmp_path)


def ok(body: bytes = b"", **head: Any) -> bytes:
    """A reply of the host to a call that went well."""
    fields = {"status": 200, "url": "https://api.example/", "redirected": False, "headers": [], "callId": "c_1"}
    return pack({"ok": fields | head}, body)


def refusal(**fields: Any) -> bytes:
    """A reply of the host to a call that was refused."""
    error = {
        "code": "NET_BLOCKED",
        "reason": "host_not_granted",
        "message": "no rule",
        "retryable": False,
        "retryAfter": None,
        "callId": "c_1",
    }
    return pack({"error": error | fields})


@pytest.fixture
def replies() -> Any:
    """The makers of replies, and a host that keeps what it was asked."""

    class Replies:
        ok = staticmethod(ok)
        refusal = staticmethod(refusal)

        @staticmethod
        def host(*answers: bytes) -> tuple[Callable[[bytes], bytes], list[tuple[dict[str, Any], bytes]]]:
            asked: list[tuple[dict[str, Any], bytes]] = []

            def answer(frame: bytes) -> bytes:
                asked.append(unpack(frame))
                return answers[min(len(asked), len(answers)) - 1]

            return answer, asked

    return Replies
