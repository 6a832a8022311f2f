"""Where the server of a data directory answers, for commands that must reach the running process."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from fazt.errors import StoreError
from fazt.stores.sqlite.private import replace_file

FILE = "server.json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Origin of the admin API of a running server, and its process id."""

    url: str
    pid: int


def announce(data_dir: Path, url: str) -> None:
    """Note that this process serves the data directory; the latest server to start wins.

    Raises:
        StoreError: the file cannot be written.
    """
    text = json.dumps({"url": url, "pid": os.getpid()})
    try:
        replace_file(data_dir / FILE, f"{text}\n".encode())
    except OSError as fault:
        raise StoreError(f"cannot write {data_dir / FILE}: {fault.strerror}") from fault


def withdraw(data_dir: Path) -> None:
    """Take back what this process announced; another server's note stays."""
    found = _read(data_dir)
    if found is not None and found.pid == os.getpid():
        try:
            (data_dir / FILE).unlink(missing_ok=True)
        except OSError:
            pass  # its process is known to be gone as soon as we are


def running(data_dir: Path) -> Endpoint | None:
    """Return where the server of a data directory answers; None where none runs."""
    found = _read(data_dir)
    if found is None:
        return None
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:  # killed before it could withdraw
        return None
    except PermissionError:  # alive, somebody else's
        pass
    return found


def _read(data_dir: Path) -> Endpoint | None:
    try:
        value = json.loads((data_dir / FILE).read_text("ascii"))
        return Endpoint(str(value["url"]), int(value["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
