"""How a row is measured: CPU time of this process per operation, rounds of the contenders in turn, medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `value` and `peer` are in `unit`; `limit` is what `shown` must not pass."""

    name: str
    value: float
    unit: str
    target: str
    ok: bool
    peer_name: str = ""
    peer: float | None = None

    @property
    def ratio(self) -> float | None:
        """Value over peer, where there is a peer."""
        return self.value / self.peer if self.peer else None


def cpu_per_op(run: Callable[[int], None], n: int) -> float:
    """Return CPU microseconds of this process per operation of `run(n)`."""
    gc.collect()
    start = time.process_time()
    run(n)
    return (time.process_time() - start) / n * 1e6


async def cpu_per_op_async(run: Callable[[int], Awaitable[None]], n: int) -> float:
    """Return CPU microseconds of this process per operation of `await run(n)`."""
    gc.collect()
    start = time.process_time()
    await run(n)
    return (time.process_time() - start) / n * 1e6


def paired(contenders: list[Callable[[int], None]], n: int, *, rounds: int = 7) -> list[float]:
    """Measure contenders in turn, `rounds` times each after one warm-up, and return the median of each.

    Where they are to be compared, many short rounds are better than few long ones: a machine that others use is now
    quick and now slow for a second or more, and in short turns that meets all contenders alike.
    """
    for run in contenders:
        run(max(1, n // 10))
    found: list[list[float]] = [[] for _ in contenders]
    gc.collect()
    gc.freeze()  # what the contenders hold is not looked through in every round
    for _ in range(rounds):
        for index, run in enumerate(contenders):
            found[index].append(cpu_per_op(run, n))
    gc.unfreeze()
    return [statistics.median(values) for values in found]


async def paired_async(
    contenders: list[Callable[[int], Awaitable[None]]], n: list[int], *, rounds: int = 5
) -> list[float]:
    """Do the same for coroutines; `n` is the number of operations of each contender."""
    for run, count in zip(contenders, n, strict=True):
        await run(max(1, count // 10))
    found: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for index, run in enumerate(contenders):
            found[index].append(await cpu_per_op_async(run, n[index]))
    return [statistics.median(values) for values in found]
