from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.control.flags import Flags
from proxy.control.store import FileStore
from proxy.errors import FlagsError

BROKEN = {
    "empty": "",
    "cut short": '{"enabled": fal',
    "no object": "[]",
    "wrong value": '{"level": 9}',
    "wrong kind of value": '{"algorithms": [["gzip"]]}',
    "unknown flag": '{"enabeld": false}',
    "no end to it": "[" * 100_000,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "flags.json"


@pytest.fixture
def store(path: Path) -> FileStore:
    """A store whose file holds the defaults."""
    store = FileStore(path, Flags())
    store.create()
    store.refresh()
    return store


def rewrite(path: Path, text: str) -> None:
    """As an editor may: in place, the same inode, the same time stamps."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_ino == before.st_ino


def replace(path: Path, text: str) -> None:
    """As a careful program does."""
    other = path.with_name("other")
    other.write_text(text)
    os.replace(other, path)


# What is on disk.


def test_the_first_flags_are_written_where_no_file_is(path: Path) -> None:
    FileStore(path, Flags(enabled=False)).create()
    assert json.loads(path.read_bytes())["enabled"] is False
    FileStore(path, Flags(level=3)).create()
    assert FileStore(path, Flags()).read().flags == Flags(enabled=False)


def test_a_folder_that_cannot_be_made_does_not_stop_the_proxy(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, no folder")
    store = FileStore(tmp_path / "state" / "flags.json", Flags(level=2))
    store.create()
    store.refresh()
    assert store.live.current == Flags(level=2)
    with pytest.raises(FlagsError, match=r"cannot write .*flags\.json"):
        store.set({"level": 3})
    assert store.live.current == Flags(level=2)


def test_set_changes_the_file_and_what_is_in_force_here(store: FileStore, path: Path) -> None:
    assert store.set({"level": "2"}).flags == store.live.current == Flags(level=2)
    assert FileStore(path, Flags()).read().flags == Flags(level=2)
    assert store.set({"enabled": False}).flags == Flags(level=2, enabled=False)


def test_an_invalid_update_changes_nothing(store: FileStore, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FlagsError, match=r"^level: "):
        store.set({"enabled": False, "level": 9})
    assert path.read_bytes() == before
    assert store.live.current == Flags()
    assert store.error is None


def test_the_file_is_replaced_whole(store: FileStore, path: Path) -> None:
    """Who has it open reads the old content to its end."""
    with path.open("rb") as old:
        before = path.stat().st_ino
        store.set({"enabled": False})
        assert path.stat().st_ino != before
        assert json.loads(old.read())["enabled"] is True
    assert json.loads(path.read_bytes())["enabled"] is False
    assert path.stat().st_mode & 0o777 == 0o644


def test_no_temporary_file_is_left(store: FileStore, path: Path) -> None:
    store.set({"level": 2})
    with pytest.raises(FlagsError):
        store.set({"level": 9})
    assert {file.name for file in path.parent.iterdir()} == {"flags.json"}


def test_a_write_that_fails_leaves_the_old_file(store: FileStore, path: Path) -> None:
    """The file has become a folder: the replacement fails after everything was written."""
    path.unlink()
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(FlagsError, match="cannot write"):
        store.set({"level": 2})
    assert {file.name for file in path.parent.iterdir()} == {"flags.json"}
    assert store.live.current == Flags()


@pytest.mark.parametrize("name", BROKEN)
def test_reading_a_broken_file_says_which(store: FileStore, path: Path, name: str) -> None:
    path.write_text(BROKEN[name])
    with pytest.raises(FlagsError, match=str(path)):
        store.read()


def test_reading_a_missing_file_says_which(path: Path) -> None:
    with pytest.raises(FlagsError, match=f"cannot read {path}"):
        FileStore(path, Flags()).read()


# What is in force.


@pytest.mark.parametrize("write", [rewrite, replace])
def test_a_change_is_seen_however_it_was_made(
    store: FileStore, path: Path, write: Callable[[Path, str], None]
) -> None:
    write(path, '{"level": 3}')
    store.refresh()
    assert store.live.current == Flags(level=3)
    write(path, '{"level": 2}')  # the same size
    store.refresh()
    assert store.live.current == Flags(level=2)


def test_a_configmap_that_swaps_its_symlink(tmp_path: Path) -> None:
    """As the kubelet does: flags.json -> ..data/flags.json, ..data -> a folder, swapped."""
    for folder, text in (("..1", '{"level": 2}'), ("..2", '{"level": 3, "enabled": false}')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "flags.json").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "flags.json"
    path.symlink_to("..data/flags.json")
    store = FileStore(path, Flags())
    store.create()
    store.refresh()
    assert store.live.current == Flags(level=2)
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    store.refresh()
    assert store.live.current == Flags(level=3, enabled=False)
    assert path.is_symlink()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_changes_nothing_and_says_why(
    store: FileStore, path: Path, name: str
) -> None:
    store.set({"level": 3})
    good = path.read_text()
    rewrite(path, BROKEN[name])
    store.refresh()
    assert store.live.current == Flags(level=3)
    assert store.error is not None
    assert str(path) in store.error
    store.refresh()
    assert store.error is not None, "an unchanged file is as broken as before"
    rewrite(path, good)
    store.refresh()
    assert store.error is None
    assert store.live.current == Flags(level=3)


def test_a_missing_file_changes_nothing_and_says_why(store: FileStore, path: Path) -> None:
    store.set({"level": 3})
    good = path.read_bytes()
    path.unlink()
    store.refresh()
    assert store.live.current == Flags(level=3)
    assert store.error is not None
    assert "cannot read" in store.error
    path.write_bytes(good)
    store.refresh()
    assert store.error is None


def test_an_unchanged_record_stays_the_same_object(store: FileStore, path: Path) -> None:
    """Written differently, it is no change: nobody is told of one."""
    before = store.live.current
    rewrite(path, '{ "level" : 1 }')
    store.refresh()
    assert store.live.current is before


def test_a_broken_file_is_replaced_by_what_is_in_force_and_the_change(
    store: FileStore, path: Path
) -> None:
    store.set({"level": 3})
    path.write_text("{")
    store.refresh()
    assert store.set({"enabled": False}).flags == Flags(level=3, enabled=False)
    assert store.error is None
    assert FileStore(path, Flags()).read().flags == Flags(level=3, enabled=False)


def test_another_process_is_followed(store: FileStore, path: Path) -> None:
    FileStore(path, Flags()).set({"enabled": False})
    assert store.live.current.enabled
    store.refresh()
    assert not store.live.current.enabled


FLIP_OFTEN = """
import sys
from pathlib import Path
from proxy.control.flags import Flags
from proxy.control.store import FileStore
path, name, *values = sys.argv[1:]
store = FileStore(Path(path), Flags())
print("ready", flush=True)
sys.stdin.readline()
for value in values * 100:
    store.set({name: value})
    for _ in range(3):
        assert getattr(store.read().flags, name) == int(value), "the other's change undid this one"
"""


def test_two_processes_that_change_different_flags_lose_nothing(
    store: FileStore, path: Path
) -> None:
    """Each finds its own last value in the file, whatever the other writes."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FLIP_OFTEN, str(path), *change],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for change in (("level", "3", "2"), ("min_size", "100", "200"))
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, problem = process.communicate(timeout=60)
        assert process.returncode == 0, problem
    store.refresh()
    assert store.live.current == Flags(level=2, min_size=200)
    assert store.error is None


def test_flags_left_out_are_as_at_first(path: Path) -> None:
    """`ENABLE_WS_COMPRESSION=false`, and a file that speaks of something else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"level": 2}')
    store = FileStore(path, Flags(enabled=False))
    store.refresh()
    assert store.live.current == Flags(enabled=False, level=2)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "flags.json"
    kept.parent.mkdir()
    link = tmp_path / "flags.json"
    link.symlink_to(kept)
    FileStore(link, Flags()).set({"level": 2})
    assert link.is_symlink()
    assert FileStore(kept, Flags()).read().flags.level == 2


# What is told of in the log.


def told(logs: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("flag", "before", "after", "by")
    return [tuple(line[name] for name in names) for line in logs if line["event"] == "flag changed"]


async def test_each_change_is_told_of_once_by_who_made_it(path: Path) -> None:
    """However quickly one follows another, and however many workers see it."""
    with capture_logs() as logs:
        workers = [FileStore(path, Flags(), tells=number == 0) for number in range(3)]
        for worker in workers:
            await worker.start()
        await workers[2].change({"enabled": False}, "dashboard")
        await workers[1].change({"enabled": True, "level": 3}, "admin port")
        for worker in workers:
            worker.refresh()
        later = FileStore(path, Flags())  # another takes the place of the first
        await later.start()
    assert told(logs) == [
        ("enabled", True, False, "dashboard"),
        ("enabled", False, True, "admin port"),
        ("level", 1, 3, "admin port"),
    ]


async def test_who_has_no_log_is_told_of_by_one_worker(path: Path) -> None:
    workers = [FileStore(path, Flags(), tells=number == 0) for number in range(3)]
    for worker in workers:
        await worker.start()
    FileStore(path, Flags(), tells=False).set({"level": 2}, "command line")
    with capture_logs() as logs:
        for worker in workers:
            worker.refresh()
        rewrite(path, workers[0].read().to_json().decode().replace('"level": 2', '"level": 0'))
        for worker in workers:
            worker.refresh()
    assert told(logs) == [("level", 1, 2, "command line"), ("level", 2, 0, "hand")]
