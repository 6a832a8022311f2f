"""Safe outbound HTTP for code you don't fully trust, and for your own Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fazt.errors import Code, ConfigError, FaztError, Reason
from fazt.version import __version__

if TYPE_CHECKING:
    from fazt import httpx as httpx
    from fazt import telemetry
    from fazt.client.api import delete, get, head, options, patch, post, put, request, stream
    from fazt.client.cache import Cache
    from fazt.client.data_policy import DataPolicy
    from fazt.client.download import Download, adownload, adownload_many, download, download_many
    from fazt.client.download_error import DownloadError
    from fazt.client.httpx2 import AsyncClient, AsyncTransport, Client, Transport
    from fazt.client.lean import Response, afetch, fetch
    from fazt.client.policies import Policy
    from fazt.client.registry import aclose_client, close_client, get_async_client, get_client
    from fazt.client.rules import Rule, Secret
    from fazt.core.retry import RetryPolicy
    from fazt.core.services import ServicePolicy

__all__ = [
    "AsyncClient",
    "AsyncTransport",
    "Cache",
    "Client",
    "Code",
    "ConfigError",
    "DataPolicy",
    "Download",
    "DownloadError",
    "FaztError",
    "Policy",
    "Reason",
    "Response",
    "RetryPolicy",
    "Rule",
    "Secret",
    "ServicePolicy",
    "Transport",
    "__version__",
    "aclose_client",
    "adownload",
    "adownload_many",
    "afetch",
    "close_client",
    "delete",
    "download",
    "download_many",
    "fetch",
    "get",
    "get_async_client",
    "get_client",
    "head",
    "options",
    "patch",
    "post",
    "put",
    "request",
    "stream",
    "telemetry",
]

_HOMES = {
    "client.api": "delete get head options patch post put request stream",
    "client.cache": "Cache",
    "client.data_policy": "DataPolicy",
    "client.download": "Download adownload adownload_many download download_many",
    "client.download_error": "DownloadError",
    "client.httpx2": "AsyncClient AsyncTransport Client Transport",
    "client.lean": "Response afetch fetch",
    "client.policies": "Policy",
    "client.registry": "aclose_client close_client get_async_client get_client",
    "client.rules": "Rule Secret",
    "core.retry": "RetryPolicy",
    "core.services": "ServicePolicy",
}
"""Modules and the public names in them, each loaded when one of its names is first asked for."""


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("httpx", "telemetry"):
        return importlib.import_module(f"fazt.{name}")
    home = next((home for home, names in _HOMES.items() if name in names.split()), None)
    if home is None:
        raise AttributeError(f"module 'fazt' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"fazt.{home}"), name)
    return found


def __dir__() -> list[str]:
    # `httpx` needs an extra: `from fazt import *` works without it, and leaves the name to who imported httpx itself
    return sorted([*__all__, "httpx"])
