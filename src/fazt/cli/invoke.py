"""`fazt app invoke`: run the handler of an app once, without a server."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from fazt.cli.options import (
    body_option,
    complete_app,
    data_option,
    header_options,
    json_option,
    net_options,
    opened_for,
    settings,
)
from fazt.cli.output import examples, print_body, print_json, printable, say, sayable
from fazt.cli.stream import line_text
from fazt.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from fazt.config import Settings
    from fazt.functions.model import AppRequest, AppResponse, InvocationFailure
    from fazt.stores.sqlite.store import Store


@click.command(
    short_help="Run the handler of an app once.",
    epilog=examples(
        "fazt app invoke shop",
        "fazt app invoke shop '/api/orders?state=open' --json",
        "fazt app invoke shop /api/orders -H 'content-type: application/json' -d '{\"item\": 7}'",
    ),
)
@click.argument("name", shell_complete=complete_app)
@click.argument("path", default="/api/")
@click.option("-X", "--method", metavar="M", help="Method (GET, or POST with -d).")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME: VALUE", help="Header field. Repeatable.")
@click.option("-d", "--body", metavar="BODY", help="Request body: text, @FILE, or @- for stdin.")
@click.option("-i", "--include", is_flag=True, help="Print status and header fields before the body.")
@click.option("--engine", type=click.Choice(["wasm", "jsbox"]), help="JavaScript engine; by default the built one.")
@net_options
@json_option
@data_option
@click.pass_context
def invoke(ctx: click.Context, /, name: str, path: str, **options: Any) -> int:
    """Run the handler of an app once for PATH (/api/), under the limits and rules a request would have.

    Its console lines go to stderr and to the log. Exit code 0 on an answer of any status, 2 when the handler fails.
    """
    from fazt.functions.model import FailureKind, InvocationFailure

    chosen = settings(
        ctx,
        options["data"],
        resolve=options["resolve"],
        ca_files=options["ca_files"],
        engine=options["engine"],
    )
    fields = header_options(options["headers"])
    body = body_option(options["body"])
    request = _request(path, options["method"], fields, body)
    with opened_for(chosen) as store:
        about = store.apps.get(name)
        outcome = _run(store, chosen, about.id, request)
        for line in reversed(store.log.lines(app=about.id, invocation=request.id, limit=1000)):
            say(line_text(line, {about.id: about.name}), err=True)
        if isinstance(outcome, InvocationFailure):
            if outcome.kind is FailureKind.NO_HANDLER:
                raise NotFoundError(
                    f"{about.name} has no handler (api/main.js)", hint=f"fazt app deploy DIR --name {about.name}"
                )
            # as a server would write it down
            store.log.write_line(about.id, "error", outcome.said, ts=time.time(), invocation=request.id)
    return _say(outcome, as_json=options["as_json"], include=options["include"])


def _request(path: str, method: str | None, fields: tuple[tuple[str, str], ...], body: bytes | None) -> AppRequest:
    """Build a request as the server would from what came over the wire."""
    from fazt.functions.model import AppRequest
    from fazt.server.answers import RefusalError
    from fazt.server.bodies import parse, query_values
    from fazt.server.paths import canonical

    where, _, query = path.partition("?")
    headers: dict[str, str] = {}
    for key, value in fields:
        headers.setdefault(key.lower(), value)
    verb = (method or ("GET" if body is None else "POST")).upper()
    try:
        canon = canonical(where.encode())
        if not canon.is_api:
            raise ConfigError(
                f"{where!r} does not run the handler", hint=f"PATH begins with /api, as in /api{canon.text}"
            )
        parsed = parse(body or b"", headers.get("content-type")) if verb not in ("GET", "HEAD") else parse(b"", None)
        values = query_values(query.encode())
    except RefusalError as refused:
        raise ConfigError(f"the server would refuse this request: {refused.message} ({refused.code})") from None
    return AppRequest(
        method=verb,
        path=canon.text + ("/" if canon.slash else ""),
        query=values,
        headers=headers,
        body=parsed.body,
        files=parsed.files,
        id=f"r_{os.urandom(10).hex()}",
    )


def _run(store: Store, chosen: Settings, app_id: str, request: AppRequest) -> AppResponse | InvocationFailure:
    import asyncio
    from dataclasses import replace

    from fazt.app import functions_for

    async def run() -> AppResponse | InvocationFailure:
        async with functions_for(store, replace(chosen, workers=1), keep=False) as functions:
            return await functions.runtime.handle(app_id, request)

    return asyncio.run(run())


def _say(outcome: AppResponse | InvocationFailure, *, as_json: bool, include: bool) -> int:
    from fazt.functions.model import InvocationFailure

    if isinstance(outcome, InvocationFailure):
        net = outcome.net
        error: dict[str, Any] = {"kind": outcome.kind.value, "message": outcome.message}
        if net is not None:
            error |= {"code": net.code, "reason": net.reason, "callId": net.call_id}
        if as_json:
            print_json({"error": {**error, "retryable": outcome.retryable}})
        said = "\n".join(printable(line) for line in outcome.said.split("\n"))
        say(f"{sayable('failed:', 'red')} {said}", err=True)
        if net is not None and net.call_id:
            say(f"why: fazt explain {net.call_id}", err=True)
        return 2
    if as_json:
        headers: dict[str, list[str]] = {}
        for name, value in outcome.headers:
            headers.setdefault(name.lower(), []).append(value)
        print_json({"status": outcome.status, "headersAll": headers, **_body(outcome.body)})
        return 0
    if include:
        fields = [f"{printable(name)}: {printable(value)}" for name, value in outcome.headers]
        say("\n".join([f"HTTP/1.1 {outcome.status}", *fields, ""]))
    elif not 200 <= outcome.status <= 299:
        say(f"status {outcome.status}", err=True)
    print_body(outcome.body, kept_by="> FILE")
    return 0


def _body(raw: bytes) -> dict[str, Any]:
    import base64

    try:
        return {"body": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(raw).decode()}
