"""The server's end: asked to, and by kill -9 in full traffic. Nothing is lost that may not be, and nobody is left."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import LOOPBACK, NAMES, RESOLVE
from tests.e2e.stage import Stage, alive, staged, until
from tests.e2e.upstream import Upstream

pytestmark = pytest.mark.xdist_group("e2e-ends")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with contextlib.closing(Upstream(tmp_path_factory.mktemp("e2e-ends-https"), *NAMES)) as started:
        yield started


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Stage]:
    environment = {"FAZT_RESOLVE": RESOLVE, "FAZT_CA_FILE": str(upstream.ca)}
    with staged(tmp_path_factory.mktemp("e2e-ends"), environment) as made:
        made.deploy("probe")
        made.fazt("net", "allow", upstream.origin(), *LOOPBACK)
        made.fazt("limits", "set", "net.log_flush", "500")
        yield made


class Traffic:
    """Visitors that make an app call, each call with a path of its own, until the server is gone."""

    def __init__(self, stage: Stage, upstream: Upstream, name: str) -> None:
        self.done: list[tuple[str, float]] = []
        """Paths of the calls whose answer a visitor has, and when it came."""
        self._stage, self._upstream, self._name = stage, upstream, name
        self.over = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(number,), daemon=True) for number in range(3)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(30)

    def _visit(self, number: int) -> None:
        for turn in range(100_000):
            path = f"/echo/{self._name}/{number}/{turn}"
            try:
                if self.over.is_set() or self._stage.call(self._upstream.url(path)).get("status") != 200:
                    return
            except Exception:
                return
            self.done.append((path, time.monotonic()))


def logged(stage: Stage) -> set[str]:
    return {row["path"] for row in stage.rows("-n", "100000")}


def intact(stage: Stage) -> None:
    for name in ("policy.db", "log.db", "apps.db"):
        with contextlib.closing(sqlite3.connect(stage.data / name)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_server_that_is_asked_to_end_writes_everything_and_leaves_nobody(
    stage: Stage, upstream: Upstream, number: signal.Signals, code: int
) -> None:
    stage.serve("--workers", "3")
    with Traffic(stage, upstream, number.name) as traffic:
        until(lambda: len(traffic.done) > 30)
        family = stage.family()
        assert family
        assert stage.stop(number) == code
    assert not [pid for pid in family if alive(pid)]
    assert {path for path, _ in traffic.done} <= logged(stage)
    intact(stage)


def test_kill_9_in_full_traffic_loses_at_most_the_last_interval_and_leaves_no_process(
    stage: Stage, upstream: Upstream
) -> None:
    for life in range(2):
        stage.serve("--workers", "3")
        assert stage.call(upstream.url())["status"] == 200, "it starts again on what the killed one left"
        with Traffic(stage, upstream, f"kill{life}") as traffic:
            begin = time.monotonic()
            for change in range(3):
                stage.fazt("net", "allow", f"h{life}{change}.e2e.test", "--app", "probe")
                stage.fazt(
                    "secret", "set", f"S{life}{change}", "--domain", "api.e2e.test", stdin=f"value-{change}-01234"
                )
            until(lambda since=begin: time.monotonic() - since > 2.6 and len(traffic.done) > 30)
            family = stage.family()
            killed = time.monotonic()
            assert stage.stop(signal.SIGKILL) == -signal.SIGKILL
        assert len(family) >= 2
        until(lambda family=family: not any(map(alive, family)), what="the end of zygote and workers")
        stage.fazt("net", "cache", "stats", expect=1)  # the file that names the dead server is not believed
        intact(stage)
        kept = logged(stage)
        # one interval of 0.5 s, and what a busy machine takes to write
        surely = {path for path, when in traffic.done if when < killed - 1.6}
        assert surely, "some calls were made well before"
        assert surely <= kept
        rules = {rule["host"] for rule in stage.json("net", "list")}
        assert {f"h{life}{change}.e2e.test" for change in range(3)} <= rules
        assert {f"S{life}{change}" for change in range(3)} <= {one["name"] for one in stage.json("secret", "list")}
