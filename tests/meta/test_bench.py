"""`make bench` measures what it is asked to measure, each row beside its peer."""

from __future__ import annotations

import re

from tests.meta.names import ROOT

BENCH = ROOT / "bench"
WANTED = {
    "fazt.Client.get": "httpx2",
    "fazt.AsyncClient.get": "httpx2",
    "fazt.fetch": "urllib3",
    "fazt.afetch": "aiohttp",
    "GiB to disk": "httpx2",
    "others idle": "none idle",
    "cache hit in memory": "",
    "cache hit in SQLite": "",
    "three sinks": "",
    "get_client()": "",
}
"""Part of a row's name, and of the name of what stands beside it."""


def test_every_row_of_the_benchmarks_is_there() -> None:
    written = "\n".join(path.read_text("utf-8") for path in sorted(BENCH.glob("*.py")))
    rows = re.findall(r"Row\(\s*f?\"([^\"]+)\"(.*?)\n", written)
    for part, peer in WANTED.items():
        assert any(part in name for name, _ in rows), f"no row named like {part!r}"
        assert peer in written
    makers = re.findall(r"^def ([a-z]\w*)\(\) -> list\[Row\]:", written, re.MULTILINE)
    assert [maker for maker in makers if not re.search(rf"\w\.{maker}\b", written)] == []
