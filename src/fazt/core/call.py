"""What goes into a call and what comes out of it: the values every door shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from fazt.core.headers import content_coding
from fazt.core.url import Url

Door = Literal["functions", "client", "proxy", "cli"]
Fields = tuple[tuple[str, str], ...]
"""Header fields in order, names as given, values decoded as latin-1 (RFC 9110 section 5.5)."""


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
    """Status line and fields of a response, before its body."""

    status: int
    headers: Fields

    def __repr__(self) -> str:  # a host may send back what it was given
        return f"<ResponseHead {self.status} headers={len(self.headers)}>"


@dataclass(frozen=True, slots=True)
class Hop:
    """One followed redirect: where it led, without its query."""

    status: int
    url: str


@dataclass(slots=True)
class Response:
    """What a door gives back to the caller.

    Header names are lower-case; a name may stand more than once. The body is whole and within the cap.
    """

    status: int
    headers: Fields
    body: bytes
    url: Url
    call_id: str
    redirects: tuple[Hop, ...] = ()
    cache: str = ""

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
