from __future__ import annotations

import pytest

from proxy.audio.counters import Counters
from proxy.control.stats import report, summary

KEYS = (
    "algorithm",
    "total_compressed",
    "total_original_bytes",
    "total_compressed_bytes",
    "average_ratio",
    "min_size_threshold",
)


def counted() -> Counters:
    counters = Counters(wire_original_bytes=10_000, wire_bytes=6_000, shadow_saved_bytes=7)
    counters.cell("gzip", "pcm").add(1, 4000, 3000)
    counters.cell("gzip", "wav").add(1, 2000, 1800)
    flac = counters.cell("flac", "wav")
    flac.add(1, 4000, 1200)
    flac.no_gain, flac.errors, flac.shadow = 3, 2, 1
    counters.passed["disabled"] = 5
    return counters


def test_the_summary_counts_all_algorithms() -> None:
    assert summary(counted(), 512) == {
        "algorithm": "gzip",
        "total_compressed": 3,
        "total_original_bytes": 10_000,
        "total_compressed_bytes": 6_000,
        "average_ratio": pytest.approx(0.6),
        "min_size_threshold": 512,
    }


def test_the_summary_has_exactly_the_contracts_keys() -> None:
    assert tuple(summary(Counters(), 1024)) == KEYS


def test_before_the_first_chunk_the_ratio_is_zero() -> None:
    ratio = summary(Counters(), 1024)["average_ratio"]
    assert ratio == 0.0
    assert isinstance(ratio, float)
    assert report(Counters(), 1024)["by_algorithm"] == {}


def test_the_report_has_the_summary_at_the_top_the_algorithms_and_the_wire() -> None:
    counters = counted()
    everything = report(counters, 512)
    assert summary(counters, 512).items() <= everything.items()
    assert everything["by_algorithm"] == {
        "gzip": {
            "total_compressed": 2,
            "total_original_bytes": 6000,
            "total_compressed_bytes": 4800,
            "average_ratio": pytest.approx(0.8),
        },
        "flac": {
            "total_compressed": 1,
            "total_original_bytes": 4000,
            "total_compressed_bytes": 1200,
            "average_ratio": pytest.approx(0.3),
        },
    }
    assert (everything["wire_original_bytes"], everything["wire_bytes"]) == (10_000, 6_000)
    assert everything["by_format"]["wav"] == {
        "total_compressed": 2,
        "total_original_bytes": 6000,
        "total_compressed_bytes": 3000,
        "average_ratio": pytest.approx(0.5),
    }
    assert everything["chunks"] == {
        "gzip": {"compressed": 2, "no_gain": 0, "error": 0, "shadow": 0},
        "flac": {"compressed": 1, "no_gain": 3, "error": 2, "shadow": 1},
        "none": {"disabled": 5},
    }
    assert everything["shadow_saved_bytes"] == 7
    assert (everything["no_gain"], everything["errors"]) == (3, 2)


def test_a_report_is_a_picture_of_one_moment() -> None:
    counters = counted()
    before = report(counters, 512)
    counters.cell("gzip", "pcm").add(1, 1000, 900)
    counters.wire_bytes += 900
    assert before == report(counted(), 512)
