"""What was encoded and what it saved, in plain integers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

SECONDS = (
    *(0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
"""Upper bounds of what a `Histogram` tells apart."""


class Passed(StrEnum):
    """Why a chunk was sent as it came without being encoded."""

    TOO_SMALL = "too_small"
    DISABLED = "disabled"
    RESTING = "resting"
    """No algorithm has gained anything lately."""
    OTHER = "other"
    """No algorithm takes it."""


@dataclass(slots=True)
class Histogram:
    """How often something took how long."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    """For each of `SECONDS` those up to it, and above the one before; last those above all."""
    sum: float = 0.0
    """Seconds."""

    def add(self, seconds: float, count: int = 1) -> None:
        """Something took so long, each of `count` times."""
        self.counts[bisect_left(SECONDS, seconds)] += count
        self.sum += seconds * count


@dataclass(slots=True)
class AlgorithmCounters:
    """What an algorithm did with chunks of one format; payloads in bytes, before and after."""

    chunks: int = 0
    """Sent encoded."""
    original_bytes: int = 0
    compressed_bytes: int = 0
    no_gain: int = 0
    """Encoded, and sent as they came because it did not pay; of Opus, segments."""
    errors: int = 0
    """It failed: they were sent as they came, or by another algorithm."""
    shadow: int = 0
    """Encoded, and worth sending, in shadow mode: sent as they came."""

    def add(self, chunks: int, original_size: int, compressed_size: int) -> None:
        """Count some chunks that were sent encoded, of so many bytes in all."""
        self.chunks += chunks
        self.original_bytes += original_size
        self.compressed_bytes += compressed_size


@dataclass(slots=True)
class Counters:
    """Counted where the data passes, read when somebody asks. They only ever rise."""

    encoded: dict[str, AlgorithmCounters] = field(default_factory=dict)
    """By algorithm and format: "gzip/pcm"."""
    passed: dict[str, int] = field(default_factory=dict)
    """Chunks that were not encoded, by `Passed`."""
    wire_original_bytes: int = 0
    """Sent to opted-in clients, frame headers included, had nothing been encoded."""
    wire_bytes: int = 0
    """Sent to opted-in clients, frame headers and metadata included."""
    shadow_saved_bytes: int = 0
    """What shadow mode would have saved of `wire_bytes`."""
    refused: int = 0
    """Requests refused because `max_connections` were open."""
    pauses: int = 0
    """How often a side was not read further because the other was slow."""
    handshakes: dict[str, int] = field(default_factory=dict)
    """By what came of them."""
    close_codes: dict[str, int] = field(default_factory=dict)
    """Tunnels that have ended, by the code of the close frame, or "none"."""
    closed_by: dict[str, int] = field(default_factory=dict)
    """The same, by who ended them."""
    encode_seconds: Histogram = field(default_factory=Histogram)
    """CPU of a chunk's encoding, and what else its thread did meanwhile."""
    first_audio_seconds: Histogram = field(default_factory=Histogram)
    """From a backend's first byte of audio to ours, once for each opted-in connection."""
    gap_seconds: Histogram = field(default_factory=Histogram)
    """Between two times at which an opted-in client was sent something."""

    def sent(self, original: int, wire: int) -> None:
        """Count bytes on the wire: without the proxy's work, and with it."""
        self.wire_original_bytes += original
        self.wire_bytes += wire

    def cell(self, algorithm: str, audio_format: str) -> AlgorithmCounters:
        """The counters of an algorithm and a format."""
        key = f"{algorithm}/{audio_format}"
        found = self.encoded.get(key)
        if found is None:
            found = self.encoded[key] = AlgorithmCounters()
        return found

    def algorithm(self, name: str) -> AlgorithmCounters:
        """What an algorithm did by now, with all formats."""
        return self.by_algorithm.get(name, AlgorithmCounters())

    @property
    def no_gain(self) -> int:
        """Chunks that were encoded, and sent as they came because it did not pay."""
        return sum(cell.no_gain for cell in self.encoded.values())

    @property
    def errors(self) -> int:
        """Failures of algorithms."""
        return sum(cell.errors for cell in self.encoded.values())

    @property
    def by_algorithm(self) -> dict[str, AlgorithmCounters]:
        """Of each algorithm, all formats together."""
        return _grouped((key.partition("/")[0], cell) for key, cell in self.encoded.items())

    @property
    def by_format(self) -> dict[str, AlgorithmCounters]:
        """Of each format, all algorithms together."""
        return _grouped((key.partition("/")[2], cell) for key, cell in self.encoded.items())

    def add(self, other: Counters) -> None:
        """Count what another has counted too."""
        for name in _NAMES:
            mine, more = getattr(self, name), getattr(other, name)
            if isinstance(mine, int):
                setattr(self, name, mine + more)
            elif isinstance(mine, Histogram):
                mine.counts = [a + b for a, b in zip(mine.counts, more.counts, strict=True)]
                mine.sum += more.sum
            elif name == "encoded":
                for key, cell in more.items():
                    _add(mine.setdefault(key, AlgorithmCounters()), cell)
            else:
                for key, count in more.items():
                    mine[key] = mine.get(key, 0) + count

    def as_record(self) -> dict[str, Any]:
        """For a file. Ten times as quick as `dataclasses.asdict`, which copies deeply."""
        return {name: _plain(getattr(self, name)) for name in _NAMES}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Counters:
        """What `as_record` made. Raises KeyError, TypeError or ValueError where that was another
        version's."""
        parsed = dict(record)
        parsed["encoded"] = {
            key: AlgorithmCounters(**cell) for key, cell in record["encoded"].items()
        }
        for name, value in record.items():
            if name.endswith("_seconds"):
                parsed[name] = Histogram(**value)
                if len(parsed[name].counts) != len(SECONDS) + 1:
                    raise ValueError(f"{name} has other bounds")
        return cls(**parsed)


@dataclass(slots=True)
class Tally:
    """What one connection has counted; `total` counts it too."""

    total: Counters
    chunks: int = 0
    """Binary messages that were sent to the client, encoded or not."""
    compressed: int = 0
    """Of these, those that were sent encoded."""
    original_bytes: int = 0
    """As `Counters.wire_original_bytes`."""
    wire_bytes: int = 0
    algorithm: str | None = None
    """By which the last chunk was encoded."""
    format: str | None = None
    """Of the audio, as it was recognised last."""

    def sent(self, original: int, wire: int) -> None:
        """Count bytes on the wire: without the proxy's work, and with it."""
        self.original_bytes += original
        self.wire_bytes += wire
        total = self.total
        total.wire_original_bytes += original
        total.wire_bytes += wire

    def passed(self, chunks: int, why: Passed) -> None:
        """Count chunks that were sent as they came, without being encoded."""
        self.chunks += chunks
        passed = self.total.passed
        passed[why] = passed.get(why, 0) + chunks


_NAMES = tuple(each.name for each in fields(Counters))
_CELL = tuple(each.name for each in fields(AlgorithmCounters))


def _plain(value: Any) -> Any:
    """What JSON knows, and nobody changes later."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, AlgorithmCounters):
        return {name: getattr(value, name) for name in _CELL}
    if isinstance(value, Histogram):
        return {"counts": list(value.counts), "sum": value.sum}
    return value


def count(counts: dict[str, int], key: str) -> None:
    """One more of `key`."""
    counts[key] = counts.get(key, 0) + 1


def _grouped(cells: Iterable[tuple[str, AlgorithmCounters]]) -> dict[str, AlgorithmCounters]:
    groups: dict[str, AlgorithmCounters] = {}
    for key, cell in cells:
        _add(groups.setdefault(key, AlgorithmCounters()), cell)
    return groups


def _add(to: AlgorithmCounters, more: AlgorithmCounters) -> None:
    for name in _CELL:
        setattr(to, name, getattr(to, name) + getattr(more, name))
