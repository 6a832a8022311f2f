"""What the doors tell: events of real calls over real sockets, through every client and the command line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.site import KITS, OTHER, Kit, Reply, policy, redirect, site, text
from tests.telemetry.collector import Collector
from tests.telemetry.sinks import Broken, Collected

import fazt
from fazt.telemetry import EventStatus, JsonlSink, OtlpSink

SECRET = "cAnArY-s3cret"
kits = pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@kits
def test_D19_a_call_is_one_request_id_and_a_hop_is_one_event(kit: Kit) -> None:
    sink = Collected()
    with site({"/a": redirect("/b?key=" + SECRET, status=303), "/b": text("done")}) as where:

        async def main() -> None:
            async with kit.client(policy=policy(where), sinks=[sink], follow_redirects=True) as client:
                answer = await client.post(where.url("/a?key=" + SECRET), content=b"12345")
                assert answer.text == "done"

        kit.run(main)
        first, second, summary = sink.events
        assert first.redirect_target == second.url == where.url("/b")
    assert {event.request_id for event in sink.events} == {summary.request_id}
    assert [(event.hop, event.method, event.status.value) for event in sink.attempts] == [
        (1, "POST", "redirect"),
        (2, "GET", "success"),
    ]
    assert (summary.method, summary.attempt, summary.hop, summary.door) == ("POST", 2, 2, "client")
    assert first.ttfb_ms is not None and 0 < first.ttfb_ms <= first.elapsed_ms <= summary.elapsed_ms
    assert (second.http_version, second.bytes_read, summary.host) == ("HTTP/1.1", 4, "origin.test")
    assert SECRET not in repr(sink.events)


@kits
def test_D21_refusals_timeouts_and_network_errors_are_told_for_what_they_are(kit: Kit) -> None:
    sink = Collected()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        port = nobody.getsockname()[1]

        async def main() -> None:
            async with kit.client(policy=policy(port), sinks=[sink]) as client:
                for url in ("http://nobody.test/?" + SECRET, f"http://user:{SECRET}@{OTHER}:{port}/"):
                    with pytest.raises(kit.lib.RequestError):
                        await client.get(url)
                with pytest.raises(kit.lib.ConnectError):
                    await client.get(f"http://{OTHER}:{port}/")

        kit.run(main)
    refused, unread, failed = sink.summaries
    assert (refused.status, refused.error_code, refused.reason, refused.attempt) == (
        EventStatus.ERROR,
        "NET_BLOCKED",
        "host_not_granted",
        0,
    )
    assert refused.host == "nobody.test" and unread.reason == "userinfo"
    assert (failed.status, failed.reason, failed.status_code) == (EventStatus.NETWORK_ERROR, "connect_failed", 0)
    assert SECRET not in repr(sink.events)


@kits
def test_D49_a_failing_sink_does_not_touch_the_call(kit: Kit) -> None:
    sink = Collected()
    with site({"/": text("fine")}) as where:

        async def main() -> None:
            async with kit.client(policy=policy(where), sinks=[Broken(), sink, Broken(SystemExit())]) as client:
                assert (await client.get(where.url())).text == "fine"

        kit.run(main)
    assert len(sink.summaries) == 1


@kits
def test_R79_hooks_of_a_call_end_once(kit: Kit) -> None:
    seen: list[str] = []

    def hook(name: str) -> object:
        return kit.hook(lambda _: seen.append(name))

    hooks = {name: hook(name) for name in ("on_request", "on_response", "on_error")}
    with site({"/": text("x"), "/500": Reply(500)}) as where:

        async def main() -> None:
            async with kit.client(policy=policy(where), **hooks) as client:
                await client.get(where.url())
                await client.get(where.url("/500"))
                with pytest.raises(kit.lib.RequestError):
                    await client.get("http://nobody.test/")

        kit.run(main)
    assert seen == ["on_request", "on_response"] * 2 + ["on_request", "on_error"]


@kits
def test_R88_the_callee_joins_the_exported_span(kit: Kit, collector: Collector) -> None:
    sink = OtlpSink(collector.endpoint, signals=["traces"])
    with site() as where:

        async def main() -> None:
            async with kit.client(policy=policy(where), sinks=[sink]) as client:
                await client.get(where.url())

        kit.run(main)
        (request,) = where.requests
    sink.close()
    (span,) = collector.spans
    carried = request.get("traceparent")
    assert carried is not None and carried[:52] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}"


def test_without_an_exporter_nothing_is_carried() -> None:
    with site() as where, fazt.Client(policy=policy(where), sinks=[Collected()]) as client:
        client.get(where.url())
        assert where.requests[0].get("traceparent") is None


def test_a_policy_file_names_its_sinks(tmp_path: Path) -> None:
    folder = tmp_path
    with site({"/": text("x")}) as where:
        (folder / "policy.toml").write_text(
            f"""
resolve = {{ "origin.test" = ["127.0.0.1"] }}

[[allow]]
target = "http://origin.test:{where.port}"
addresses = ["127.0.0.1/32"]

[telemetry.jsonl]
path = "net.jsonl"
"""
        )
        pair = [fazt.Client(policy=fazt.Policy.from_file(folder / "policy.toml")) for _ in range(2)]
        for client in pair:
            client.get(where.url())
        for client in pair:
            client.close()
    told = [json.loads(line) for line in (folder / "net.jsonl").read_text().splitlines()]
    assert [one["event_type"] for one in told] == ["net.request", "net.request.summary"] * 2


def test_a_sink_of_ones_own_serves_many_clients(tmp_path: Path) -> None:
    path = tmp_path / "net.jsonl"
    sink = JsonlSink(path)
    with site({"/": text("x")}) as where:
        for _ in range(3):
            with fazt.Client(policy=policy(where), sinks=[sink]) as client:
                client.get(where.url())
    sink.close()
    assert len(path.read_text().splitlines()) == 6
