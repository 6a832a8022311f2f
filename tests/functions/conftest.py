"""What the tests of workers share: a host whose apps are Python (see fake_engine.py)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fazt.functions.guestapi import pack
from fazt.functions.host import AppImage, FunctionHost, InvokeLimits, InvokeResult

HERE = str(Path(__file__).parent)
LIMITS = InvokeLimits(cpu_ms=5_000, wall_ms=30_000, memory=32 << 20, max_output=1 << 20, max_log_lines=100)

PATIENT = {"workers": 3, "spare": 1, "queue_ms": 15_000}


class Bench:
    """A running host, and short names for using it."""

    def __init__(self, host: FunctionHost, directory: Path) -> None:
        self.host = host
        self.lines: list[tuple[str, str]] = []
        self.calls: list[tuple[dict[str, Any], bytes]] = []
        self._directory = directory
        self._written = 0

    def app(self, app_id: str, source: str, *, key: str = "1") -> AppImage:
        self._written += 1
        path = self._directory / f"{app_id}.{self._written}"
        path.write_text(source)
        return AppImage(app_id, path, key)

    def family(self) -> set[int]:
        """Return the process ids of the zygote and its workers."""
        return descendants(self.host.report()["zygote"]["pid"])

    async def answer(self, header: dict[str, Any], body: bytes) -> bytes:
        self.calls.append((header, body))
        return pack({"ok": {"seen": header.get("n")}}, body)

    async def invoke(
        self,
        app: AppImage,
        request: dict[str, Any] | None = None,
        *,
        limits: InvokeLimits = LIMITS,
        on_host_call: Any = None,
        body: bytes = b"",
    ) -> InvokeResult:
        return await self.host.invoke(
            app,
            pack(request or {}, body),
            limits=limits,
            on_host_call=on_host_call or self.answer,
            on_log=lambda level, text: self.lines.append((level, text)),
        )

    async def text(self, app: AppImage, **options: Any) -> str:
        result = (await self.invoke(app, **options)).result
        assert result.error is None, result.error
        return result.body.decode()


Hosting = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture
def hosting(tmp_path: Path) -> Hosting:
    """Return a context manager that runs a host and sees to it that nothing of it is left."""

    @asynccontextmanager
    async def run(engine: str = "fake_engine:make", **settings: Any) -> AsyncIterator[Bench]:
        host = FunctionHost(engine_kind=engine, search_path=(HERE,), **{**PATIENT, **settings})
        await host.start(seconds=20)
        zygote = host.report()["zygote"]["pid"]
        try:
            yield Bench(host, tmp_path)
        finally:
            zygote = host.report().get("zygote", {}).get("pid") or zygote
            family = descendants(zygote)
            await host.close()
            assert not [pid for pid in family if alive(pid)]

    return run


def descendants(pid: int) -> set[int]:
    """Return a process and its children, zombies included."""
    found = {pid}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.add(int(name))
    return found


def alive(pid: int) -> bool:
    """Whether there is a process, or a zombie, with this id."""
    return os.path.exists(f"/proc/{pid}")
