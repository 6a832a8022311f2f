"""Carrying out the steps of a download, on threads and on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fazt.client.download_steps import Open, Pause, Pump, Step, Work
from fazt.client.download_transfer import Transfer

if TYPE_CHECKING:
    from fazt.client.download_plan import Download, Plan
    from fazt.core.call import Door, Profile
    from fazt.engine import AsyncEngine, Engine
    from fazt.engine.base import EngineBase

T = TypeVar("T")

_BLOCKING_BATCH: Final = 64 * 1024
"""Bytes that are written at once where writing costs no change of thread: what one read brings."""


def transfer_for(engine: EngineBase[Any], plan: Plan, *, app: str, door: Door) -> Transfer:
    """Return a download that is about to begin."""
    traffic = engine.traffic
    return Transfer(
        plan,
        engine=engine,
        app=app,
        door=door,
        clock=engine.clock,
        wall=engine.wall,
        default_retry=None if traffic is None else traffic.retry_for(plan.service, None),
    )


def run(engine: Engine, plan: Plan, *, profile: Profile, app: str = "", door: Door = "client") -> Download:
    """Download a file in this thread.

    Args:
        engine: makes the calls.
        plan: what is asked for.
        profile: the numbers of the door.
        app: id of the app on whose behalf it is made.
        door: for the record.

    Raises:
        DownloadError: whatever went wrong with the call or the file.
    """
    transfer = transfer_for(engine, plan, app=app, door=door)
    transfer.batch = _BLOCKING_BATCH

    def carry_out(step: Step) -> Any:
        match step:
            case Work(job):
                return job()
            case Open(request):
                return engine.open(request, profile=profile, hold=True)
            case Pump(stream):
                return _pump(stream, transfer)
            case Pause(seconds):
                return time.sleep(seconds)

    steps = transfer.steps()
    answer: Any = None
    failure: BaseException | None = None
    while True:
        try:
            step = steps.send(answer) if failure is None else steps.throw(failure)
        except StopIteration as stop:
            result: Download = stop.value
            return result
        answer = failure = None
        try:
            answer = carry_out(step)
        except BaseException as error:  # noqa: BLE001 - thrown in below, where file and record are ended
            failure = error


async def arun(engine: AsyncEngine, plan: Plan, *, profile: Profile, app: str = "", door: Door = "client") -> Download:
    """Download a file on the running event loop; the disk is written to in threads. As `run`."""
    transfer = transfer_for(engine, plan, app=app, door=door)

    async def carry_out(step: Step) -> Any:
        match step:
            case Work(job):
                return await _in_thread(job)
            case Open(request):
                return await engine.open(request, profile=profile, hold=True)
            case Pump(stream):
                return await _apump(stream, transfer)
            case Pause(seconds):
                return await asyncio.sleep(seconds)

    steps = transfer.steps()
    answer: Any = None
    failure: BaseException | None = None
    while True:
        try:
            step = steps.send(answer) if failure is None else steps.throw(failure)
        except StopIteration as stop:
            result: Download = stop.value
            return result
        answer = failure = None
        try:
            answer = await carry_out(step)
        except BaseException as error:  # noqa: BLE001 - thrown in above, where file and record are ended
            failure = error


def _pump(stream: Any, transfer: Transfer) -> None:
    take, paced = transfer.take, transfer.plan.pacer is not None
    while data := stream.read_some() if (room := transfer.room) is None else stream.read_view(room):
        if take(data):
            transfer.flush()
        if paced and (delay := transfer.pause(len(data))) > 0:
            time.sleep(delay)


async def _apump(stream: Any, transfer: Transfer) -> None:
    read, take, paced = stream.read_some, transfer.take, transfer.plan.pacer is not None
    while data := await read():
        if take(data):
            await _in_thread(transfer.flush)
        if paced and (delay := transfer.pause(len(data))) > 0:
            await asyncio.sleep(delay)


async def _in_thread(job: Callable[[], T]) -> T:
    """Run a job in a thread and wait until it is over, also when the task is cancelled: it works on an open file."""
    future = asyncio.get_running_loop().run_in_executor(None, job)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:  # told twice: the file still has to be left in order
                continue
        if not future.cancelled():
            future.exception()  # the cancellation is what counts
        raise
