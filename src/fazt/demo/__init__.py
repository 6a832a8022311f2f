"""`fazt demo` and `make demo`: a deployed app calls a real HTTPS upstream, and is kept from all it may not do.

Every step runs the command it shows, in a data directory of its own that is removed at the end.
"""

from __future__ import annotations

from fazt.demo.story import run

__all__ = ["run"]
