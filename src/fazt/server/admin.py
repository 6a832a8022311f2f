"""The admin API: every request shows the token, wherever it comes from and whatever host it names (A.21, F43, F58)."""

from __future__ import annotations

import hmac
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fazt.core.limits import as_dict, schema
from fazt.server.answers import Answer, RefusalError, data, plain

if TYPE_CHECKING:
    from fazt.server.context import ServerContext
    from fazt.server.paths import SitePath

_MIB = 1024 * 1024


class AdminApi:
    """Answers requests on hosts that name no app.

    Args:
        context: what there is to look at.
        clock: monotonic seconds, for the uptime.
    """

    def __init__(self, context: ServerContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._started = clock()
        self._token = context.admin_token.encode()

    def answer(self, method: str, path: SitePath, *, fields: Mapping[str, str], query: Mapping[str, str]) -> Answer:
        """Answer one request.

        Raises:
            RefusalError: 401 without the token, before anything else is looked at; 404, 405.
        """
        if not path.is_api:
            if path.text == "/" and method in ("GET", "HEAD"):
                return plain(200, "fazt is running. Apps answer at http://NAME.localhost:PORT/")
            raise RefusalError(404, "NOT_FOUND", "not found")
        self._check(fields)
        allowed = _ROUTES.get(path.text)
        if allowed is None:
            raise RefusalError(404, "NOT_FOUND", "no such endpoint")
        handler = allowed.get("GET" if method == "HEAD" else method)
        if handler is None:
            methods = ", ".join(sorted({*allowed, "HEAD"} if "GET" in allowed else allowed))
            raise RefusalError(405, "METHOD_NOT_ALLOWED", "not with this method", headers=(("allow", methods),))
        return handler(self, query)

    def _check(self, fields: Mapping[str, str]) -> None:
        scheme, _, given = fields.get("authorization", "").partition(" ")
        # an empty token would be equal to an empty one
        if scheme.lower() == "bearer" and self._token and hmac.compare_digest(given.strip().encode(), self._token):
            return
        raise RefusalError(
            401,
            "UNAUTHORIZED",
            "this needs the admin token",
            headers=(("www-authenticate", 'Bearer realm="fazt"'),),
        )

    def _limits(self, query: Mapping[str, str]) -> Answer:
        return data(as_dict(self._context.limits(query.get("app", ""))))

    def _capacity(self, query: Mapping[str, str]) -> Answer:
        answer = self._limits(query)
        # RFC 9745 wants a date; the day this endpoint was born deprecated
        headers = (*answer.headers, ("deprecation", "@1763683200"), ("link", _SUCCESSOR))
        return Answer(answer.status, headers, answer.body)

    def _schema(self, query: Mapping[str, str]) -> Answer:
        return data(schema(), raw=query.get("raw") == "1")

    def _health(self, _query: Mapping[str, str]) -> Answer:
        limits = self._context.limits("")
        parts = self._context.health()
        return data(
            {
                "status": "degraded" if any(_ails(part) for part in parts.values()) else "ok",
                "uptime_seconds": int(self._clock() - self._started),
                "version": self._context.version,
                "mode": self._context.mode,
                "memory": {"used_mb": used_memory() // _MIB, "limit_mb": limits.hardware.total_ram // _MIB},
                **parts,
            }
        )

    def _cache(self, _query: Mapping[str, str]) -> Answer:
        return data(dict(self._context.cache_stats()))

    def _clear_cache(self, query: Mapping[str, str]) -> Answer:
        return data({"removed": self._context.clear_cache(query.get("app"))})

    def _net(self, _query: Mapping[str, str]) -> Answer:
        return data(dict(self._context.net_stats()))


def _ails(part: object) -> bool:
    return isinstance(part, Mapping) and bool(part.get("error") or part.get("failure"))


_Handler = Callable[[AdminApi, Mapping[str, str]], Answer]
_SUCCESSOR = '</api/system/limits>; rel="successor-version"'
_ROUTES: dict[str, dict[str, _Handler]] = {
    "/api/system/limits": {"GET": AdminApi._limits},
    "/api/system/limits/schema": {"GET": AdminApi._schema},
    "/api/system/capacity": {"GET": AdminApi._capacity},
    "/api/system/health": {"GET": AdminApi._health},
    "/api/system/cache": {"GET": AdminApi._cache, "DELETE": AdminApi._clear_cache},
    "/api/system/net": {"GET": AdminApi._net},
}
ENDPOINTS: tuple[tuple[str, str], ...] = tuple(
    (method, path) for path, methods in _ROUTES.items() for method in methods
)
"""Every method and path of the admin API, for documentation and tests."""


def used_memory() -> int:
    """Return the memory this process holds now, in bytes (its peak where /proc is not to be read)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        peak: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(peak) * unit
