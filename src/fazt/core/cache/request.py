"""A request as the cache sees it: what it asks for, on whose behalf, and what it says about stored responses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Self

from fazt.core import headers as fields_of
from fazt.core.cache.directives import UNASKED, RequestControl, request_control
from fazt.core.cache.entry import Entry, Place
from fazt.core.cache.ranges import Span, parse_range
from fazt.core.call import CacheMode, Fields
from fazt.core.redirects import CREDENTIALS
from fazt.core.url import Url

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"})
"""Methods that change nothing (RFC 9110 section 9.2.1, and the registry); any other one invalidates."""

_METHODS = frozenset({"GET", "HEAD"})
_CREDENTIALS = CREDENTIALS | {"proxy-authorization"}
# Fields that only some servers know hold credentials all the same; taking one too many for one costs a hit, no more.
_LIKELY = re.compile(r"auth|cookie|credential|key|passw|secret|session|signature|token")
_CONDITIONS = frozenset({"if-none-match", "if-modified-since"})
_BEYOND = frozenset({"if-match", "if-unmodified-since", "if-range"})
_LISTS = frozenset({"accept", "accept-charset", "accept-encoding", "accept-language"})
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_SHARING = ("accept", "accept-encoding", "accept-language")

_PLAIN, _CONTROL, _CREDENTIAL, _CONDITION, _RANGE, _REFUSE = range(6)


@dataclass(slots=True, eq=False)
class CacheRequest:
    """A request that the cache may answer, or whose answer it may keep.

    Nobody changes it; not frozen, since making a frozen object costs three times as much.

    Args:
        place: the URL, and for whom.
        method: GET or HEAD.
        headers: the fields as they are sent.
        role: what the call is for.
        who: digest of the credentials it carries, "" for none.
        control: its directives.
        ttl: seconds that a rule allows a response to be used unasked, 0 for no such rule. It bounds what the server
            says and stands in where the server says nothing.
        reload: whether the network is asked whatever is stored.
        only_stored: whether the network may not be asked (the caller's option, not the HTTP directive).
        conditional: whether it carries If-None-Match or If-Modified-Since of the caller's own.
        span: the one range of bytes it asks for.
        salt: key of digests.
        nobodys: whether what was asked without credentials answers it too.
    """

    place: Place
    method: str
    headers: Fields = field(repr=False)
    role: str = ""
    who: str = ""
    control: RequestControl = UNASKED
    ttl: float = 0.0
    reload: bool = False
    only_stored: bool = False
    conditional: bool = False
    span: Span | None = None
    salt: bytes = field(default=b"", repr=False)
    nobodys: bool = False

    @classmethod
    def of(
        cls,
        *,
        app: str,
        method: str,
        url: Url,
        headers: Fields,
        body: bool = False,
        secret: str = "",
        sensitive: AbstractSet[str] = frozenset(),
        partition: str = "",
        role: str = "",
        ttl: float = 0.0,
        mode: CacheMode = "default",
        salt: bytes = b"",
        credentials: bool = False,
        jar: str = "",
    ) -> Self | None:
        """Return the request as the cache sees it, or None when it goes past the cache.

        Args:
            app: id of the app.
            method: canonical method.
            url: canonical URL.
            headers: the fields as they are sent, secrets of the vault not among them.
            body: whether the request has a body.
            secret: scope, name and version of a secret that will be injected, "" for none.
            sensitive: names in lower case of further fields that hold credentials.
            partition: what else than the app decides where the request goes.
            role: what the call is for.
            ttl: the rule's TTL in seconds.
            mode: what the caller wants.
            salt: key of digests.
            credentials: whether responses to requests with credentials may be kept, each for its own credentials.
            jar: id of the jar that a Cookie field is of, "" where its cookies are the caller's own words.
        """
        if mode == "bypass" or method not in _METHODS or body:
            return None
        controlled = conditional = ranged = jarred = False
        who: list[str] = [secret] if secret else []
        for name, value in headers:
            kind = _known_kind(name) if len(name) <= 64 else _kind(name)
            if kind == _PLAIN:
                if not sensitive or name.lower() not in sensitive:
                    continue
                kind = _CREDENTIAL
            if kind == _CREDENTIAL:
                lower = name.lower()
                if jar and lower == "cookie":
                    jarred = True
                else:
                    who.append(f"{lower}\0{value}")
            elif kind == _CONTROL:
                controlled = True
            elif kind == _CONDITION:
                conditional = True
            elif kind == _RANGE:
                ranged = True
            else:  # what a cache cannot answer goes to the origin as it is (RFC 9111 section 4.3.2)
                return None
        if who and not (credentials and salt):
            return None
        # What servers set by themselves says nothing of whom the response is for, but what they answer may. So one
        # jar's responses are no other jar's; what came before it held a cookie is (RFC 9111 knows only Vary).
        nobodys = jarred and not who
        if jarred and credentials and salt:
            who.append(f"jar\0{jar}")
        control = UNASKED
        if controlled:
            control = request_control(fields_of.values(headers, "cache-control"), fields_of.values(headers, "pragma"))
            if control.no_store:  # RFC 9111 section 5.2.1.5; taken to mean the lookup too
                return None
        if mode == "validate":
            control = replace(control, no_cache=True)
        span = None
        if ranged and method == "GET":
            span = parse_range(fields_of.values(headers, "range"))
            if span is None:
                return None
        return cls(
            Place(app, partition, url.scheme, url.host, url.port, url.target),
            method,
            headers,
            role,
            _digest(who, salt).hex() if who else "",
            control,
            ttl,
            mode == "reload",
            mode == "only-if-cached",
            conditional,
            span,
            salt,
            nobodys,
        )

    def variant(self, names: Sequence[str]) -> bytes:
        """Return a digest of the values that this request has for these fields, b"" for no fields.

        Never the values: they may be credentials. Lines of one name count as one value, spaces around it not at all
        (RFC 9111 section 4.1: normalised as the field allows).
        """
        if not names:
            return b""
        given: dict[str, list[str]] = {}
        for name, value in self.headers:
            lower = name.lower()
            if lower in names:
                given.setdefault(lower, []).append(value.strip(" \t"))
        parts: list[str] = []
        for name in names:
            values = given.get(name)
            if values is None:
                parts.append(name)
            elif name in _LISTS:
                parts.append(f"{name}\0{_COMMA.sub(',', ','.join(values)).lower()}")
            else:
                parts.append(f"{name}\0{', '.join(values)}")
        return _digest(parts, self.salt)

    def pick(self, entries: Sequence[Entry]) -> Entry | None:
        """Return the entry that answers this request (RFC 9111 section 4.1), the newest first; None when none does."""
        method, role, who, nobodys = self.method, self.role, self.who, self.nobodys
        known: dict[tuple[str, ...], bytes] | None = None
        for entry in entries:
            if entry.who != who and (entry.who or not nobodys):
                continue
            if entry.role != role or (entry.method != method and entry.method != "GET"):
                continue
            names = entry.vary
            if names:  # most responses depend on no field
                known = {} if known is None else known
                variant = known.get(names)
                if variant is None:
                    variant = known[names] = self.variant(names)
                if variant != entry.variant:
                    continue
            return entry
        return None

    @property
    def sharing(self) -> tuple[Place, str, str, str, float, bytes, Span | None]:
        """What requests must have in common to wait for one answer from the network."""
        return (self.place, self.method, self.role, self.who, self.ttl, self.variant(_SHARING), self.span)

    @property
    def alone(self) -> bool:
        """Whether it wants an answer of its own from the network, and none that another one asked for earlier."""
        control = self.control
        return self.reload or self.conditional or control.no_cache or control.max_age == 0


def _digest(parts: Sequence[str], salt: bytes) -> bytes:
    text = "\n".join(f"{len(part)}:{part}" for part in sorted(parts))
    return blake2b(text.encode("utf-8", "surrogatepass"), key=salt[:64], digest_size=16).digest()


def _kind(name: str) -> int:
    lower = name.lower()
    if lower in ("cache-control", "pragma"):
        return _CONTROL
    if lower in _CONDITIONS:
        return _CONDITION
    if lower in _BEYOND:
        return _REFUSE
    if lower == "range":
        return _RANGE
    return _CREDENTIAL if lower in _CREDENTIALS or _LIKELY.search(lower) else _PLAIN


_known_kind = lru_cache(maxsize=1024)(_kind)
