"""`fazt download`: files to disk, verified, resumed where they broke off."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from fazt.cli.options import (
    app_option,
    data_option,
    header_options,
    json_option,
    net_options,
    opened_for,
    read_stdin,
    settings,
)
from fazt.cli.output import examples, note, plural, print_json, printable, say, say_refused, size, warn
from fazt.errors import ConfigError, Reason, StoreError

if TYPE_CHECKING:
    from fazt.cli.manifest import Entry
    from fazt.client.download_error import DownloadError
    from fazt.client.download_plan import Download, Plan
    from fazt.config import Settings
    from fazt.stores.sqlite.store import Store

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_EXPLAINED = frozenset({"policy", "network", "timeout", "http", "read"})
"""Kinds of failure that the record of the call says more about."""
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", re.IGNORECASE)


def _bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Read a number of bytes: `500000`, `512K`, `20M`, `2G` (powers of 1,024)."""
    if value is None:
        return None
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(f"{value!r} is no number of bytes; 500000, 512K, 20M, 2G are")
    return int(found[1]) * _UNITS[found[2].upper()]


@click.command(
    epilog=examples(
        "fazt download https://example.com/data.tar.gz",
        "fazt download https://example.com/model.bin -o models/ --sha256 "
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "fazt download --manifest files.txt -o data/ --jobs 8 --rate-limit 20M",
    )
)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("-o", "--output", metavar="PATH|DIR", help="The file; or a directory for files named as in their URLs.")
@click.option("--sha256", metavar="HEX", help="SHA-256 that the one file must have.")
@click.option("--resume/--no-resume", default=True, help="Go on where an earlier try broke off (default).")
@click.option("--overwrite/--no-overwrite", default=True, help="Replace files that are there (default).")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Files at once.")
@click.option(
    "--manifest",
    metavar="FILE",
    help="List of files, - for stdin: lines of URL [NAME] [SHA256], or JSON objects with url, name, sha256.",
)
@click.option("--rate-limit", metavar="BYTES", callback=_bytes, help="Most bytes per second, all files together.")
@click.option("--max-bytes", metavar="BYTES", callback=_bytes, help="Refuse a file that is larger.")
@click.option("--retries", type=click.IntRange(0, 100), default=0, help="How often to try again, going on by range.")
@click.option("--timeout", "timeout_ms", type=click.IntRange(min=1), metavar="MS", help="Time limit of each file.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME: VALUE", help="Header field. Repeatable.")
@click.option("--auth", metavar="NAME", help="Send this secret along.")
@app_option
@net_options
@json_option
@data_option
@click.pass_context
def download(ctx: click.Context, /, urls: tuple[str, ...], **options: Any) -> int:
    """Download files, as an app or (without --app) as the operator.

    Each grows in a hidden .NAME.fazt-part beside it and gets its name when it is whole and verified; Ctrl-C leaves a
    part that the same command goes on with. With --no-overwrite a file that is there is kept: it counts as done when
    it has the SHA-256, and as a failure otherwise. At most 4 files come from one host at once.

    A line of a manifest is URL [NAME] [SHA256], separated by spaces; NAME is below the output directory, - takes it
    from the URL; # begins a comment. A line that begins with { is a JSON object with url, name and sha256.

    BYTES take K, M and G. Exit code 0 when every file is there, 2 when a call was refused or failed, 1 when a file
    cannot be written.
    """
    chosen = settings(ctx, options["data"], resolve=options["resolve"], ca_files=options["ca_files"])
    entries = _entries(urls, options)
    plans = _plans(entries, options)
    with opened_for(chosen) as store:
        found = _fetch(store, chosen, plans, options)
    return _say(entries, found, as_json=options["as_json"], several=len(urls) != 1 or options["manifest"] is not None)


def _entries(urls: Sequence[str], options: dict[str, Any]) -> list[Entry]:
    """Return the files that the command line and the list name."""
    from fazt.cli.manifest import Entry, read_manifest

    found = [Entry(url) for url in urls]
    manifest = options["manifest"]
    if manifest == "-":
        found += read_manifest(read_stdin().decode("utf-8", "replace").splitlines(), where="stdin")
    elif manifest is not None:
        try:
            with open(manifest, encoding="utf-8") as file:
                found += read_manifest(file, where=printable(manifest))
        except (OSError, UnicodeDecodeError) as fault:
            why = fault.strerror if isinstance(fault, OSError) else "it is not UTF-8"
            raise ConfigError(f"cannot read {manifest!r}: {why}") from None
    if not found:
        raise ConfigError("there is nothing to download", hint="fazt download URL, or --manifest FILE")
    if options["sha256"] is not None:
        if len(found) > 1:
            raise ConfigError("--sha256 is for one file", hint="a manifest names the SHA-256 of each")
        found = [replace(found[0], sha256=options["sha256"])]
    return found


def _plans(entries: Sequence[Entry], options: dict[str, Any]) -> list[Plan]:
    """Return what is asked for, with a place for each file."""
    from fazt.client.download_pace import Pacer
    from fazt.client.download_plan import Plan
    from fazt.client.paths import name_from
    from fazt.core.retry import RetryPolicy

    output = options["output"]
    if output in ("", "-"):
        raise ConfigError("-o takes a file or a directory", hint="fazt fetch URL prints a body on stdout")
    several = len(entries) > 1 or options["manifest"] is not None
    folder = output if several or output is None or output.endswith("/") or os.path.isdir(output) else None
    rate, timeout, retries = options["rate_limit"], options["timeout_ms"], options["retries"]
    if rate == 0:
        raise ConfigError("--rate-limit 0 would never end")
    pacer = None if rate is None else Pacer(rate)
    taken: set[str] = set()
    plans = []
    for entry in entries:
        root = None
        dest = output
        if folder is not None or output is None:
            dest = os.path.join(folder or "", entry.name or name_from(entry.url))
            root = (folder or ".") if entry.name is not None else None
        if os.path.abspath(dest) in taken:
            raise ConfigError(f"two files would be called {dest!r}", hint="a manifest gives each a name of its own")
        taken.add(os.path.abspath(dest))
        try:
            plan = Plan(
                entry.url,
                dest,
                sha256=entry.sha256,
                resume=options["resume"],
                overwrite=options["overwrite"],
                max_bytes=options["max_bytes"],
                headers=header_options(options["headers"]),
                secret=options["auth"],
                deadline=None if timeout is None else timeout / 1000,
                retry=RetryPolicy(attempts=retries + 1) if retries else None,
                root=root,
                pacer=pacer,
            )
        except ValueError as wrong:
            raise ConfigError(str(wrong)) from None
        plans.append(plan)
    return plans


def _fetch(
    store: Store, chosen: Settings, plans: Sequence[Plan], options: dict[str, Any]
) -> list[Download | DownloadError]:
    import asyncio

    from fazt.app import engine_for, listeners
    from fazt.cli.admin import running
    from fazt.cli.transfers import shown
    from fazt.client.download import at_once
    from fazt.client.download_drivers import arun
    from fazt.core import profiles

    name = options["app_name"]
    meta = None if name is None else store.apps.find(name)
    app = "" if name is None else meta.id if meta is not None else name  # an unknown one is refused as such
    server = running(chosen.data)
    outcome: list[list[Download | DownloadError]] = []

    async def run(begin: Callable[[str], Any]) -> None:
        async with engine_for(store, chosen) as engine:
            if server is not None:
                engine.wire.own_listeners = listeners(server.listeners)  # type: ignore[attr-defined]
            limits = engine.policies.current.limits_for(app)
            profile = replace(profiles.client(limits), door="cli")

            async def one(plan: Plan) -> Download:
                told = replace(plan, progress=begin(os.path.basename(str(plan.dest))))
                return await arun(engine, told, profile=profile, app=app, door="cli")

            work = [(plan.url, lambda plan=plan: one(plan)) for plan in plans]
            outcome.append(await at_once(work, jobs=options["jobs"], per_host=4))

    try:
        with shown(quiet=False) as begin:
            asyncio.run(run(begin))
    except KeyboardInterrupt:
        note("what came is kept where it can be gone on with: run the same command again")
        raise
    except StoreError as fault:
        if not outcome:
            raise
        warn(f"the files were downloaded but the calls could not be logged: {fault.message}")
    return outcome[0]


def _say(entries: Sequence[Entry], found: Sequence[Download | DownloadError], *, as_json: bool, several: bool) -> int:
    """Print what became of each file; return the exit code."""
    from fazt.client.download_error import LOCAL, DownloadError

    documents: list[dict[str, Any]] = []
    failed: list[DownloadError] = []
    for entry, one in zip(entries, found, strict=True):
        if isinstance(one, DownloadError):
            failed.append(one)
            documents.append({"error": one.public()} | ({"url": entry.url} if several else {}))
            _say_failed(one, entry, several=several)
        else:
            documents.append(one.public())
            if not as_json:
                say(printable(str(one.path)))
            _say_done(one)
    if as_json:
        print_json(documents if several else documents[0])
    if several and failed:
        note(f"{plural(len(failed), 'file')} of {len(found)} failed")
    if not failed:
        return 0
    return 1 if all(one.kind in LOCAL or one.reason is Reason.PATH_REFUSED for one in failed) else 2


def _say_done(one: Download) -> None:
    how = [size(one.bytes)]
    if one.resumed:
        how.append("resumed")
    if one.sha256 is not None:
        how.append("SHA-256 verified")
    if one.status == 0:
        how.append("it was there already")
    note(f"{printable(one.path.name)}: {', '.join(how)}")


def _say_failed(error: DownloadError, entry: Entry, *, several: bool) -> None:
    if several:
        say(printable(error.url or entry.url), err=True)
    say_refused(error)
    if error.path and error.kind not in ("policy", "network"):
        note(f"the file was to be {printable(error.path)}")
    if error.kept:
        note(f"{size(error.kept)} are kept: the same command goes on from there")
    if error.retry_after is not None:
        note(f"it may succeed in {error.retry_after:.1f} s")
    if error.call_id and error.kind in _EXPLAINED and error.reason is not Reason.PATH_REFUSED:
        say(f"why: fazt explain {error.call_id}", err=True)
