"""What the workers of one run have counted: a file for each, in a folder that they share."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from proxy.audio.counters import Counters

log = structlog.get_logger(__name__)

_RUN = "run-"
_RETIRED = "retired.json"
_DRAINING = "draining"


@dataclass
class Counted:
    """What the workers of a run have counted."""

    total: Counters
    workers: list[dict[str, Any]]
    """The records of those that live."""
    restarts: int
    """Workers that have died and were replaced."""


class Roster:
    """The folder of a run. A record is {"counters": {…}, …}; whatever else it says is of a worker
    that lives.

    What a worker has counted stays in the totals when it is gone, however it went: they never fall.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = secrets.token_hex(3)
        """Tells this run from those of other machines."""
        self._published: object = None

    @classmethod
    def open(cls, state_dir: Path) -> Roster:
        """A new folder for this run; those that dead runs have left are removed."""
        runs = state_dir / "runs"
        try:
            runs.mkdir(parents=True, exist_ok=True)
            for old in runs.glob(_RUN + "*"):
                if not is_alive(old.name.removeprefix(_RUN)):
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
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_draining(self) -> bool:
        """Whether the whole run is to end."""
        return (self.folder / _DRAINING).exists()

    def drain(self) -> None:
        """The whole run is to end: every worker sees it at its next look."""
        with _told("the workers are not told that all stop"):
            (self.folder / _DRAINING).touch()

    def publish(self, pid: int, record: dict[str, Any]) -> None:
        """What a worker has counted by now."""
        path, data = f"{self.folder}/{pid}.json", json.dumps(record).encode()
        if (path, data) != self._published or not os.path.exists(path):
            _write(path, data)
            self._published = path, data

    def retire(self, pid: int, *, died: bool = False) -> None:
        """A worker is gone: what it had published last stays in the totals."""
        with _told("what a worker has counted is lost"), self._locked(fcntl.LOCK_EX):
            path = self.folder / f"{pid}.json"
            record, retired = _read(path), _read(self.folder / _RETIRED) or {}
            counters = _counters(retired)
            counters.add(_counters(record))
            restarts = retired.get("restarts", 0) + died
            record = {"counters": counters.as_record(), "restarts": restarts}
            _write(f"{self.folder}/{_RETIRED}", json.dumps(record).encode())
            path.unlink(missing_ok=True)

    def read(self) -> Counted:
        """What was counted in all; nothing where the folder is gone."""
        total, workers, retired = Counters(), list[dict[str, Any]](), dict[str, Any]()
        with contextlib.suppress(FileNotFoundError), self._locked(fcntl.LOCK_SH):
            retired = _read(self.folder / _RETIRED) or {}
            total = _counters(retired)
            for path in sorted(self.folder.glob("[0-9]*.json")):
                record = _read(path)
                if record is None:
                    continue
                total.add(_counters(record))
                if is_alive(path.stem):
                    workers.append({"pid": int(path.stem), **record})
        return Counted(total, workers, retired.get("restarts", 0))

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Nobody counts a worker twice, or not at all, while it is retired."""
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)


def _write(path: str, data: bytes) -> None:
    """Replace a file. Raises OSError."""
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """A full disk costs figures, and is told of; it does not end those who serve."""
    try:
        yield
    except OSError as error:
        log.error(what, error=str(error))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # a disk that failed may leave half of one
        return None
    return record


def _counters(record: dict[str, Any] | None) -> Counters:
    return Counters.from_record(record["counters"]) if record else Counters()


def is_alive(pid: str) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
