"""Names to addresses: static entries, else getaddrinfo in threads of its own, with a deadline and a short cache.

What comes out is not judged yet: `core.addresses.judge` sees every address, also of static and cached answers.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
import os
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence

from fazt.core.url import parse_host
from fazt.errors import ConfigError, FaztError, Reason

Lookup = Callable[[str], Sequence[str]]
"""Blocking: addresses of a host name in order of preference; raises OSError when there are none."""

CACHE_SECONDS = 5.0
CACHE_ENTRIES = 1024
MAX_THREADS = 32
"""Lookups that run at once; each may hang for as long as the system's resolver lets it."""
MAX_ADDRESSES = 256
"""Addresses of one answer; every one is judged whenever a connection is made, so a longer answer fails whole."""
MAX_WAITING = 1024
"""Names that wait for a thread; beyond it a lookup fails at once."""
_IDLE_THREAD_SECONDS = 10.0


def system_lookup(host: str) -> tuple[str, ...]:
    """Ask the system's resolver, which orders its answer by RFC 6724."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    families = (socket.AF_INET, socket.AF_INET6)
    return tuple(dict.fromkeys(str(sockaddr[0]) for family, _, _, _, sockaddr in found if family in families))


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


class _Job:
    """One lookup under way, shared by every call that waits for its name."""

    __slots__ = ("domain", "host", "loop", "started", "waiters")

    def __init__(self, host: str, loop: asyncio.AbstractEventLoop) -> None:
        self.host = host
        self.domain = ".".join(host.rsplit(".", 2)[-2:])
        """Whose name servers answer, as nearly as needs be (below co.uk they are taken for one)."""
        self.loop = loop
        self.waiters: list[asyncio.Future[tuple[str, ...]]] = []
        self.started = False


class _Threads:
    """Daemon threads that run lookups: made when needed, gone after a while, never more than `limit`.

    The names of one domain get at most a quarter of them: a name server that never answers, asked for one made-up name
    after the other, must not keep everybody else's names from being looked up.
    """

    def __init__(self, lookup: Lookup, done: Callable[[_Job, tuple[str, ...] | OSError], None], *, limit: int) -> None:
        self._lookup = lookup
        self._done = done
        self._limit = limit
        self._share = max(1, limit // 4)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._ready = threading.Condition()
        self._queue: OrderedDict[_Job, None] = OrderedDict()
        self._running: Counter[str] = Counter()
        self._idle = 0
        self._count = 0

    def submit(self, job: _Job) -> bool:
        """Queue a job; False when too many wait already."""
        if self._pid != os.getpid():  # a forked child has the counters but not the threads
            self._reset()
        with self._ready:
            if len(self._queue) >= MAX_WAITING:
                return False
            self._queue[job] = None
            if self._idle:
                self._ready.notify()
            enough = self._idle >= len(self._queue) or self._count >= self._limit
            if not enough and not self._start_thread() and self._count == 0:
                del self._queue[job]
                return False
            return True

    def _start_thread(self) -> bool:
        try:
            threading.Thread(target=self._run, name="fazt-resolve", daemon=True).start()
        except RuntimeError:  # the process may have no more threads
            return False
        self._count += 1
        return True

    def withdraw(self, job: _Job) -> bool:
        """Take a job back that nobody waits for; False when a thread has it already."""
        with self._ready:
            if job.started or job not in self._queue:
                return False
            del self._queue[job]
            return True

    def _run(self) -> None:
        while (job := self._next()) is not None:
            answer: tuple[str, ...] | OSError
            try:
                answer = tuple(self._lookup(job.host))
            except OSError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - UnicodeError and whatever a lookup may raise: the name fails, the thread lives
                answer = OSError(f"{type(error).__name__} in the lookup")
            with self._ready:
                self._running[job.domain] -= 1
                if not self._running[job.domain]:
                    del self._running[job.domain]
            self._done(job, answer)

    def _next(self) -> _Job | None:
        with self._ready:
            while (job := self._eligible()) is None:
                self._idle += 1
                woken = self._ready.wait(_IDLE_THREAD_SECONDS)
                self._idle -= 1
                if not woken and self._eligible() is None:  # those whose domain is busy go to the threads that are
                    self._count -= 1
                    return None
            self._queue.pop(job, None)
            self._running[job.domain] += 1
            job.started = True
            return job

    def _eligible(self) -> _Job | None:
        """Return the job that waits longest and whose domain has not its share of threads already."""
        # a list: the collector may run in here, and with it what gives up a job
        return next((job for job in list(self._queue) if self._running[job.domain] < self._share), None)


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
        self._ttl = ttl
        self._cache: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()
        self._jobs: dict[str, _Job] = {}
        self._threads = _Threads(lookup, self._from_thread, limit=threads)

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
        cached = self._cache.get(host)
        if cached is not None and cached[0] > loop.time():
            return cached[1]
        waiter: asyncio.Future[tuple[str, ...]] = loop.create_future()
        job = self._join(host, loop, waiter)
        timer = None if deadline == math.inf else loop.call_at(deadline, _time_out, waiter)
        try:
            return await waiter
        except OSError as error:
            cause = error.strerror or str(error)
            message = "The host name could not be resolved."
            raise FaztError(Reason.DNS_FAILED, message, detail=f"{host} port {port}: {cause}") from None
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(job, waiter)

    def _join(self, host: str, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[tuple[str, ...]]) -> _Job:
        job = self._jobs.get(host)
        if job is None or job.loop is not loop:
            job = _Job(host, loop)
            if not self._threads.submit(job):
                raise FaztError(Reason.DNS_FAILED, "Too many host names wait to be resolved.", retryable=True)
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
        if isinstance(answer, tuple) and not 0 < len(answer) <= MAX_ADDRESSES:
            answer = OSError(f"{len(answer)} addresses" if answer else "no address")
        if isinstance(answer, tuple) and self._ttl > 0:
            self._cache[job.host] = (job.loop.time() + self._ttl, answer)
            self._cache.move_to_end(job.host)
            if len(self._cache) > CACHE_ENTRIES:
                self._cache.popitem(last=False)
        for waiter in job.waiters:
            if waiter.done():
                continue
            if isinstance(answer, tuple):
                waiter.set_result(answer)
            else:
                waiter.set_exception(answer)


def _time_out(waiter: asyncio.Future[tuple[str, ...]]) -> None:
    if not waiter.done():
        waiter.set_exception(FaztError(Reason.DNS, "The host name was not resolved in time."))
