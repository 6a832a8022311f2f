"""JavaScript in sandboxed workers: the real engines behind the real host."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fazt.errors import FaztError, Reason
from fazt.functions.guestapi import (
    AppBundle,
    BakeError,
    EngineUnavailableError,
    Result,
    build_request,
    open_engine,
    pack,
    write_image,
)
from fazt.functions.host import AppImage, FunctionHost, InvokeError, InvokeLimits

LIMITS = InvokeLimits(cpu_ms=2_000, wall_ms=30_000, memory=16 << 20, max_output=1 << 20, max_log_lines=100)
HOSTILE = sorted((Path(__file__).parent / "hostile").glob("*.js"))
REPLY = pack(
    {"ok": {"status": 200, "url": "https://a.example/", "redirected": False, "headers": [], "callId": "c_1"}},
    b"upstream",
)


class Apps:
    """A host with the real engine, and what deploying and calling an app takes."""

    def __init__(self, host: FunctionHost, directory: Path) -> None:
        self.host = host
        self.lines: list[tuple[str, str]] = []
        self.reply = REPLY
        self.refusal: FaztError | None = None
        self.delay = 0.0
        self._directory = directory

    async def deploy(self, app_id: str, main: str, **files: str) -> AppImage:
        content = {"api/main.js": main, **{f"api/{name}.js": text for name, text in files.items()}}
        bundle = AppBundle(app_id, app_id, {path: text.encode() for path, text in content.items()}, "1")
        image = self._directory / f"{app_id}.image"
        write_image(image, await self.host.bake(bundle, memory=LIMITS.memory))
        return AppImage(app_id, image, "1")

    async def run(self, app: AppImage, *, limits: InvokeLimits = LIMITS, **request: Any) -> Result:
        frame = build_request(app_id=app.app_id, app_name=app.app_id, method="GET", path="/api/", **request)
        outcome = await self.host.invoke(
            app, frame, limits=limits, on_host_call=self._answer, on_log=lambda *line: self.lines.append(line)
        )
        return outcome.result

    async def text(self, app: AppImage, **options: Any) -> str:
        result = await self.run(app, **options)
        assert result.error is None, result.error
        return result.body.decode()

    async def _answer(self, header: dict[str, object], body: bytes) -> bytes:
        await asyncio.sleep(self.delay)
        if self.refusal is not None:
            raise self.refusal
        return self.reply


@asynccontextmanager
async def apps_on(directory: Path, engine: str = "wasm", **settings: Any) -> AsyncIterator[Apps]:
    host = FunctionHost(engine_kind=engine, **{"workers": 4, "spare": 1, "queue_ms": 15_000, **settings})
    await host.start()
    try:
        yield Apps(host, directory)
    finally:
        await host.close()


@pytest.fixture(scope="module", autouse=True)
def _guest() -> None:
    try:
        open_engine("wasm").close()
    except EngineUnavailableError as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize("engine", ["wasm", "jsbox"])
def test_a_handler_answers_calls_out_and_logs(tmp_path: Path, engine: str) -> None:
    main = (
        "console.log('hello', request.query.n); respond(fazt.net.fetch('https://a.example/').text() + request.query.n)"
    )

    async def scenario() -> None:
        async with apps_on(tmp_path, engine) as apps:
            app = await apps.deploy("a", main)
            assert await apps.text(app, query=[("n", "1")]) == "upstream1"
            assert apps.lines == [("info", "hello 1")]
            report = apps.host.report()
            assert report["engine"]["kind"] == engine
            assert report["sandbox"]["seccomp"] is True
            assert report["sandbox"]["profile"] == ("strict" if engine == "wasm" else "development")

    asyncio.run(scenario())


@pytest.mark.parametrize("engine", ["wasm", "jsbox"])
def test_a_refused_call_is_thrown_with_its_fields(tmp_path: Path, engine: str) -> None:
    main = """
        try { fazt.net.fetch('https://a.example/') }
        catch (e) { respond({ is: e instanceof TypeError, code: e.code, reason: e.reason, retryable: e.retryable }) }
    """

    async def scenario() -> str:
        async with apps_on(tmp_path, engine) as apps:
            apps.refusal = FaztError(Reason.HOST_NOT_GRANTED, "the host is not granted")
            return await apps.text(await apps.deploy("a", main))

    assert asyncio.run(scenario()) == '{"is":true,"code":"NET_BLOCKED","reason":"host_not_granted","retryable":false}'


CANARY = """
    const found = [];
    for (const name of ['canary', 'left']) if (name in globalThis) found.push('global ' + name);
    if ({}.canary !== undefined) found.push('Object.prototype');
    if ([].map.canary !== undefined || [1].map(x => x)[0] !== 1) found.push('Array.prototype.map');
    if (JSON.canary || Math.canary || console.canary || fazt.canary || fazt.net.canary) found.push('built-in');
    if (require('./state').seen.length) found.push('module state');
    if (request.canary || Promise.canary) found.push('request');
    const x = 1;
    globalThis.canary = left = Object.prototype.canary = 'SECRET-OF-' + fazt.app.id;
    Array.prototype.map = function () { return ['poisoned'] };
    JSON.canary = Math.canary = Promise.canary = 1;
    try { console.canary = fazt.canary = fazt.net.canary = request.canary = 1 } catch {}
    require('./state').seen.push(fazt.app.id);
    respond(String(found));
"""


@pytest.mark.parametrize("engine", ["wasm", "jsbox"])
def test_F31_nothing_of_one_invocation_is_seen_by_the_next_or_by_another_app(tmp_path: Path, engine: str) -> None:
    async def scenario() -> list[str]:
        async with apps_on(tmp_path, engine) as apps:
            state = "exports.seen = []"
            deployed = [await apps.deploy(name, CANARY, state=state) for name in ("one", "two")]
            return [await apps.text(app) for _ in range(3) for app in deployed]

    assert asyncio.run(scenario()) == [""] * 6


def test_F31_an_image_is_the_same_after_any_number_of_invocations(tmp_path: Path) -> None:
    main = "globalThis.a = new Uint8Array(1 << 20).fill(7); Object.prototype.b = 'x'.repeat(100000); respond('ok')"

    async def scenario() -> None:
        async with apps_on(tmp_path) as apps:
            app = await apps.deploy("a", main)
            assert isinstance(app.image, Path)
            before = app.image.read_bytes()
            for _ in range(20):
                assert await apps.text(app) == "ok"
            assert app.image.read_bytes() == before

    asyncio.run(scenario())


def test_F31_random_numbers_differ_between_invocations_of_one_image(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        async with apps_on(tmp_path) as apps:
            app = await apps.deploy("a", "respond(String(Math.random()))")
            return [await apps.text(app) for _ in range(8)]

    assert len(set(asyncio.run(scenario()))) == 8


def test_baking_names_the_mistake_and_calls_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with apps_on(tmp_path) as apps:
            with pytest.raises(BakeError) as caught:
                await apps.deploy("a", "let x = ;")
            assert (caught.value.kind, caught.value.path) == ("syntax", "api/main.js")
            assert await apps.text(await apps.deploy("a", "respond('mended')")) == "mended"

    asyncio.run(scenario())


def test_an_image_of_another_engine_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with apps_on(tmp_path, "jsbox") as apps:
            other = await apps.deploy("a", "respond('x')")
        async with apps_on(tmp_path) as apps:
            with pytest.raises(InvokeError) as caught:
                await apps.run(other)
            assert caught.value.kind == "image"

    asyncio.run(scenario())


def test_the_wall_limit_holds_while_a_call_is_in_flight(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with apps_on(tmp_path) as apps:
            app = await apps.deploy("a", "try { fazt.net.fetch('https://a.example/') } catch {} ; respond('late')")
            apps.delay = 30
            result = await apps.run(app, limits=replace(LIMITS, wall_ms=100))
            assert result.error is not None
            assert result.error.kind == "wall"
            apps.delay = 0
            assert await apps.text(app) == "late"
            assert apps.host.report()["counts"]["died"] <= 1  # the one that baked; the worker itself lives on

    asyncio.run(scenario())


def test_F33_hostile_programs_end_and_a_neighbour_goes_on_answering(tmp_path: Path) -> None:
    limits = replace(LIMITS, cpu_ms=100, wall_ms=4_000, max_output=1 << 20, memory=12 << 20)

    async def scenario() -> dict[str, str]:
        odd: dict[str, str] = {}
        answered = 0
        async with apps_on(tmp_path, workers=6) as apps:
            neighbour = await apps.deploy("neighbour", "respond('here')")
            apps.refusal = FaztError(Reason.HOST_NOT_GRANTED, "the host is not granted")

            async def keep_asking() -> None:
                nonlocal answered
                while True:
                    assert await apps.text(neighbour) == "here"
                    answered += 1
                    await asyncio.sleep(0.02)

            async def attack(program: Path) -> None:
                text = program.read_text()
                expected = set(text.splitlines()[0].removeprefix("// ends:").split())
                said = ""
                try:
                    app = await apps.deploy(program.stem, text)
                    result = await apps.run(app, limits=limits)
                except BakeError as exc:
                    outcome = exc.kind
                except InvokeError as exc:
                    outcome, said = exc.kind, str(exc)
                else:
                    outcome = result.error.kind if result.error else "answer"
                # what the host's own caps stop first is as good an end as the one the engine names
                stopped = outcome == "crash" and "more than 1000 calls" in said
                if not stopped and outcome not in expected | {"cpu", "wall"}:
                    odd[program.stem] = f"{outcome}, not {expected}: {said}"

            asking = asyncio.create_task(keep_asking())
            waiting = list(HOSTILE)

            async def attacker() -> None:
                while waiting:
                    before = answered
                    await attack(waiting.pop())
                    while answered == before:  # the neighbour had an answer for each of them
                        assert not asking.done()
                        await asyncio.sleep(0.01)

            await asyncio.gather(attacker(), attacker())
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert apps.host.report()["overloads"] == 0
        return odd

    assert len(HOSTILE) >= 23
    assert asyncio.run(scenario()) == {}
