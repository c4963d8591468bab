from __future__ import annotations

import subprocess
from itertools import accumulate
from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.control.metrics import FAMILIES, render
from tests.support.figures import made_up_stats

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

HISTOGRAMS = ("encode_seconds", "first_audio_seconds", "gap_seconds")


def samples(text: bytes) -> Samples:
    """What Prometheus' own reader finds, by name and labels; nothing twice."""
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def at(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"audio_proxy_{name}", frozenset(labels.items())


def lint(text: bytes) -> str:
    """What promtool says of it: nothing where all is well; its warnings are failures too."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert bool(done.returncode) == bool(said)
    return said


def expected(stats: dict[str, Any]) -> Samples:
    """Every figure, by hand, where a reader of the README looks for it."""
    values: Samples = {
        at("connections_open"): stats["connections"],
        at("refused_total"): stats["refused"],
        at("wire_original_bytes_total"): 8_000_000_000,
        at("wire_bytes_total"): 6_000_000_000,
        at("shadow_saved_bytes_total"): stats["shadow_saved_bytes"],
        at("backlog_bytes"): stats["backlog_bytes"],
        at("pauses_total"): stats["pauses"],
        at("flags_revision"): 7,
        at("flags_rejected"): 0,
        at("flags_min_size_bytes"): 1_024,
        at("store_connected", kind="redis"): 1,
        at("workers"): 3,
        at("workers_draining"): 1,
        at("worker_restarts_total"): stats["worker_restarts"],
        at("uptime_seconds"): 90_061.5,
        at("build_info", version="1.2.3"): 1,
    }
    for algorithm, opted_in in (
        *(("none", "false"), ("gzip", "true")),
        *(("flac", "true"), ("opus", "true")),
    ):
        open_now = stats["open"][algorithm]
        values[at("tunnels_open", algorithm=algorithm, opted_in=opted_in)] = open_now
    for name, label, key in (
        ("handshakes_total", "result", "handshakes"),
        ("close_codes_total", "code", "close_codes"),
        ("closed_total", "by", "closed_by"),
    ):
        for value, figure in stats[key].items():
            values[at(name, **{label: value})] = figure
    for name, audio in stats["by_algorithm"].items():
        original, compressed = audio["total_original_bytes"], audio["total_compressed_bytes"]
        values[at("audio_original_bytes_total", algorithm=name)] = original
        values[at("audio_compressed_bytes_total", algorithm=name)] = compressed
    for name, audio in stats["by_format"].items():
        original, compressed = audio["total_original_bytes"], audio["total_compressed_bytes"]
        values[at("format_original_bytes_total", format=name)] = original
        values[at("format_compressed_bytes_total", format=name)] = compressed
        values[at("format_chunks_total", format=name)] = audio["total_compressed"]
    for algorithm, outcomes in stats["chunks"].items():
        for outcome, figure in outcomes.items():
            values[at("chunks_total", algorithm=algorithm, outcome=outcome)] = figure
    for name in HISTOGRAMS:
        histogram = stats[name]
        bounds = [*map(str, map(float, histogram["le"])), "+Inf"]
        for bound, figure in zip(bounds, accumulate(histogram["counts"]), strict=True):
            values[at(f"{name}_bucket", le=bound)] = figure
        values[at(f"{name}_count")] = sum(histogram["counts"])
        values[at(f"{name}_sum")] = histogram["sum"]
    return values


def test_every_figure_is_under_its_name() -> None:
    stats = made_up_stats()
    assert samples(render(stats)) == expected(stats)


def test_promtool_finds_nothing_to_say() -> None:
    assert lint(render(made_up_stats())) == ""
    assert "help" in lint(b"some_metric 1\n")  # it does look


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_a_histogram_rises_to_its_count(name: str) -> None:
    found = samples(render(made_up_stats()))
    buckets = {
        float(dict(labels)["le"]): value
        for (sample, labels), value in found.items()
        if sample == f"audio_proxy_{name}_bucket"
    }
    values = [buckets[bound] for bound in sorted(buckets)]
    assert values == sorted(values)
    assert values[0] > 0
    assert buckets[float("inf")] == found[at(f"{name}_count")]


def test_a_proxy_that_has_done_nothing_yet() -> None:
    """No algorithm has been used and no connection has ended: every metric is announced, and what
    alerts are made of begins at 0."""
    stats = made_up_stats()
    for key in ("by_algorithm", "by_format", "chunks", "handshakes", "close_codes", "closed_by"):
        stats[key] = {}
    stats["open"] = {"none": 0}
    stats["workers"] = []
    for name in HISTOGRAMS:
        stats[name] = {"le": [0.1], "counts": [0, 0], "sum": 0.0}
    text = render(stats)
    assert lint(text) == ""
    announced = [line.split()[2:] for line in text.decode().splitlines() if "# TYPE" in line]
    assert announced == [[family.name, family.kind] for family in FAMILIES]
    found = samples(text)
    assert found[at("gap_seconds_count")] == 0
    for name in ("gzip", "flac", "opus"):
        assert found[at("chunks_total", algorithm=name, outcome="error")] == 0
        assert found[at("audio_original_bytes_total", algorithm=name)] == 0
    assert found[at("handshakes_total", result="bad_gateway")] == 0
    assert found[at("closed_total", by="proxy")] == 0


def test_trouble_is_seen() -> None:
    stats = made_up_stats()
    stats["flags_error"] = "level: 9"
    stats["store"] = {"kind": "file", "state": "disconnected", "error": "no such file"}
    found = samples(render(stats))
    assert found[at("flags_rejected")] == 1
    assert found[at("store_connected", kind="file")] == 0


def test_a_label_may_be_any_text() -> None:
    stats = made_up_stats()
    stats["version"] = 'quote " backslash \\ line\nend é'
    text = render(stats)
    assert lint(text) == ""
    assert samples(text)[at("build_info", version=stats["version"])] == 1


def test_bytes_are_exact() -> None:
    """As far as Prometheus' own numbers go: 8 petabytes."""
    stats = made_up_stats()
    stats["wire_bytes"] = 2**53 - 1
    assert samples(render(stats))[at("wire_bytes_total")] == 2**53 - 1


def test_a_family_says_what_its_samples_say() -> None:
    """Its name, kind and labels are what the README shows."""
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    stats = made_up_stats()
    for family in FAMILIES:
        metric = family.collect(stats)
        assert metric.type == family.kind
        assert metric.documentation == family.help
        assert metric.samples
        for sample in metric.samples:
            assert sample.name.startswith(family.name)
            assert set(sample.labels) - {"le"} == set(family.labels)


def test_it_keeps_nothing() -> None:
    """Neither here nor in prometheus-client's registry of the whole process."""
    stats = made_up_stats()
    assert render(stats) == render(stats)
    assert b"audio_proxy" not in generate_latest(REGISTRY)
