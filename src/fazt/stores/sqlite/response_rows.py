"""How a stored response stands in a row: a digest that tells it from its variants, its head as JSON, a checksum."""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from fazt.core.cache.directives import control_text, response_control
from fazt.core.cache.entry import Entry, Place

_MEMO: Final = 8192
"""Characters: longer heads are read every time, so that the memo stays small."""


def checksum(head: str, body: bytes) -> int:
    """Return the CRC-32 of a row."""
    return zlib.crc32(body, zlib.crc32(head.encode()))


def place_key(place: Place, salt: bytes) -> bytes:
    """Return a digest of a place, from which nobody reads its query."""
    parts = "\n".join(f"{len(part)}:{part}" for part in map(str, place))
    return blake2b(parts.encode(), key=salt[:64], digest_size=16).digest()


def selector(entry: Entry) -> bytes:
    """Return a digest of what tells this entry from others of its place."""
    parts = (entry.method, entry.role, entry.who, ",".join(entry.vary), entry.variant.hex())
    return blake2b("\n".join(f"{len(part)}:{part}" for part in parts).encode(), digest_size=16).digest()


def write_head(entry: Entry) -> str:
    """Return an entry but for its place and body."""
    return json.dumps(
        [
            entry.method,
            entry.role,
            entry.who,
            entry.vary,
            entry.variant.hex(),
            entry.status,
            entry.phrase,
            entry.version,
            entry.headers,
            entry.requested_at,
            entry.received_at,
            entry.born,
            entry.lifetime,
            control_text(entry.control),
            entry.size,
        ],
        separators=(",", ":"),
    )


def read_entry(place: Place, ident: int, head: str) -> Entry | None:
    """Return the entry of a row, still without its body; None for a head that was damaged."""
    read = _known_head(head) if len(head) <= _MEMO else _read_head(head)
    if read is None:
        return None
    values, times, control, size = read
    return Entry(place, *values, b"", *times, control, size, ident)  # type: ignore[call-arg]


def _read_head(text: str) -> tuple[tuple[Any, ...], tuple[Any, ...], Any, int] | None:
    try:
        method, role, who, vary, variant, status, phrase, version, headers, *times, control, size = json.loads(text)
        requested_at, received_at, born, lifetime = times
        values = (
            str(method),
            str(role),
            str(who),
            tuple(map(str, vary)),
            bytes.fromhex(variant),
            int(status),
            str(phrase),
            str(version),
            tuple((str(name), str(value)) for name, value in headers),
        )
        moments = (
            float(requested_at),
            float(received_at),
            float(born),
            None if lifetime is None else float(lifetime),
        )
        return values, moments, response_control([control]), int(size)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


_known_head = lru_cache(maxsize=512)(_read_head)
