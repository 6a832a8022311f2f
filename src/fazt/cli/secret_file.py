"""The files that `fazt secret import` reads. No error repeats anything of their content but names and line numbers."""

from __future__ import annotations

import json
import re
from typing import Any

from fazt.errors import ConfigError

_LINE = re.compile(r"(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,127})[ \t]*=[ \t]*(?P<value>.*)")
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\$": "$", "\\`": "`"}


def read_secrets(text: str) -> dict[str, str]:
    """Read names and values.

    Args:
        text: a JSON object of strings, or lines `NAME=value` (`export` before them, quotes around the value, blank
            lines and lines that begin with # are allowed).

    Raises:
        ConfigError: anything else, a name that stands twice, or nothing at all.
    """
    text = text.removeprefix("\ufeff")
    found = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    if not found:
        raise ConfigError("there is no secret in it", hint="NAME=VALUE lines, or a JSON object")
    return found


def _from_json(text: str) -> dict[str, str]:
    try:
        value: dict[str, Any] = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as wrong:
        raise ConfigError(f"line {wrong.lineno}, column {wrong.colno}: this is not JSON") from None
    except RecursionError:
        raise ConfigError("the JSON nests too deeply") from None
    for name, secret in value.items():
        if not isinstance(secret, str):
            raise ConfigError(f"the value of {_shown(name)} is not a string")
        if not _LINE.fullmatch(f"{name}="):
            raise ConfigError("a name in it cannot be the name of a secret")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ConfigError("a name stands twice in it")
    return found


def _from_lines(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(f"line {number} is not NAME=VALUE")
        if match["name"] in found:
            raise ConfigError(f"line {number}: {match['name']} stands twice")
        found[match["name"]] = _unquoted(match["value"], number)
    return found


def _unquoted(value: str, number: int) -> str:
    """Return a value without its quotes; where files of this kind are read in two ways, refuse."""
    if value[:1] in ("'", '"'):
        quote = value[0]
        inner = value[1:-1]
        if len(value) < 2 or value[-1] != quote or quote in re.sub(r"\\.", "", inner):
            raise ConfigError(f"line {number}: the quotes do not match", hint="nothing may follow the closing quote")
        if quote == "'":
            return inner
        if re.search(r"\\[^\\\"$`]", inner):
            raise ConfigError(f"line {number}: a backslash in double quotes", hint="use single quotes")
        return re.sub(r"\\.", lambda found: _ESCAPES[found[0]], inner)
    if re.search(r"[ \t]#", value):
        raise ConfigError(f"line {number}: is what follows the # a comment?", hint="put the value in quotes")
    return value


def _shown(name: str) -> str:
    return name if _LINE.fullmatch(f"{name}=") else "an entry"
