"""`fazt explain`: every gate with its verdict, and the narrowest command that would allow a refused call."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from fazt.cli.options import app_option, data_option, given_data, json_option, net_options, opened_for, settings
from fazt.cli.output import examples, print_json, printable, say, sayable, when
from fazt.errors import ConfigError, FaztError, NotFoundError, Reason, StoreError

if TYPE_CHECKING:
    from fazt.config import Settings
    from fazt.core.explain import Explanation
    from fazt.core.remedy import World
    from fazt.stores.sqlite.store import Store

CALL_ID = re.compile(r"c_[0-9a-f]{20}")
_LIKE_AN_ID = re.compile(r"[cr]_[0-9A-Za-z]*")
LOOKUP_SECONDS = 5.0
_LONG = 100
_COLOURS = {"pass": "green", "refuse": "red", "skip": "bright_black"}


@click.command(
    epilog=examples(
        "fazt explain https://api.github.com/zen",
        "fazt explain https://api.example.com/v1/orders --app shop -X POST --auth SHOP_KEY --json",
        "fazt explain c_0123456789abcdef0123",
    )
)
@click.argument("what", metavar="URL|CALL_ID")
@app_option
@click.option("-X", "--method", metavar="M", help="Method (GET).")
@click.option("--auth", metavar="NAME", help="Secret the call would ask for.")
@net_options
@json_option
@data_option
@click.pass_context
def explain(ctx: click.Context, /, what: str, as_json: bool, data: str | None, **options: Any) -> int:
    """Say why a call is allowed or refused: exit code 0 allowed, 2 refused.

    The name is looked up only when a rule matches, and nothing is connected to. For a call that was made (its id is in
    the log) it shows what was recorded, and what the present rules say of the same call. Where a command would allow
    the call, the narrowest one is shown.
    """
    found = explained(ctx, what, data=data, **options)
    if as_json:
        print_json(found.as_dict())
        return 0 if found.allowed else 2
    width = max(len(gate.gate) for gate in found.gates)
    for gate in found.gates:
        verdict = sayable(f"{gate.verdict:6}", _COLOURS[gate.verdict])
        said = printable(gate.detail)
        if len(said) > _LONG:
            said = said.replace("; ", f"\n{'':{width + 10}}")
        say(f"{verdict}  {gate.gate:{width}}  {said}")
    say("allowed" if found.allowed else f"refused: {found.reason}")
    if found.fix:
        say(f"fix: {found.fix}")
    return 0 if found.allowed else 2


def explained(
    ctx: click.Context,
    what: str,
    *,
    data: str | None,
    app_name: str | None = None,
    method: str | None = None,
    auth: str | None = None,
    **net: Any,
) -> Explanation:
    """Explain a URL or a recorded call for one command.

    Raises:
        OperatorError: the data directory cannot be used, or there is no such call.
    """
    chosen = settings(ctx, data, **net)
    with opened_for(chosen) as store:
        if CALL_ID.fullmatch(what):
            if app_name is not None or method is not None or auth is not None:
                raise ConfigError("a recorded call has its own app, method and secret", hint=f"fazt explain {what}")
            found = _recorded(store, chosen, what)
        elif _LIKE_AN_ID.fullmatch(what):
            raise ConfigError(f"{what!r} is not the whole id of a call", hint="`fazt net logs` shows the ids")
        else:
            found = _asked(store, chosen, what, app_name, method or "GET", auth)
    directory = given_data(ctx, data)
    if found.fix and directory:  # the command has to change the directory that was asked
        commands = [f"{part} --data {shlex.quote(directory)}" for part in found.fix.split(" && ")]
        found = replace(found, fix=" && ".join(commands))
    return found


def _asked(
    store: Store, chosen: Settings, url: str, app_name: str | None, method: str, auth: str | None
) -> Explanation:
    app, may_create = app_name or "", False
    if app_name is not None:
        meta = store.apps.find(app_name)
        app, may_create = (meta.id, False) if meta is not None else (app_name, _nameable(app_name))
    found = _judged(store, chosen, url, app=app, method=method, auth=auth, may_create=may_create)
    return _left_alone(chosen, _opening(store, found))


def _left_alone(chosen: Settings, found: Explanation) -> Explanation:
    """Say beside what rules allow that processes of this directory leave the host alone for now."""
    from fazt.core.explain import Gate
    from fazt.stores.sqlite.breakers import FILE, Breakers

    if not found.allowed or found.url is None or not (chosen.data / FILE).exists():
        return found
    host, now = found.url.host, time.time()
    with Breakers.open(chosen.data) as breakers:
        circuits = [one for one in breakers.circuits() if (one.key.kind, one.key.name) == ("host", host)]
    for circuit in sorted(circuits, key=lambda one: one.key.role):
        if circuit.remaining(now) <= 0:
            continue
        role = f" in the role {circuit.key.role}" if circuit.key.role else ""
        gate = Gate("breaker", "refuse", f"open for {circuit.remaining(now):.0f} s more{role}")
        if role:  # other calls to this host pass
            return replace(found, gates=(*found.gates, replace(gate, verdict="skip")))
        fix = f"fazt breaker close {host}"
        return replace(found, allowed=False, gates=(*found.gates, gate), reason=Reason.BREAKER_OPEN, fix=fix)
    return found


def _opening(store: Store, found: Explanation) -> Explanation:
    """Say beside a secret that may be sent that its value cannot be opened here; a server may have another key."""
    if not any((gate.gate, gate.verdict) == ("secret", "pass") for gate in found.gates):
        return found
    try:
        store.secrets.warm()
    except StoreError as fault:
        note = f"; this command cannot open it: {fault.message}" + (f"; {fault.hint}" if fault.hint else "")
        gates = [replace(gate, detail=gate.detail + note) if gate.gate == "secret" else gate for gate in found.gates]
        return replace(found, gates=tuple(gates))
    return found


def _nameable(name: str) -> bool:
    from fazt.stores.sqlite.apps import ID_PREFIX, check_app_name

    try:
        return not name.startswith(ID_PREFIX) and bool(check_app_name(name))
    except ConfigError:
        return False


def _recorded(store: Store, chosen: Settings, call_id: str) -> Explanation:
    from fazt.core.explain_record import request_of, with_record

    rows = store.log.calls(call_id=call_id, limit=1)
    if not rows:
        raise NotFoundError(
            f"the log has no call {call_id}",
            hint="`fazt net logs` shows the ones there are; a running server needs a second",
        )
    record = rows[0].record
    request = request_of(record)
    found = None
    if request is not None:
        url, method, auth = request
        found = _judged(store, chosen, url, app=record.app, method=method, auth=auth)
        if record.auth is not None:
            found = _opening(store, found)
    told = with_record(found, store.source.current, record)
    first = replace(told.gates[0], detail=f"{when(record.ts)} UTC: {told.gates[0].detail}")
    return replace(told, gates=(first, *told.gates[1:]))


def _judged(
    store: Store,
    chosen: Settings,
    url: str,
    *,
    app: str,
    method: str,
    auth: str | None,
    may_create: bool = False,
) -> Explanation:
    """Ask every gate; the resolver only when a rule matches."""
    from fazt.core import profiles
    from fazt.core.explain import explain as ask
    from fazt.core.explain import with_addresses

    world = _world(chosen)
    policy = store.source.current
    door = None if app else profiles.cli(policy.limits_for(""))  # the operator's own calls share no invocation's budget
    found = ask(policy, url, app=app, method=method, auth=auth, world=world, may_create=may_create, profile=door)
    if not found.address_open or found.url is None:
        return found
    return with_addresses(found, policy, _resolved(world, found.url.host, found.url.port), world=world)


def _world(chosen: Settings) -> World:
    from fazt import hardware
    from fazt.app import listeners
    from fazt.cli.admin import running
    from fazt.core.remedy import World
    from fazt.net.resolve import parse_resolve

    server = running(chosen.data)
    own = listeners(server.listeners) if server is not None else frozenset()
    return World(parse_resolve(chosen.resolve), own, frozenset(hardware.interface_addresses()))


def _resolved(world: World, host: str, port: int) -> tuple[str, ...] | FaztError:
    import asyncio

    from fazt.net.resolve import Resolver

    async def look_up() -> tuple[str, ...]:
        deadline = asyncio.get_running_loop().time() + LOOKUP_SECONDS
        return await Resolver(world.static).resolve(host, port, deadline=deadline)

    try:
        return asyncio.run(look_up())
    except FaztError as failed:
        return failed
