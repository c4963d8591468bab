"""Statistics made up, in the shape of `/stats`: no two figures are alike, so none hides another."""

from __future__ import annotations

from itertools import count
from typing import Any


def made_up_stats() -> dict[str, Any]:
    """Of a fleet of two machines with three workers."""
    numbers = count(1_000_001, 1_003)

    def some(*names: str) -> dict[str, int]:
        return {name: next(numbers) for name in names}

    def audio() -> dict[str, Any]:
        totals = some("total_compressed", "total_original_bytes", "total_compressed_bytes")
        return {**totals, "average_ratio": 0.5}

    def worker(machine: str, pid: int, number: int, *, draining: bool) -> dict[str, Any]:
        return {
            "machine": machine,
            "pid": pid,
            "number": number,
            **some("tunnels", "connections"),
            "draining": draining,
            "uptime_seconds": 61.5,
            **audio(),
            **some("wire_original_bytes", "wire_bytes", "errors", "backlog_bytes"),
        }

    def machine(name: str, *, is_self: bool) -> dict[str, Any]:
        return {
            "machine": name,
            "run": f"{name}-run",
            "is_self": is_self,
            "age_seconds": 0.25,
            **some("workers", "tunnels", "connections"),
            "draining": not is_self,
            **some("worker_restarts"),
            "store": "connected",
            "flags_revision": 7,
            **some("wire_original_bytes", "wire_bytes", "errors", "total_compressed"),
            "version": "1.2.3",
        }

    def histogram(*bounds: float) -> dict[str, Any]:
        counts = [next(numbers) for _ in range(len(bounds) + 1)]
        return {"le": list(bounds), "counts": counts, "sum": sum(counts) / 8}

    codec_outcomes = ("compressed", "no_gain", "error", "shadow")
    return {
        "algorithm": "gzip",
        **audio(),
        "min_size_threshold": 1_024,
        "by_algorithm": {name: audio() for name in ("gzip", "flac", "opus")},
        "by_format": {name: audio() for name in ("pcm", "mp3", "unknown")},
        "wire_original_bytes": 8_000_000_000,
        "wire_bytes": 6_000_000_000,
        **some("shadow_saved_bytes"),
        "chunks": {
            **{name: some(*codec_outcomes) for name in ("gzip", "flac", "opus")},
            "none": some("too_small", "disabled", "resting", "other"),
        },
        **some("no_gain", "errors", "refused"),
        "encode_seconds": histogram(0.00002, 0.0001, 0.0025),
        "first_audio_seconds": histogram(0.001, 0.1),
        "gap_seconds": histogram(0.01, 1, 10),
        "handshakes": some(
            *("switched", "opted_in", "declined", "bad_gateway", "timeout", "refused"),
            *("bad_request", "client_gone"),
        ),
        "close_codes": some("1000", "1001", "none", "other"),
        "closed_by": some("client", "backend", "proxy"),
        **some("pauses"),
        "open": some("none", "gzip", "flac", "opus"),
        **some("backlog_bytes", "tunnels", "connections"),
        "uptime_seconds": 90_061.5,
        "version": "1.2.3",
        "flags_error": None,
        "flags_revision": 7,
        "store": {"kind": "redis", "state": "connected", "error": None},
        **some("worker_restarts"),
        "price_per_gb": None,
        "currency": "USD",
        "workers": [
            worker("host-1", 811, 0, draining=False),
            worker("host-1", 812, 1, draining=True),
            worker("host-2", 813, 0, draining=False),
        ],
        "machines": [machine("host-1", is_self=True), machine("host-2", is_self=False)],
    }
