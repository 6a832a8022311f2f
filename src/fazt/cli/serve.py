"""`fazt serve`: the deployed apps and the admin API."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from fazt.cli.options import data_option, json_option, net_options, settings
from fazt.cli.output import examples, print_json, say, warn
from fazt.errors import StoreError

if TYPE_CHECKING:
    from fazt.config import Settings
    from fazt.server.serve import Bound
    from fazt.stores.sqlite.store import Store
    from fazt.stores.sqlite.token import AdminToken


@click.command(
    epilog=examples(
        "fazt serve",
        "fazt serve --port 0 --json",
        "fazt serve --host 0.0.0.0 --port 8080 --require-sandbox full",
    )
)
@click.option("--host", metavar="ADDR", help="Address to listen on (127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Port (7878; 0 takes a free one).")
@click.option("--workers", type=click.IntRange(1, 256), metavar="N", help="Worker processes for functions.")
@click.option("--path-routing", is_flag=True, default=None, help="Serve /_app/NAME/ to other machines too.")
@click.option("--require-sandbox", type=click.Choice(["full"]), help="Start only if every layer of the sandbox works.")
@click.option("--engine", type=click.Choice(["wasm", "jsbox"]), help="JavaScript engine; by default the built one.")
@net_options
@json_option
@data_option
@click.pass_context
def serve(ctx: click.Context, /, as_json: bool, data: str | None, **flags: Any) -> int:
    """Serve the deployed apps and the admin API until Ctrl-C or SIGTERM.

    Apps answer at http://NAME.localhost:PORT/. The token of the admin API is made at the first start and printed once.
    Under --json one line {"port", "url", "apps"} says that it is ready. Logs go to stderr.
    """
    from fazt.app import open_store

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    chosen = settings(ctx, data, **flags)
    with open_store(chosen) as store:
        try:
            store.secrets.warm()
        except StoreError as fault:  # apps without secrets are served all the same
            warn(fault.message + (f"; {fault.hint}" if fault.hint else ""))
        for text in store.warnings:
            warn(text)
        return _serve(store, chosen, as_json=as_json)


def _serve(store: Store, chosen: Settings, *, as_json: bool) -> int:
    from fazt.cli.admin import announced
    from fazt.server.local import LocalServer
    from fazt.server.serve import serve as run

    token = store.admin_token()
    context = LocalServer(store, chosen, admin_token=token.value).context()
    shown = False
    with announced(store.data_dir) as announcement:
        if not announcement.first:
            warn("another server of this data directory runs; `fazt net cache` goes on talking to that one")

        def ready(bound: Bound) -> None:
            nonlocal shown
            announcement.write(bound.admin_url, bound.pairs)
            shown = True
            _say_ready(store, bound, token, as_json=as_json)

        try:
            return run(context, host=chosen.host, port=chosen.port, ready=ready)
        finally:
            if token.created and not shown:  # it is printed once, also when the server could not start
                say(f"admin token: {token.value}", err=True)


def _say_ready(store: Store, bound: Bound, token: AdminToken, *, as_json: bool) -> None:
    from fazt.server.serve import describe
    from fazt.stores.sqlite.token import FILE as TOKEN_FILE

    apps = [info for info in store.apps.list() if info.deployment is not None]
    if as_json:
        document: dict[str, Any] = {
            "port": bound.port,
            "url": bound.admin_url,
            "apps": [{"id": info.id, "name": info.name, "url": bound.app_url(info.name)} for info in apps],
            "pid": os.getpid(),
        }
        if token.created:
            document["adminToken"] = token.value
        print_json(document, indent=False)
        return
    for line in describe(bound, [info.name for info in apps]):
        say(line)
    if token.created:
        say(f"admin token: {token.value}  (shown this once; kept in {store.data_dir / TOKEN_FILE})")
