"""`fazt breaker`: hosts and services that are left alone for a while, in every process that uses the data directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from fazt.cli.options import actor, data_option, group, host_option, json_option, opened
from fazt.cli.output import examples, note, print_json, printable, say, table, when
from fazt.errors import ConfigError

if TYPE_CHECKING:
    from fazt.core.breaker import Key
    from fazt.stores.sqlite.breakers import Breakers, SharedCircuit

breaker = group("breaker", "Hosts and services that are left alone for a while.")
_AN_HOUR = 3600.0
_A_YEAR = 365 * 86_400.0


def _whose(command: Any) -> Any:
    command = click.option("--role", default="", metavar="ROLE", help="Only calls of this role, such as artifact.")(
        command
    )
    return click.option("--service", metavar="NAME", help="A service in place of a host.")(command)


@contextmanager
def _shared(ctx: click.Context, data: str | None) -> Iterator[Breakers]:
    from fazt.stores.sqlite.breakers import Breakers

    with opened(ctx, data) as store, Breakers.open(store.data_dir, patience=5.0) as breakers:
        yield breakers


def _key(host: str | None, service: str | None, role: str) -> Key:
    from fazt.core.breaker import Key
    from fazt.core.services import check_name

    if (host is None) == (service is None):
        raise ConfigError("name either a host or a service", hint="fazt breaker open api.example.com")
    if service is not None:
        if role:
            raise ConfigError("a service has no roles; --role belongs to a host")
        return Key("service", check_name(service, "--service"))
    return Key("host", host_option(host) or "", check_name(role, "--role") if role else "")


@breaker.command(
    short_help="List what is left alone, why, and for how long.",
    epilog=examples("fazt breaker show", "fazt breaker show --host api.example.com --json"),
)
@click.option("--host", metavar="HOST", help="Only this host.")
@_whose
@json_option
@data_option
@click.pass_context
def show(ctx: click.Context, host: str | None, service: str | None, role: str, as_json: bool, data: str | None) -> None:
    """List the hosts and services that processes told each other to leave alone, and those opened by hand.

    A half-open one has served its time: the next call tries whether it works again. What is not listed is closed.
    """
    wanted = host_option(host)
    with _shared(ctx, data) as breakers:
        found = [
            circuit
            for circuit in breakers.circuits()
            if (wanted is None or (circuit.key.kind, circuit.key.name) == ("host", wanted))
            and (service is None or (circuit.key.kind, circuit.key.name) == ("service", service))
            and (not role or circuit.key.role == role)
        ]
    now = time.time()
    rows = [row for row in (_row(circuit, now) for circuit in found) if row["state"] != "closed"]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("Nothing is left alone: every breaker is closed.")
        return
    columns = ["Kind", "Name", "Role", "State", "Cause", "Left", "Reason", "By", "Since"]
    table(columns, [_cells(row) for row in rows], right=(5,))


def _row(circuit: SharedCircuit, now: float) -> dict[str, Any]:
    cause, left = circuit.cause(now), circuit.remaining(now)
    return {
        "kind": circuit.key.kind,
        "name": circuit.key.name,
        "role": circuit.key.role,
        "state": circuit.state(now).value,
        "cause": cause.value if cause is not None else None,
        "remainingMs": round(left * 1000),
        "until": round(now + left, 3) if left else None,
        "reason": circuit.deadlines.reason,
        "actor": circuit.actor,
        "changed": circuit.written_at,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    left = row["remainingMs"] / 1000
    return [
        row["kind"],
        row["name"],
        printable(row["role"]) or "-",
        row["state"].replace("_", " "),
        (row["cause"] or "-").replace("_", " "),
        f"{left:.0f}s" if left else "-",
        printable(row["reason"]) or "-",
        printable(row["actor"]) or "-",
        when(row["changed"]),
    ]


@breaker.command(
    name="open",
    short_help="Leave a host or a service alone for a while.",
    epilog=examples(
        "fazt breaker open api.example.com --seconds 900 --reason 'they are moving'",
        "fazt breaker open files.example.com --role artifact",
        "fazt breaker open --service crossref --seconds 60",
    ),
)
@click.argument("host", required=False)
@_whose
@click.option("--seconds", type=float, default=_AN_HOUR, metavar="N", help="For how long (3600).")
@click.option("--reason", default="", metavar="TEXT", help="What to say to whoever asks why.")
@json_option
@data_option
@click.pass_context
def open_(
    ctx: click.Context, host: str | None, service: str | None, role: str, seconds: float, reason: str, as_json: bool,
    data: str | None,
) -> None:  # fmt: skip
    """Refuse calls to HOST (NET_RATE, breaker_open) in every process that uses the data directory.

    It takes effect within a quarter of a second, and ends by itself.
    """
    key = _key(host, service, role)
    if not 0 < seconds <= _A_YEAR:
        raise ConfigError(
            "--seconds must be above 0 and no more than a year", hint="to refuse a host, deny it by a rule"
        )
    with _shared(ctx, data) as breakers:
        circuit = breakers.set_open(key, seconds=seconds, reason=reason[:500], actor=actor())
    now = time.time()
    if as_json:
        print_json(_row(circuit, now))
    else:
        say(f"The breaker of {key} is open until {when(circuit.deadlines.manual)} UTC")


@breaker.command(
    short_help="Let calls to a host or a service through again.",
    epilog=examples("fazt breaker close api.example.com", "fazt breaker close --service crossref"),
)
@click.argument("host", required=False)
@_whose
@json_option
@data_option
@click.pass_context
def close(
    ctx: click.Context, host: str | None, service: str | None, role: str, as_json: bool, data: str | None
) -> None:
    """Let calls to HOST through at once, whatever had stopped them: failures, a pause that it asked for, or a hand."""
    key = _key(host, service, role)
    with _shared(ctx, data) as breakers:
        was_open = breakers.set_closed(key, actor=actor())
    if as_json:
        print_json({"kind": key.kind, "name": key.name, "role": key.role, "state": "closed", "wasOpen": was_open})
        return
    say(f"The breaker of {key} is closed")
    if not was_open:
        note("no process had told that it was open")
