"""The stage that most scenarios share: one server, one HTTPS upstream, apps with the limits that fazt ships with."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.stage import Stage, staged
from tests.e2e.upstream import Upstream

NAMES = (
    "api.e2e.test",
    "other.e2e.test",
    "wild.e2e.test",
    "*.wild.e2e.test",
    "*.sub.wild.e2e.test",
    "unlisted.e2e.test",
    "private.e2e.test",
    "loopback.e2e.test",
    "meta.e2e.test",
    "six.e2e.test",
    "mixed.e2e.test",
)
RESOLVE = " ".join(
    [
        *(f"{name}=127.0.0.1" for name in NAMES[:3] + NAMES[5:6] + ("loopback.e2e.test",)),
        "a.wild.e2e.test=127.0.0.1",
        "b.sub.wild.e2e.test=127.0.0.1",
        "private.e2e.test=10.0.0.7",
        "meta.e2e.test=169.254.169.254",
        "six.e2e.test=::1",
        "mixed.e2e.test=127.0.0.1,10.0.0.7",
    ]
)
LOOPBACK = ("--address", "127.0.0.1/32")


@dataclass
class Scene:
    """What a scenario plays on."""

    stage: Stage
    upstream: Upstream
    plain: Upstream
    trap: Trap


class Trap:
    """A listener that nobody may come to, such as the proxy that the environment names."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def visited(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self._listener.accept()[0].close()
            return True
        return False

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with contextlib.closing(Upstream(tmp_path_factory.mktemp("e2e-https"), *NAMES)) as started:
        yield started


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with contextlib.closing(Upstream(tmp_path_factory.mktemp("e2e-http"))) as started:
        yield started


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, plain: Upstream) -> Iterator[Scene]:
    with contextlib.closing(Trap()) as trap:
        proxies = {f"{scheme}_proxy": trap.url for scheme in ("http", "https", "all")}
        environment = {**proxies, **{name.upper(): url for name, url in proxies.items()}, "NO_PROXY": ""}
        with staged(tmp_path_factory.mktemp("e2e-scene"), environment) as stage:
            set_scene(stage, upstream, plain)
            stage.environment |= {"FAZT_RESOLVE": RESOLVE, "FAZT_CA_FILE": str(upstream.ca)}
            stage.serve("--resolve", RESOLVE, "--ca-file", str(upstream.ca), "--workers", "32")
            yield Scene(stage, upstream, plain, trap)


def set_scene(stage: Stage, upstream: Upstream, plain: Upstream) -> None:
    """Grant what the scenarios need, deploy the app that makes calls, and leave the limits of an app as they ship."""
    probe = ("--app", "probe")
    stage.deploy("probe")
    for host in ("API.E2E.Test.", "other.e2e.test", "mixed.e2e.test", "*.wild.e2e.test"):
        stage.fazt("net", "allow", upstream.origin(host), *probe, *LOOPBACK)
    for host in ("private.e2e.test", "loopback.e2e.test", "meta.e2e.test", "six.e2e.test"):
        stage.fazt("net", "allow", f"https://{host}:{upstream.port}", *probe)
    stage.fazt("net", "allow", "api.e2e.test", *probe)
    stage.fazt("net", "allow", plain.origin("other.e2e.test"), *probe, *LOOPBACK)
