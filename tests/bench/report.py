"""What was measured, as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.bench import peers
from tests.bench.criteria import Criterion, criteria
from tests.bench.measure import Ceiling, Crowd, Paced, Result, Watched, Workers
from tests.bench.results import (
    DIRECT,
    GZIP,
    ONE_WORKER,
    Results,
    Rounds,
    better_nginx,
    median,
    median_added,
    ratio,
)
from tests.bench.run import CHUNK, Plan

_WIDE = 160
"""Columns where no terminal limits them."""
_PACKAGES = ("aiohttp", "av", "h11", "isal", "uvloop", "websockets")
LATENCIES = ("p50_us", "p99_us", "p999_us")
NOTHING = "-"


def machine() -> dict[str, Any]:
    """Where it was measured, and with what."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "peers": peers.versions(),
        "packages": found,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def as_json(results: Results, plan: Plan) -> str:
    """For programs. Times are in microseconds, sizes in bytes, shares between 0 and 1.

    - `machine`, `plan`
    - `rounds`: by kind: every figure of every round (`bulk` by size and mode, `codec` by size,
      `paced` by connections and mode, `memory` and `handshakes` by mode, `workers` by their
      number); `crowd`, measured once, with its memory over time, and `ceiling`, by mode
    - `medians`: the same shape, each figure's median over the rounds; in `bulk`, `paced` and
      `handshakes` with `cpu_to_nginx`, the median of the rounds' ratios to nginx's better
      configuration; in `paced` with `added_p50_us`, `added_p99_us`, `added_p999_us`: less the
      direct way's of the same round; in `workers` with `cpu_to_one`
    - `criteria`: `point` of the issue, `name`, `measured`, `limit`, `unit`, `at_least` (else at
      most), `is_met`
    - `rounds.failed`: what could not be measured, and why; it is nowhere else

    A figure that is not a number is null.
    """
    record = {
        "machine": machine(),
        "plan": asdict(plan),
        "rounds": asdict(results),
        "medians": _medians(results),
        "criteria": [{**asdict(one), "is_met": one.is_met} for one in criteria(results)],
    }
    return json.dumps(_rounded(record), indent=1, allow_nan=False)


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
        case float():
            return round(value, 4) if math.isfinite(value) else None
        case _:
            return value


def _medians(results: Results) -> dict[str, Any]:
    return {
        "bulk": {size: _compared(rounds) for size, rounds in results.bulk.items()},
        "codec": {size: _median(found) for size, found in results.codec.items()},
        "paced": {
            count: {
                mode: {**found, **_added(rounds, mode)} for mode, found in _compared(rounds).items()
            }
            for count, rounds in results.paced.items()
        },
        "paced_codec": _median(results.paced_codec),
        "memory": {mode: _median(found) for mode, found in results.memory.items()},
        "handshakes": _compared(results.handshakes),
        "workers": {
            name: {**_median(found), "cpu_to_one": _to_one(results.workers, name)}
            for name, found in results.workers.items()
        },
    }


def _median(found: Sequence[Result]) -> dict[str, float]:
    return {name: median(found, name) for name in asdict(found[0])} if found else {}


def _compared(rounds: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, float]]:
    return {
        mode: {**_median(found), "cpu_to_nginx": to_nginx(rounds, mode)}
        for mode, found in rounds.items()
    }


def to_nginx(rounds: Mapping[str, Sequence[Result]], mode: str) -> float:
    """CPU as a share of nginx's; not a number where there is none of either."""
    nginx = better_nginx(rounds, "cpu_us")
    if nginx is None or mode == DIRECT:
        return math.nan
    return ratio(rounds[mode], rounds[nginx], "cpu_us")


def _to_one(rounds: Mapping[str, Sequence[Workers]], name: str) -> float:
    return ratio(rounds[name], rounds[ONE_WORKER], "cpu_us")


def _added(rounds: Mapping[str, Sequence[Paced]], mode: str) -> dict[str, float]:
    return {f"added_{name}": median_added(rounds, mode, name) for name in LATENCIES}


def print_tables(results: Results, plan: Plan, console: Console) -> None:
    """For people."""
    if not console.is_terminal:
        console.width = _WIDE
    where = machine()
    console.print(
        Text(
            f"{where['cpu']}, {where['cores']} cores, Linux {where['kernel']}, "
            f"Python {where['python']}. Medians of {plan.rounds} interleaved rounds."
        )
    )
    for size, bulk in results.bulk.items():
        console.print(_bulk(results, size, bulk))
    for count, paced in results.paced.items():
        console.print(_paced(count, paced))
    if results.memory:
        console.print(_memory(results))
    if results.handshakes:
        console.print(_handshakes(results))
    if results.workers:
        console.print(_workers(results.workers))
    if results.crowd is not None:
        console.print(_crowd(results.crowd))
        console.print(_crowd_cost(results.crowd))
    if results.watched:
        console.print(_watched(results.watched))
    if results.ceiling:
        console.print(_ceiling(results.ceiling))
    if found := criteria(results):
        console.print(_criteria(found))
    for problem in results.failed.values():
        console.print(Text(f"Failed: {problem}", style="red"))


def _table(title: str, *columns: str) -> Table:
    """The first column is text, the others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(columns[0], style="bold", no_wrap=True)
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _figure(value: float, digits: int = 1) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else NOTHING


def _rows(table: Table, modes: Iterable[str], cells: Callable[[str], list[str]]) -> Table:
    for mode in modes:
        table.add_row(mode, *cells(mode))
    return table


def _bulk(results: Results, size: int, rounds: Mapping[str, Sequence[Result]]) -> Table:
    table = _table(
        f"In bulk, messages of {size:,} bytes",
        *("", "messages/s", "MB/s", "CPU µs/message", "÷ nginx", "peer busy"),
    )

    def cells(mode: str) -> list[str]:
        found = rounds[mode]
        has_cpu = mode != DIRECT
        return [
            _figure(median(found, "per_second"), 0),
            _figure(median(found, "megabytes_per_second"), 0),
            _figure(median(found, "cpu_us"), 2) if has_cpu else NOTHING,
            _figure(to_nginx(rounds, mode), 2),
            f"{median(found, 'busy'):.0%}" if has_cpu else NOTHING,
        ]

    _rows(table, rounds, cells)
    bare = _figure(median(results.codec[size], "cpu_us"), 2)
    table.add_row("bare gzip", NOTHING, NOTHING, bare, NOTHING, NOTHING)
    return table


def _paced(count: int, rounds: Mapping[str, Sequence[Paced]]) -> Table:
    table = _table(
        f"At speech pace, {count} connections, chunks of {CHUNK:,} bytes; "
        f"latency is what is added to {DIRECT}'s",
        *("", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/chunk", "÷ nginx", "load busy"),
    )

    def cells(mode: str) -> list[str]:
        found = rounds[mode]
        if mode == DIRECT:
            times = [_figure(median(found, name), 0) for name in LATENCIES]
        else:
            times = [_figure(median_added(rounds, mode, name), 0) for name in LATENCIES]
        return [
            *times,
            _figure(median(found, "cpu_us")) if mode != DIRECT else NOTHING,
            _figure(to_nginx(rounds, mode), 2),
            f"{median(found, 'load_busy'):.0%}",
        ]

    return _rows(table, rounds, cells)


def _memory(results: Results) -> Table:
    table = _table("Memory per connection", "", "idle KiB", "speaking KiB", "who speak")

    def cells(mode: str) -> list[str]:
        found = results.memory[mode]
        sizes = [_figure(median(found, name) / 1024) for name in ("idle", "speaking")]
        return [*sizes, f"{found[0].speakers}"]

    return _rows(table, results.memory, cells)


def _handshakes(results: Results) -> Table:
    table = _table("Handshakes", "", "per second", "CPU µs", "÷ nginx")
    rounds = results.handshakes

    def cells(mode: str) -> list[str]:
        found = rounds[mode]
        return [
            _figure(median(found, "per_second"), 0),
            _figure(median(found, "cpu_us"), 0) if mode != DIRECT else NOTHING,
            _figure(to_nginx(rounds, mode), 2),
        ]

    return _rows(table, rounds, cells)


def _workers(rounds: Mapping[str, Sequence[Workers]]) -> Table:
    table = _table(
        f"Workers, gzip in bulk, chunks of {CHUNK:,} bytes, on any core, the load's too; "
        "CPU of all their processes",
        *("", "chunks/s", "CPU µs/chunk", "÷ 1 worker", "cores busy", "least worker"),
    )

    def cells(name: str) -> list[str]:
        found = rounds[name]
        return [
            _figure(median(found, "per_second"), 0),
            _figure(median(found, "cpu_us"), 2),
            _figure(_to_one(rounds, name), 3),
            _figure(median(found, "busy"), 2),
            f"{median(found, 'least'):.0%}",
        ]

    return _rows(table, rounds, cells)


def _crowd(crowd: Crowd) -> Table:
    table = _table(
        f"A crowd: {crowd.connections:,} connections, {crowd.speaking:,} of them at speech pace, "
        f"{crowd.chunks:,} chunks of {CHUNK:,} bytes; latency",
        *("", "p50 µs", "p99 µs", "p99.9 µs"),
    )
    straight = [crowd.direct_p50_us, crowd.direct_p99_us, crowd.direct_p999_us]
    through = [crowd.p50_us, crowd.p99_us, crowd.p999_us]
    added = [one - other for one, other in zip(through, straight, strict=True)]
    for name, times in ((DIRECT, straight), (GZIP, through), ("added", added)):
        table.add_row(name, *(_figure(each, 0) for each in times))
    return table


def _crowd_cost(crowd: Crowd) -> Table:
    settled = f"at {crowd.settled * crowd.interval:.0f} s"
    table = _table(
        "Its cost: resident memory of the worker while they speak, and CPU",
        *("", "MB at 0 s", f"MB {settled}", "MB, most later", "growth", "bytes"),
        *("CPU µs/chunk", "core busy", "waited", "load busy", "waited"),
    )
    memory, settled_bytes = crowd.memory, crowd.memory[crowd.settled]
    table.add_row(
        GZIP,
        _figure(memory[0] / 1e6),
        _figure(settled_bytes / 1e6),
        _figure((settled_bytes + crowd.growth_bytes) / 1e6),
        f"{crowd.growth:.2%}",
        f"{crowd.growth_bytes:,}",
        _figure(crowd.cpu_us),
        f"{crowd.busy:.0%}",
        f"{crowd.waited:.0%}",
        f"{crowd.load_busy:.0%}",
        f"{crowd.load_waited:.0%}",
    )
    return table


def _watched(rounds: Rounds[Watched]) -> Table:
    first = next(iter(rounds.values()))[0]
    table = _table(
        f"{first.connections:,} connections, {first.speaking:,} of them at speech pace, while the "
        "admin port is read or not; latency",
        *("", "readings/s", "p50 µs", "p99 µs", "p99.9 µs", "core busy"),
    )

    def cells(name: str) -> list[str]:
        found = rounds[name]
        times = [_figure(median(found, each), 0) for each in ("p50_us", "p99_us", "p999_us")]
        return [_figure(median(found, "readings")), *times, f"{median(found, 'busy'):.0%}"]

    return _rows(table, rounds, cells)


def _ceiling(ceilings: Mapping[str, Ceiling]) -> Table:
    table = _table(
        f"The most connections at speech pace on one core, chunks of {CHUNK:,} bytes",
        *("", "held", "more fail by", "p99 µs", "CPU µs/chunk", "core busy", "load busy"),
        "by CPU",
    )

    def cells(mode: str) -> list[str]:
        found = ceilings[mode]
        return [
            f"{found.speaking:,}",
            found.ended_by,
            _figure(found.p99_us, 0),
            _figure(found.cpu_us),
            f"{found.busy:.0%}",
            f"{found.load_busy:.0%}",
            _figure(found.by_cpu, 0),
        ]

    return _rows(table, ceilings, cells)


def _criteria(found: Sequence[Criterion]) -> Table:
    table = Table(title="Criteria", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("point")
    table.add_column("criterion", style="bold", overflow="fold")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("")
    for one in found:
        sign = "≥" if one.at_least else "≤"
        verdict = Text("met", "green") if one.is_met else Text("missed", "bold red")
        unit = f" {one.unit}" if one.unit else ""
        table.add_row(
            one.point,
            one.name,
            _figure(one.measured, 2) + unit,
            f"{sign} {_figure(one.limit, 2)}{unit}",
            verdict,
        )
    return table
