"""Where flags are kept: a JSON file, replaced atomically, re-read by every running worker."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from proxy.control.flags import Flags, LiveFlags, parse_flags
from proxy.errors import FlagsError, StoreError

log = structlog.get_logger(__name__)

POLL_INTERVAL = 0.25
"""Seconds between two looks at the file. A look costs one read of some hundred bytes."""

LOCK_TIMEOUT = 2.0
"""Seconds that a writer waits for another one."""


class FileStore:
    """The flags in `path`, and what is in force of them in `live`.

    The content is compared, not a time stamp or an inode, so a change is seen however it was
    made: replaced, rewritten in place, or by a Kubernetes ConfigMap that swaps a symlink.
    """

    def __init__(self, path: Path, first: Flags) -> None:
        self._path = path
        self._first = first
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
                    self._write(self.live.current)
        except OSError as error:
            log.warning("flags cannot be kept", path=str(self._path), error=str(error))

    def read(self) -> Flags:
        """The flags in the file. Raises FlagsError where it is missing or broken."""
        try:
            return parse_flags(self._path.read_bytes(), self._first)
        except OSError as error:
            raise StoreError(f"cannot read {self._path}: {error.strerror}") from error
        except FlagsError as error:
            raise FlagsError(f"{self._path}: {error}") from error

    def set(self, changes: Mapping[str, Any]) -> Flags:
        """Change some flags, in the file and at once here; see `write`."""
        after = self.write(changes)
        self.refresh()
        return after

    def write(self, changes: Mapping[str, Any]) -> Flags:
        """Change some flags in the file. May wait for other writers: safe in any thread.

        Raises FlagsError where a value is wrong, StoreError where the file cannot be written; then
        nothing has changed. A broken file is replaced, the changes made to what is in force.
        """
        try:
            with self._locked():
                try:
                    before = self.read()
                except FlagsError:
                    before = self.live.current
                after = before.updated(changes)
                self._write(after)
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error
        return after

    def refresh(self) -> None:
        """Look at the file; put it in force if it changed and is valid."""
        try:
            data = self._path.read_bytes()
            if data == self._seen:
                return
            self._seen = data
            flags = parse_flags(data, self._first)
        except OSError as error:
            self._seen = None
            self._complain(f"cannot read {self._path}: {error.strerror}")
        except FlagsError as error:
            self._complain(f"{self._path}: {error}")
        else:
            self.error = None
            before = self.live.current
            if flags != before:
                self.live.current = flags
                log.info("flags changed", before=before.model_dump(), after=flags.model_dump())

    async def watch(self) -> None:
        """Look at the file for ever."""
        while True:
            self.refresh()
            await asyncio.sleep(POLL_INTERVAL)

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

    def _write(self, flags: Flags) -> None:
        """Replace the file: a reader sees the old content or the new. Raises OSError."""
        path = self._path.resolve()  # where it is a link, the link stays
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".flags-")
        try:
            with open(descriptor, "wb") as file:
                file.write(flags.to_json())
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
