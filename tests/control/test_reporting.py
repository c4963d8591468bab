"""What is told of a worker, its machine and the fleet."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.audio.counters import Counters
from proxy.control.flags import Flags
from proxy.control.reporting import Reporting
from proxy.control.roster import Roster
from proxy.control.store import FileStore


def gauges() -> dict[str, Any]:
    return {
        "tunnels": 3,
        "connections": 4,
        "open": {"none": 1, "gzip": 2},
        "backlog_bytes": 5,
        "draining": False,
    }


def reporting(tmp_path: Path, run: str = "a", roster: Roster | None = None) -> Reporting:
    store = FileStore(tmp_path / "flags.json", Flags())
    store.create()
    store.refresh()
    counters = Counters(wire_original_bytes=1000, wire_bytes=600)
    counters.cell("gzip", "pcm").add(2, 900, 500)
    counters.encode_seconds.add(0.0001, 2)
    started = time.monotonic() - 10
    return Reporting(counters, store, gauges, 0, started, roster, run, "1.2.3")


def test_a_worker_alone(tmp_path: Path) -> None:
    stats = reporting(tmp_path).local()
    assert (stats["wire_original_bytes"], stats["wire_bytes"]) == (1000, 600)
    assert (stats["tunnels"], stats["connections"], stats["backlog_bytes"]) == (3, 4, 5)
    assert stats["open"] == {"none": 1, "gzip": 2}
    assert stats["store"] == {"kind": "file", "state": "connected", "error": None}
    assert stats["uptime_seconds"] == pytest.approx(10, abs=5)
    (worker,), (machine,) = stats["workers"], stats["machines"]
    assert worker["pid"] == os.getpid()
    assert worker["total_compressed"] == machine["total_compressed"] == 2
    assert machine["is_self"]
    assert machine["version"] == stats["version"] == "1.2.3"


async def test_the_fleet_is_the_sum_of_its_machines(tmp_path: Path) -> None:
    one, other = reporting(tmp_path), reporting(tmp_path, "b")

    async def others() -> list[dict[str, Any]]:
        return [other.machine()]

    one.others = others
    stats = await one.fleet()
    assert (stats["wire_original_bytes"], stats["total_compressed"]) == (2000, 4)
    assert stats["tunnels"] == 6
    assert stats["open"] == {"none": 2, "gzip": 4}
    assert sum(stats["encode_seconds"]["counts"]) == 4
    assert [machine["run"] for machine in stats["machines"]] == ["a", "b"]
    assert [machine["is_self"] for machine in stats["machines"]] == [True, False]
    assert one.local()["tunnels"] == 3, "Prometheus asks each machine for its own"


async def test_another_versions_records_are_left_out_and_told_of_once(tmp_path: Path) -> None:
    one, other = reporting(tmp_path), reporting(tmp_path, "b")
    good = other.machine()
    bad: list[dict[str, Any]] = [
        {"run": "c", "machine": "old", "version": "0.0.1"},
        {**good, "run": "d", "counters": {**good["counters"], "colour": 1}},
        {**good, "run": "e", "workers": [{}]},
        {**good, "run": "f", "counters": {**good["counters"], "encoded": []}},
        {
            **good,
            "run": "g",
            "counters": {**good["counters"], "gap_seconds": {"counts": [1], "sum": 1}},
        },
    ]

    async def others() -> list[dict[str, Any]]:
        return [*bad, good]

    one.others = others
    with capture_logs() as logs:
        for _ in range(2):
            assert (await one.fleet())["tunnels"] == 6
    assert len(logs) == len(bad)


def test_what_cannot_be_shared_is_told_of_once(tmp_path: Path) -> None:
    roster = Roster.open(tmp_path)
    one = reporting(tmp_path, roster=roster)
    one.publish()
    assert roster.read().total.wire_bytes == 600
    roster.close()
    with capture_logs() as logs:
        one.publish()
        one.publish()
    assert [line["event"] for line in logs] == ["statistics cannot be shared"]
