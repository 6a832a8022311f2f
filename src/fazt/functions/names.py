"""Names: what an app may be called, and which paths an app may hold."""

from __future__ import annotations

import re
import unicodedata

from fazt.errors import ConfigError, DeployError
from fazt.stores.sqlite.apps import check_app_name

RESERVED_PATHS = frozenset({"_app", "_ws"})
"""First segments that fazt answers by itself, now or in a coming version."""
RULED_PATHS = frozenset({"api", "private", "workers", "manifest.json"})
"""First segments with a meaning of their own; any other spelling of them is a mistake."""
MAX_PATH = 512
"""Longest path of a file, in bytes of UTF-8."""

_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")


def app_name(text: str) -> str:
    """Return `text` if an app may be called so: it becomes a label of a host name (RFC 1035 section 2.3.1).

    Raises:
        DeployError: not lower-case letters, digits and inner hyphens, longer than 63, or reserved.
    """
    try:
        check_app_name(text)
    except ConfigError as wrong:
        raise DeployError(wrong.message, hint=wrong.hint) from None
    if text.startswith("xn--"):  # shown to people as something else than what it is
        raise DeployError(f"{text!r} cannot be the name of an app", hint="a name that does not begin with xn--")
    return text


def check_segment(name: str, *, where: str) -> None:
    """Check one segment of a path: one reading on every system and in every URL.

    Args:
        name: the segment as the file system gives it.
        where: the path of its directory, for the message; "" at the top.

    Raises:
        DeployError: it cannot be published.
    """
    shown = f"{where}/{name}" if where else name
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise DeployError(f"{shown!r} is not a usable path", hint="rename the file: no backslash, no empty segment")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise DeployError(f"the name {shown!r} is not UTF-8", hint="rename the file") from None
    if not name.isprintable():
        raise DeployError(
            f"the name {shown!r} holds a control character, or a space that does not look like one",
            hint="rename the file",
        )
    if _ESCAPE.search(name):
        raise DeployError(
            f"the name {shown!r} looks percent-encoded, so no URL can name it without doubt", hint="rename the file"
        )
    if where:
        return
    folded = name.casefold()
    if folded in RESERVED_PATHS:
        raise DeployError(f"{shown!r} is a path of fazt itself", hint="rename it")
    if folded in RULED_PATHS and name != folded:
        raise DeployError(f"{shown!r} must be spelled {folded!r}", hint="rename it, or choose another name")


def collision_key(name: str) -> str:
    """Return what two names share that some file system or reader takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
