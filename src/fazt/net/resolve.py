"""Names to addresses: static entries, else getaddrinfo in threads of its own, with a deadline and a short cache.

What comes out is not judged yet: `core.addresses.judge` sees every address, also of static and cached answers.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
from collections.abc import Mapping, Sequence

from fazt.core.url import parse_host
from fazt.errors import ConfigError, FaztError
from fazt.net import lookups
from fazt.net.lookups import CACHE_SECONDS, MAX_THREADS, Answers, Job, Lookup, LookupThreads, system_lookup


def parse_resolve(text: str) -> dict[str, tuple[str, ...]]:
    """Read static names: `host=addr[,addr]` entries separated by white space; the last entry for a name counts.

    Args:
        text: as given to `--resolve` or in `FAZT_RESOLVE`; names in any spelling of the canonical form's host,
            IPv6 addresses without brackets.

    Raises:
        ConfigError: an entry that is not of this form.
    """
    out: dict[str, tuple[str, ...]] = {}
    for entry in text.split():
        name, mark, listed = entry.partition("=")
        if not mark:
            raise _bad_entry(entry, "there is no '='")
        try:
            host = parse_host(name)
        except FaztError as error:
            raise _bad_entry(entry, error.message) from None
        out[host] = tuple(_address(part, entry) for part in listed.split(","))
    return out


def _address(text: str, entry: str) -> str:
    if text.startswith("["):
        raise _bad_entry(entry, "write IPv6 addresses without brackets")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise _bad_entry(entry, f"{text!r} is not an IP address") from None
    if "%" in text:
        raise _bad_entry(entry, "an address with a zone can't be used")
    return str(address)


def _bad_entry(entry: str, why: str) -> ConfigError:
    hint = "entries look like api.example.com=192.0.2.1,2001:db8::1, separated by spaces"
    return ConfigError(f"{entry!r} can't be resolved: {why}", hint=hint)


class _Job(Job):
    """One lookup under way, shared by every call of one event loop that waits for its name."""

    __slots__ = ("loop", "waiters")

    def __init__(self, host: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(host)
        self.loop = loop
        self.waiters: list[asyncio.Future[tuple[str, ...]]] = []


class Resolver:
    """Resolves canonical host names for one event loop at a time.

    Args:
        static: names that are never looked up in DNS, as `parse_resolve` returns them.
        ttl: seconds for which a positive answer is used again.
        lookup: the blocking lookup.
        threads: lookups that may run at once.
    """

    def __init__(
        self,
        static: Mapping[str, Sequence[str]] | None = None,
        *,
        ttl: float = CACHE_SECONDS,
        lookup: Lookup = system_lookup,
        threads: int = MAX_THREADS,
    ) -> None:
        self._static = {host: tuple(addresses) for host, addresses in (static or {}).items()}
        self._answers = Answers(ttl)
        self._jobs: dict[str, _Job] = {}
        self._threads = LookupThreads(lookup, self._from_thread, limit=threads)

    async def resolve(self, host: str, port: int = 0, *, deadline: float = math.inf) -> tuple[str, ...]:
        """Return every address of a host.

        Args:
            host: canonical name.
            port: named in the operator's detail only.
            deadline: seconds on the loop's clock.

        Raises:
            FaztError: `dns_failed`, or `dns` when the deadline passes first.
        """
        static = self._static.get(host)
        if static is not None:
            return static
        loop = asyncio.get_running_loop()
        known = self._answers.get(host, loop.time())
        if known is not None:
            return known
        waiter: asyncio.Future[tuple[str, ...]] = loop.create_future()
        job = self._join(host, loop, waiter)
        timer = None if deadline == math.inf else loop.call_at(deadline, _time_out, waiter)
        try:
            return await waiter
        except OSError as error:
            raise lookups.not_resolved(host, port, error) from None
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(job, waiter)

    def _join(self, host: str, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[tuple[str, ...]]) -> _Job:
        job = self._jobs.get(host)
        if job is None or job.loop is not loop:
            job = _Job(host, loop)
            if not self._threads.submit(job):
                raise lookups.too_many_wait()
            self._jobs[host] = job
        job.waiters.append(waiter)
        return job

    def _leave(self, job: _Job, waiter: asyncio.Future[tuple[str, ...]]) -> None:
        job.waiters.remove(waiter)
        if not job.waiters and self._jobs.get(job.host) is job and self._threads.withdraw(job):
            del self._jobs[job.host]

    def _from_thread(self, job: _Job, answer: tuple[str, ...] | OSError) -> None:
        try:
            job.loop.call_soon_threadsafe(functools.partial(self._finish, job, answer))
        except RuntimeError:  # the loop is closed, nobody waits
            if self._jobs.get(job.host) is job:
                self._jobs.pop(job.host, None)

    def _finish(self, job: _Job, answer: tuple[str, ...] | OSError) -> None:
        if self._jobs.get(job.host) is job:
            del self._jobs[job.host]
        answer = self._answers.settle(job.host, answer, job.loop.time())
        for waiter in job.waiters:
            if waiter.done():
                continue
            if isinstance(answer, tuple):
                waiter.set_result(answer)
            else:
                waiter.set_exception(answer)


def _time_out(waiter: asyncio.Future[tuple[str, ...]]) -> None:
    if not waiter.done():
        waiter.set_exception(lookups.too_late())
