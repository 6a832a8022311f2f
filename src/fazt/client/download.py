"""`fazt.download(…)`: files of any length, verified and in their place at once, resumed where they broke off.

A download streams into a part beside its destination, in constant memory; the part is synced, checked and renamed, or
kept for the next try when that can go on behind it, or removed. Whatever goes wrong is a `DownloadError`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import urlsplit

from fazt.client.backend import AsyncBackend, SyncBackend
from fazt.client.download_drivers import arun, run
from fazt.client.download_error import DownloadError
from fazt.client.download_pace import Pacer
from fazt.client.download_plan import Download, Plan, Shared, Wishes
from fazt.client.registry import async_backend_for, backend_for
from fazt.errors import ConfigError

if TYPE_CHECKING:
    from fazt.client.policies import Policy

__all__ = ["Download", "DownloadError", "Pacer", "adownload", "adownload_many", "download", "download_many"]

Item = tuple[str, str | os.PathLike[str]] | tuple[str, str | os.PathLike[str], str | None]
"""URL, destination and, where it is known, the SHA-256 of a file."""
ManyProgress = Callable[[int, int, int | None], object]
"""Called with the index of a file, its bytes so far and its length."""


def download(
    url: str,
    dest: str | os.PathLike[str],
    *,
    client: Any = None,
    policy: Policy | None = None,
    app: str | None = None,
    rate_limit: float | None = None,
    **wishes: Unpack[Wishes],
) -> Download:
    """Download a file.

    Args:
        url: absolute, http or https.
        dest: the file; in an existing directory, or with a slash at the end, it is named as in the URL. Never in /etc,
            /sys, /proc, /root, /boot, /dev.
        client: a `fazt.Client` whose connections, policy and limits are used (its headers and cookies are not).
        policy: without a client, what is allowed; the data directory's rules by default.
        app: name or id of the app of the data directory that the call is for.
        rate_limit: most bytes per second.
        wishes: `sha256` (hex, of the whole file), `resume` (True), `progress` (called with bytes and total),
            `max_bytes` (as sent and as saved), `expected_length` (bytes as sent), `overwrite` (True; otherwise a file
            that is there is kept, and is the result if it has the `sha256`), `mode` (by default the umask decides),
            `root` (directory that the file must be in), `headers`, `secret`, `deadline` (seconds in all), `retry`,
            `cache`, `service`, `role`.

    Raises:
        DownloadError: its `kind` is http, timeout, network, policy, read, write, size, checksum or rename. What was at
            the destination is as it was.
        ConfigError: the policy cannot be used.
        TypeError, ValueError: an argument that makes no sense.
    """
    plan = _plan(url, dest, wishes, rate_limit)
    backend = _of(client, policy, app, SyncBackend) or backend_for(policy, app)
    return run(backend.engine, plan, profile=backend.profile, app=backend.policy.app_id)


async def adownload(
    url: str,
    dest: str | os.PathLike[str],
    *,
    client: Any = None,
    policy: Policy | None = None,
    app: str | None = None,
    rate_limit: float | None = None,
    **wishes: Unpack[Wishes],
) -> Download:
    """Download a file on the running event loop, which never waits for the disk; arguments and errors as `download`."""
    plan = _plan(url, dest, wishes, rate_limit)
    backend = _of(client, policy, app, AsyncBackend) or async_backend_for(policy, app)
    return await arun(backend.engine, plan, profile=backend.profile, app=backend.policy.app_id)


def download_many(
    items: Iterable[Item],
    *,
    jobs: int = 8,
    per_host: int = 4,
    progress: ManyProgress | None = None,
    client: Any = None,
    policy: Policy | None = None,
    app: str | None = None,
    rate_limit: float | None = None,
    **wishes: Unpack[Shared],
) -> list[Download | DownloadError]:
    """Download several files at once, on an event loop of its own; for code that runs on none.

    Args:
        items: URL and destination of each, and perhaps its SHA-256.
        jobs: files at once.
        per_host: of these, from one host.
        progress: called with the index of a file, its bytes and its length.
        client, policy, app, rate_limit, wishes: as `download`; the rate is that of all together.

    Returns: for each item in turn what `download` returns or raises.

    Raises:
        ConfigError, TypeError, ValueError: as `download`, before anything is asked for.
        RuntimeError: an event loop is running in this thread.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("download_many runs an event loop of its own; on a running one await adownload_many")
    plans = _plans(items, wishes, rate_limit, progress, jobs, per_host)
    shared = _of(client, policy, app, SyncBackend) or backend_for(policy, app)

    async def main() -> list[Download | DownloadError]:
        backend = AsyncBackend(replace(shared.setup, owned=False))
        try:
            return await _many(backend, plans, jobs, per_host)
        finally:
            await backend.aclose()

    return asyncio.run(main())


async def adownload_many(
    items: Iterable[Item],
    *,
    jobs: int = 8,
    per_host: int = 4,
    progress: ManyProgress | None = None,
    client: Any = None,
    policy: Policy | None = None,
    app: str | None = None,
    rate_limit: float | None = None,
    **wishes: Unpack[Shared],
) -> list[Download | DownloadError]:
    """Download several files at once on the running event loop; arguments and results as `download_many`."""
    plans = _plans(items, wishes, rate_limit, progress, jobs, per_host)
    backend = _of(client, policy, app, AsyncBackend) or async_backend_for(policy, app)
    return await _many(backend, plans, jobs, per_host)


async def _many(
    backend: AsyncBackend, plans: Sequence[Plan], jobs: int, per_host: int
) -> list[Download | DownloadError]:
    async def one(plan: Plan) -> Download:
        return await arun(backend.engine, plan, profile=backend.profile, app=backend.policy.app_id)

    return await at_once([(plan.url, partial(one, plan)) for plan in plans], jobs=jobs, per_host=per_host)


async def at_once(work: Sequence[tuple[str, Callable[[], Any]]], *, jobs: int, per_host: int) -> list[Any]:
    """Do several downloads at once; return what each comes to, a `DownloadError` where it failed.

    Args:
        work: URL of each, and what begins it.
        jobs: how many at once.
        per_host: of these, from one host.
    """
    everything = asyncio.Semaphore(jobs)
    hosts: dict[str, asyncio.Semaphore] = {}

    async def one(url: str, begin: Callable[[], Any]) -> Any:
        host = hosts.setdefault(_host(url), asyncio.Semaphore(per_host))
        async with host, everything:  # in this order: who waits for a busy host holds up nobody else
            try:
                return await begin()
            except DownloadError as error:
                return error

    tasks = [asyncio.ensure_future(one(url, begin)) for url, begin in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # each leaves its file in order
        raise


def _plan(url: str, dest: str | os.PathLike[str], wishes: Wishes, rate_limit: float | None) -> Plan:
    pacer = None if rate_limit is None else Pacer(rate_limit)
    return Plan(url, dest, pacer=pacer, **wishes)


def _plans(
    items: Iterable[Item],
    wishes: Shared,
    rate_limit: float | None,
    progress: ManyProgress | None,
    jobs: int,
    per_host: int,
) -> list[Plan]:
    if jobs < 1 or per_host < 1:
        raise ValueError("jobs and per_host must be at least 1")
    pacer = None if rate_limit is None else Pacer(rate_limit)
    plans = []
    for index, item in enumerate(items):
        url, dest, digest = item if len(item) == 3 else (*item, wishes.get("sha256"))
        own: Shared = {**wishes, "sha256": digest}
        told = None if progress is None else partial(progress, index)
        plans.append(Plan(url, dest, pacer=pacer, progress=told, **own))
    return plans


def _of(client: Any, policy: Policy | None, app: str | None, kind: type[Any]) -> Any:
    """Return what stands behind a client that was given; None when none was."""
    if client is None:
        return None
    if policy is not None or app is not None:
        raise ConfigError("policy= and app= are the client's own; leave them out beside client=")
    backend = getattr(getattr(client, "_intake", None), "backend", None)
    if not isinstance(backend, kind):
        wanted = "fazt.Client" if kind is SyncBackend else "fazt.AsyncClient"
        raise TypeError(f"client= takes a {wanted} here, not {type(client).__name__}")
    return backend


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
