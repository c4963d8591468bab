"""What was encoded and what it saved, in plain integers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class AlgorithmCounters:
    """Chunks sent encoded by one algorithm; their payloads in bytes, before and after."""

    chunks: int = 0
    original_bytes: int = 0
    compressed_bytes: int = 0

    def add(self, original_size: int, compressed_size: int) -> None:
        """Count one chunk."""
        self.chunks += 1
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
    wire_original_bytes: int = 0
    """Sent to opted-in clients, frame headers included, had nothing been encoded."""
    wire_bytes: int = 0
    """Sent to opted-in clients, frame headers and metadata included."""

    def algorithm(self, name: str) -> AlgorithmCounters:
        """The counters of one algorithm."""
        return self.by_algorithm.setdefault(name, AlgorithmCounters())
