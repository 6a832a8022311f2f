"""One download from gate to rename, told once for threads and event loops: a generator of steps.

The driver carries the steps out and throws in what goes wrong; here is decided what an answer means, what is written,
what is kept for the next try and which error the caller sees. File and record are ended here too, whatever happens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final

from fazt.client.download_body import BATCH, Body
from fazt.client.download_checks import (
    already_there,
    check_length,
    check_unchanged,
    decoder_for,
    digest_file,
    digest_of,
    fits,
    redacted,
    request_for,
)
from fazt.client.download_error import DownloadError
from fazt.client.download_origin import Origin
from fazt.client.download_part import PartFile, open_part
from fazt.client.download_plan import Download, Plan
from fazt.client.download_steps import Open, Pause, Pump, Refuser, Step, Stream, Work
from fazt.client.paths import Destination, open_destination, place
from fazt.core.call import Request
from fazt.core.ranges import Anew, Asked, Complete, Refused, Rest, Whole, judge, validator
from fazt.core.retry import Again, RetryPolicy, parse_retry_after
from fazt.errors import FaztError, Reason

if TYPE_CHECKING:
    from fazt.core.call import Door, Response

_WORTH_KEEPING: Final = 64 * 1024
"""Files below this length are quicker fetched again than resumed."""
_PROGRESS: Final = 1024 * 1024
"""Bytes after which a new failure counts as the first one again."""
_KEEP: Final = frozenset({"http", "timeout", "network", "policy", "read"})
"""Kinds of failure after which the bytes that came are still good."""


_NEVER: Final = RetryPolicy(attempts=1, connect=1)


class Transfer:
    """The state of one download.

    Args:
        plan: what is asked for.
        engine: makes the calls; here only for the record of a download that makes none.
        app: id of the app on whose behalf it is made.
        door: the door it came through.
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        engine: Refuser,
        app: str,
        door: Door,
        clock: Callable[[], float],
        wall: Callable[[], float],
        default_retry: RetryPolicy | None = None,
    ) -> None:
        self.plan = plan
        self._engine, self._app, self._door = engine, app, door
        self._clock, self._wall = clock, wall
        self._asked_retry = _NEVER if plan.retry is False else plan.retry
        self._retry = default_retry if self._asked_retry is None else self._asked_retry
        self._started = clock()
        self._destination: Destination | None = None
        self._part: PartFile | None = None
        self._stream: Stream | None = None
        self._asked: Asked | None = None
        self._body: Body | None = None
        self._begun = False
        """Whether the part holds, or will, what this download fetched itself."""
        self._reading = False
        self._resumed = False
        self._spoilt = False
        """What is in the part is not what was sent: nothing can be put behind it."""
        self._done = 0
        """Bytes of the file, as far as progress goes: those that came, before decoding."""
        self._total: int | None = None
        self._attempt = 1
        self._from = 0
        """Where the current attempt began."""
        self.path = ""
        self.batch = BATCH
        """Bytes that are held at most before they are written."""

    # --- the whole

    def steps(self) -> Generator[Step, Any, Download]:
        """Download the file.

        Returns (as the generator's value): what there is.

        Raises:
            DownloadError: whatever went wrong with the call or the file.
        """
        try:
            found = yield Work(self._prepare)
            if found is not None:
                return found  # type: ignore[no-any-return]
            while True:
                try:
                    response = yield from self._trip()
                    if response is not None:
                        break
                except FaztError as fault:
                    delay = self._again(fault)
                    yield Pause(delay)
            result = yield Work(lambda: self._finish(response))
            self._settle(None)
            return result  # type: ignore[no-any-return]
        except FaztError as fault:
            raise self._fail(fault) from fault.__cause__ if isinstance(fault, DownloadError) else fault
        except BaseException as gone:
            self._give_up(gone)
            raise
        finally:
            self._close()

    def _trip(self) -> Generator[Step, Any, Response | None]:
        """Make one call; return its response when the file is there, None when it has to be asked for again."""
        self._reading = False
        self._from = self._done
        stream: Stream = yield Open(self._request())
        self._stream = stream
        response = stream.response
        body = yield Work(lambda: self._answered(response))
        if body is None:
            self._settle(None)
            return None
        if body:
            self._reading = True
            yield Pump(stream)
            yield Work(self._ended)
        return response

    # --- before the call

    def _prepare(self) -> Download | None:
        """Pass the path gate and open the part; return the result where the file is there already."""
        plan = self.plan
        self.path = str(plan.dest)
        self.path = place(plan.dest, url=plan.url)
        self._destination = destination = open_destination(self.path, root=plan.root)
        if not plan.overwrite and (found := already_there(plan, destination.path)) is not None:
            return found
        self._part = part = open_part(destination, mode=plan.mode, resume=plan.resume)
        origin = part.origin
        if origin is not None and origin.key == plan.key and not plan.conditional and fits(part.size, origin.total):
            self._asked = self._next_range(part, origin)
        self._body = Body(part, hashed=plan.sha256 is not None, clock=self._clock, batch=self.batch)
        if self._asked is not None:
            self._body.rewind()
        return None

    def _next_range(self, part: PartFile, origin: Origin) -> Asked:
        """Return what is to be asked for; of a part that is whole the last byte again, which proves its version."""
        if origin.total is not None and part.size == origin.total:
            part.size -= 1
        return Asked(part.size, origin.validator, origin.total, checked=self.plan.sha256 is not None)

    def _request(self) -> Request:
        plan = self.plan
        left = None if plan.deadline is None else plan.deadline - (self._clock() - self._started)
        if left is not None and left <= 0:
            raise DownloadError(Reason.TOTAL, "the download did not finish within its deadline")
        return request_for(
            plan, app=self._app, door=self._door, asked=self._asked, seconds=left, retry=self._asked_retry
        )

    # --- the answer

    def _answered(self, response: Response) -> bool | None:
        """Judge the head of an answer: True to read its body, False when there is nothing to read, None to ask anew."""
        part, body = self._part, self._body
        assert part is not None
        assert body is not None
        if response.status == 304 and self.plan.conditional and self._asked is None:
            check_unchanged(self._destination)
            return False
        verdict = judge(response.status, response.headers, asked=self._asked)
        if isinstance(verdict, Rest) and not self._same_place(response, part):
            verdict = Anew("it comes from another place now")
        match verdict:
            case Refused(why, ranged):
                wait = next((value for name, value in response.headers if name == "retry-after"), None)
                raise DownloadError(
                    Reason.RANGE if ranged else Reason.STATUS,
                    f"this is not the file: {why}",
                    status=response.status,
                    retry_after=parse_retry_after(wait, wall_now=self._wall()),
                )
            case Anew():
                self._asked = None
                return None
            case Complete():
                self._resumed = True
                self._total = self._done = part.size
                return False
            case Rest(total):
                check_length(self.plan, total)
                part.go_on()
                body.begin(total - part.size)
                self._resumed = True
                self._total, self._done = total, part.size
            case Whole(length):
                check_length(self.plan, length)
                self._begin(response, length)
        self._begun = True
        self._from = self._done
        self._tell()
        return True

    def _begin(self, response: Response, length: int | None) -> None:
        """Begin the file anew."""
        part, body, plan = self._part, self._body, self.plan
        assert part is not None
        assert body is not None
        self._resumed = self._spoilt = False
        self._asked = None
        body.decoder = decoder_for(response, self.path, max_bytes=plan.max_bytes)
        found = validator(response.headers, wall_now=self._wall())
        origin: Origin | None = None
        if plan.resume and found is not None and body.decoder is None and (length is None or length >= _WORTH_KEEPING):
            where = response.url.redacted()
            origin = Origin(redacted(plan.url), plan.key, digest_of(where), found.etag, found.modified, length)
        part.begin(origin)
        body.rewind()
        body.begin(length)
        self._total, self._done = length, 0

    def _same_place(self, response: Response, part: PartFile) -> bool:
        """Tell whether an entity tag means the same here: it is one resource's own (RFC 9110 section 8.8.3)."""
        if self.plan.sha256 is not None:
            return True
        return part.origin is not None and part.origin.place == digest_of(response.url.redacted())

    # --- the body

    @property
    def room(self) -> memoryview | None:
        """Where the next piece may be put before it is given to `take`."""
        assert self._body is not None
        return self._body.room

    def take(self, data: bytes | memoryview) -> bool:
        """Take a piece of the body; tell whether it is time to `flush`."""
        self._done += len(data)
        if self.plan.max_bytes is not None and self._done > self.plan.max_bytes:
            raise DownloadError(Reason.RESPONSE_BODY, f"the file is larger than {self.plan.max_bytes} bytes")
        self._tell()
        assert self._body is not None
        return self._body.take(data)

    def flush(self) -> None:
        """Write what was taken."""
        assert self._body is not None
        self._body.flush()

    def pause(self, size: int) -> float:
        """Return the seconds to wait after so many bytes, to keep the rate."""
        pacer = self.plan.pacer
        return 0.0 if pacer is None else pacer.pause(size, self._clock())

    def _tell(self) -> None:
        if self.plan.progress is not None:
            self.plan.progress(self._done, self._total)

    def _ended(self) -> None:
        """Write the rest and make sure that all of it came."""
        stream, expected = self._stream, self.plan.expected_length
        assert stream is not None
        assert self._body is not None
        self._body.finish()
        came = self._from + stream.size  # what was sent; scrubbing may have changed what was written
        if self._total is not None and came != self._total:
            raise FaztError(Reason.PROTOCOL, f"the body ended after {came} of {self._total} bytes")
        if expected is not None and came != expected:
            raise DownloadError(Reason.LENGTH, f"the file has {came} bytes, not {expected}")

    # --- the end

    def _finish(self, response: Response) -> Download:
        """Verify the file and put it in its place."""
        part, plan = self._part, self.plan
        assert part is not None
        assert self._destination is not None
        path = self._destination.path
        if response.status == 304:
            part.discard()
            size, digest = digest_file(path, hashed=plan.sha256 is not None)
            self._compare(digest)
            return Download(path, size, digest, False, 304, str(response.url), response.call_id)
        assert self._body is not None
        digest = self._body.digest
        self._compare(digest)
        part.commit(overwrite=plan.overwrite)
        return Download(path, part.size, digest, self._resumed, response.status, str(response.url), response.call_id)

    def _compare(self, digest: str | None) -> None:
        if digest != self.plan.sha256:
            raise DownloadError(Reason.CHECKSUM, f"the file has the SHA-256 {digest}, not {self.plan.sha256}")

    def _again(self, fault: FaztError) -> float:
        """Return the seconds after which to go on, or raise the fault.

        What fails before an answer comes was tried again by the engine; here is what breaks off in the middle.
        """
        policy, part = self._retry, self._part
        error = DownloadError.of(fault, reading=self._reading)
        if policy is None or part is None or not self._reading or error.kind not in ("read", "timeout", "network"):
            raise fault
        if self._done - self._from >= _PROGRESS:
            self._attempt = 1
        elapsed = self._clock() - self._started
        decision = policy.decide(
            attempt=self._attempt,
            method="GET",
            reason=fault.reason,
            elapsed=elapsed,
            left=float("inf") if self.plan.deadline is None else self.plan.deadline - elapsed,
            draw=random.random(),  # noqa: S311 - spreads retries, guards nothing
        )
        if not isinstance(decision, Again):
            raise fault
        self._attempt += 1
        self._rest()
        self._settle(fault)
        origin = part.origin
        if origin is None or self._spoilt or not part.size:
            self._asked = None
        else:
            came = part.size
            self._asked = self._next_range(part, origin)
            if part.size < came and self._body is not None:  # the last byte comes once more
                self._body.rewind()
        self._done = part.size if self._asked is not None else 0
        return decision.delay

    def _rest(self) -> None:
        """Write what came before a failure, if that is any use."""
        stream = self._stream
        self._spoilt = self._spoilt or (stream is not None and stream.scrubbed > 0)
        body = self._body
        if body is None:
            return
        if body.decoder is not None or self._spoilt:
            body.drop()
        else:
            body.flush_all()

    def _fail(self, fault: FaztError) -> DownloadError:
        """Return the error that the caller sees, with all that is known; end file and record."""
        error = DownloadError.of(fault, reading=self._reading)
        error.path = self.path
        error.url = redacted(self.plan.url)
        stream = self._stream
        if stream is not None:
            error.status = stream.response.status
            error.call_id = stream.record.call_id
        if error.kind == "checksum":
            self._spoilt = True
        error.kept = self._put_aside(keep=error.kind in _KEEP or error.reason is Reason.FILE_RENAME)
        if error.call_id is None:
            self._engine.refuse(request_for(self.plan, app=self._app, door=self._door), error)
        else:
            self._settle(error)
        return error

    def _give_up(self, gone: BaseException) -> None:
        """End file and record of a download that its caller gave up."""
        self._put_aside(keep=True)
        self._settle(gone)

    def _put_aside(self, *, keep: bool) -> int:
        """Keep the part for the next try where that is possible, else remove it; return the bytes that are kept."""
        part = self._part
        if part is None:
            return 0
        if self._begun and keep:
            try:
                self._rest()
            except FaztError:  # the disk is full too: what is there already may still be kept
                pass
        untouched = not self._begun and part.origin is not None
        if part.origin is not None and part.size and not self._spoilt and (keep or untouched):
            return part.keep()
        part.discard()
        return 0

    def _settle(self, error: BaseException | None) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.settle(error)

    def _close(self) -> None:
        self._settle(None)
        if self._part is not None:
            self._part.close()
        if self._destination is not None:
            self._destination.close()
            self._destination = None
