"""The engines: they carry out the effects of `core.exchange` over the wire, the stores and the clock.

`Engine` is for threads, `AsyncEngine` for one event loop at a time; what both share is in `engine.lease` and
`engine.base`. Each loads only what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fazt.engine.aio import AsyncEngine
    from fazt.engine.aio_stream import AsyncStreamed
    from fazt.engine.sync import Engine
    from fazt.engine.sync_stream import Streamed

__all__ = ["AsyncEngine", "AsyncStreamed", "Engine", "Streamed"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncEngine", "AsyncStreamed"):
        from fazt.engine import aio

        return getattr(aio, name)
    if name in ("Engine", "Streamed"):
        from fazt.engine import sync

        return getattr(sync, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
