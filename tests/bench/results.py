"""What was measured in all rounds, and how it compares."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.bench.measure import (
    Bulk,
    Ceiling,
    Codec,
    Crowd,
    Handshakes,
    Memory,
    Paced,
    Result,
    Watched,
    Workers,
)

R = TypeVar("R", bound=Result)
Rounds = dict[str, list[R]]
"""By mode: one result for each round, in the order of the rounds."""

DIRECT = "direct"
NGINX = ("nginx", "nginx 64k")
PROXY = "audio-proxy"
GZIP = "audio-proxy gzip"
BARE = "bare gzip relay"
ONE_WORKER, TWO_WORKERS = "1 worker", "2 workers"
UNWATCHED, WATCHED = "not read", "read"


@dataclass
class Results:
    """Empty where a kind was not measured."""

    bulk: dict[int, Rounds[Bulk]] = field(default_factory=dict)
    """By the bytes of a message."""
    codec: dict[int, list[Codec]] = field(default_factory=dict)
    """Bare gzip, by the bytes of a chunk."""
    paced: dict[int, Rounds[Paced]] = field(default_factory=dict)
    """By the number of connections."""
    paced_codec: list[Codec] = field(default_factory=list)
    """Bare gzip, of the chunks that paced connections are sent."""
    memory: Rounds[Memory] = field(default_factory=dict)
    handshakes: Rounds[Handshakes] = field(default_factory=dict)
    workers: Rounds[Workers] = field(default_factory=dict)
    """Bulk gzip, by how many workers there were: `ONE_WORKER`, `TWO_WORKERS`."""
    crowd: Crowd | None = None
    watched: Rounds[Watched] = field(default_factory=dict)
    """A crowd, whose admin port is read all the time or not at all: `WATCHED`, `UNWATCHED`."""
    ceiling: dict[str, Ceiling] = field(default_factory=dict)
    """By mode."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why a kind, or one mode of it, is not there: what was measured, and its problem."""

    def fail(self, kind: str, problem: str) -> None:
        """Note that a kind could not be measured to its end: rounds that are not complete cannot
        be compared."""
        self.failed[kind] = f"{problem} (nothing of {kind} is shown)"
        found = getattr(self, kind)
        if found is not None:
            found.clear()


def values(results: Sequence[Result], name: str) -> list[float]:
    """One figure, round by round."""
    return [float(getattr(result, name)) for result in results]


def median(results: Sequence[Result], name: str) -> float:
    """Of one figure over the rounds."""
    return statistics.median(values(results, name))


def ratio(results: Sequence[Result], to: Sequence[Result], name: str) -> float:
    """Median of the ratios of each round. Not a number where there is nothing to divide by."""
    return _median_ratio(values(results, name), values(to, name))


def _median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True) if b > 0]
    return statistics.median(ratios) if ratios else math.nan


def better_nginx(rounds: Mapping[str, Sequence[Result]], name: str) -> str | None:
    """That of its configurations whose median is lower, or None where none was measured."""
    measured = [mode for mode in NGINX if mode in rounds]
    return min(measured, key=lambda mode: median(rounds[mode], name)) if measured else None


def added(rounds: Mapping[str, Sequence[Paced]], mode: str, name: str) -> list[float]:
    """Latency in microseconds, less that of the direct way in the same round."""
    pairs = zip(values(rounds[mode], name), values(rounds[DIRECT], name), strict=True)
    return [through - direct for through, direct in pairs]


def median_added(rounds: Mapping[str, Sequence[Paced]], mode: str, name: str) -> float:
    """Microseconds."""
    return statistics.median(added(rounds, mode, name))


def added_difference(rounds: Mapping[str, Sequence[Paced]], mode: str, to: str, name: str) -> float:
    """Median of the differences of each round, in microseconds."""
    pairs = zip(values(rounds[mode], name), values(rounds[to], name), strict=True)
    return statistics.median(one - other for one, other in pairs)


def added_ratio(rounds: Mapping[str, Sequence[Paced]], mode: str, to: str, name: str) -> float:
    """Median of the ratios of each round, of latency that is added."""
    return _median_ratio(added(rounds, mode, name), added(rounds, to, name))
