"""What was encoded and what it saved, in plain integers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class AlgorithmCounters:
    """Chunks sent encoded by one algorithm; their payloads in bytes, before and after."""

    chunks: int = 0
    original_bytes: int = 0
    compressed_bytes: int = 0

    def add(self, chunks: int, original_size: int, compressed_size: int) -> None:
        """Count some chunks, of so many bytes in all."""
        self.chunks += chunks
        self.original_bytes += original_size
        self.compressed_bytes += compressed_size


@dataclass(slots=True)
class Counters:
    """Counted where the data passes, read when somebody asks."""

    by_algorithm: dict[str, AlgorithmCounters] = field(default_factory=dict)
    no_gain: int = 0
    """Chunks that were encoded and sent as they came, because it did not pay; of Opus, segments
    that did not pay."""
    errors: int = 0
    """Failures of a codec: the chunk was sent as it came, or by another codec."""
    refused: int = 0
    """Requests refused because `max_connections` were open."""
    wire_original_bytes: int = 0
    """Sent to opted-in clients, frame headers included, had nothing been encoded."""
    wire_bytes: int = 0
    """Sent to opted-in clients, frame headers and metadata included."""

    def sent(self, original: int, wire: int) -> None:
        """Count bytes on the wire: without the proxy's work, and with it."""
        self.wire_original_bytes += original
        self.wire_bytes += wire

    def add(self, other: Counters) -> None:
        """Count what another has counted too."""
        for name, one in other.by_algorithm.items():
            mine = self.algorithm(name)
            mine.chunks += one.chunks
            mine.original_bytes += one.original_bytes
            mine.compressed_bytes += one.compressed_bytes
        self.no_gain += other.no_gain
        self.errors += other.errors
        self.refused += other.refused
        self.wire_original_bytes += other.wire_original_bytes
        self.wire_bytes += other.wire_bytes

    def as_record(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Counters:
        """What `as_record` made."""
        algorithms = record["by_algorithm"].items()
        by_algorithm = {name: AlgorithmCounters(**one) for name, one in algorithms}
        return cls(**{**record, "by_algorithm": by_algorithm})

    def algorithm(self, name: str) -> AlgorithmCounters:
        """The counters of one algorithm."""
        found = self.by_algorithm.get(name)
        if found is None:
            found = self.by_algorithm[name] = AlgorithmCounters()
        return found
