"""Rows of start-up: the import and the help text, each in fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench.measure import Row


def _fresh(arguments: list[str], *, rounds: int = 9) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def start_up() -> list[Row]:
    """`import fazt` beyond a bare interpreter, and `fazt --help` from start to end."""
    bare = _fresh(["-c", "pass"])
    imported = max(0.0, _fresh(["-c", "import fazt"]) - bare)
    shown = _fresh(["-m", "fazt", "--help"])
    return [
        Row("import fazt", imported, "ms", "≤ 60 ms", imported <= 60),
        Row("fazt --help", shown, "ms", "≤ 200 ms", shown <= 200),
    ]
