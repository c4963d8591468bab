"""Counters, shown the way that the contract words them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.audio.counters import SECONDS, AlgorithmCounters, Counters, Histogram


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


def _all(counters: Counters) -> AlgorithmCounters:
    total = AlgorithmCounters()
    for one in counters.encoded.values():
        total.add(one.chunks, one.original_bytes, one.compressed_bytes)
    return total


def summary(counters: Counters, min_size: int) -> dict[str, Any]:
    """The keys of `AudioCompression.get_stats()`, over all algorithms."""
    return {"algorithm": "gzip", **_totals(_all(counters)), "min_size_threshold": min_size}


def worker_totals(counters: Counters) -> dict[str, Any]:
    """What is shown of one worker."""
    return {
        **_totals(_all(counters)),
        "wire_original_bytes": counters.wire_original_bytes,
        "wire_bytes": counters.wire_bytes,
        "errors": counters.errors,
    }


def report(counters: Counters, min_size: int) -> dict[str, Any]:
    """What `/stats` shows of what was counted: `summary` at the top, and everything by its kind."""
    by_algorithm = counters.by_algorithm
    return {
        **summary(counters, min_size),
        "by_algorithm": {name: _totals(one) for name, one in by_algorithm.items()},
        "by_format": {name: _totals(one) for name, one in counters.by_format.items()},
        "wire_original_bytes": counters.wire_original_bytes,
        "wire_bytes": counters.wire_bytes,
        "shadow_saved_bytes": counters.shadow_saved_bytes,
        "chunks": {
            **{name: _outcomes(one) for name, one in by_algorithm.items()},
            "none": dict(counters.passed),
        },
        "no_gain": counters.no_gain,
        "errors": counters.errors,
        "refused": counters.refused,
        "encode_seconds": _histogram(counters.encode_seconds),
        "first_audio_seconds": _histogram(counters.first_audio_seconds),
        "gap_seconds": _histogram(counters.gap_seconds),
        "handshakes": dict(counters.handshakes),
        "close_codes": dict(counters.close_codes),
        "closed_by": dict(counters.closed_by),
        "pauses": counters.pauses,
    }


def _outcomes(counters: AlgorithmCounters) -> Mapping[str, int]:
    return {
        "compressed": counters.chunks,
        "no_gain": counters.no_gain,
        "error": counters.errors,
        "shadow": counters.shadow,
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {"le": list(SECONDS), "counts": list(histogram.counts), "sum": histogram.sum}
