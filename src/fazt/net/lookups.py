"""Blocking lookups of host names in threads of their own, since nothing else can put an end to waiting for them."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from fazt.errors import FaztError, Reason

Lookup = Callable[[str], Sequence[str]]
"""Blocking: addresses of a host name in order of preference; raises OSError when there are none."""

CACHE_SECONDS = 5.0
CACHE_ENTRIES = 1024
MAX_ADDRESSES = 256
"""Addresses of one answer; every one is judged whenever a connection is made, so a longer answer fails whole."""
MAX_THREADS = 32
"""Lookups that run at once; each may hang for as long as the system's resolver lets it."""
MAX_WAITING = 1024
"""Names that wait for a thread; beyond it a lookup fails at once."""
_IDLE_THREAD_SECONDS = 10.0


def system_lookup(host: str) -> tuple[str, ...]:
    """Ask the system's resolver, which orders its answer by RFC 6724."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    families = (socket.AF_INET, socket.AF_INET6)
    return tuple(dict.fromkeys(str(sockaddr[0]) for family, _, _, _, sockaddr in found if family in families))


class Job:
    """One lookup, under way or waiting for a thread."""

    __slots__ = ("domain", "host", "started")

    def __init__(self, host: str) -> None:
        self.host = host
        self.domain = ".".join(host.rsplit(".", 2)[-2:])
        """Whose name servers answer, as nearly as needs be (below co.uk they are taken for one)."""
        self.started = False


class Answers:
    """What names were found to stand for, kept for a short while."""

    __slots__ = ("_found", "_ttl")

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._found: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()

    def get(self, host: str, now: float) -> tuple[str, ...] | None:
        """Return the addresses of a host that were found not long ago."""
        found = self._found.get(host)
        return found[1] if found is not None and found[0] > now else None

    def settle(self, host: str, answer: tuple[str, ...] | OSError, now: float) -> tuple[str, ...] | OSError:
        """Return a lookup's answer, an error when it cannot be used; what can be is kept."""
        if not isinstance(answer, tuple):
            return answer
        if not 0 < len(answer) <= MAX_ADDRESSES:
            return OSError(f"{len(answer)} addresses" if answer else "no address")
        if self._ttl > 0:
            self._found[host] = (now + self._ttl, answer)
            self._found.move_to_end(host)
            if len(self._found) > CACHE_ENTRIES:
                self._found.popitem(last=False)
        return answer


def not_resolved(host: str, port: int, error: OSError) -> FaztError:
    """Say that a name could not be resolved; the cause goes to the operator."""
    detail = f"{host} port {port}: {error.strerror or error}"
    return FaztError(Reason.DNS_FAILED, "The host name could not be resolved.", detail=detail)


def too_many_wait() -> FaztError:
    """Say that no thread could be had for a lookup."""
    return FaztError(Reason.DNS_FAILED, "Too many host names wait to be resolved.", retryable=True)


def too_late() -> FaztError:
    """Say that a name was not resolved before the deadline."""
    return FaztError(Reason.DNS, "The host name was not resolved in time.")


J = TypeVar("J", bound=Job)


class LookupThreads(Generic[J]):
    """Daemon threads that run lookups: made when needed, gone after a while, never more than `limit`.

    The names of one domain get at most a quarter of them: a name server that never answers, asked for one made-up name
    after the other, must not keep everybody else's names from being looked up.
    """

    def __init__(self, lookup: Lookup, done: Callable[[J, tuple[str, ...] | OSError], None], *, limit: int) -> None:
        self._lookup = lookup
        self._done = done
        self._limit = limit
        self._share = max(1, limit // 4)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._ready = threading.Condition()
        self._queue: OrderedDict[J, None] = OrderedDict()
        self._running: Counter[str] = Counter()
        self._idle = 0
        self._count = 0

    def submit(self, job: J) -> bool:
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

    def withdraw(self, job: J) -> bool:
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

    def _next(self) -> J | None:
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

    def _eligible(self) -> J | None:
        """Return the job that waits longest and whose domain has not its share of threads already."""
        # a list: the collector may run in here, and with it what gives up a job
        return next((job for job in list(self._queue) if self._running[job.domain] < self._share), None)
