from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.audio.counters import Counters
from proxy.control.roster import Roster


def record(chunks: int, wire: int) -> dict[str, Any]:
    counters = Counters(wire_bytes=wire, refused=3, wire_original_bytes=2 * wire)
    cell = counters.cell("gzip", "pcm")
    cell.no_gain, cell.errors = 1, 2
    for _ in range(chunks):
        cell.add(1, 100, 80)
    counters.passed["too_small"] = 4
    counters.encode_seconds.add(0.001, 2)
    return {"counters": counters.as_record(), "tunnels": 5}


def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_the_dead_have_counted_stays_in_the_totals(tmp_path: Path) -> None:
    """Published, dead and retired: the totals are the same at each step."""
    roster = Roster.open(tmp_path)
    dead = gone()
    roster.publish(os.getpid(), record(2, 1000))
    roster.publish(dead, record(3, 500))
    for restarts in range(2):
        counted = roster.read()
        total, workers = counted.total, counted.workers
        assert total.passed == {"too_small": 8}
        assert sum(total.encode_seconds.counts) == 4
        assert total.encode_seconds.sum == pytest.approx(0.004)
        assert counted.restarts == restarts
        assert total.by_algorithm["gzip"].chunks == 5
        assert total.by_algorithm["gzip"].original_bytes == 500
        assert total.by_algorithm["gzip"].compressed_bytes == 400
        assert (total.wire_bytes, total.wire_original_bytes) == (1500, 3000)
        assert (total.no_gain, total.errors, total.refused) == (2, 4, 6)
        assert [worker["pid"] for worker in workers] == [os.getpid()]
        assert workers[0]["tunnels"] == 5
        roster.retire(dead, died=not restarts)
    roster.retire(dead)  # who published nothing adds nothing
    assert roster.read().total.wire_bytes == 1500


def test_a_run_begins_at_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    old = tmp_path / "runs" / f"run-{gone()}"
    old.mkdir(parents=True)
    (old / "retired.json").write_text("{}")
    other = tmp_path / "runs" / f"run-{os.getppid()}"
    other.mkdir()
    roster = Roster.open(tmp_path)
    assert not old.exists(), "its run is over"
    assert other.exists(), "its run goes on"
    assert roster.read().total == Counters()
    roster.close()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [other.name]


def test_all_see_that_the_run_ends(tmp_path: Path) -> None:
    roster = Roster.open(tmp_path)
    assert not roster.is_draining
    roster.drain()
    assert roster.is_draining


def test_a_folder_that_cannot_be_written_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("no folder")
    roster = Roster.open(tmp_path)
    roster.publish(os.getpid(), record(1, 10))
    assert roster.read().total.wire_bytes == 10
    assert "statistics are kept elsewhere" in capsys.readouterr().out
    roster.close()


def test_a_disk_that_fails_ends_nobody(tmp_path: Path) -> None:
    roster = Roster.open(tmp_path)
    roster.publish(os.getpid(), record(2, 1000))
    (roster.folder / f"{os.getpid()}.json").write_text('{"counters": {"enc')
    assert roster.read().total == Counters(), "half a record is none"
    roster.close()
    with capture_logs() as logs:
        roster.retire(os.getpid())
        roster.drain()
    assert len(logs) == 2
