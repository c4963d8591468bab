"""`audio-proxy status`: what a proxy, or a fleet of them, does and saves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

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
from proxy.errors import AudioProxyError, ConfigError

INTERVAL = 1.0
"""Seconds between two looks."""

_STATS_KEYS = ("wire_bytes", "flags_error", "store", "chunks", "machines", "workers")
_FLAGS_KEYS = ("enabled", "shadow", "rollout_percent", "revision", "changed_by")


@dataclass(frozen=True)
class Look:
    """What a proxy said of itself, and when: a point of the monotonic clock."""

    at: float
    stats: Record
    flags: Record
    not_ready: str | None

    @classmethod
    def take(cls, port: AdminPort) -> Look:
        """Ask. Raises AudioProxyError."""
        stats = port.get("/stats", _STATS_KEYS)
        return cls(time.monotonic(), stats, port.get("/flags", _FLAGS_KEYS), port.ready())

    @property
    def problems(self) -> list[str]:
        """What is wrong, each once."""
        store = self.stats["store"]
        found = [self.not_ready]
        if store["state"] != "connected":
            found.append(f"store: {store['kind']} is {store['state']}: {store['error']}")
        else:
            found.append(self.stats["flags_error"])
        found += [
            f"store: {machine['machine']} is {machine['store']}"
            for machine in self.stats["machines"]
            if machine["store"] != "connected" and not machine["is_self"]
        ]
        return list(dict.fromkeys(problem for problem in found if problem))


def rates(before: Look, now: Look) -> tuple[float, float] | None:
    """Bytes a second on opted-in connections between two looks: what they would have been, and
    what they were. None where that cannot be said, as a machine has left the fleet
    or was started anew."""
    seconds = now.at - before.at
    original, wire = (
        now.stats[key] - before.stats[key] for key in ("wire_original_bytes", "wire_bytes")
    )
    if seconds <= 0 or original < 0 or wire < 0:
        return None
    return original / seconds, wire / seconds


@options_of(AdminSettings)
def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Once a second, with rates, until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    **options: str | None,
) -> None:
    """Show what a running proxy, or its whole fleet, does and saves.

    Exit status 1 where something is wrong: it is not ready, its flags were not taken, or their
    store is away.
    """
    if watch and as_json:
        raise ConfigError("--watch is for people and --json for programs: one of them")
    port = AdminPort(load(AdminSettings, options))
    look = Look.take(port)
    if watch:
        _watch(port, look)
        return
    if as_json:
        answer = {"stats": look.stats, "flags": look.flags, "problems": look.problems}
        print(json.dumps(answer, indent=2))
    else:
        terminal = console()
        terminal.print(picture(look, terminal.width))
        for line in warnings(look.problems):
            terminal.print(line, soft_wrap=True)
    if look.problems:
        raise typer.Exit(1)


def _watch(port: AdminPort, look: Look) -> None:
    """Show it anew until Ctrl-C. A proxy that is away may come back: what it said last stays."""
    terminal = console()
    rate: tuple[float, float] | None = None
    problems = look.problems
    try:
        with Live(console=terminal, auto_refresh=False) as live:
            while True:
                live.update(
                    Group(*warnings(problems), picture(look, terminal.width, rate)), refresh=True
                )
                time.sleep(INTERVAL)
                try:
                    before, look = look, Look.take(port)
                except AudioProxyError as error:
                    rate, problems = None, [str(error)]
                else:
                    rate, problems = rates(before, look), look.problems
    except KeyboardInterrupt:
        return


def warnings(problems: list[str]) -> list[Text]:
    """A line for each."""
    return [Text.assemble(("problem: ", "bold red"), plain(problem)) for problem in problems]


def picture(look: Look, width: int, rate: tuple[float, float] | None = None) -> RenderableType:
    """All that is shown of it, in `width` columns."""
    stats = look.stats
    tables = (
        _savings("algorithm", stats["by_algorithm"], width),
        _savings("format", stats["by_format"], width),
        _outcomes(stats["chunks"], width),
        table("machines", _MACHINES, stats["machines"], width),
        table("workers", _WORKERS, stats["workers"], width),
    )
    below = (part for each in tables if each.row_count for part in (Text(), each))
    return Group(_overview(look, rate), *below)


def _overview(look: Look, rate: tuple[float, float] | None) -> Table:
    shown = Table(title="audio-proxy", show_header=False)
    if rate is not None:
        original, wire = rate
        share = f" ({saved(original, wire)} saved)" if original else ""
        shown.add_row("traffic now", f"{size(original)}/s, sent as {size(wire)}/s{share}")
    for name, value in _facts(look.stats, look.flags):
        shown.add_row(name, plain(value))
    return shown


def _facts(stats: Record, flags: Record) -> Iterator[tuple[str, str]]:
    original, wire = stats["wire_original_bytes"], stats["wire_bytes"]
    store = stats["store"]
    yield "compression", _switch(flags)
    by = f", by {flags['changed_by']}" if flags["changed_by"] else ""
    yield "flags", f"revision {flags['revision']}{by}"
    yield "store", f"{store['kind']}, {store['state']}"
    yield "tunnels", f"{stats['tunnels']:,}"
    yield "chunks compressed", f"{stats['total_compressed']:,}"
    yield "not worth compressing", f"{stats['no_gain']:,}"
    yield "codec errors", f"{stats['errors']:,}"
    yield "opted-in traffic", f"{original:,} bytes"
    yield "sent", f"{wire:,} bytes"
    share = f" ({saved(original, wire)})" if original else ""
    yield "saved", f"{original - wire:,} bytes{share}"
    if stats["shadow_saved_bytes"]:
        yield "saved, had shadow been off", f"{stats['shadow_saved_bytes']:,} bytes"
    yield "up for", duration(stats["uptime_seconds"])


def _switch(flags: Record) -> str:
    """What is on, and for whom."""
    if not flags["enabled"]:
        return "off"
    limits = ["shadow: what came is sent"] if flags["shadow"] else []
    if flags["rollout_percent"] < 100:
        limits.append(f"for {flags['rollout_percent']:g} % of those who ask")
    return ", ".join(["on", *limits])


def _savings(of: str, totals: Mapping[str, Record], width: int) -> Table:
    records = [{"name": name, **total} for name, total in totals.items()]
    return table(
        f"by {of}",
        (Column(of, itemgetter("name"), "text"), *_SAVINGS),
        (record for record in records if record["total_compressed"]),
        width,
    )


def _outcomes(chunks: Mapping[str, Mapping[str, int]], width: int) -> Table:
    """An outcome on each row, an algorithm in each column; what never happened is left out."""
    algorithms = [name for name, counts in chunks.items() if any(counts.values())]
    outcomes = dict.fromkeys(
        outcome for name in algorithms for outcome, count in chunks[name].items() if count
    )
    numbers = [
        Column("not tried" if name == "none" else name, partial(_count, name=name))
        for name in algorithms
    ]
    records = (
        {
            "outcome": outcome.replace("_", " "),
            **{name: chunks[name].get(outcome) for name in chunks},
        }
        for outcome in outcomes
    )
    return table(
        "chunks", (Column("outcome", itemgetter("outcome"), "text"), *numbers), records, width
    )


def _count(record: Record, name: str) -> str:
    return "" if record[name] is None else f"{record[name]:,}"


def _share(record: Record) -> str:
    return saved(record["wire_original_bytes"], record["wire_bytes"])


def _state(record: Record) -> Text:
    """In words: a colour alone would say nothing to some."""
    if record.get("store", "connected") != "connected":
        return Text("store away", style="bold red")
    if record["draining"]:
        return Text("draining", style="yellow")
    return Text("serving", style="green")


def _heard(machine: Record) -> str:
    return NOTHING if machine["is_self"] else f"{machine['age_seconds']:.1f} s ago"


_SAVINGS = (
    Column("chunks", partial(_count, name="total_compressed")),
    Column("bytes before", partial(_count, name="total_original_bytes")),
    Column("after", partial(_count, name="total_compressed_bytes")),
    Column(
        "saved", lambda each: saved(each["total_original_bytes"], each["total_compressed_bytes"])
    ),
)
_MACHINES = (
    Column("machine", itemgetter("machine"), "text"),
    Column("state", _state, "word"),
    Column("workers", partial(_count, name="workers")),
    Column("tunnels", partial(_count, name="tunnels")),
    Column("saved", _share),
    Column("errors", partial(_count, name="errors")),
    Column("restarts", partial(_count, name="worker_restarts")),
    Column("revision", itemgetter("flags_revision"), spare=1),
    Column("heard", _heard, spare=2),
    Column("version", itemgetter("version"), "word", spare=3),
)
_WORKERS = (
    Column("machine", itemgetter("machine"), "text"),
    Column("pid", itemgetter("pid")),
    Column("state", _state, "word"),
    Column("tunnels", partial(_count, name="tunnels")),
    Column("chunks", partial(_count, name="total_compressed")),
    Column("saved", _share),
    Column("errors", partial(_count, name="errors"), spare=1),
    Column("backlog", lambda worker: size(worker["backlog_bytes"])),
    Column("up", lambda worker: duration(worker["uptime_seconds"])),
)
