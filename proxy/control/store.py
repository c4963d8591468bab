"""Where flags are kept: a JSON file, replaced atomically, re-read by every running worker."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import structlog

from proxy.control.flags import Flags, LiveFlags, Revision, differences
from proxy.errors import FlagsError, StoreError

log = structlog.get_logger(__name__)

POLL_INTERVAL = 0.25
"""Seconds between two looks at the file. A look costs one read of some hundred bytes."""

LOCK_TIMEOUT = 2.0
"""Seconds that a writer waits for another one."""


class FlagStore(Protocol):
    """Keeps the flags, and what is in force of them in `live`."""

    kind: str
    """"file" or "redis"."""
    live: LiveFlags
    error: str | None
    """Why what is stored is not in force, or None."""
    is_connected: bool
    """Whether it can be asked."""
    tells: bool
    """Whether changes that were not made by a proxy are told of in the log here, rather than by
    another worker. Who makes one always tells."""

    async def start(self) -> None:
        """Put in force what is stored, or store the first flags where nothing is. It is no error
        where it cannot be asked: then the first flags are in force, or the last that were good."""
        ...

    async def watch(self) -> None:
        """Follow what is stored, for ever."""
        ...

    async def close(self) -> None:
        """Let go of where it is stored."""
        ...

    async def change(
        self, changes: Mapping[str, Any], by: str, expected: int | None = None
    ) -> Revision:
        """Change some flags, also those in force here; see `Revision.changed`.

        Raises FlagsError where a value is wrong, ConflictError where `expected` is not the number
        that is stored, StoreError where it cannot be stored; then nothing has changed.
        """
        ...


COMMAND_LINE = "command line"
"""Who makes changes at the store itself, and has no log."""


def tell_change(changes: Mapping[str, tuple[Any, Any]], revision: Revision, by: str) -> None:
    """What an operator reads of a change in the log: a line for each flag."""
    for name, (before, after) in changes.items():
        log.info(
            "flag changed",
            flag=name,
            before=before,
            after=after,
            by=by,
            revision=revision.number,
        )


def tell_untold(changes: Mapping[str, tuple[Any, Any]], revision: Revision, before: int) -> None:
    """The same of a change that was seen, if nobody who makes such tells of it: the command line,
    or somebody's hand, which leaves the number that was `before`."""
    if revision.by == COMMAND_LINE and revision.number != before:
        tell_change(changes, revision, COMMAND_LINE)
    elif revision.by is None or revision.number == before:
        tell_change(changes, revision, "hand")


class FileStore:
    """The flags in `path`, and what is in force of them in `live`.

    The content is compared, not a time stamp or an inode, so a change is seen however it was
    made: replaced, rewritten in place, or by a Kubernetes ConfigMap that swaps a symlink.
    """

    kind = "file"

    def __init__(
        self,
        path: Path,
        first: Flags,
        *,
        tells: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`tells`: see `FlagStore`. `sleep`: how `watch` waits."""
        self._path = path
        self._sleep = sleep
        self._first = first
        self.tells = tells
        self.is_connected = True
        self._seen: bytes | None = None
        self.live = LiveFlags(first)
        self.error: str | None = None
        """Why the file is not in force, or None."""

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def create(self) -> None:
        """Write the first flags where no file is yet: `flags get` then shows what is in force."""
        try:
            with self._locked():
                if not self._path.exists():
                    self._write(Revision(self.live.current))
        except OSError as error:
            log.warning("flags cannot be kept", path=str(self._path), error=str(error))

    async def start(self) -> None:
        """See `FlagStore`."""
        self.create()
        tells, self.tells = self.tells, False  # what was so before is no change
        self.refresh()
        self.tells = tells

    def read(self) -> Revision:
        """What is in the file. Raises FlagsError where it is missing or broken."""
        try:
            return Revision.parse(self._path.read_bytes(), self._first)
        except OSError as error:
            raise StoreError(f"cannot read {self._path}: {error.strerror}") from error
        except FlagsError as error:
            raise FlagsError(f"{self._path}: {error}") from error

    async def change(
        self, changes: Mapping[str, Any], by: str, expected: int | None = None
    ) -> Revision:
        """See `FlagStore`."""
        after = await asyncio.to_thread(self.write, changes, by, expected)
        self.refresh()
        return after

    def set(self, changes: Mapping[str, Any], by: str = "hand") -> Revision:
        """Change some flags, in the file and at once here; see `write`."""
        after = self.write(changes, by)
        self.refresh()
        return after

    def write(self, changes: Mapping[str, Any], by: str, expected: int | None = None) -> Revision:
        """Change some flags in the file. May wait for other writers: safe in any thread.

        Raises as `FlagStore.change`. A broken file is replaced, the changes made to what is in
        force.
        """
        try:
            with self._locked():
                try:
                    before = self.read()
                except FlagsError:
                    before = Revision(self.live.current, self.live.revision)
                after = before.changed(changes, by, expected)
                self._write(after)
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error
        tell_change(differences(before.flags, after.flags), after, by)
        return after

    def refresh(self) -> None:
        """Look at the file; put it in force if it changed and is valid."""
        try:
            data = _read(self._path)
            if data == self._seen:
                return
            self._seen = data
            revision = Revision.parse(data, self._first)
        except OSError as error:
            self._seen = None
            self.is_connected = False
            self._complain(f"cannot read {self._path}: {error.strerror}")
        except FlagsError as error:
            self.is_connected = True
            self._complain(f"{self._path}: {error}")
        else:
            self.is_connected = True
            self.error = None
            before = self.live.revision
            changes = self.live.take(revision)
            if self.tells:
                tell_untold(changes, revision, before)

    async def watch(self) -> None:
        """Look at the file for ever."""
        while True:
            self.refresh()
            await self._sleep(POLL_INTERVAL)

    async def close(self) -> None:
        """Nothing is held."""

    def _complain(self, error: str) -> None:
        """Say once that the flags in force stay what they were."""
        if error != self.error:
            log.error("flags not taken; the last good ones stay in force", error=error)
            self.error = error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers out, of other processes too. Raises OSError."""
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)  # the folder itself: no file that others may not open
        try:
            give_up = time.monotonic() + LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise
                    time.sleep(0.05)
            yield
        finally:
            os.close(lock)

    def _write(self, revision: Revision) -> None:
        """Raises OSError."""
        replace_file(self._path.resolve(), revision.to_json())  # where it is a link, the link stays


def _read(path: Path) -> bytes:
    """All of a file. Four times a second: `Path.read_bytes` asks the system nine things, which took
    160 us of CPU in a worker with nothing else to do. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while more := os.read(descriptor, 1 << 16):
            data += more
        return data
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file: a reader sees the old content or the new. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
