"""The host of functions: whatever a worker does, the host stays up, tells what happened and serves the next one."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fazt.errors import FaztError, Reason
from fazt.functions import libc
from fazt.functions.guestapi import AppBundle, BakeError, pack
from fazt.functions.host import AppImage, InvokeError, InvokeLimits

LIMITS = InvokeLimits(cpu_ms=5_000, wall_ms=30_000, memory=32 << 20, max_output=1 << 20, max_log_lines=100)
WHO = "import os; answer = str(os.getpid())"
NAP = "import time; time.sleep(request.get('s', 60)); answer = 'woke'"
QUICK = replace(LIMITS, wall_ms=150)


def alive(pid: int) -> bool:
    """Whether there is a process, or a zombie, with this id."""
    return os.path.exists(f"/proc/{pid}")


def failure(run, hosting, **settings) -> InvokeError:
    """Run something that must fail, then see that the host still serves others; return the failure."""

    async def scenario() -> InvokeError:
        async with hosting(**settings) as bench:
            with pytest.raises(InvokeError) as caught:
                await run(bench)
            assert await bench.text(bench.app("neighbour", "answer = 'still here'")) == "still here"
            return caught.value

    return asyncio.run(scenario())


# -- requests and answers ----------------------------------------------------------------------------------------------


def test_a_request_goes_in_and_an_answer_comes_out(hosting) -> None:
    async def scenario() -> None:
        async with hosting() as bench:
            app = bench.app("a", "log('one'); log('two', 'error'); answer = request['name'].encode() + body")
            outcome = await bench.invoke(app, {"name": "Ada"}, body=b"\0\xff")
            assert outcome.result.body == b"Ada\0\xff"
            assert bench.lines == [("info", "one"), ("error", "two")]
            assert outcome.calls == 0
            assert 0 <= outcome.queue_ms <= outcome.wall_ms

    asyncio.run(scenario())


def test_calls_go_to_the_host_and_bytes_come_back(hosting) -> None:
    source = (
        "first, data = call({'op': 'fetch', 'n': 1}, b'\\x00' * 300_000)\n"
        "second, _ = call({'op': 'fetch', 'n': 2})\n"
        "answer = f\"{first['ok']['seen']} {second['ok']['seen']} {len(data)}\""
    )

    async def scenario() -> None:
        async with hosting() as bench:
            outcome = await bench.invoke(bench.app("a", source))
            assert outcome.result.body == b"1 2 300000"
            assert outcome.calls == 2
            assert [header["n"] for header, _ in bench.calls] == [1, 2]

    asyncio.run(scenario())


def test_large_bodies_pass_in_both_directions(hosting) -> None:
    limits = replace(LIMITS, max_output=8 << 20)

    async def scenario() -> None:
        async with hosting() as bench:
            app = bench.app("a", "answer = body[::-1]")
            body = os.urandom(6 << 20)
            assert (await bench.invoke(app, body=body, limits=limits)).result.body == body[::-1]

    asyncio.run(scenario())


def test_a_refused_call_reaches_the_script_with_its_code(hosting) -> None:
    source = "reply, _ = call({'op': 'fetch'}); e = reply['error']; answer = e['code'] + ' ' + e['reason']"

    async def refuse(header, body) -> bytes:
        raise FaztError(Reason.HOST_NOT_GRANTED, "the host is not granted")

    async def stumble(header, body) -> bytes:
        raise ZeroDivisionError

    async def scenario() -> None:
        async with hosting() as bench:
            complaints: list[str] = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(repr(context["exception"])))
            app = bench.app("a", source)
            assert await bench.text(app, on_host_call=refuse) == "NET_BLOCKED host_not_granted"
            assert await bench.text(app, on_host_call=stumble) == "NET_ERROR internal"
            assert complaints == ["ZeroDivisionError()"]

    asyncio.run(scenario())


def test_an_image_may_be_given_as_a_descriptor(hosting) -> None:
    async def scenario() -> None:
        async with hosting() as bench:
            path = bench.app("a", "answer = 'by descriptor'").image
            assert isinstance(path, Path)
            fd = os.open(path, os.O_RDONLY)
            try:
                assert await bench.text(AppImage("a", fd, "1")) == "by descriptor"
            finally:
                os.close(fd)

    asyncio.run(scenario())


# -- isolation ---------------------------------------------------------------------------------------------------------


def test_F31_no_process_is_shared_between_apps(hosting) -> None:
    canary = "LEAK.setdefault('seen', []).append(request['n']); import os; answer = f\"{os.getpid()} {LEAK['seen']}\""

    async def scenario() -> None:
        async with hosting() as bench:
            apps = [bench.app(name, canary) for name in ("a", "b", "c", "d")]
            pids: dict[str, set[str]] = {}
            for turn in range(3):
                for app in apps:
                    pid, seen = (await bench.text(app, request={"n": app.app_id})).split(" ", 1)
                    assert set(seen) & set("abcd") == {app.app_id}
                    pids.setdefault(app.app_id, set()).add(pid)
                    assert turn == 0 or len(pids[app.app_id]) == 1
            assert len(set.union(*pids.values())) == 4

    asyncio.run(scenario())


def test_a_worker_never_serves_a_second_app_even_when_processes_are_short(hosting) -> None:
    async def scenario() -> None:
        async with hosting(workers=1) as bench:
            owner: dict[str, str] = {}
            for number in range(12):
                app = bench.app(f"app{number % 6}", WHO)
                pid = await bench.text(app)
                assert owner.setdefault(pid, app.app_id) == app.app_id
            assert bench.host.report()["processes"]["alive"] <= 3

    asyncio.run(scenario())


def test_a_deploy_retires_the_workers_of_the_old_image(hosting) -> None:
    async def scenario() -> None:
        async with hosting() as bench:
            old = bench.app("a", "import time; time.sleep(request.get('s', 0)); answer = 'old'", key="1")
            new = bench.app("a", "answer = 'new'", key="2")
            assert await bench.text(old) == "old"
            running = asyncio.create_task(bench.text(old, request={"s": 0.1}))
            await asyncio.sleep(0)
            assert await bench.text(new) == "new"
            assert await running == "old"  # what runs is not cut off
            assert await bench.text(new) == "new"
            assert bench.host.report()["processes"]["idle"] == 1

    asyncio.run(scenario())


def test_a_removed_app_keeps_no_worker(hosting) -> None:
    async def scenario() -> None:
        async with hosting() as bench:
            await bench.text(bench.app("a", WHO))
            bench.host.retire_app("a")
            bench.host.retire_app("unknown")
            assert bench.host.report()["processes"]["idle"] == 0

    asyncio.run(scenario())


def test_a_worker_is_replaced_after_its_share_of_invocations(hosting) -> None:
    async def scenario() -> list[str]:
        async with hosting(max_uses=2) as bench:
            app = bench.app("a", WHO)
            return [await bench.text(app) for _ in range(4)]

    pids = asyncio.run(scenario())
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_an_idle_worker_is_let_go(hosting) -> None:
    async def scenario() -> None:
        async with hosting(idle_s=0.05) as bench:
            pid = int(await bench.text(bench.app("a", WHO)))
            while alive(pid):
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


# -- limits and deaths -------------------------------------------------------------------------------------------------


def test_F33_a_script_that_hangs_is_killed_and_the_host_stays_up(hosting) -> None:
    async def hang(bench) -> None:
        began = time.monotonic()
        try:
            await bench.invoke(bench.app("a", NAP), limits=QUICK)
        finally:
            assert time.monotonic() - began >= 0.39

    assert failure(hang, hosting).kind == "wall"


def test_F33_a_script_that_eats_memory_kills_at_most_its_worker(hosting) -> None:
    source = "hoard = []\nwhile True: hoard.append(bytearray(1 << 20))"

    async def scenario() -> None:
        async with hosting() as bench:
            outcome = await bench.invoke(bench.app("a", source))
            assert outcome.result.error is not None
            assert outcome.result.error.name == "MemoryError"
            assert await bench.text(bench.app("neighbour", "answer = 'fine'")) == "fine"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        ("import os; os._exit(7)", "crash", "exit code 7"),
        ("import ctypes; ctypes.string_at(0)", "crash", "SIGSEGV"),
        ("import os; os.abort()", "crash", "SIGABRT"),
    ],
    ids=["exit", "segv", "abort"],
)
def test_F33_a_dead_worker_is_named_and_replaced(hosting, source: str, kind: str, said: str) -> None:
    error = failure(lambda bench: bench.invoke(bench.app("a", source)), hosting)
    assert (error.kind, error.retryable) == (kind, False)
    assert said in error.message


def test_F33_a_worker_that_the_kernel_killed_is_told_apart(hosting) -> None:
    async def shot(bench) -> None:
        arrived: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def hear(header, body) -> bytes:
            arrived.set_result(header["pid"])
            return pack({"ok": {}})

        app = bench.app("a", "import os; call({'pid': os.getpid()})\n" + NAP)
        task = asyncio.create_task(bench.invoke(app, on_host_call=hear))
        os.kill(await arrived, signal.SIGKILL)
        await task

    error = failure(shot, hosting)
    assert error.kind == "oom"
    assert "SIGKILL" in error.message


NAP_5 = "; import time; time.sleep(5)"
PARTS = (
    "CALL = bytes([6, 0, 0, 0, 19]) + bytes([2, 0, 0, 0]) + b'{}'\n"
    "RESULT = pack({'status': 200, 'headers': [], 'bodyKind': 'text'})\n"
    "RESULT = len(RESULT).to_bytes(4, 'little') + bytes([23]) + RESULT\n"
)


NONSENSE = [
    "answer = (b'garbage',)",
    "answer = (b'\\xff\\xff\\xff\\x7f{}',)",
    "answer = (b'\\x02\\0\\0\\0[]',)",
    "answer = (pack({'status': 200, 'headers': [['x', 'y' * 2_000_000]], 'bodyKind': 'text'}),)",
    "answer = b'x' * 3_000_000",
    "t = b'{\"status\":' + b'[' * 5000 + b']' * 5000 + b'}'\nanswer = (len(t).to_bytes(4, 'little') + t,)",
    "raw[0](b'')",
    "raw[0](b'\\x02\\0\\0\\0[]')",
    "raw[0](b'\\xff\\0\\0\\0{}')",
    "raw[0](pack({'op': 'x' * 300_000}))",
    "raw[0](b'\\0' * 12_000_000)",
    "raw[1](b'nonsense')",
    "raw[1](pack({'op': 'log', 'level': 'shout', 'message': 'x'}))",
    "raw[1](pack({'op': 'log', 'level': 'info', 'message': 5}))",
    "raw[1](pack({'op': 'other'}))",
    "raw[1](pack({'op': 'log', 'level': 'info', 'message': 'x' * 70_000}))",
    "while True: log('flood')",
    "while True: call({'op': 'fetch'})",
    "say(bytes([0, 0, 0, 0, 99]))" + NAP_5,
    "say(bytes([2, 0, 0, 0, 16]) + b'{}')" + NAP_5,
    "say(CALL + CALL)" + NAP_5,
    "say(CALL + RESULT)" + NAP_5,
    "say(bytes([255, 255, 255, 255, 23]))" + NAP_5,
    "say(bytes([2, 0, 0, 0, 24]) + b'[]')" + NAP_5,
    "say(bytes([3, 0, 0, 0, 3]) + b'bye')" + NAP_5,
]


def test_F33_a_worker_that_talks_nonsense_is_killed(hosting) -> None:
    limits = replace(LIMITS, wall_ms=20_000, max_calls=50)

    async def slow(header, body) -> bytes:
        await asyncio.sleep(0.01)
        return pack({"ok": {}})

    async def scenario() -> None:
        odd = []
        async with hosting() as bench:
            for number, source in enumerate(NONSENSE):
                try:
                    await bench.invoke(bench.app(f"a{number}", PARTS + source), limits=limits, on_host_call=slow)
                    odd.append(source)
                except InvokeError as exc:
                    if exc.kind != "crash":
                        odd.append(f"{source}: {exc!r}")
                assert await bench.text(bench.app("neighbour", "answer = 'fine'")) == "fine"
            assert odd == []
            assert bench.host.report()["counts"]["died"] >= len(NONSENSE)

    asyncio.run(scenario())


def test_a_worker_that_cuts_its_link_does_not_live_on(hosting) -> None:
    source = "import os; call({'pid': os.getpid()}); os.closerange(3, 16)\n" + NAP

    async def scenario() -> None:
        async with hosting() as bench:
            with pytest.raises(InvokeError) as caught:
                await bench.invoke(bench.app("a", source))
            assert caught.value.kind == "crash"
            pid = bench.calls[0][0]["pid"]
            while alive(pid):
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_worker_that_talks_after_its_result_is_not_used_again(hosting) -> None:
    source = PARTS + "say(RESULT + RESULT)" + NAP_5  # the second is meant for the next request

    async def scenario() -> None:
        async with hosting() as bench:
            try:
                await bench.invoke(bench.app("a", source))
            except InvokeError as exc:
                assert exc.kind == "crash"
            assert await bench.text(bench.app("a", "answer = 'mine'", key="2")) == "mine"
            assert bench.host.report()["counts"]["died"] >= 1

    asyncio.run(scenario())


def test_a_loop_of_calls_with_large_bodies_is_stopped(hosting) -> None:
    limits = replace(LIMITS, max_call_bytes=3 << 20)
    source = "for _ in range(request['n']): call({'op': 'fetch'}, bytes(1_000_000))\nanswer = 'sent'"

    async def scenario() -> None:
        async with hosting() as bench:
            assert await bench.text(bench.app("a", source), request={"n": 3}, limits=limits) == "sent"
            with pytest.raises(InvokeError, match="bytes in calls") as caught:
                await bench.invoke(bench.app("a", source), {"n": 5}, limits=limits)
            assert caught.value.kind == "crash"
            assert len(bench.calls) == 6

    asyncio.run(scenario())


@pytest.mark.parametrize("first", ["log('ran')", "call({})"])
def test_an_image_that_has_run_cannot_be_refused_afterwards(hosting, first) -> None:
    # "image" would have the app baked and the request run a second time
    refusal = json.dumps({"kind": "image", "message": "not an image"}).encode()
    refused = len(refusal).to_bytes(4, "little") + bytes([24]) + refusal
    source = f"{first}\nsay({refused!r}){NAP_5}"

    async def scenario() -> None:
        async with hosting() as bench:
            with pytest.raises(InvokeError) as caught:
                await bench.invoke(bench.app("a", source))
            assert caught.value.kind == "crash"

    asyncio.run(scenario())


def test_an_answer_that_is_not_a_response_says_so_and_spares_the_worker(hosting) -> None:
    async def scenario() -> None:
        async with hosting() as bench:
            app = bench.app("a", WHO + "\nif request: answer = (pack({'status': 7}),)")
            first = await bench.text(app)
            with pytest.raises(InvokeError) as caught:
                await bench.invoke(app, {"bad": 1})
            assert caught.value.kind == "response"
            assert await bench.text(app) == first

    asyncio.run(scenario())


@pytest.mark.parametrize("image", ["unusable", None])
def test_an_image_that_cannot_be_opened_says_so(hosting, image: str | None) -> None:
    async def open_it(bench) -> None:
        app = bench.app("a", image or "")
        await bench.invoke(app if image else AppImage("a", Path("/nowhere"), "1"))

    assert failure(open_it, hosting).kind == "image"


# -- host calls in flight ----------------------------------------------------------------------------------------------


def test_time_goes_on_while_a_call_is_in_flight_and_the_worker_survives(hosting) -> None:
    states: list[str] = []

    async def stuck(header, body) -> bytes:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            states.append("cancelled")
            raise
        return b""

    async def scenario() -> None:
        async with hosting() as bench:
            app = bench.app("a", "if request: call({'op': 'fetch'})\n" + WHO)
            first = await bench.text(app)
            outcome = await bench.invoke(app, {"stuck": 1}, limits=QUICK, on_host_call=stuck)
            assert outcome.result.error is not None
            assert (outcome.result.error.kind, states) == ("wall", ["cancelled"])
            assert await bench.text(app) == first

    asyncio.run(scenario())


def test_cancelling_the_caller_ends_worker_and_call(hosting) -> None:
    states: list[str] = []

    async def scenario() -> None:
        async with hosting() as bench:
            arrived = asyncio.Event()

            async def stuck(header, body) -> bytes:
                arrived.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    states.append("released")
                return b""

            app = bench.app("a", "import os; call({'op': 'fetch', 'pid': os.getpid()})")
            task = asyncio.create_task(bench.invoke(app, on_host_call=stuck))
            await arrived.wait()
            before = bench.host.report()["processes"]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert states == ["released"]
            after = bench.host.report()
            assert after["processes"]["alive"] <= before["alive"]
            assert after["workers"]["running"] == 0
            assert await bench.text(bench.app("a", "answer = 'again'")) == "again"

    asyncio.run(scenario())


def test_context_of_the_caller_reaches_its_calls(hosting) -> None:
    import contextvars

    marker: contextvars.ContextVar[str] = contextvars.ContextVar("marker", default="nothing")
    seen: list[str] = []

    async def look(header, body) -> bytes:
        seen.append(marker.get())
        return pack({"ok": {}})

    async def scenario() -> None:
        async with hosting() as bench:
            app = bench.app("a", "call({})")

            async def one(name: str) -> None:
                marker.set(name)
                await bench.invoke(app, on_host_call=look)

            await asyncio.gather(one("x"), one("y"))

    asyncio.run(scenario())
    assert sorted(seen) == ["x", "y"]


# -- fair shares -------------------------------------------------------------------------------------------------------


class Gate:
    """Holds every call of a script until it is opened: a script that hangs, without a clock."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)

    async def hold(self, header, body) -> bytes:
        self.arrived.release()
        await self._open.wait()
        return pack({"ok": {}})

    def open(self) -> None:
        self._open.set()


HELD = "call({}); answer = 'let go'"


def test_a_flood_of_one_app_leaves_room_for_others(hosting) -> None:
    async def scenario() -> None:
        async with hosting(workers=3, slow_s=60) as bench:
            gate, flood = Gate(), bench.app("flood", HELD)
            tasks = [asyncio.create_task(bench.text(flood, on_host_call=gate.hold)) for _ in range(12)]
            for _ in range(2):
                await gate.arrived.acquire()
            for number in range(4):
                assert await bench.text(bench.app(f"n{number}", "answer = 'in time'")) == "in time"
            assert bench.host.report()["workers"] == {"limit": 3, "running": 2, "slow": 0, "waiting": 10}
            gate.open()
            assert await asyncio.gather(*tasks) == ["let go"] * 12

    asyncio.run(scenario())


def test_hanging_apps_move_to_the_slow_lane(hosting) -> None:
    async def scenario() -> None:
        async with hosting(workers=2, slow_s=0.05) as bench:
            gate = Gate()
            tasks = [asyncio.create_task(bench.text(bench.app(f"h{n}", HELD), on_host_call=gate.hold)) for n in "ab"]
            for _ in tasks:
                await gate.arrived.acquire()
            assert await bench.text(bench.app("neighbour", "answer = 'through'")) == "through"
            assert bench.host.report()["workers"]["slow"] >= 1
            gate.open()
            assert await asyncio.gather(*tasks) == ["let go"] * 2

    asyncio.run(scenario())


def test_who_waits_too_long_is_told_to_come_back(hosting) -> None:
    async def scenario() -> None:
        async with hosting(workers=1, queue_ms=50, slow_s=60) as bench:
            gate = Gate()
            busy = asyncio.create_task(bench.text(bench.app("a", HELD), on_host_call=gate.hold))
            await gate.arrived.acquire()
            with pytest.raises(InvokeError) as caught:
                await bench.invoke(bench.app("b", WHO))
            assert (caught.value.kind, caught.value.retryable) == ("overload", True)
            gate.open()
            assert await busy == "let go"
            assert bench.host.report()["overloads"] == 1

    asyncio.run(scenario())


def test_a_script_that_computes_for_long_lets_others_go_first(hosting) -> None:
    source = "import os, time\nend = time.monotonic() + 0.4\nwhile time.monotonic() < end: pass\n" + WHO

    async def scenario() -> None:
        async with hosting(slow_s=0.05) as bench:
            task = asyncio.create_task(bench.text(bench.app("a", source)))
            while not any(os.getpriority(os.PRIO_PROCESS, pid) == 15 for pid in bench.family()):
                assert not task.done()
                await asyncio.sleep(0.01)
            pid = int(await task)
            while alive(pid):  # it can't be given its priority back
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


# -- zygote, start and end ---------------------------------------------------------------------------------------------


def test_a_dead_zygote_is_replaced(hosting) -> None:
    async def scenario() -> None:
        async with hosting() as bench:
            app = bench.app("a", WHO)
            first = int(await bench.text(app))
            running = asyncio.create_task(bench.invoke(bench.app("b", NAP)))
            await asyncio.sleep(0.05)
            os.kill(bench.host.report()["zygote"]["pid"], signal.SIGKILL)
            with pytest.raises(InvokeError):
                await running
            second = int(await bench.text(app))
            assert first != second
            assert bench.host.report()["zygote"]["starts"] == 2
            while alive(first):  # the workers of a zygote die with it
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_closed_host_refuses_and_ends_what_runs(hosting) -> None:
    async def scenario() -> None:
        async with hosting() as bench:
            app = bench.app("a", NAP)
            running = asyncio.create_task(bench.invoke(app))
            await asyncio.sleep(0.05)
            await bench.host.close()
            for attempt in (running, bench.invoke(app)):
                with pytest.raises(InvokeError) as caught:
                    await attempt
                assert caught.value.kind == "unavailable"
            await bench.host.close()
            assert bench.host.report()["running"] is False

    asyncio.run(scenario())


# -- baking ------------------------------------------------------------------------------------------------------------


def test_baking_happens_in_a_worker_of_its_own(hosting) -> None:
    async def scenario() -> None:
        async with hosting() as bench:
            bake = bench.host.bake
            image = await bake(AppBundle("a", "a", {"api/main.js": b"answer = 'x'"}), memory=1 << 20)
            assert image == b"answer = 'x' # baked"
            with pytest.raises(BakeError) as caught:
                await bake(AppBundle("a", "a", {"api/main.js": b"syntax"}), memory=1 << 20)
            assert (caught.value.kind, caught.value.path) == ("syntax", "api/main.js")
            with pytest.raises(BakeError) as caught:
                await bake(AppBundle("a", "a", {"api/main.js": b"die"}), memory=1 << 20)
            assert caught.value.kind == "killed"
            assert await bench.text(bench.app("n", "answer = 'fine'")) == "fine"

    asyncio.run(scenario())


# -- other loops, other rights -----------------------------------------------------------------------------------------


def test_uvloop_drives_it_as_well(hosting) -> None:
    uvloop = pytest.importorskip("uvloop")
    limits = replace(LIMITS, max_output=8 << 20)

    async def scenario() -> None:
        async with hosting() as bench:
            body = os.urandom(6 << 20)
            app = bench.app("a", "reply, data = call({'op': 'fetch'}, body); answer = data[::-1]")
            assert (await bench.invoke(app, body=body, limits=limits)).result.body == body[::-1]
            with pytest.raises(InvokeError):
                await bench.invoke(bench.app("b", "import os; os._exit(1)"))
            assert await bench.text(bench.app("n", "answer = 'fine'")) == "fine"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


UNPRIVILEGED = """
import asyncio, json, sys
from fazt.functions.host import FunctionHost

async def main():
    host = FunctionHost(engine_kind="fake_engine:make", workers=1, search_path=(sys.argv[1],))
    await host.start(seconds=20)
    print(json.dumps(host.report()["sandbox"]))
    await host.close()

asyncio.run(main())
"""


def test_without_capabilities_the_namespaces_come_from_a_user_namespace() -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run without capabilities already")

    def drop() -> None:
        for capability in range(64):
            libc.prctl(24, capability)  # PR_CAPBSET_DROP; numbers the kernel doesn't know are refused

    command = [sys.executable, "-c", UNPRIVILEGED, str(Path(__file__).parent)]
    done = subprocess.run(command, preexec_fn=drop, capture_output=True, text=True, timeout=60, check=True)
    sandbox = json.loads(done.stdout)
    assert sandbox["seccomp"]
    assert sandbox["capabilities_dropped"]
    assert sandbox["holes"] == []
    assert not sandbox["uid_dropped"]
    assert sandbox["userns"] == sandbox["netns"]  # false where the machine forbids user namespaces
