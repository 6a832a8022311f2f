"""What the pipeline asks of its driver: each effect is a value, and the driver answers it or throws a `FaztError` in.

The driver owns every resource that an effect takes (slot, token, connection, flight) and gives it back when the call
ends, however it ends; the pipeline never cleans up.

An effect lives for one step of one call and nobody changes it. It is not frozen all the same: making a frozen object
costs three times as much, and reading a field of a tuple twice as much, in every call.
"""

from __future__ import annotations

from dataclasses import dataclass

from fazt.core.cache.store import CacheRequest
from fazt.core.call import Fields, ResponseHead, Target
from fazt.core.injection import Injection
from fazt.core.url import Url


@dataclass(slots=True)
class LookUp:
    """Ask the response cache; answered with a cached response, or None when the network must be asked.

    A miss makes this call the leader of its key: identical calls wait for it until the driver ends the call.
    """

    request: CacheRequest
    ttl: float
    deadline: float
    cap: int


@dataclass(slots=True)
class EnterSlot:
    """Take one in-flight slot of the app and one of the process, both or none."""

    app: str
    app_cap: int | None
    global_cap: int | None


@dataclass(slots=True)
class TakeToken:
    """Take one token of a rule's bucket; given back by the driver unless a connection was tried or bytes were sent."""

    key: tuple[str, str]
    rate: int
    burst: int


@dataclass(slots=True)
class Send:
    """Get a connection to the target and send the request on it; answered with the head of the response.

    The connection is a pooled one that was made under the same grant, or the driver resolves, judges every address and
    connects; `fresh` asks for a new one. The secret is put in at the last moment.
    """

    target: Target
    method: str
    url: Url
    headers: Fields
    body: bytes | None
    injection: Injection | None
    deadline: float
    fresh: bool = False

    def __repr__(self) -> str:  # fields and body may hold credentials of the caller
        return f"<Send {self.method} {self.url!r} headers={len(self.headers)} body={len(self.body or b'')}B>"


@dataclass(slots=True)
class Read:
    """Read the whole body, at most `cap` bytes; answered with the bytes, secrets already scrubbed."""

    cap: int
    deadline: float


@dataclass(slots=True)
class Discard:
    """Let go of the current response without its body (a redirect that is followed)."""


@dataclass(slots=True)
class Fill:
    """Offer a response to the cache; the cache decides whether it may be kept."""

    request: CacheRequest
    ttl: float
    head: ResponseHead
    body: bytes


Effect = LookUp | EnterSlot | TakeToken | Send | Read | Discard | Fill

__all__ = [
    "Discard",
    "Effect",
    "EnterSlot",
    "Fill",
    "LookUp",
    "Read",
    "Send",
    "TakeToken",
]
