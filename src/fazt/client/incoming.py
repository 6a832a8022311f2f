"""From the engine's answer to a library's response: whole or as a stream, its body decoded within limits."""

from __future__ import annotations

import datetime
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fazt.client.failures import translate
from fazt.core.call import Fields, Response
from fazt.errors import FaztError
from fazt.net.decode import Decoder, decoder

if TYPE_CHECKING:
    from fazt.client.asked import Settled
    from fazt.client.families import Family
    from fazt.core.record import CallRecord
    from fazt.engine import AsyncStreamed, Streamed

_clock = time.perf_counter


def coding_of(fields: Fields) -> str:
    """Return the content codings of an answer, "" for none (names are in lower case)."""
    found = [value for name, value in fields if name == "content-encoding"]
    return ", ".join(found) if found else ""


def unpack(settled: Settled, answer: Response) -> None:
    """Take the content codings off an answer's body, before its call ends: what fails is recorded.

    Raises:
        FaztError: `decode`, `decoded_body`.
    """
    coding = coding_of(answer.headers)
    if coding and answer.body:
        unpacking = decoder(coding, max_bytes=settled.max_bytes)
        answer.decoded = unpacking.feed(answer.body) + unpacking.finish()


def phrase_of(status: int, phrase: str) -> bytes:
    """Return the reason phrase of an answer, the usual one where the server sent none."""
    return phrase.encode("latin-1") if phrase else _usual_phrase(status)


@lru_cache(maxsize=128)
def _usual_phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def extensions_of(answer: Response, rule: str | None) -> dict[str, Any]:
    """Return the extensions of a response."""
    return {
        "http_version": answer.version.encode("ascii"),
        "reason_phrase": phrase_of(answer.status, answer.phrase),
        "fazt": {"call_id": answer.call_id, "cache": answer.cache, "rule": rule},
    }


def whole(family: Family, answer: Response, *, request: Any, started: float) -> Any:
    """Return a response that has been read.

    Args:
        family: the library.
        answer: of the engine, unpacked.
        request: the library's request, the last one after redirects.
        started: when the call began, on `time.perf_counter`.
    """
    response = family.whole(
        answer.status,
        family.received(answer.headers),
        answer.body if answer.decoded is None else answer.decoded,
        request=request,
        extensions=extensions_of(answer, answer.rule),
    )
    found = response.__dict__
    found["_num_bytes_downloaded"] = len(answer.body)
    found["_elapsed"] = datetime.timedelta(seconds=_clock() - started)
    return response


def redirecting(family: Family, status: int, fields: Fields, *, phrase: str, version: str, request: Any) -> Any:
    """Return the response that was a redirect; its body is not read."""
    extensions = {"http_version": version.encode("ascii"), "reason_phrase": phrase_of(status, phrase)}
    response = family.whole(status, family.received(fields), b"", request=request, extensions=extensions)
    response.elapsed = datetime.timedelta(0)
    return response


def streaming(
    family: Family, streamed: Streamed | AsyncStreamed, settled: Settled, *, request: Any, started: float
) -> Any:
    """Return a response whose body is read as it comes.

    Args:
        family: the library.
        streamed: of the engine.
        settled: what was asked for.
        request: the library's request, the last one after redirects.
        started: when the call began, on `time.perf_counter`.
    """
    answer = streamed.response
    sync_class, async_class = _streams(family.name)
    kind = async_class if hasattr(streamed, "aclose") else sync_class
    stream = kind(streamed, request, started)
    response = family.response_class(
        answer.status,
        headers=None,
        stream=stream,
        request=request,
        extensions=extensions_of(answer, streamed.record.rule_id),
    )
    stream.response = weakref.ref(response)  # not the response itself: the collector would have to find the circle
    response.headers = family.received(answer.headers)
    coding = coding_of(answer.headers)
    if coding:
        response._decoder = _Decoding(coding, settled.max_bytes, family, request, streamed.record)
    return response


class _Decoding:
    """What a streamed response decodes its body with; made when the first piece is decoded, since it may be raw."""

    __slots__ = ("_coding", "_decoder", "_family", "_max_bytes", "_record", "_request")

    def __init__(self, coding: str, max_bytes: int | None, family: Family, request: Any, record: CallRecord) -> None:
        self._coding = coding
        self._max_bytes = max_bytes
        self._family = family
        self._request = request
        self._record = record
        self._decoder: Decoder | None = None

    def decode(self, data: bytes) -> Any:
        """Decode a piece: as an iterator for httpx2, whole for httpx 0.28."""
        pieces = self._pieces(data)
        return pieces if self._family.steps else b"".join(pieces)

    def flush(self) -> Any:
        """Return what was held back, or say that the body ended too early."""
        rest = self._rest()
        return rest if self._family.steps else b"".join(rest)

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        try:
            if self._decoder is None:
                self._decoder = decoder(self._coding, max_bytes=self._max_bytes)
            yield from self._decoder.pieces(data)
        except FaztError as error:
            raise self._known(error)  # noqa: B904 - the same object, made one of the library's

    def _rest(self) -> Iterator[bytes]:
        try:
            rest = self._decoder.finish() if self._decoder is not None else b""
        except FaztError as error:
            raise self._known(error)  # noqa: B904 - as above
        if rest:
            yield rest

    def _known(self, error: FaztError) -> FaztError:
        error.call_id = self._record.call_id
        return translate(self._family.library, error, self._request)


def _nobody() -> None:
    return None


def _took(started: float, response: Any) -> datetime.timedelta:
    """Return the time since `started`; httpx 0.28 looks for it in the response, httpx2 in its stream."""
    elapsed = datetime.timedelta(seconds=_clock() - started)
    if response is not None:
        response.elapsed = elapsed
    return elapsed


@lru_cache(maxsize=2)
def _streams(name: str) -> tuple[type[Any], type[Any]]:
    """Return the classes of streamed bodies of a library, blocking and asynchronous."""
    import importlib

    library: Any = importlib.import_module(name)

    class SyncBody(library.SyncByteStream):  # type: ignore[misc]
        """The body of an answer, piece by piece."""

        def __init__(self, streamed: Streamed, request: Any, started: float) -> None:
            self._streamed = streamed
            self._request = request
            self._started = started
            self.elapsed: datetime.timedelta | None = None
            self.response: Callable[[], Any] = _nobody

        def __iter__(self) -> Iterator[bytes]:
            streamed = self._streamed
            try:
                if streamed.complete:
                    yield streamed.read()
                else:
                    while piece := streamed.read_some():
                        yield piece
            except FaztError as error:
                raise translate(library, error, self._request)  # noqa: B904 - the same object

        def close(self) -> None:
            self._streamed.close()
            if self.elapsed is None:
                self.elapsed = _took(self._started, self.response())

    class AsyncBody(library.AsyncByteStream):  # type: ignore[misc]
        """The same on an event loop."""

        def __init__(self, streamed: AsyncStreamed, request: Any, started: float) -> None:
            self._streamed = streamed
            self._request = request
            self._started = started
            self.elapsed: datetime.timedelta | None = None
            self.response: Callable[[], Any] = _nobody

        async def __aiter__(self) -> AsyncIterator[bytes]:
            streamed = self._streamed
            try:
                if streamed.complete:
                    yield await streamed.read()
                else:
                    while piece := await streamed.read_some():
                        yield piece
            except FaztError as error:
                raise translate(library, error, self._request)  # noqa: B904 - the same object

        async def aclose(self) -> None:
            await self._streamed.aclose()
            if self.elapsed is None:
                self.elapsed = _took(self._started, self.response())

    return SyncBody, AsyncBody
