"""`fazt demo`."""

from __future__ import annotations

import click

from fazt.cli.output import examples


@click.command(epilog=examples("fazt demo"))
def demo() -> int:
    """Watch a deployed app call a real HTTPS upstream, and see what it may not do.

    Everything happens on this machine, in a directory of its own that is removed at the end. Exits 0 only if every
    step did what it says.
    """
    from fazt.demo import run

    return run()
