"""Names to addresses for callers that block: the lookups run in threads all the same, so that a deadline holds."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence

from fazt.net import lookups
from fazt.net.forked import renew
from fazt.net.lookups import CACHE_SECONDS, MAX_THREADS, Answers, Job, Lookup, LookupThreads, system_lookup


class _Job(Job):
    """One lookup under way, shared by every thread that waits for its name."""

    __slots__ = ("answer", "waiting", "wakers")

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.answer: tuple[str, ...] | OSError | None = None
        self.wakers: list[threading.Lock] = []
        self.waiting = 0


class SyncResolver:
    """Resolves canonical host names for any number of threads.

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
        self._threads = LookupThreads(lookup, self._finish, limit=threads)
        self.start_anew()
        renew(self)

    def start_anew(self) -> None:
        """Forget the lookups under way, whose threads a forked child does not have."""
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}

    def resolve(self, host: str, port: int = 0, *, deadline: float = math.inf) -> tuple[str, ...]:
        """Return every address of a host.

        Args:
            host: canonical name.
            port: named in the operator's detail only.
            deadline: seconds on the monotonic clock.

        Raises:
            FaztError: `dns_failed`, or `dns` when the deadline passes first.
        """
        static = self._static.get(host)
        if static is not None:
            return static
        known = self._answers.get(host, time.monotonic())
        if known is not None:
            return known
        waker = threading.Lock()
        waker.acquire()
        job = self._join(host, waker)
        try:
            left = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            if left <= 0 or not waker.acquire(timeout=left):
                raise lookups.too_late()
        finally:
            self._leave(job)
        answer = job.answer
        if isinstance(answer, tuple):
            return answer
        raise lookups.not_resolved(host, port, answer or OSError("no address"))

    def _join(self, host: str, waker: threading.Lock) -> _Job:
        with self._lock:
            job = self._jobs.get(host)
            if job is None:
                job = _Job(host)
                if not self._threads.submit(job):
                    raise lookups.too_many_wait()
                self._jobs[host] = job
            job.waiting += 1
            job.wakers.append(waker)
            return job

    def _leave(self, job: _Job) -> None:
        with self._lock:
            job.waiting -= 1
            if not job.waiting and self._jobs.get(job.host) is job and self._threads.withdraw(job):
                del self._jobs[job.host]

    def _finish(self, job: _Job, answer: tuple[str, ...] | OSError) -> None:
        """Wake those who wait (called by the thread that looked the name up)."""
        with self._lock:
            if self._jobs.get(job.host) is job:
                del self._jobs[job.host]
            job.answer = self._answers.settle(job.host, answer, time.monotonic())
            wakers, job.wakers = job.wakers, []
        for waker in wakers:
            waker.release()
