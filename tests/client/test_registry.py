"""The client a process shares: made once, from any thread, anew after a fork, on every event loop its own."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest

import fazt
from fazt.client import registry
from tests.client.site import policy, site, text

pytestmark = pytest.mark.usefixtures("fresh_process")


def test_the_client_is_made_once_whoever_asks_first() -> None:
    held = fazt.Policy()
    found: list[Any] = []
    start = threading.Barrier(16)

    def ask() -> None:
        start.wait()
        found.append(fazt.get_client(policy=held))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(client) for client in found}) == 1
    assert fazt.get_client() is found[0]
    assert isinstance(found[0], fazt.Client)


def test_a_change_after_binding_warns_once_for_each_change_and_keeps_the_client() -> None:
    client = fazt.get_client(policy=fazt.Policy(["a.test"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fazt.get_client(policy=fazt.Policy(["a.test"])) is client, "an equal policy is no change"
    for other in (fazt.Policy(["b.test"]), fazt.Policy(["c.test"])):
        with pytest.warns(RuntimeWarning, match="policy"):
            assert fazt.get_client(policy=other) is client
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert fazt.get_client(policy=other) is client
    fazt.close_client()
    assert client.is_closed
    again = fazt.get_client(policy=fazt.Policy(["b.test"]))
    assert again is not client
    assert "b.test" in str(again.policy) or again.policy == fazt.Policy(["b.test"])


def test_closing_what_is_shared_is_left_to_close_client() -> None:
    with site() as where:
        client = fazt.get_client(policy=policy(where))
        for _ in range(2):
            with client as inner:
                assert inner.get(where.url()).status_code == 200
        client.close()
        assert fazt.get_client().get(where.url()).status_code == 200
        assert where.accepted == 1
        fazt.close_client()
        with pytest.raises(RuntimeError, match="closed"):
            client.get(where.url())


def test_arguments_of_a_client_hold_for_the_shared_one() -> None:
    import httpx2

    client = fazt.get_client(policy=fazt.Policy(), limits=httpx2.Limits(max_connections=5), timeout=1)
    assert client.introspect()["pool"]["max_connections"] == 5
    assert client.timeout == httpx2.Timeout(1)
    fazt.close_client()
    assert client.is_closed


def test_every_event_loop_has_its_own() -> None:
    with site() as where:
        held = policy(where)

        async def main() -> Any:
            client = fazt.get_async_client(policy=held)
            assert fazt.get_async_client() is client
            assert (await client.get(where.url())).status_code == 200
            await fazt.aclose_client()
            assert client.is_closed
            return client

        one, two = asyncio.run(main()), asyncio.run(main())
        assert one is not two
        with pytest.raises(RuntimeError):
            fazt.get_async_client()


def test_loops_in_several_threads_do_not_share() -> None:
    with site() as where:
        held = policy(where)
        found: list[Any] = []

        async def main() -> None:
            client = fazt.get_async_client(policy=held)
            found.append(client)
            for _ in range(5):
                assert (await client.get(where.url())).status_code == 200
            await fazt.aclose_client()

        threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(client) for client in found}) == 4


def in_child(where: Any, pipe: Any) -> None:
    """Use what is shared, and say what it was."""
    client = fazt.get_client(policy=policy(where))
    pipe.send((os.getpid(), client.get(where.url("/child")).status_code, client.introspect()["pool"]["open"]))
    pipe.close()


class Place:
    """A site as another process knows it."""

    scheme = "http"

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, path: str = "/") -> str:
        return f"http://origin.test:{self.port}{path}"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_D6_a_child_makes_its_own_client(method: str) -> None:
    with site() as where:
        client = fazt.get_client(policy=policy(where))
        assert client.get(where.url("/before")).status_code == 200
        context = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        child = context.Process(target=in_child, args=(Place(where.port), theirs))
        child.start()
        pid, status, connections = ours.recv()
        child.join(20)
        assert child.exitcode == 0
        assert pid != os.getpid()
        assert (status, connections) == (200, 1)
        assert client.get(where.url("/after")).status_code == 200
        assert fazt.get_client() is client
        by_path = {seen.path: seen.connection for seen in where.requests}
        assert by_path["/before"] == by_path["/after"], "the parent's connection was left alone"
        assert by_path["/child"] != by_path["/before"]


def test_D6_a_forked_child_neither_uses_nor_closes_the_parents_sockets() -> None:
    with site() as where:
        held = policy(where)
        client = fazt.get_client(policy=held)
        own = fazt.Client(policy=held)
        for one in (client, own):
            assert one.get(where.url("/before")).status_code == 200
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:  # the child leaves by os._exit alone
            code = 1
            try:
                inherited = client
                mine = fazt.get_client(policy=held)
                assert mine is not inherited
                assert mine.get(where.url("/child")).status_code == 200
                assert own.get(where.url("/child-own")).status_code == 200
                mine.close()
                own.close()
                fazt.close_client()
                code = 0
            finally:
                os.write(write, b"x")
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        os.close(read)
        os.close(write)
        for one in (client, own):
            assert one.get(where.url("/after")).status_code == 200
        own.close()
        before = {seen.connection for seen in where.requests if seen.path == "/before"}
        after = {seen.connection for seen in where.requests if seen.path == "/after"}
        child = {seen.connection for seen in where.requests if seen.path.startswith("/child")}
        assert after == before
        assert not child & before


def test_a_fork_while_another_thread_is_in_the_middle_of_a_call_does_not_hang() -> None:
    with site({"/": text("x")}) as where:
        held = policy(where)
        client = fazt.get_client(policy=held)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                client.get(where.url())

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        codes = []
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                code = 1
                try:
                    code = 0 if fazt.get_client(policy=held).get(where.url()).status_code == 200 else 2
                finally:
                    os._exit(code)
            codes.append(os.waitpid(pid, 0)[1])
        stop.set()
        for thread in threads:
            thread.join()
        assert codes == [0] * 5


def test_a_client_of_an_event_loop_is_left_alone_by_a_forked_child() -> None:
    with site() as where:
        held = policy(where)

        async def main() -> None:
            client = fazt.get_async_client(policy=held)
            assert (await client.get(where.url("/before"))).status_code == 200
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    assert registry.shared() == []
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            assert (await client.get(where.url("/after"))).status_code == 200
            await fazt.aclose_client()

        asyncio.run(main())
        assert len({seen.connection for seen in where.requests}) == 1


def test_under_gunicorn_with_preload_every_worker_has_its_own(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    with site() as where:
        (tmp_path / "shop.py").write_text(
            textwrap.dedent(f"""
                import os
                import fazt

                URL = "http://origin.test:{where.port}"
                POLICY = fazt.Policy(
                    [fazt.Rule(URL, addresses=["127.0.0.1/32"])], resolve={{"origin.test": ["127.0.0.1"]}}
                )
                fazt.get_client(policy=POLICY).get(URL + "/preload")

                def app(environ, start):
                    response = fazt.get_client(policy=POLICY).get(URL + f"/worker-{{os.getpid()}}")
                    start("200 OK", [("Content-Type", "text/plain")])
                    return [str(response.status_code).encode()]
            """)
        )
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0"]
        server = subprocess.Popen(
            [*command, "--chdir", str(tmp_path), "shop:app"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stderr is not None
            said = next(line for line in server.stderr if "Listening at" in line)
            port = int(re.findall(r"127\.0\.0\.1:(\d+)", said)[0])
            answers = [_asked(port) for _ in range(8)]
        finally:
            server.terminate()
            server.communicate(timeout=20)
        assert answers == [b"200"] * 8
        preload = {seen.connection for seen in where.requests if seen.path == "/preload"}
        workers = {seen.connection for seen in where.requests if seen.path.startswith("/worker")}
        assert workers
        assert not preload & workers


def _asked(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        found: bytes = answer.read()
        return found


def test_a_policy_does_not_keep_a_client_that_nobody_has(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[[allow]]\ntarget = "a.test"\n')
    held = fazt.Policy.from_file(file)
    client = fazt.Client(policy=held)
    client.introspect()  # the engine is made, and follows the policy
    kept = weakref.ref(client._intake.backend)
    assert len(held._watchers) == 1  # type: ignore[attr-defined]
    del client
    gc.collect()
    assert kept() is None
    assert held._watchers == []  # type: ignore[attr-defined]
    held.close()
