"""What goes into a call and what comes out of it: the values every door shares."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from fazt.core.headers import content_coding
from fazt.core.url import Url

if TYPE_CHECKING:
    from fazt.core.retry import RetryPolicy

Door = Literal["functions", "client", "proxy", "cli"]
Fields = tuple[tuple[str, str], ...]
"""Header fields in order, names as given, values decoded as latin-1 (RFC 9110 section 5.5)."""
CacheMode = Literal["default", "bypass", "validate", "reload", "only-if-cached"]
"""Use the response cache; leave it alone; ask the network whether what is stored still holds; ask it for a new answer
and keep that; never ask the network."""
UNLIMITED = 1 << 62
"""Bytes: no cap of a door's own."""


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds that one wait of a kind may take, beside the deadline of the whole call; None: no limit of its own.

    Args:
        connect: name lookup, TCP and TLS handshake of one new connection together.
        read: until the first byte of the answer, and between any two reads after it.
        write: until the socket takes the next piece of the request.
        pool: until a connection of the pool is free, where the door limits their number.
    """

    connect: float | None = None
    read: float | None = None
    write: float | None = None
    pool: float | None = None


@dataclass(slots=True, eq=False)
class Upload:
    """A request body that is sent piece by piece.

    Args:
        open: begins the body; called once for each time it is sent.
        length: its bytes, or None when nobody knows (it is then sent chunked, RFC 9112 section 7.1).
        replayable: whether `open` may be called again, for a retry or a 307.
        opened: whether it was called.
    """

    open: Callable[[], Iterable[bytes] | AsyncIterable[bytes]]
    length: int | None = None
    replayable: bool = False
    opened: bool = False

    def __repr__(self) -> str:
        return f"<Upload {self.length if self.length is not None else '?'}B>"


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller may ask for beside the request itself; one object serves many requests.

    Args:
        follow: whether redirects are followed; otherwise one is the answer.
        max_redirects: how many; None for the door's number.
        max_response: bytes of body on the wire; None for the door's number. A rule's smaller one holds all the same.
        phases: limits of single waits.
        cache: use of the response cache.
        retry: when to try again; None: never, but for a stale connection.
        service: name of the service the call is part of (its own limits, breaker, events); "" for none.
        role: what the call is for ("metadata", "artifact", ...), part of the keys of limits; "" for none.
        coding: value of `Accept-Encoding`.
        sensitive: lower-case names of further fields that hold credentials.
        stream: whether the body is handed out as it comes; there is no total deadline then unless the caller sets one.
    """

    follow: bool = True
    max_redirects: int | None = None
    max_response: int | None = None
    phases: Phases | None = None
    cache: CacheMode = "default"
    retry: RetryPolicy | None = None
    service: str = ""
    role: str = ""
    coding: str = "identity"
    sensitive: frozenset[str] = frozenset()
    stream: bool = False


DEFAULTS = Options()
"""What the functions door and the command line ask for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call as a door hands it over, before any gate.

    Args:
        url: the URL as the caller wrote it.
        method: the method as the caller wrote it.
        headers: fields as given; unsafe ones are dropped by `core.headers`.
        body: the whole body, or None.
        timeout_ms: the caller's own limit for this call in milliseconds, or None.
        auth: name of a secret to inject, or None.
        app: id of the app on whose behalf the call is made ("" for the operator's own calls).
        door: the door it came through.
        invalid: why the door could not read the caller's options; such a call is counted, recorded and refused.
        body_size: size of a body that the door did not take in because it is larger than any limit allows.
        options: what else the caller asks for.
        upload: a body that is sent piece by piece, in place of `body`.
        between: the caller's own code, called at every redirect that is followed with (the request and its answer, the
            next method, URL and fields); returns the fields to send, or awaits them on an event loop. What it raises
            ends the call as itself.
        jar: id of the caller's cookie jar, where every cookie of `headers` was set by a server in answer to a safe
            request; the response cache then goes by it and not by what the cookies say.
    """

    url: str
    method: str = "GET"
    headers: Fields = ()
    body: bytes | None = None
    timeout_ms: float | None = None
    auth: str | None = None
    app: str = ""
    door: Door = "cli"
    invalid: str | None = None
    body_size: int = 0
    options: Options = DEFAULTS
    upload: Upload | None = None
    between: Callable[[Earlier, str, Url, Fields], Fields | Awaitable[Fields]] | None = None
    jar: str = ""

    def __repr__(self) -> str:  # headers, body and query may hold credentials
        size = len(self.body) if self.body is not None else 0
        return f"<Request {self.method!r} app={self.app!r} door={self.door} headers={len(self.headers)} body={size}B>"


class Target(NamedTuple):
    """Where a connection goes and under which grant: the key of the pool.

    Two calls share a connection only if every field is equal: same origin, same app, same TLS configuration,
    same granted private ranges.
    """

    scheme: str
    host: str
    port: int
    app: str
    tls: str
    grant: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status line and fields of a response, before its body.

    Args:
        status: the code.
        headers: fields, names in lower case.
        phrase: the reason phrase as sent, "" when there is none.
        version: the protocol's name ("HTTP/1.1").
    """

    status: int
    headers: Fields
    phrase: str = ""
    version: str = "HTTP/1.1"

    def __repr__(self) -> str:  # a host may send back what it was given
        return f"<ResponseHead {self.status} headers={len(self.headers)}>"


@dataclass(frozen=True, slots=True)
class Hop:
    """One followed redirect: where it led, without its query."""

    status: int
    url: str


class Earlier(NamedTuple):
    """A request of a call that a redirect answered, and that answer; for the caller alone, since it holds queries.

    `fields` are the caller's own for that request, without what fazt adds.
    """

    method: str
    url: Url
    head: ResponseHead
    fields: Fields

    def __repr__(self) -> str:
        return f"<Earlier {self.method} {self.url!r} {self.head.status}>"


@dataclass(slots=True)
class Response:
    """What a door gives back to the caller.

    Header names are lower-case; a name may stand more than once. The body is whole and within the cap; b"" when it is
    read as a stream. `method` and `sent` (the caller's own fields) are of the last request; `history` has those that
    redirects answered. `rule` is the id of the rule that allowed the last one. `decoded` is the body without its
    content codings where the door takes them off, None elsewhere.
    """

    status: int
    headers: Fields
    body: bytes
    url: Url
    call_id: str
    redirects: tuple[Hop, ...] = ()
    cache: str = ""
    method: str = ""
    phrase: str = ""
    version: str = "HTTP/1.1"
    history: tuple[Earlier, ...] = ()
    sent: Fields = ()
    rule: str | None = None
    decoded: bytes | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return 200 <= self.status <= 299

    @property
    def content_coding(self) -> str:
        """The codings that the response declares, "" when its body is as it is (`identity` is all that was asked)."""
        return content_coding(self.headers)

    @property
    def redirected(self) -> bool:
        """Whether at least one redirect was followed."""
        return bool(self.redirects)

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.call_id} {len(self.body)}B>"


@dataclass(frozen=True, slots=True)
class Opened:
    """What a call ends in whose body is read as a stream.

    Args:
        response: with an empty body, or with the whole one where it came from the cache.
        cap: bytes the body may have.
        deadline: monotonic seconds, or inf.
        idle: most seconds between two reads, None for no limit but the deadline.
        live: whether the body is still to be read.
    """

    response: Response
    cap: int
    deadline: float
    idle: float | None
    live: bool = True


@dataclass(frozen=True, slots=True)
class Profile:
    """The numbers of one door (contracts: "Doors differ only in their profile"). Times in ms, sizes in bytes.

    `calls` and `shared_ms` are None where the door has no invocation. `app_slots`/`global_slots` are None where the
    door does not limit concurrency.
    """

    door: Door
    call_ms: float
    max_request: int
    max_response: int
    hard_response: int
    max_redirects: int
    app_slots: int | None
    global_slots: int | None
    rate: int = 0
    burst: int = 0
    cacheable: bool = True
