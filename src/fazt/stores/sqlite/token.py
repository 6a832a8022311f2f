"""The token of the admin API: made at the first start, kept in a file that only its owner may read."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import NamedTuple

from fazt.errors import StoreError
from fazt.stores.sqlite.private import read_private, write_once

FILE = "admin.token"
_LEAST = 32


class AdminToken(NamedTuple):
    """The token, and whether this call made it (print it once, then never again)."""

    value: str
    created: bool

    def __repr__(self) -> str:
        return f"<AdminToken created={self.created}>"


def admin_token(data_dir: Path) -> AdminToken:
    """Read the admin token of a data directory, making it at the first need.

    Args:
        data_dir: the data directory; must exist.

    Raises:
        StoreError: the file cannot be read or written, or holds no token, or others may read it.
    """
    path = data_dir / FILE
    created = False
    found = read_private(path, what="the admin token")
    if found is None:
        fresh = f"fazt_admin_{secrets.token_urlsafe(32)}"
        try:
            created = write_once(path, f"{fresh}\n".encode())
        except OSError as error:
            raise StoreError(f"cannot write the admin token to {path}: {error.strerror}") from error
        found = read_private(path, what="the admin token") or ""
    value = found.strip()
    if len(value) < _LEAST:
        raise StoreError(
            f"{path} holds no usable admin token", hint=f"remove it and start again to get a new one: rm {path}"
        )
    return AdminToken(value, created)
