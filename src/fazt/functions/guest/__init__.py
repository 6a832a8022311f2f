"""What runs inside the guest: the C shim, the prelude in JavaScript, and the built module with its description."""

from __future__ import annotations

import functools
from pathlib import Path

HERE = Path(__file__).parent
WASM = HERE / "guest.wasm"
"""The built guest (scripts/build-guest); not in the repository."""
PARTS = ("base", "console", "modules", "net", "web", "respond", "begin")
"""Files of the prelude in their order: they are one function body."""


@functools.cache
def prelude_source() -> str:
    """Return the prelude: an expression whose value is a function of the natives that gives the entry points."""
    parts = [(HERE / "prelude" / f"{name}.js").read_text("utf-8") for name in PARTS]
    return "(function (native) {" + "\n".join(parts) + "\n})"
