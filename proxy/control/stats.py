"""Counters, shown the way that the contract words them."""

from __future__ import annotations

from typing import Any

from proxy.audio.counters import AlgorithmCounters, Counters


def _ratio(counters: AlgorithmCounters) -> float:
    """Compressed ÷ original, 0 to 1; 0.0 before the first chunk."""
    if not counters.original_bytes:
        return 0.0
    return counters.compressed_bytes / counters.original_bytes


def _totals(counters: AlgorithmCounters) -> dict[str, Any]:
    return {
        "total_compressed": counters.chunks,
        "total_original_bytes": counters.original_bytes,
        "total_compressed_bytes": counters.compressed_bytes,
        "average_ratio": _ratio(counters),
    }


def summary(counters: Counters, min_size: int) -> dict[str, Any]:
    """The keys of `AudioCompression.get_stats()`, over all algorithms."""
    total = AlgorithmCounters()
    for one in counters.by_algorithm.values():
        total.chunks += one.chunks
        total.original_bytes += one.original_bytes
        total.compressed_bytes += one.compressed_bytes
    return {"algorithm": "gzip", **_totals(total), "min_size_threshold": min_size}


def report(counters: Counters, min_size: int) -> dict[str, Any]:
    """What `/stats` shows of the audio: `summary` at the top, the algorithms, the wire."""
    return {
        **summary(counters, min_size),
        "by_algorithm": {name: _totals(one) for name, one in counters.by_algorithm.items()},
        "no_gain": counters.no_gain,
        "errors": counters.errors,
        "refused": counters.refused,
        "wire_original_bytes": counters.wire_original_bytes,
        "wire_bytes": counters.wire_bytes,
    }
