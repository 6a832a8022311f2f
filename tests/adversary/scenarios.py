"""What is tried from the near side, through every way into the Python door."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fazt
import fazt.httpx
from fazt.net import resolve, sync_resolve
from tests.adversary.servers import INTERNAL_4, INTERNAL_6, SCRIPT

TRIES: dict[str, list[str]] = {
    "good": ["http://good.test/"],
    "good6": ["http://good6.test/"],
    "kept": ["http://good.test/", "http://good.test/"],
    "rebind-at-once": ["http://rebind-at-once.test/close", "http://rebind-at-once.test/close"],
    "rebind-later": ["http://rebind-later.test/close"] * 3,
    "rebind-back": ["http://rebind-back.test/close", "http://rebind-back.test/close"],
    "mixed": ["http://mixed.test/"],
    "mixed-families": ["http://mixed-families.test/"],
    "mixed-last": ["http://mixed-last.test/"],
    "nowhere": ["http://nowhere.test/"],
    "own": ["http://own.test/"],
    **{f"v4 {address}": [f"http://v4-{number}.test/"] for number, address in enumerate(INTERNAL_4)},
    **{f"v6 {address}": [f"http://v6-{number}.test/"] for number, address in enumerate(INTERNAL_6)},
    **{f"literal {address}": [f"http://{address}/"] for address in INTERNAL_4},
    **{f"literal {address}": [f"http://[{address}]/"] for address in INTERNAL_6},
    "literal public": ["http://93.184.216.34/"],
    "spelled": ["http://0x0a000005/", "http://167772165/", "http://012.0.0.5/", "http://10.5/"],
    "port": ["http://good.test:8080/"],
    "redirect on": ["http://good.test/to/http://other.test/"],
    "redirect to a literal": ["http://good.test/to/http://10.0.0.5/"],
    "redirect to a private name": ["http://good.test/to/http://v4-0.test/"],
    "redirect to the metadata service": ["http://good.test/to/http://v4-1.test/"],
    "redirect to another port": ["http://good.test/to/http://good.test:8080/"],
    "redirect that rebinds": ["http://rebind-at-once.test/to/http://rebind-at-once.test/close"],
}
"""Calls in turn, with one client."""

Call = Callable[[str], Any]


def _told(call: Callable[[], int]) -> str:
    try:
        return str(call())
    except fazt.FaztError as error:
        return error.reason.value
    except Exception as error:
        return f"not one of fazt's: {type(error).__name__}"


def _blocking(client: Any) -> Call:
    return lambda url: _told(lambda: client.get(url, follow_redirects=True, timeout=5).status_code)


def _looped(loop: asyncio.AbstractEventLoop, client: Any) -> Call:
    async def get(url: str) -> int:
        return int((await client.get(url, follow_redirects=True, timeout=5)).status_code)

    return lambda url: _told(lambda: loop.run_until_complete(get(url)))


def _saved(policy: fazt.Policy, folder: Path) -> Call:
    return lambda url: _told(lambda: fazt.download(url, folder / "file", policy=policy, resume=False).status)


def _doors(policy: fazt.Policy, loop: asyncio.AbstractEventLoop, folder: Path) -> dict[str, Call]:
    return {
        "Client": _blocking(fazt.Client(policy=policy)),
        "httpx.Client": _blocking(fazt.httpx.Client(policy=policy)),
        "AsyncClient": _looped(loop, fazt.AsyncClient(policy=policy)),
        "httpx.AsyncClient": _looped(loop, fazt.httpx.AsyncClient(policy=policy)),
        "fetch": lambda url: _told(lambda: fazt.fetch(url, policy=policy, follow_redirects=True).status),
        "afetch": lambda url: _told(
            lambda: loop.run_until_complete(fazt.afetch(url, policy=policy, follow_redirects=True)).status
        ),
        "download": _saved(policy, folder),
    }


def _policies() -> dict[str, Callable[[], fazt.Policy]]:
    return {
        "public": fazt.Policy.public,
        "named": lambda: fazt.Policy(allow=[f"http://{name}" for name in SCRIPT]),
    }


def _near_canary(touched: list[str]) -> None:
    server = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)

    def watch() -> None:
        while True:
            _, peer = server.accept()
            touched.append(peer[0])

    threading.Thread(target=watch, daemon=True).start()


def run() -> dict[str, Any]:
    """Try everything; the DNS script starts anew for each policy and door."""
    touched: list[str] = []
    _ask_every_time()
    _near_canary(touched)
    found: dict[str, Any] = {}
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory() as folder:
        for kind, make in _policies().items():
            for door, call in _doors(make(), loop, Path(folder)).items():
                _start_script_anew()
                found[f"{kind}/{door}"] = {name: [call(url) for url in urls] for name, urls in TRIES.items()}
    return {"found": found, "near": touched}


def _ask_every_time() -> None:
    """Keep no answers, as if the seconds for which they are kept were over before every connection."""
    for resolver in (sync_resolve.SyncResolver, resolve.Resolver):
        assert resolver.__init__.__kwdefaults__ is not None
        resolver.__init__.__kwdefaults__["ttl"] = 0.0


def _start_script_anew() -> None:
    """Tell the DNS server to begin its script again: a question it knows."""
    try:
        socket.getaddrinfo("begin-again.test", 80)
    except socket.gaierror:
        pass
