"""Hooks: called when they should be, never twice, and no request ever fails for one."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from fazt.errors import ConfigError
from fazt.telemetry import Hooks


def test_R78_hooks_see_request_and_response() -> None:
    seen: list[object] = []
    hooks = Hooks(on_request=seen.append, on_response=[seen.append, lambda r: seen.append((r,))])
    run = hooks.begin()
    run.request("request")
    run.response("response")
    assert seen == ["request", "response", ("response",)]
    assert bool(hooks) and not Hooks()


def test_R79_a_call_ends_exactly_once() -> None:
    seen: list[str] = []
    hooks = Hooks(on_response=lambda _: seen.append("response"), on_error=lambda _: seen.append("error"))
    run = hooks.begin()
    run.response(1)
    run.error(ValueError())
    run.response(2)
    assert seen == ["response"] and run.ended
    other = hooks.begin()
    other.error(ValueError())
    other.response(1)
    assert seen == ["response", "error"]


def test_E12_async_hooks_end_exactly_once_too() -> None:
    seen: list[object] = []

    async def hook(subject: object) -> None:
        await asyncio.sleep(0)
        seen.append(subject)

    async def main() -> None:
        run = Hooks(on_request=[hook, seen.append], on_response=hook, on_error=hook).begin()
        await run.arequest("request")
        await run.aresponse("response")
        await run.aerror(ValueError())

    asyncio.run(main())
    assert seen == ["request", "request", "response"]


def test_D18_a_raising_hook_breaks_nothing_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []

    def bad(_: object) -> None:
        raise ValueError("SECRET")

    async def worse(_: object) -> None:
        raise ValueError("SECRET")

    with caplog.at_level(logging.WARNING, "fazt.telemetry"):
        Hooks(on_request=[bad, seen.append]).begin().request(1)
        asyncio.run(Hooks(on_error=[worse, bad, seen.append]).begin().aerror(KeyError()))
    assert len(seen) == 2
    assert len(caplog.records) == 2 and "ValueError" in caplog.text and "SECRET" not in caplog.text


def test_what_is_no_exception_passes_through() -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Hooks(on_response=interrupt).begin().response(1)

    async def forever(_: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.ensure_future(Hooks(on_response=forever).begin().aresponse(1))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_a_synchronous_client_takes_no_coroutine_functions() -> None:
    async def hook(_: object) -> None: ...

    class Callable:
        async def __call__(self, _: object) -> None: ...

    Hooks(on_request=print).check_sync()
    for bad in (hook, Callable()):
        with pytest.raises(ConfigError, match="on_error is a coroutine function"):
            Hooks(on_error=bad).check_sync()


def test_a_coroutine_that_slips_through_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def hook(_: object) -> None: ...

    with caplog.at_level(logging.WARNING, "fazt.telemetry"):
        Hooks(on_request=lambda r: hook(r)).begin().request(1)
    assert "TypeError" in caplog.text


@pytest.mark.parametrize("bad", [7, "text", [print, 7], {print}])
def test_what_cannot_be_called_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigError, match="on_request takes a function"):
        Hooks(on_request=bad)
