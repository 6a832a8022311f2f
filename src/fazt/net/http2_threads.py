"""HTTP/2 for callers that block: their streams live on one event loop in a thread of its own.

One thread that reads for all cannot be held up by the deadline of one, as a reader chosen among the callers could.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fazt.core.call import Fields, Phases, ResponseHead, Target, Upload
from fazt.errors import CallerError, FaztError, Reason
from fazt.net.aio import Wire
from fazt.net.forked import abandon, forks
from fazt.net.resolve import Resolver
from fazt.net.tls import TlsConfig

if TYPE_CHECKING:
    from fazt.net.connection import Connection
    from fazt.net.http2 import Http2Stream
    from fazt.net.sync import SyncWire

T = TypeVar("T")
_LOOKUPS = 64
"""Lookups that may be waited for at once."""
_STOP_SECONDS = 5.0


class _Resolver:
    """The owner's resolver of the moment, waited for in threads."""

    def __init__(self, owner: SyncWire) -> None:
        self._owner = owner

    async def resolve(self, host: str, port: int = 0, *, deadline: float = math.inf) -> tuple[str, ...]:
        return await asyncio.to_thread(self._owner.resolver.resolve, host, port, deadline=deadline)


class _Wire(Wire):
    """The wire on the loop; what may be replaced while it is in use is the owner's."""

    def __init__(self, owner: SyncWire) -> None:
        self._owner = owner
        resolver = cast(Resolver, _Resolver(owner))
        super().__init__(resolver=resolver, limits=owner.limits, attempt_delay=owner.attempt_delay, http2=True)

    @property
    def tls(self) -> TlsConfig:
        return self._owner.tls

    @tls.setter
    def tls(self, _: TlsConfig) -> None:
        """Leave the owner's as it is."""

    @property
    def own_listeners(self) -> Collection[tuple[str, int]]:
        return self._owner.own_listeners

    @own_listeners.setter
    def own_listeners(self, _: Collection[tuple[str, int]]) -> None:
        """Leave the owner's as they are (the constructor sets a default)."""

    @property
    def local_addresses(self) -> Collection[str]:
        return self._owner.local_addresses

    @local_addresses.setter
    def local_addresses(self, found: Collection[str]) -> None:
        if found:
            self._owner.local_addresses = found


class Http2Threads:
    """The streams of one synchronous wire. The loop and its thread begin with the first call.

    Args:
        owner: whose settings hold.
    """

    def __init__(self, owner: SyncWire) -> None:
        self._owner = owner
        self._keep: Callable[[Target], bool] | None = None
        self._begun: _Begun | None = None
        self._lock = threading.Lock()

    def start_anew(self) -> None:
        """Begin again, in a forked child: the loop's thread is not there, and what it held is the parent's."""
        if self._begun is not None:
            abandon(self._begun)
        self._begun = None
        self._lock = threading.Lock()

    def acquire(
        self, target: Target, *, deadline: float, on_attempt: Callable[[], None], fresh: bool, phases: Phases | None
    ) -> SyncHttp2Stream | None:
        """As `SyncWire.acquire`; None when the server is known to speak HTTP/1.1 alone."""
        begun = self._begin()
        if not begun.wire.may_speak_http2(target):
            return None
        work = begun.wire.acquire(target, deadline=deadline, on_attempt=on_attempt, fresh=fresh, phases=phases)
        return SyncHttp2Stream(begun, begun.run(work))

    def _begin(self) -> _Begun:
        begun = self._begun
        if begun is not None:
            return begun
        with self._lock:
            if self._begun is None:
                self._begun = _Begun(self._owner)
                if self._keep is not None:
                    self._begun.run(_now(self._begun.wire.drop_idle, self._keep))
            return self._begun

    def count(self) -> tuple[int, int]:
        """Return how many connections are open, and how many of them idle."""
        begun = self._begun
        return (0, 0) if begun is None else begun.run(_now(begun.wire.count))  # after what was given back before

    def drop_idle(self, keep: Callable[[Target], bool]) -> int:
        """As `SyncWire.drop_idle`."""
        with self._lock:
            self._keep = keep
            begun = self._begun
        return 0 if begun is None else begun.run(_now(begun.wire.drop_idle, keep))

    def close(self) -> None:
        """Close every connection, also those in use, and end the thread."""
        with self._lock:
            begun, self._begun = self._begun, None
        if begun is not None:
            begun.stop()


async def _now(act: Callable[..., T], *arguments: Any) -> T:
    return act(*arguments)


class _Begun:
    """A loop, its thread, and the wire on it."""

    def __init__(self, owner: SyncWire) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="fazt-lookup"))
        self.wire = _Wire(owner)
        self._forks = forks()
        self._thread = threading.Thread(target=self._turn, name="fazt-http2", daemon=True)
        self._thread.start()

    def _turn(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a step on the loop."""
        if self._forks != forks():  # a call of the parent's, whose loop is not turning here
            work.close()
            raise _closed()
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:  # closed by another thread
            work.close()
            raise _closed() from None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do a step on the loop and wait for its end, which its own deadline brings."""
        future = self.submit(work)
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()  # without effect on what has ended
            raise

    def tell(self, act: Callable[[], None]) -> None:
        """Have something done on the loop, without waiting: the collector may be who asks."""
        if self._forks != forks():
            return
        try:
            self.loop.call_soon_threadsafe(act)
        except RuntimeError:  # the loop is closed, and all that it had with it
            pass

    def stop(self) -> None:
        """Close the connections and end the thread."""
        if threading.current_thread() is self._thread:
            return
        try:
            self.submit(self._end()).result(_STOP_SECONDS)
        except (FaztError, TimeoutError, CancelledError):
            pass
        self.tell(self.loop.stop)
        self._thread.join(_STOP_SECONDS)

    async def _end(self) -> None:
        await self.wire.close()
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not me]
        if others:  # they find their connections closed
            _, late = await asyncio.wait(others, timeout=1.0)
            for task in late:
                task.cancel()


class SyncHttp2Stream:
    """A stream, or a connection of HTTP/1.1 where the server chose that, as a call that blocks uses it.

    Attributes:
        address: the judged address it is connected to.
        reused: whether the connection served a call before.
        complete: whether the whole response has arrived.
        trailers: fields that came after the body.
    """

    __slots__ = ("__weakref__", "_begun", "_handoff", "_on_loop", "address", "complete", "reused", "target", "trailers")

    def __init__(self, begun: _Begun, on_loop: Connection | Http2Stream) -> None:
        self._begun = begun
        self._on_loop = on_loop
        self._handoff: _Handoff | None = None
        self.target: Target = on_loop.target
        self.address: str = on_loop.address
        self.reused: bool = on_loop.reused
        self.complete = False
        self.trailers: Fields = ()

    def __repr__(self) -> str:
        return f"<SyncHttp2Stream {self._on_loop!r}>"

    def send(
        self,
        head: bytes,
        body: bytes | None,
        *,
        deadline: float,
        on_sent: Callable[[], None],
        method: str = "GET",
        upload: Upload | None = None,
        phases: Phases | None = None,
    ) -> ResponseHead:
        """As `SyncConnection.send`; an upload's iterator is used by the calling thread alone."""
        if upload is not None:
            self._handoff = _Handoff(self._begun.loop, upload)
            upload = Upload(self._handoff.pieces, upload.length)
        work = self._on_loop.send(
            head, body, deadline=deadline, on_sent=on_sent, method=method, upload=upload, phases=phases
        )
        return self._run(work)

    def read(self, *, cap: int, deadline: float, idle: float | None = None) -> bytes:
        """As `SyncConnection.read`."""
        return self._run(self._on_loop.read(cap=cap, deadline=deadline, idle=idle))

    def read_some(self, *, deadline: float = math.inf, idle: float | None = None) -> bytes:
        """As `SyncConnection.read_some`."""
        return self._run(self._on_loop.read_some(deadline=deadline, idle=idle))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._handoff is None:
            return self._begun.run(self._noting(work))
        future = self._begun.submit(self._noting(work))
        try:
            self._handoff.serve(future)
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()
            raise

    async def _noting(self, work: Coroutine[Any, Any, T]) -> T:
        result = await work
        self.complete = self._on_loop.complete  # here, where nothing else happens to it meanwhile
        self.trailers = self._on_loop.trailers
        return result

    def release(self) -> None:
        """Give it back; never blocks."""
        self._begun.tell(self._on_loop.release)

    def abort(self) -> None:
        """End it at once; never blocks."""
        self._begun.tell(self._on_loop.abort)


class _Handoff:
    """Takes pieces of a body to the loop as it asks for them; the thread that makes the call gets them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, upload: Upload) -> None:
        upload.opened = True
        opened = upload.open()
        if not isinstance(opened, Iterable):
            raise FaztError(Reason.BAD_OPTION, "An asynchronous body cannot be sent by a synchronous call.")
        self._loop = loop
        self._iterator: Iterator[bytes] = iter(opened)
        self._wanted: queue.SimpleQueue[asyncio.Future[bytes | None] | None] = queue.SimpleQueue()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the pieces (on the loop)."""
        while True:
            waiter: asyncio.Future[bytes | None] = self._loop.create_future()
            self._wanted.put(waiter)
            piece = await waiter
            if piece is None:
                return
            yield piece

    def serve(self, step: Future[Any]) -> None:
        """Give what is asked for until a step has ended (in the calling thread)."""
        step.add_done_callback(lambda _: self._wanted.put(None))
        while (waiter := self._wanted.get()) is not None:
            piece: bytes | None = None
            error: BaseException | None = None
            try:
                piece = next(self._iterator, None)
            except (Exception, CallerError) as raised:  # noqa: BLE001 - the caller's own iterator: it goes back to the caller
                error = raised
            self._loop.call_soon_threadsafe(_settle, waiter, piece, error)


def _settle(waiter: asyncio.Future[bytes | None], piece: bytes | None, error: BaseException | None) -> None:
    if waiter.done():
        return
    if error is not None:
        waiter.set_exception(error)
    else:
        waiter.set_result(piece)


def _closed() -> FaztError:
    return FaztError(Reason.PROTOCOL, "The connection was closed before the end of the answer.")
