"""What a redirect may carry on: decided per hop, before anything of the next request exists.

`follow()` only decides what the next request would be. Whether it may be sent is for the same gates as the first one:
the caller sends the new `Leg` through URL gate, rules and secret scope again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Set
from dataclasses import dataclass, replace

from fazt.core import headers as fields_of
from fazt.core.call import Fields, ResponseHead, Upload
from fazt.core.injection import without_parameter
from fazt.core.url import Url, parse_url
from fazt.errors import FaztError, Reason

STATUSES = frozenset({301, 302, 303, 307, 308})
"""Statuses that redirect (RFC 9110 section 15.4); 300 and 304 are answers, whatever their fields say."""

CREDENTIALS = frozenset(
    {
        "api-key",
        "apikey",
        "authorization",
        "cookie",
        "cookie2",
        "ocp-apim-subscription-key",
        "private-token",
        "x-access-token",
        "x-amz-security-token",
        "x-api-key",
        "x-api-token",
        "x-auth-token",
        "x-csrf-token",
        "x-goog-api-key",
        "x-vault-token",
        "x-xsrf-token",
    }
)
"""Names of fields that carry credentials by common use: dropped when a redirect leaves the origin, whoever set them."""

# What services call theirs has an end in common: X-Shopify-Access-Token, X-Auth-Key, Client-Secret, X-Session-Id.
# A key alone is none: Idempotency-Key says what a request is, not who sends it.
_CREDENTIAL_NAME = re.compile(
    r"proxy-.*|(?:.*[-_])?(?:x?auth|authentication|authorization|jwt|passw(?:or)?d|secret|token|session(?:[-_]?id)?"
    r"|(?:api|access|account|auth|functions|licen[cs]e|secret|subscription)[-_]?key)"
)


@dataclass(slots=True)
class Leg:
    """One request of a call: the first, or one after a redirect.

    Args:
        method: canonical method.
        url: canonical URL.
        headers: the caller's fields, before `core.headers.sanitise`.
        body: the whole body, or what sends it piece by piece, or None.
        keep_secret: whether the secret that the caller asked for may still be injected.
    """

    method: str
    url: Url
    headers: Fields
    body: bytes | Upload | None
    keep_secret: bool

    def __repr__(self) -> str:  # headers and body may hold credentials
        return f"<Leg {self.method} {self.url!r}>"


@dataclass(frozen=True, slots=True)
class Final:
    """The response is the answer of the call."""


@dataclass(frozen=True, slots=True)
class Follow:
    """The response leads on.

    Args:
        leg: the next request.
        same_origin: whether scheme, host and port stayed.
        downgrade: whether https led to http. No refusal by itself: a rule names its scheme, so the rule gate refuses
            the new leg unless a rule grants plain http for its host.
    """

    leg: Leg
    same_origin: bool
    downgrade: bool


_FINAL = Final()


def follow(
    leg: Leg,
    head: ResponseHead,
    *,
    followed: int,
    limit: int,
    visited: Set[tuple[str, str]],
    secret_headers: Collection[str] = (),
    secret_params: Collection[str] = (),
    secret_used: bool = False,
) -> Final | Follow:
    """Decide what a response asks for: nothing more, or another request.

    Args:
        leg: the request that was answered.
        head: its answer.
        followed: redirects followed so far.
        limit: redirects that may be followed; 0 makes every redirect an error.
        visited: (method, URL) of every request sent in this call, the first included.
        secret_headers: names of fields that secrets fill; dropped when the origin changes, in any case.
        secret_params: names of query parameters that secrets fill; dropped from every target.
        secret_used: whether any request of this call carried a secret.

    Raises:
        FaztError: `redirect_limit`, `redirect_loop`, `redirect_body`, the reason of the URL gate, or `protocol`
            when two different targets are named; each with `hop`.
    """
    if head.status not in STATUSES:
        return _FINAL
    locations = set(fields_of.values(head.headers, "location"))
    if not locations:
        return _FINAL
    hop = followed + 1
    if followed >= limit:
        raise FaztError(Reason.REDIRECT_LIMIT, f"more than {limit} redirects", hop=hop)
    if len(locations) > 1:
        raise FaztError(Reason.PROTOCOL, "the response names more than one redirect target", hop=hop)
    url = _target(locations.pop(), base=leg.url, hop=hop)
    method, body, fields = _rewrite(leg, head.status)
    same_origin = (url.scheme, url.host, url.port) == (leg.url.scheme, leg.url.host, leg.url.port)
    if isinstance(body, Upload) and body.opened and not body.replayable:
        raise FaztError(Reason.REDIRECT_BODY, "a redirect asks for a body that can be sent only once", hop=hop)
    if not same_origin:
        if body is not None and secret_used:
            raise FaztError(
                Reason.REDIRECT_BODY, "a redirect to another origin would carry on an authenticated body", hop=hop
            )
        fields = _without_credentials(fields, secret_headers)
    for name in secret_params:
        # Even on the same origin: an echoed value must not stand in a URL that is recorded or shown to the caller.
        # The wire puts the parameter in again where the secret may still go.
        url = _without_parameter(url, name)
    if (method, str(url)) in visited:
        raise FaztError(Reason.REDIRECT_LOOP, "the redirects lead in a circle", hop=hop)
    return Follow(
        leg=Leg(method=method, url=url, headers=fields, body=body, keep_secret=leg.keep_secret and same_origin),
        same_origin=same_origin,
        downgrade=leg.url.scheme == "https" and url.scheme == "http",
    )


def _target(location: str, *, base: Url, hop: int) -> Url:
    try:
        return parse_url(_decoded(location), base=base)
    except FaztError as refused:
        refused.hop = hop
        raise


def _decoded(location: str) -> str:
    """Return a Location, which should be ASCII (RFC 9110 section 10.2.2), as the text its raw bytes stand for.

    Servers send UTF-8 here all the same. Bytes that are no UTF-8 are percent-encoded one by one, so that a path
    reaches the server unchanged and a host made of them fails at the URL gate.
    """
    if location.isascii():
        return location
    try:
        raw = location.encode("latin-1")
    except UnicodeEncodeError:
        return location
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in raw)


def _rewrite(leg: Leg, status: int) -> tuple[str, bytes | Upload | None, Fields]:
    """Return method, body and fields for the next request, origin aside.

    303 turns everything but HEAD into GET (RFC 9110 section 15.4.4); 301 and 302 turn POST into GET, as every browser
    does (sections 15.4.2 and 15.4.3). A Referer that the caller set spoke of the first request: it ends here.
    """
    if status == 303:
        method, bare = ("HEAD" if leg.method == "HEAD" else "GET"), True
    elif status in (301, 302) and leg.method == "POST":
        method, bare = "GET", True
    else:
        method, bare = leg.method, False
    ended = ("referer", "content-") if bare else ("referer",)
    fields = tuple(item for item in leg.headers if not item[0].lower().startswith(ended))
    return method, None if bare else leg.body, fields


def _without_credentials(fields: Fields, secret_headers: Collection[str]) -> Fields:
    dropped = {name.lower() for name in secret_headers}
    return tuple(
        (name, value) for name, value in fields if not (is_credential(lower := name.lower()) or lower in dropped)
    )


def is_credential(name: str) -> bool:
    """Tell whether a field of this name, in lower case, carries a credential by common use."""
    return name in CREDENTIALS or _CREDENTIAL_NAME.fullmatch(name) is not None


def _without_parameter(url: Url, name: str) -> Url:
    query = without_parameter(url.query, name)
    return url if query == url.query else replace(url, query=query)
