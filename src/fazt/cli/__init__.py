"""The command line. Each command group lives in a file of its own and is imported when it is used."""

from __future__ import annotations

from fazt.cli.base import main

__all__ = ["main"]
