"""Secrets on their way out, and back in: where a value is put, how it is masked, how echoes of it are taken out.

A plan (`Injection`) names a place and holds no value, so it may travel through the pipeline; the wire layer applies it
to the value at the last moment. Scrubbing is best effort: a host that is granted a secret can always disclose it in a
form that nobody looks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, unquote_to_bytes

from fazt.core import headers as fields_of
from fazt.core.call import Fields
from fazt.core.scrub import MARKER, Scrubber, ScrubStream
from fazt.errors import ConfigError, FaztError, Reason

if TYPE_CHECKING:
    from fazt.core.policy import SecretMeta

__all__ = [
    "KINDS",
    "MARKER",
    "Injection",
    "Kind",
    "ScrubStream",
    "Scrubber",
    "apply",
    "mask",
    "plan",
    "validate_secret",
    "validate_value",
    "without_parameter",
]

Kind = Literal["bearer", "header", "query"]
KINDS: Final[tuple[Kind, ...]] = ("bearer", "header", "query")
"""Where a secret can be put."""

MAX_KEY: Final = 256
"""Longest name of a header or parameter that a secret fills, in characters."""
MAX_VALUE: Final = 32 * 1024
"""Longest value of a secret, in characters: half of what all fields of a request may take."""

_MASK: Final = "*" * 8
_MASK_MIN: Final = 12
_MASK_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Injection:
    """The place that a secret fills. Holds no value.

    Args:
        kind: `bearer`, `header` or `query`.
        key: name of the header or parameter; "" for bearer.
        name: name of the secret.
        scope: id of the app it belongs to, "" for all.
        version: of the secret that was judged: what was changed since may be bound to other hosts and is not sent.
    """

    kind: Kind
    key: str
    name: str
    scope: str
    version: int = 0

    @property
    def header(self) -> str | None:
        """Name of the header field that the secret fills, or None for a query parameter."""
        if self.kind == "query":
            return None
        return "Authorization" if self.kind == "bearer" else self.key

    @property
    def parameter(self) -> str | None:
        """Name of the query parameter that the secret fills, or None for a header field."""
        return self.key if self.kind == "query" else None


def plan(meta: SecretMeta) -> Injection:
    """Return where this secret goes."""
    return Injection(kind=meta.kind, key=meta.key, name=meta.name, scope=meta.scope, version=meta.version)


def validate_secret(kind: str, key: str | None) -> Kind:
    """Check where a secret is to go, when it is written.

    Args:
        kind: `bearer`, `header` or `query`.
        key: name of the header or parameter; None or "" with bearer.

    Raises:
        ConfigError: unknown kind, key missing or superfluous, no token, or a header that fazt itself controls (A.7).
    """
    match kind:
        case "bearer":
            if key:
                raise ConfigError("a bearer secret takes no --key: it always fills Authorization")
            return "bearer"
        case "header":
            if not key:
                raise ConfigError("a header secret needs --key, the name of the header")
            if len(key) > MAX_KEY or not fields_of.is_token(key):
                raise ConfigError("--key is not a valid header name")
            if fields_of.is_unsafe(key):
                raise ConfigError(f"a secret cannot fill the header {key}: it belongs to the connection")
            return "header"
        case "query":
            if not key:
                raise ConfigError("a query secret needs --key, the name of the parameter")
            if len(key) > MAX_KEY or fields_of.bad_value(key) or "\t" in key:
                raise ConfigError("--key is not a usable parameter name")
            return "query"
        case _:
            raise ConfigError(f"unknown kind of secret; it is one of {', '.join(KINDS)}")


def validate_value(value: str) -> None:
    """Check the value of a secret, when it is written.

    Raises:
        ConfigError: empty, too long, with a control character or one outside latin-1, or with white space at an end
            (HTTP would cut it off); the value is not in the message.
    """
    if not value:
        raise ConfigError("the secret is empty")
    if len(value) > MAX_VALUE:
        raise ConfigError(f"the secret is longer than {MAX_VALUE} characters")
    if fields_of.bad_value(value):
        raise ConfigError("the secret holds a line break, a control character or a character outside latin-1")
    if value != value.strip():
        raise ConfigError("the secret begins or ends with white space, which HTTP would cut off")


def apply(injection: Injection, value: str, *, target: str, fields: Fields) -> tuple[str, Fields]:
    """Put a value in its place, replacing whatever the caller put there.

    Args:
        injection: the place.
        value: the secret.
        target: origin-form target of the request, `path[?query]`.
        fields: the sanitised fields.

    Raises:
        FaztError: `bad_option` when the stored value cannot travel in HTTP; the value is not in the message.
    """
    if not value or fields_of.bad_value(value):
        raise FaztError(
            Reason.BAD_OPTION, "the secret cannot be sent", detail=f"secret {injection.name}: not a header value"
        )
    header = injection.header
    if header is None:
        return _with_parameter(target, injection.key, value), fields
    lower = header.lower()
    kept = tuple(item for item in fields if item[0].lower() != lower)
    filled = f"Bearer {value}" if injection.kind == "bearer" else value
    return target, (*kept, (header, filled))


def _is_parameter(part: str, key: bytes) -> bool:
    """Tell whether this `name[=value]` names the key, in whatever spelling."""
    name = part.partition("=")[0]
    return unquote_to_bytes(name.replace("+", " ")) == key


def _with_parameter(target: str, key: str, value: str) -> str:
    """Return the target with the parameter set once, where it first stood or at the end.

    Works on the raw text: a parser would re-spell the other parameters, and signatures and servers notice.
    """
    path, mark, query = target.partition("?")
    filled = f"{quote(key, safe='')}={quote(value, safe='')}"
    if not mark or not query:
        return f"{path}?{filled}"
    wanted = key.encode()
    parts: list[str] = []
    placed = False
    for part in query.split("&"):
        if not _is_parameter(part, wanted):
            parts.append(part)
        elif not placed:
            parts.append(filled)
            placed = True
    if not placed:
        parts.append(filled)
    return f"{path}?{'&'.join(parts)}"


def without_parameter(query: str | None, key: str) -> str | None:
    """Return a raw query without any parameter of this name; None when nothing is left of it."""
    if not query:
        return query
    wanted = key.encode()
    parts = query.split("&")
    kept = [part for part in parts if not _is_parameter(part, wanted)]
    if len(kept) == len(parts):
        return query
    return "&".join(kept) or None


def mask(value: str) -> str:
    """Return what may be shown of a secret: stars in a fixed number, and at most a quarter of the characters (A.13).

    Nothing is shown of a value below 12 characters, and never more than 8 characters of any.
    """
    if len(value) < _MASK_MIN:
        return _MASK
    shown = min(len(value) // 4, _MASK_SHOWN)
    back = shown // 2
    return f"{value[: shown - back]}{_MASK}{value[-back:]}"
