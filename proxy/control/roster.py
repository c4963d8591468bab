"""What the workers of one run have counted: a file for each, in a folder that they share."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from proxy.audio.counters import Counters

log = structlog.get_logger(__name__)

_RUN = "run-"
_RETIRED = "retired.json"
_DRAINING = "draining"


class Roster:
    """The folder of a run. A record is {"counters": {…}, …}; whatever else it says is of a worker
    that lives.

    What a worker has counted stays in the totals when it is gone, however it went: they never fall.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def open(cls, state_dir: Path) -> Roster:
        """A new folder for this run; those that dead runs have left are removed."""
        runs = state_dir / "runs"
        try:
            runs.mkdir(parents=True, exist_ok=True)
            for old in runs.glob(_RUN + "*"):
                if not _is_alive(old.name.removeprefix(_RUN)):
                    shutil.rmtree(old, ignore_errors=True)
            folder = runs / f"{_RUN}{os.getpid()}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        except OSError as error:
            folder = Path(tempfile.mkdtemp(prefix="audio-proxy-"))
            log.warning("statistics are kept elsewhere", path=str(folder), error=str(error))
        return cls(folder)

    def close(self) -> None:
        """The run is over."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def is_draining(self) -> bool:
        """Whether the whole run is to end."""
        return (self._folder / _DRAINING).exists()

    def drain(self) -> None:
        """The whole run is to end: every worker sees it at its next look."""
        (self._folder / _DRAINING).touch()

    def publish(self, pid: int, record: dict[str, Any]) -> None:
        """What a worker has counted by now."""
        self._write(self._folder / f"{pid}.json", record)

    def retire(self, pid: int) -> None:
        """A worker is gone: what it had published last stays in the totals."""
        with self._locked(fcntl.LOCK_EX):
            path = self._folder / f"{pid}.json"
            record = _read(path)
            if record is not None:
                retired = _counters(_read(self._folder / _RETIRED))
                retired.add(_counters(record))
                self._write(self._folder / _RETIRED, {"counters": retired.as_record()})
                path.unlink()

    def read(self) -> tuple[Counters, list[dict[str, Any]]]:
        """What was counted in all, and the records of those that live."""
        with self._locked(fcntl.LOCK_SH):
            total = _counters(_read(self._folder / _RETIRED))
            workers = []
            for path in sorted(self._folder.glob("[0-9]*.json")):
                record = _read(path)
                if record is None:
                    continue
                total.add(_counters(record))
                if _is_alive(path.stem):
                    workers.append({"pid": int(path.stem), **record})
        return total, workers

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Nobody counts a worker twice, or not at all, while it is retired."""
        lock = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)

    def _write(self, path: Path, record: dict[str, Any]) -> None:
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(record))
        temporary.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return record


def _counters(record: dict[str, Any] | None) -> Counters:
    return Counters.from_record(record["counters"]) if record is not None else Counters()


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
