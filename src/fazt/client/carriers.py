"""Transports for clients of your own: one call a request, redirects left to the client."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Self, Unpack

from fazt.client.asked import NAMES, NOTHING, asked
from fazt.client.backend import AsyncBackend, SyncBackend
from fazt.client.door import setup_of
from fazt.client.failures import translate
from fazt.client.families import family
from fazt.client.incoming import streaming
from fazt.client.intake import Intake
from fazt.client.keywords import Connecting, Signature
from fazt.errors import FaztError

_clock = time.perf_counter


class Carrier:
    """What both kinds of transport share. `_library` names the family of the subclass."""

    _library: ClassVar[str]
    _intake: Intake

    @classmethod
    def of(cls, intake: Intake) -> Self:
        """Return the transport of a client that is made already."""
        carrier = cls.__new__(cls)
        carrier._intake = intake
        return carrier

    @property
    def policy(self) -> Any:
        """The policy that decides the calls."""
        return self._intake.policy

    def introspect(self) -> dict[str, Any]:
        """Return what is really used: pool limits, open connections, TLS configuration, policy, protocol."""
        return self._intake.backend.introspect()


class SyncCarrier(Carrier):
    """Carries requests of a blocking client; arguments as `fazt.Client`, httpx's own client arguments aside."""

    __signature__ = Signature(Connecting)

    def __init__(self, **arguments: Unpack[Connecting]) -> None:
        given: Any = arguments
        defaults = asked({name: given.pop(name) for name in NAMES & given.keys() if name != "cache"}, NOTHING)
        backend = SyncBackend(setup_of(**given))
        self._intake = Intake(family(self._library), backend, defaults, asynchronous=False)

    def handle_request(self, request: Any) -> Any:
        """Make one call; its body is read from the response as it comes.

        Raises:
            FaztError: refused or failed; it is httpx's matching exception too.
        """
        intake = self._intake
        known, backend, started = intake.family, intake.backend, _clock()
        try:
            call, settled = intake.take(request, stream=True, total=False)
            streamed = backend.engine.open(call, profile=backend.profile)
        except FaztError as error:
            translate(known.library, error, request)
            raise
        return streaming(known, streamed, settled, request=request, started=started)

    def close(self) -> None:
        """Close every connection."""
        self._intake.backend.close()


class AsyncCarrier(Carrier):
    """Carries requests of an asynchronous client; arguments as `SyncCarrier`."""

    __signature__ = Signature(Connecting)

    def __init__(self, **arguments: Unpack[Connecting]) -> None:
        given: Any = arguments
        defaults = asked({name: given.pop(name) for name in NAMES & given.keys() if name != "cache"}, NOTHING)
        backend = AsyncBackend(setup_of(**given))
        self._intake = Intake(family(self._library), backend, defaults, asynchronous=True)

    async def handle_async_request(self, request: Any) -> Any:
        """Make one call; its body is read from the response as it comes.

        Raises:
            FaztError: refused or failed; it is httpx's matching exception too.
        """
        intake = self._intake
        known, backend, started = intake.family, intake.backend, _clock()
        try:
            call, settled = intake.take(request, stream=True, total=False)
            streamed = await backend.engine.open(call, profile=backend.profile)
        except FaztError as error:
            translate(known.library, error, request)
            raise
        return streaming(known, streamed, settled, request=request, started=started)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._intake.backend.aclose()
