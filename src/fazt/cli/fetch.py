"""`fazt fetch`: one call through the whole pipeline."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import click

from fazt.cli.options import (
    app_option,
    body_option,
    data_option,
    header_options,
    json_option,
    net_options,
    opened_for,
    settings,
)
from fazt.cli.output import examples, note, print_body, print_json, printable, say, say_refused, warn
from fazt.errors import ConfigError, FaztError, StoreError

if TYPE_CHECKING:
    from fazt.config import Settings
    from fazt.core.call import Request, Response
    from fazt.stores.sqlite.store import Store


@click.command(
    epilog=examples(
        "fazt fetch https://api.github.com/zen",
        "fazt fetch https://api.example.com/v1/orders --app shop --auth SHOP_KEY --json",
        "fazt fetch https://api.example.com/v1/orders -H 'content-type: application/json' -d @order.json -i",
        "fazt fetch https://api.example.com/logo.png -o logo.png",
    )
)
@click.argument("url")
@app_option
@click.option("-X", "--method", metavar="M", help="Method (GET, or POST with -d).")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME: VALUE", help="Header field. Repeatable.")
@click.option(
    "-d",
    "--body",
    metavar="BODY",
    help="Request body: text, @FILE, or @- for stdin. Sets no content-type.",
)
@click.option("--auth", metavar="NAME", help="Send this secret along.")
@click.option("--timeout", "timeout_ms", type=click.IntRange(min=1), metavar="MS", help="Time limit of the call.")
@click.option("-i", "--include", is_flag=True, help="Print status and header fields before the body.")
@click.option("-o", "--output", metavar="FILE", help="Write the body to a file.")
@net_options
@json_option
@data_option
@click.pass_context
def fetch(ctx: click.Context, /, url: str, **options: Any) -> int:
    """Make one call through the whole pipeline, as an app or (without --app) as the operator.

    Exit code 0 on a response of any status, 2 when the call is refused or fails. The body goes to stdout as it came;
    --json prints one document instead.
    """
    from fazt.core.call import Request

    chosen = settings(ctx, options["data"], resolve=options["resolve"], ca_files=options["ca_files"])
    fields = header_options(options["headers"])
    body = body_option(options["body"])
    method = options["method"] or ("GET" if body is None else "POST")
    with opened_for(chosen) as store:
        request = Request(
            url=url,
            method=method,
            headers=fields,
            body=body,
            timeout_ms=options["timeout_ms"],
            auth=options["auth"],
            app=_app(store, options["app_name"]),
            door="cli",
        )
        try:
            response = _call(store, chosen, request)
        except FaztError as refused:
            return _say_refused(refused, as_json=options["as_json"])
    _write(response, as_json=options["as_json"], include=options["include"], output=options["output"])
    return 0


def _app(store: Store, name: str | None) -> str:
    """Return the id to call as; an unknown name stays, and is refused as an app that does not exist."""
    if name is None:
        return ""
    meta = store.apps.find(name)
    return meta.id if meta is not None else name


def _call(store: Store, chosen: Settings, request: Request) -> Response:
    import asyncio

    from fazt.app import engine_for, listeners
    from fazt.cli.admin import running
    from fazt.core import profiles

    server = running(chosen.data)
    outcome: list[Response] = []

    async def run() -> None:
        async with engine_for(store, chosen) as engine:
            if server is not None:  # the server of this directory is no more to be reached from here than from an app
                engine.wire.own_listeners = listeners(server.listeners)  # type: ignore[attr-defined]
            limits = engine.policies.current.limits_for(request.app)
            outcome.append(await engine.call(request, profile=profiles.cli(limits)))

    try:
        asyncio.run(run())
    except StoreError as fault:
        if not outcome:
            raise
        warn(f"the call was made but could not be logged: {fault.message}")
    return outcome[0]


def _say_refused(refused: FaztError, *, as_json: bool) -> int:
    if as_json:
        print_json({"error": refused.public()})
    say_refused(refused)
    if refused.retry_after is not None:
        note(f"it may succeed in {refused.retry_after:.1f} s")
    if refused.call_id:
        say(f"why: fazt explain {refused.call_id}", err=True)
    return 2


def _write(response: Response, *, as_json: bool, include: bool, output: str | None) -> None:
    if output is not None and output != "-":
        try:
            with open(output, "wb") as file:
                file.write(response.body)
        except OSError as fault:
            raise ConfigError(f"cannot write the body to {output!r}: {fault.strerror}") from None
    if as_json:
        print_json(_document(response, body=output is None or output == "-"))
        return
    if include:
        say(_head(response))
    elif not response.ok:
        say(f"status {response.status}", err=True)
    if output is None or output == "-":
        print_body(response.body)


def _head(response: Response) -> str:
    from http import HTTPStatus

    phrase = HTTPStatus(response.status).phrase if response.status in set(HTTPStatus) else ""
    lines = [f"HTTP/1.1 {response.status} {phrase}".rstrip()]
    lines += [f"{printable(name)}: {printable(value)}" for name, value in response.headers]
    return "\n".join(lines) + "\n"


def _document(response: Response, *, body: bool) -> dict[str, Any]:
    first: dict[str, str] = {}
    every: dict[str, list[str]] = {}
    for name, value in response.headers:
        first.setdefault(name.lower(), value)
        every.setdefault(name.lower(), []).append(value)
    found: dict[str, Any] = {
        "status": response.status,
        "ok": response.ok,
        "url": str(response.url),
        "headers": first,
        "headersAll": every,
    }
    if body:
        try:
            found["body"] = response.body.decode("utf-8")
        except UnicodeDecodeError:
            found["bodyBase64"] = base64.b64encode(response.body).decode()
    found["callId"] = response.call_id
    found["redirects"] = [{"status": hop.status, "url": hop.url} for hop in response.redirects]
    return found
