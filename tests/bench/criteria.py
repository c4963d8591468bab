"""What issue 4 asks to be seen, and whether it is (its points 1 to 6), and point 7 of issue 5."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.measure import Result
from tests.bench.peers import MODES
from tests.bench.results import (
    GZIP,
    ONE_WORKER,
    PROXY,
    TWO_WORKERS,
    UNWATCHED,
    WATCHED,
    Results,
    added_difference,
    added_ratio,
    better_nginx,
    median,
    ratio,
    values,
)

_OURS = [mode.name for mode in MODES if mode.peer == PROXY]

_CPU_RATIO = {1024: 1.0, 4096: 1.0, 16384: 0.8, 65536: 0.8}
"""To nginx, not opted in, by the bytes of a message."""
_PACED_CPU_RATIO = 1.2
_OWN_SHARE = 1.2
"""Of our own pass-through, on top of the bare codec."""
_P50_US = 50
_P99_RATIO = 1.25
_IDLE_KIB = 5
_IDLE_OPTED_IN_KIB = 8
_SPEAKING_KIB = 48
_HANDSHAKE_RATIO = 3
_CROWD_P99_US = 20_000
_GROWTH = 0.02
"""Of resident memory, once it has settled: an allocator's arenas still fill by that much."""
_WORKERS_CPU = 1.1
_WATCHED_P99_US = 5_000
_LOAD_BUSY = 0.5
_PROXY_BUSY = 0.95
_WAITED = 0.05
"""More, and somebody else was measured, too."""


@dataclass(frozen=True)
class Criterion:
    """One figure and its limit. One that is not a number is not met."""

    point: str
    """Of the issue; "-" where it says whether the other figures count."""
    name: str
    measured: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit


def criteria(results: Results) -> list[Criterion]:
    """Those for which enough was measured."""
    return [
        *_bulk(results),
        *_paced_cpu(results),
        *_gzip(results),
        *_latency(results),
        *_memory(results),
        *_handshakes(results),
        *_crowd(results),
        *_workers(results),
        *_watched(results),
        *_conditions(results),
    ]


def _bulk(results: Results) -> Iterator[Criterion]:
    for size, rounds in results.bulk.items():
        nginx = better_nginx(rounds, "cpu_us")
        if nginx is None or PROXY not in rounds:
            continue
        ours, theirs, limit = rounds[PROXY], rounds[nginx], _CPU_RATIO.get(size)
        of = f"{size:,} B"
        if limit is not None:
            cpu = ratio(ours, theirs, "cpu_us")
            yield Criterion("1", f"bulk {of}: CPU per message ÷ {nginx}", cpu, limit)
        speed = ratio(ours, theirs, "per_second")
        yield Criterion("1", f"bulk {of}: messages per second ÷ {nginx}", speed, 1, at_least=True)


def _paced_cpu(results: Results) -> Iterator[Criterion]:
    for connections, rounds in results.paced.items():
        nginx = better_nginx(rounds, "cpu_us")
        if nginx is not None and PROXY in rounds:
            cpu = ratio(rounds[PROXY], rounds[nginx], "cpu_us")
            name = f"paced {connections}: CPU per chunk ÷ {nginx}"
            yield Criterion("1", name, cpu, _PACED_CPU_RATIO)


def _gzip(results: Results) -> Iterator[Criterion]:
    for size, bulk in results.bulk.items():
        yield from _gzip_cpu(f"bulk {size:,} B", bulk, results.codec[size])
    for connections, paced in results.paced.items():
        yield from _gzip_cpu(f"paced {connections}", paced, results.paced_codec)


def _gzip_cpu(
    of: str, rounds: Mapping[str, Sequence[Result]], bare: Sequence[Result]
) -> Iterator[Criterion]:
    if GZIP in rounds and PROXY in rounds:
        limit = median(bare, "cpu_us") + _OWN_SHARE * median(rounds[PROXY], "cpu_us")
        cpu = median(rounds[GZIP], "cpu_us")
        name = f"{of}, gzip: CPU per chunk; bare + {_OWN_SHARE} of own pass-through"
        yield Criterion("2", name, cpu, limit, "µs")


def _latency(results: Results) -> Iterator[Criterion]:
    for connections, rounds in results.paced.items():
        nginx = better_nginx(rounds, "p50_us")
        if nginx is None:
            continue
        of = f"paced {connections}"
        if PROXY in rounds:
            p50 = added_difference(rounds, PROXY, nginx, "p50_us")
            yield Criterion("3", f"{of}: added latency p50 - {nginx}", p50, _P50_US, "µs")
            p99 = added_ratio(rounds, PROXY, nginx, "p99_us")
            yield Criterion("3", f"{of}: added latency p99 ÷ {nginx}", p99, _P99_RATIO)
        if GZIP in rounds:
            p50 = added_difference(rounds, GZIP, nginx, "p50_us")
            limit = _P50_US + median(results.paced_codec, "cpu_us")
            yield Criterion("3", f"{of}, gzip: added latency p50 - {nginx}", p50, limit, "µs")


def _memory(results: Results) -> Iterator[Criterion]:
    for mode in _OURS:
        if mode in results.memory:
            limit = _IDLE_KIB if mode == PROXY else _IDLE_OPTED_IN_KIB
            idle = median(results.memory[mode], "idle") / 1024
            yield Criterion("4", f"{mode}: memory per idle connection", idle, limit, "KiB")
            speaking = median(results.memory[mode], "speaking") / 1024
            name = f"{mode}: memory per speaking connection"
            yield Criterion("4", name, speaking, _SPEAKING_KIB, "KiB")


def _handshakes(results: Results) -> Iterator[Criterion]:
    rounds = results.handshakes
    nginx = better_nginx(rounds, "cpu_us")
    if nginx is not None and PROXY in rounds:
        cpu = ratio(rounds[PROXY], rounds[nginx], "cpu_us")
        yield Criterion("4", f"CPU per handshake ÷ {nginx}", cpu, _HANDSHAKE_RATIO)


def _crowd(results: Results) -> Iterator[Criterion]:
    crowd = results.crowd
    if crowd is not None:
        of = f"crowd of {crowd.connections:,}, {crowd.speaking:,} speaking"
        added = crowd.p99_us - crowd.direct_p99_us
        yield Criterion("5", f"{of}: added latency p99", added, _CROWD_P99_US, "µs")
        growth = crowd.growth * 100
        name = f"{of}: growth of memory from {crowd.settled * crowd.interval:.0f} s on"
        yield Criterion("5", name, growth, _GROWTH * 100, "%")


def _workers(results: Results) -> Iterator[Criterion]:
    rounds = results.workers
    if rounds:
        cpu = ratio(rounds[TWO_WORKERS], rounds[ONE_WORKER], "cpu_us")
        name = "two workers, gzip in bulk: CPU per chunk ÷ one worker's"
        yield Criterion("6", name, cpu, _WORKERS_CPU)


def _watched(results: Results) -> Iterator[Criterion]:
    rounds = results.watched
    if rounds:
        p99s = [values(rounds[name], "p99_us") for name in (WATCHED, UNWATCHED)]
        change = statistics.median(one - other for one, other in zip(*p99s, strict=True))
        of = f"{rounds[WATCHED][0].connections:,} connections, everything read ten times a second"
        yield Criterion("5.7", f"{of}: change of p99", change, _WATCHED_P99_US, "µs")


def _conditions(results: Results) -> Iterator[Criterion]:
    """Whether the peer was what was measured."""
    for size, rounds in results.bulk.items():
        if PROXY in rounds:
            busy = median(rounds[PROXY], "busy")
            name = f"bulk {size:,} B: share of its core that audio-proxy takes"
            yield Criterion("-", name, busy, _PROXY_BUSY, at_least=True)
    for connections, paced in results.paced.items():
        load = max(median(each, "load_busy") for each in paced.values())
        name = f"paced {connections}: share of its core that the load takes, at most"
        yield Criterion("-", name, load, _LOAD_BUSY)
    if results.crowd is not None:
        name = "crowd: share of its core that the load takes"
        yield Criterion("-", name, results.crowd.load_busy, _LOAD_BUSY)
        name = "crowd: share of the time that the proxy or the load waited for its core, at most"
        waited = max(results.crowd.waited, results.crowd.load_waited)
        yield Criterion("-", name, waited, _WAITED)
