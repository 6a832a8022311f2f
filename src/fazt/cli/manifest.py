"""The list of files that `fazt download --manifest` reads: lines of text, or JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fazt.errors import ConfigError

_DIGEST = re.compile(r"(?:sha256[:-])?[0-9a-fA-F]{64}")
_KEYS = frozenset({"url", "name", "sha256"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a list.

    Args:
        url: where it is.
        name: what it is called below the output directory; None for the name in the URL.
        sha256: its digest in hex, None when it is not known.
    """

    url: str
    name: str | None = None
    sha256: str | None = None


def read_manifest(lines: Iterable[str], *, where: str) -> Iterator[Entry]:
    """Yield the files of a list.

    Args:
        lines: each `URL [NAME] [SHA256]` (`-` for the name in the URL), or a JSON object with `url`, and perhaps
            `name` and `sha256`. Empty lines and those that begin with `#` count for nothing.
        where: name of the list, for errors.

    Raises:
        ConfigError: with the number of the line.
    """
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("\ufeff")
        if not text or text.startswith("#"):
            continue
        try:
            yield _of_json(text) if text.startswith("{") else _of_words(text.split())
        except ValueError as wrong:
            raise ConfigError(f"{where}, line {number}: {wrong}", hint="URL [NAME|-] [SHA256]") from None


def _of_words(words: list[str]) -> Entry:
    if len(words) > 3:
        raise ValueError("more than URL, name and SHA-256; names with spaces take a JSON line")
    url, *rest = words
    if len(rest) == 1 and _DIGEST.fullmatch(rest[0]):
        rest.insert(0, "-")
    name = rest[0] if rest else "-"
    return _checked(url, None if name == "-" else name, rest[1] if len(rest) > 1 else None)


def _of_json(text: str) -> Entry:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("this is no JSON") from None
    unknown = sorted(set(found) - _KEYS)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}")
    for key in ("url", "name", "sha256"):
        if not isinstance(found.get(key), str | None):
            raise ValueError(f"{key} is no text")
    if not found.get("url"):
        raise ValueError("there is no url")
    return _checked(found["url"], found.get("name"), found.get("sha256"))


def _checked(url: str, name: str | None, digest: str | None) -> Entry:
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise ValueError("the SHA-256 is not 64 hexadecimal digits")
    if name is not None and (not name or "\0" in name):
        raise ValueError("the name is empty")
    return Entry(url, name, digest)
