"""`make bench`: the table of what fazt costs, beside its peers, in one run. `python -m bench ROW…` runs some rows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from bench import calls, cli, client, core, download, functions
from bench.measure import Row

ROWS: dict[str, Callable[[], list[Row]]] = {
    "pipeline": calls.pipeline,
    "policy": calls.policy_alone,
    "decide": core.decide,
    "pool": core.pool,
    "functions": functions.invocations,
    "neighbour": functions.neighbour,
    "cache": calls.cache_hit,
    "start": cli.start_up,
    "client": client.sync,
    "async-client": client.asynchronous,
    "guarded": client.guarded,
    "idle": client.idle_origins,
    "download": download.downloads,
    "client-cache": client.cached,
    "events": client.events,
    "shared": client.shared,
}


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    head = ("what", "fazt", "peer", "ratio", "must reach", "")
    cells = [head]
    for row in rows:
        peer = f"{row.peer:,.2f} {row.unit} ({row.peer_name})" if row.peer is not None else "-"
        ratio = f"{row.ratio:.2f}x" if row.ratio is not None else "-"
        cells.append((row.name, f"{row.value:,.2f} {row.unit}", peer, ratio, row.target, "ok" if row.ok else "MISSED"))
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    for number, line in enumerate(cells):
        print("  ".join(cell.ljust(widths[i]) for i, cell in enumerate(line)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def main() -> int:
    """Run the rows and print them; exit code 0 even when a target is missed, since machines differ."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of: {', '.join(ROWS)}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.rows if name not in ROWS]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    found: list[Row] = []
    for name in arguments.rows or ROWS:
        print(f"· {name}", file=sys.stderr, flush=True)
        found += ROWS[name]()
    if arguments.json:
        print(json.dumps([{**{s: getattr(row, s) for s in Row.__slots__}, "ratio": row.ratio} for row in found]))
    else:
        show(found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
