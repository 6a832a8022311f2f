"""A program that has everything open when it forks, and whose child ends as programs do: run by `test_fork`."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fazt
from fazt.client.data_policy import DataPolicy
from fazt.config import Settings
from fazt.stores.sqlite.events import opener
from fazt.telemetry import JsonlSink, SqliteSink

PIECES, SIZE = 400, 65536


def make(folder: Path, ca: str) -> fazt.Client:
    settings = Settings(folder / "data", resolve="api.sdk.test=127.0.0.1", ca_files=(Path(ca),))
    return fazt.Client(
        policy=DataPolicy(settings=settings),
        sinks=[JsonlSink(folder / "net.jsonl"), SqliteSink(opener(folder / "events.db"))],
        cache=fazt.Cache(folder / "cache"),
        traffic={"breaker": True, "retry": {"attempts": 2}},
    )


def told(future: Any) -> Any:
    try:
        return future.result(60)
    except fazt.FaztError as error:
        return [error.reason, error.call_id and error.call_id[:2]]


def main() -> None:
    folder, origin, ca, way = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    client = make(folder, ca)
    said: dict[str, Any] = {"before": client.get(f"{origin}/who?before").json()}
    with client.stream("GET", f"{origin}/long") as stream:
        body = stream.iter_raw()
        got = len(next(body))
        if way == "fork":
            child = os.fork()
            if child == 0:
                del stream, body
                gc.collect()
                client.get(f"{origin}/who?child")
                client.get(f"{origin}/kept")
                client.close()
                client.policy.close()
                return  # the interpreter ends: objects are collected, exit handlers run
            said["child"] = os.waitpid(child, 0)[1]
        else:
            inherited.client = client
            with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
                said["child"] = [told(one) for one in [pool.submit(work, origin, n) for n in range(6)]]
        got += sum(map(len, body))
    said["stream"] = got == PIECES * SIZE
    said["after"] = client.get(f"{origin}/who?after").json()
    said["kept"] = client.get(f"{origin}/kept").extensions["fazt"]["cache"]
    policy = client.policy
    client.close()
    policy.close()
    print(json.dumps(said))


def work(origin: str, number: int) -> Any:
    """Run in a worker of a pool, with the client that it inherited; what is refused comes back through the pipe."""
    if number % 2:
        return inherited.client.get(f"{origin.replace('api.', 'other.')}/who").json()
    return inherited.client.get(f"{origin}/who?worker").json()["query"]


class Inherited:
    client: fazt.Client


inherited = Inherited()


if __name__ == "__main__":
    main()
