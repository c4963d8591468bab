"""`audio-proxy connections`: who is connected, and the switch of each."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from proxy.commands.admin_port import AdminPort
from proxy.commands.options import options_of
from proxy.commands.words import (
    NOTHING,
    Column,
    Record,
    console,
    duration,
    plain,
    saved,
    size,
    table,
)
from proxy.config import AdminSettings, load
from proxy.errors import ConfigError

app = typer.Typer(
    help="Show the WebSockets that are open, or switch one of them.", invoke_without_command=True
)


@app.callback()
@options_of(AdminSettings)
def connections(
    context: typer.Context,
    sort: Annotated[
        str | None,
        typer.Option(
            help="since, path, address, algorithm, format, chunks, compressed, original_bytes, "
            "wire_bytes, saved_bytes, last_chunk, backlog_bytes or rtt_ms. Default: since."
        ),
    ] = None,
    order: Annotated[str | None, typer.Option(help="asc or desc. Default: desc.")] = None,
    limit: Annotated[int | None, typer.Option(help="How many, 1 to 500. Default: 100.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="Only those that get it now.")] = None,
    audio: Annotated[
        str | None, typer.Option("--format", help="Only those whose backend sends it.")
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="Only those whose path fits, such as '/ws/*'.")
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Those too that did not opt in.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    **options: str | None,
) -> None:
    """Show the WebSockets that are open on the whole fleet, or switch one of them."""
    given = {
        "sort": sort,
        "order": order,
        "limit": limit,
        "algorithm": algorithm,
        "format": audio,
        "path": path,
    }
    query = {name: value for name, value in given.items() if value is not None}
    if context.invoked_subcommand is not None:
        if query or everyone or as_json:
            raise ConfigError("connections on, off: they take an ID, and no choice of rows")
        context.obj = options
        return
    if not everyone:
        query["opted_in"] = "true"
    port = AdminPort(load(AdminSettings, options))
    answer = port.get(f"/connections?{urlencode(query)}", ("connections", "total", "unreachable"))
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        show(answer)


@app.command("on")
@options_of(AdminSettings)
def on(
    context: typer.Context,
    identity: Annotated[str, typer.Argument(metavar="ID")],
    **options: str | None,
) -> None:
    """Compress again what one connection gets."""
    _switch(context, identity, options, enabled=True)


@app.command("off")
@options_of(AdminSettings)
def off(
    context: typer.Context,
    identity: Annotated[str, typer.Argument(metavar="ID")],
    **options: str | None,
) -> None:
    """Send one connection what the backend sent, until it is switched on again."""
    _switch(context, identity, options, enabled=False)


def _switch(
    context: typer.Context, identity: str, options: Mapping[str, Any], *, enabled: bool
) -> None:
    """Options may stand before the word too."""
    given = {name: value for name, value in options.items() if value is not None}
    port = AdminPort(load(AdminSettings, {**context.obj, **given}))
    row = port.patch(f"/connections/{quote(identity, safe='')}", {"enabled": enabled})
    print(f"{row['id']} is {'on' if row['enabled'] else 'off'}")


def show(answer: Record) -> None:
    """A page of them; machines whose rows are missing on standard error."""
    rows, total = answer["connections"], answer["total"]
    is_cut = f", the first {len(rows):,} of them" if len(rows) < total else ""
    title = f"{total:,} connection{'' if total == 1 else 's'}{is_cut}"
    terminal = console()
    terminal.print(table(title, _columns(time.time()), rows, terminal.width))
    for machine in answer["unreachable"]:
        print(
            f"{plain(machine)} does not answer: its connections are not among them", file=sys.stderr
        )


def _columns(now: float) -> tuple[Column, ...]:
    def ago(row: Record, key: str) -> str:
        return NOTHING if row[key] is None else duration(now - row[key])

    return (
        Column("id", itemgetter("id"), "word"),
        Column("machine", itemgetter("machine"), "text", spare=4),
        Column("path", itemgetter("path"), "text"),
        Column("client", partial(_known, key="address"), "word", spare=3),
        Column("state", _state, "word"),
        Column("as", partial(_known, key="algorithm"), "word"),
        Column("format", partial(_known, key="format"), "word", spare=1),
        Column("chunks", _chunks, spare=5),
        Column("bytes", lambda row: size(row["original_bytes"])),
        Column("saved", _share),
        Column("backlog", lambda row: size(row["backlog_bytes"]), spare=7),
        Column("rtt", _rtt, spare=2),
        Column("last chunk", partial(ago, key="last_chunk"), spare=6),
        Column("open for", partial(ago, key="since")),
    )


def _known(row: Record, key: str) -> str:
    return NOTHING if row[key] is None else str(row[key])


def _state(row: Record) -> str:
    """`left out`: by the flag rollout_percent."""
    if not row["opted_in"]:
        return "plain"
    if not row["enabled"]:
        return "off"
    return "on" if row["in_rollout"] else "left out"


def _share(row: Record) -> str:
    return saved(row["original_bytes"], row["original_bytes"] - row["saved_bytes"])


def _chunks(row: Record) -> str:
    return NOTHING if row["chunks"] is None else f"{row['chunks']:,}"


def _rtt(row: Record) -> str:
    return NOTHING if row["rtt_ms"] is None else f"{row['rtt_ms']:.0f} ms"
