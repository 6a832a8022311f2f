"""Binding, telling where, stopping."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from fazt.core.limits import defaults
from fazt.errors import ConfigError
from fazt.server.asgi import Front
from fazt.server.context import ServerContext
from fazt.server.serve import Bound, bind, describe


def test_port_0_is_one_real_port_on_every_address():
    sockets = bind("localhost", 0)
    try:
        ports = {listener.getsockname()[1] for listener in sockets}
        assert len(ports) == 1
        assert ports != {0}
    finally:
        for listener in sockets:
            listener.close()


def test_a_port_in_use_is_a_clear_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError) as refused:
            bind("127.0.0.1", taken.getsockname()[1])
    assert "--port 0" in (refused.value.hint or "")


@pytest.mark.parametrize("host", ["no such host", "256.256.256.256"])
def test_a_host_that_is_none_is_a_clear_error(host):
    with pytest.raises(ConfigError):
        bind(host, 0)


def test_own_listeners_are_told_before_anything_is_served(server):
    assert server.listening == [("127.0.0.1", server.port)]  # the fixture checks that it came first


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
    ],
)
def test_urls(address, url):
    bound = Bound(((address, 80),))
    assert bound.admin_url == url
    assert bound.app_url("a") == "http://a.localhost:80/"
    said, *apps = describe(bound, ["a"])
    assert said.startswith(f"listening on {url}")
    assert ("every other address" in said) == (address in ("0.0.0.0", "::"))
    assert apps == ["  http://a.localhost:80/"]
    assert "fazt app deploy" in describe(bound, [])[1]


def test_the_runtime_starts_before_and_stops_after(start):
    life: list[str] = []

    async def begin() -> None:
        life.append("start")

    async def end() -> None:
        life.append("stop")

    with start(start=begin, stop=end) as server:
        server.get("/")
        assert life == ["start"]
    assert life == ["start", "stop"]


def test_a_runtime_that_cannot_start_is_an_error_of_the_operator(start):
    async def begin() -> None:
        raise ConfigError("no sandbox here")

    stopped: list[int] = []

    async def end() -> None:
        stopped.append(1)

    with pytest.raises(ConfigError, match="no sandbox"), start(start=begin, stop=end):
        pass
    assert stopped == [1]


def test_a_running_request_ends_before_the_server_does(start, drain):
    with start() as server:
        inside = threading.Event()

        async def slow(_request):
            inside.set()
            await asyncio.sleep(0.4)
            return server.runtime.outcomes["done"]

        from fazt.functions.model import AppResponse

        server.runtime.outcomes |= {"slow": slow, "done": AppResponse(200, (), b"finished")}
        connection = server.connect()
        connection.sendall(b"GET /api/slow HTTP/1.1\r\nHost: hello.localhost\r\n\r\n")
        assert inside.wait(10)
    assert drain(connection).endswith(b"finished")
    connection.close()


def test_other_asgi_servers_start_and_stop_it_by_lifespan():
    life: list[str] = []

    async def begin() -> None:
        life.append("start")

    async def end() -> None:
        life.append("stop")

    async def broken() -> None:
        raise ConfigError("no sandbox here")

    async def run(begin) -> list[dict[str, str]]:
        sent: list[dict[str, str]] = []
        steps = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive():
            return next(steps)

        async def send(message):
            sent.append(message)

        limits = defaults(total_ram=2**28, available_ram=2**28, cpu_cores=1)
        context = ServerContext(None, None, lambda _app: limits, "x" * 40, start=begin, stop=end)
        await Front(context)({"type": "lifespan"}, receive, send)
        return sent

    done = asyncio.run(run(begin))
    assert [message["type"] for message in done] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert life == ["start", "stop"]
    failed = asyncio.run(run(broken))
    assert failed == [{"type": "lifespan.startup.failed", "message": "no sandbox here"}]


SCRIPT = """
import sys
from fazt.core.limits import defaults
from fazt.server.context import ServerContext
from fazt.server.serve import serve

class Nothing:
    async def site(self, name): return None

limits = defaults(total_ram=2**28, available_ram=2**28, cpu_cores=1)
context = ServerContext(runtime=None, sites=Nothing(), limits=lambda app: limits, admin_token="x" * 40)
code = serve(context, host="127.0.0.1", port=0, ready=lambda bound: print(bound.port, flush=True))
print("ended", code, flush=True)
sys.exit(code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_it_in_good_order(number, code):
    child = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        os.kill(child.pid, number)
        out, err = child.communicate(timeout=20)
    finally:
        child.kill()
        child.communicate()
    assert (child.returncode, out.strip(), err) == (code, f"ended {code}", "")
