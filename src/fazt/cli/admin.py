"""Requests to the admin API of the server that runs on this data directory (`stores.announcement`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fazt.errors import OperatorError, StoreError
from fazt.stores.announcement import Announcement, RunningServer, announced, running

if TYPE_CHECKING:
    from fazt.config import Settings

__all__ = ["Announcement", "RunningServer", "announced", "request", "running"]

TIMEOUT_SECONDS = 10.0


def request(settings: Settings, method: str, path: str) -> Any:
    """Ask the admin API of the running server.

    Args:
        settings: name the data directory.
        method: HTTP method.
        path: path and query.

    Returns: the data of its answer.

    Raises:
        OperatorError: none runs, or it does not answer as expected.
    """
    import http.client

    from fazt.stores.sqlite.token import admin_token

    server = running(settings.data)
    if server is None:
        raise OperatorError(
            f"no server runs on {settings.data}, and what you ask for lives in its memory", hint="start it: fazt serve"
        )
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=TIMEOUT_SECONDS)
    try:
        token = admin_token(settings.data).value
        connection.request(method, path, headers={"authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        raw = answer.read(16 * 1024 * 1024)
    except (OSError, http.client.HTTPException) as fault:
        raise OperatorError(f"the server at {server.url} does not answer: {type(fault).__name__}") from None
    finally:
        connection.close()
    try:
        said = json.loads(raw)
    except ValueError:
        said = {}
    if answer.status != 200 or not isinstance(said, dict) or "data" not in said:
        why = said.get("error", {}).get("message", "") if isinstance(said, dict) else ""
        raise StoreError(f"the server at {server.url} answered {answer.status} {why}".rstrip())
    return said["data"]
