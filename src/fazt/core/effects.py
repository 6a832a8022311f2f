"""What the pipeline asks of its driver: each effect is a value, and the driver answers it or throws a `FaztError` in.

The driver owns every resource that an effect takes (slot, token, connection, flight) and gives it back when the call
ends, however it ends; the pipeline never cleans up.

An effect lives for one step of one call and nobody changes it. It is not frozen all the same: making a frozen object
costs three times as much, and reading a field of a tuple twice as much, in every call.
"""

from __future__ import annotations

from dataclasses import dataclass

from fazt.core.cache.entry import Entry
from fazt.core.cache.request import CacheRequest
from fazt.core.call import Earlier, Fields, Phases, Profile, ResponseHead, Target, Upload
from fazt.core.injection import Injection
from fazt.core.url import Url
from fazt.errors import FaztError


@dataclass(slots=True)
class LookUp:
    """Ask the response cache; answered with what it has (`core.cache.decision.Found`).

    Where the network must be asked this call becomes the leader of its key: calls for the same wait for it until its
    answer is kept, or known not to be kept, or the driver ends the call.

    Args:
        request: what is asked.
        deadline: monotonic seconds until which to wait for another call's answer.
        cap: most bytes of body the caller may be given.
        profile: the numbers of the door, for a request in the background.
        follow: whether a redirect is followed: it is then not answered from the store.
        stream: whether the body will be read at the caller's pace.
    """

    request: CacheRequest
    deadline: float
    cap: int
    profile: Profile
    follow: bool = False
    stream: bool = False


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
class Pace:
    """Pass the limits of host, service and role: breaker, rates, calls at once; may wait, at most until the deadline.

    Asked once for every trip to the network; what the trip comes to is noted by the driver.
    """

    host: str
    service: str
    role: str
    method: str
    deadline: float


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
    upload: Upload | None = None
    phases: Phases | None = None

    def __repr__(self) -> str:  # fields and body may hold credentials of the caller
        return f"<Send {self.method} {self.url!r} headers={len(self.headers)} body={len(self.body or b'')}B>"


@dataclass(slots=True)
class Read:
    """Read the whole body, at most `cap` bytes; answered with the bytes, secrets already scrubbed.

    `idle` is the most seconds between two reads, None for no limit but the deadline.
    """

    cap: int
    deadline: float
    idle: float | None = None


@dataclass(slots=True)
class Discard:
    """Let go of a redirect that is followed, without its body.

    Answered with the fields of the next request where the caller's own code has a say in them, else with None.
    """

    earlier: Earlier
    method: str
    url: Url
    fields: Fields

    def __repr__(self) -> str:
        return f"<Discard {self.earlier!r}>"


@dataclass(slots=True)
class Moment:
    """Ask for the time and a draw: answered with (monotonic seconds, seconds since the epoch, 0 <= draw < 1)."""


@dataclass(slots=True)
class Again:
    """End this trip to the network, wait, and go on with another one of the same request.

    Args:
        delay: seconds to wait.
        retry_after: what the server asked for, in seconds.
        error: why the trip failed; None when its answer was not what was wanted.
        method, url: what was asked for.
    """

    method: str
    url: Url
    delay: float
    retry_after: float | None = None
    error: FaztError | None = None


@dataclass(slots=True)
class Keep:
    """Offer the head of a response to the cache, which decides whether it may be kept; its body follows (`Fill`).

    `known` is the entry that was found before, which the response replaces.
    """

    request: CacheRequest
    head: ResponseHead
    known: Entry | None


@dataclass(slots=True)
class Fill:
    """Give the cache the whole body of the response it was offered; where the body is a stream, the driver does."""

    body: bytes

    def __repr__(self) -> str:  # a server may send back what it was given
        return f"<Fill {len(self.body)}B>"


@dataclass(slots=True)
class Renew:
    """Take in a 304 to the cache's own conditions; answered with the response that the stored one now makes.

    Answered with None when the 304 speaks of something else: the request must be sent without conditions.
    """

    request: CacheRequest
    entry: Entry
    head: ResponseHead


@dataclass(slots=True)
class StandIn:
    """Ask for the stale response in place of a failure; answered with it, or with None where that is not allowed.

    `error` is why the trip failed, None when the server answered with an error; `method` and `url` are what it asked.
    """

    request: CacheRequest
    entry: Entry
    method: str
    url: Url
    error: FaztError | None = None


@dataclass(slots=True)
class Invalidate:
    """Take what an unsafe request has changed out of the cache."""

    app: str
    url: Url
    head: ResponseHead


Effect = (
    LookUp
    | EnterSlot
    | Pace
    | TakeToken
    | Send
    | Read
    | Discard
    | Moment
    | Again
    | Keep
    | Fill
    | Renew
    | StandIn
    | Invalidate
)

__all__ = [
    "Again",
    "Discard",
    "Effect",
    "EnterSlot",
    "Fill",
    "Invalidate",
    "Keep",
    "LookUp",
    "Moment",
    "Pace",
    "Read",
    "Renew",
    "Send",
    "StandIn",
    "TakeToken",
]
