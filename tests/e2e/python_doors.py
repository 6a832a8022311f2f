"""The doors for Python programs, each making the same request over one data directory: what became of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2

import fazt
import fazt.httpx
from fazt.client import registry
from fazt.client.policies import Policy
from fazt.errors import FaztError

REDIRECTS = 3
"""What a function's limits allow, too."""


@dataclass(frozen=True)
class Outcome:
    """What became of a call: a status, or a refusal or failure."""

    call_id: str
    status: int | None = None
    code: str | None = None
    reason: str | None = None
    message: str | None = None
    retryable: bool | None = None
    hop: int | None = None
    body: bytes = b""

    @property
    def verdict(self) -> tuple[Any, ...]:
        """What has to be the same at every door."""
        return self.code, self.reason, self.message, self.retryable, self.status

    @classmethod
    def of(cls, error: FaztError) -> Outcome:
        return cls(
            error.call_id or "",
            code=error.code.value,
            reason=error.reason.value,
            message=error.message,
            retryable=error.retryable,
            hop=error.hop,
        )


Options = Mapping[str, Any]
Door = Callable[[str, Options], Outcome]


def _asked(options: Options) -> dict[str, Any]:
    """Return fazt's own options of a request."""
    found: dict[str, Any] = {"secret": options.get("auth")}
    if "timeout" in options:
        found["deadline"] = options["timeout"] / 1000
    if "max_bytes" in options:
        found["max_bytes"] = options["max_bytes"]
    return found


def _body(options: Options) -> bytes | None:
    body = options.get("body")
    return None if body is None else body.encode()


def _answered(response: Any) -> Outcome:
    return Outcome(response.extensions["fazt"]["call_id"], response.status_code, body=response.content)


def _sync(module: Any) -> Callable[[Policy], Door]:
    def make(policy: Policy) -> Door:
        client = module.Client(policy=policy, follow_redirects=True, max_redirects=REDIRECTS)

        def call(url: str, options: Options) -> Outcome:
            try:
                return _answered(
                    client.request(
                        options.get("method", "GET"),
                        url,
                        content=_body(options),
                        headers=options.get("headers"),
                        **_asked(options),
                    )
                )
            except FaztError as error:
                return Outcome.of(error)

        return call

    return make


def _async(module: Any) -> Callable[[Policy], Door]:
    def make(policy: Policy) -> Door:
        loop = _Loop()
        client = module.AsyncClient(policy=policy, follow_redirects=True, max_redirects=REDIRECTS)

        async def request(url: str, options: Options) -> Outcome:
            try:
                return _answered(
                    await client.request(
                        options.get("method", "GET"),
                        url,
                        content=_body(options),
                        headers=options.get("headers"),
                        **_asked(options),
                    )
                )
            except FaztError as error:
                return Outcome.of(error)

        return lambda url, options: loop.run(request(url, options))

    return make


def _carried(policy: Policy) -> Door:
    """A client of httpx2's own over the transport: redirects would be calls of their own there, so it follows none."""
    client = httpx2.Client(transport=fazt.Transport(policy=policy))

    def call(url: str, options: Options) -> Outcome:
        try:
            return _answered(
                client.request(
                    options.get("method", "GET"),
                    url,
                    content=_body(options),
                    headers=options.get("headers"),
                    extensions={"fazt": _asked(options)},
                )
            )
        except FaztError as error:
            return Outcome.of(error)

    return call


def _lean_arguments(options: Options) -> dict[str, Any]:
    return {
        "method": options.get("method", "GET"),
        "content": _body(options),
        "headers": options.get("headers"),
        "follow_redirects": True,
        "max_redirects": REDIRECTS,
        **_asked(options),
    }


def _fetch(policy: Policy) -> Door:
    def call(url: str, options: Options) -> Outcome:
        try:
            answer = fazt.fetch(url, policy=policy, **_lean_arguments(options))
        except FaztError as error:
            return Outcome.of(error)
        return Outcome(answer.call_id, answer.status, body=answer.content)

    return call


def _afetch(policy: Policy) -> Door:
    loop = _Loop()

    async def make(url: str, options: Options) -> Outcome:
        try:
            answer = await fazt.afetch(url, policy=policy, **_lean_arguments(options))
        except FaztError as error:
            return Outcome.of(error)
        return Outcome(answer.call_id, answer.status, body=answer.content)

    return lambda url, options: loop.run(make(url, options))


def _download(folder: Path) -> Callable[[Policy], Door]:
    def make(policy: Policy) -> Door:
        counter = iter(range(10_000))

        def call(url: str, options: Options) -> Outcome:
            place = folder / f"file-{next(counter)}"
            try:
                done = fazt.download(url, place, policy=policy, headers=options.get("headers"), **_asked(options))
            except FaztError as error:
                assert not place.exists()
                return Outcome.of(error)
            return Outcome(done.call_id, done.status, body=place.read_bytes())

        return call

    return make


class _Loop:
    """An event loop in a thread of its own, which stays from call to call."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


@dataclass(frozen=True)
class PythonDoor:
    """A door and what it can be asked for."""

    name: str
    make: Callable[[Policy], Door]
    httpx: bool = True
    """Whether httpx reads the URL and the fields before fazt sees them."""
    follows: bool = True
    streams: bool = False
    """Whether the body is read as it comes, so that a call that fails on the way has had some of it."""
    files: bool = False
    """Whether it only fetches files: GET, and a status of 200."""


def doors(folder: Path) -> list[PythonDoor]:
    return [
        PythonDoor("Client", _sync(fazt)),
        PythonDoor("AsyncClient", _async(fazt)),
        PythonDoor("httpx.Client", _sync(fazt.httpx)),
        PythonDoor("httpx.AsyncClient", _async(fazt.httpx)),
        PythonDoor("Transport", _carried, follows=False, streams=True),
        PythonDoor("fetch", _fetch, httpx=False),
        PythonDoor("afetch", _afetch, httpx=False),
        PythonDoor("download", _download(folder), httpx=False, streams=True, files=True),
    ]


def all_through(door: PythonDoor, policy: Policy, calls: Sequence[tuple[str, Options]]) -> list[Outcome]:
    """Make these calls, one after the other."""
    call = door.make(policy)
    return [call(url, options) for url, options in calls]


def side_by_side(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do these things at the same time: most of it is waiting for what is silent."""
    with ThreadPoolExecutor(min(len(works), 4)) as pool:
        return [future.result(120) for future in [pool.submit(work) for work in works]]


def read_by_httpx(url: str) -> bool:
    """Whether httpx reads this URL as it stands; others it refuses itself, or spells in its own way."""
    try:
        return str(httpx2.URL(url)) == url == str(httpx.URL(url)) and httpx2.URL(url).is_absolute_url
    except (httpx2.InvalidURL, httpx.InvalidURL):
        return False


def close_all() -> None:
    registry.close_client()
