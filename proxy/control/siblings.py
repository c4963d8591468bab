"""The workers of one machine ask each other: a line of JSON each way, through Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from proxy.control.roster import is_alive

log = structlog.get_logger(__name__)

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]
"""What a worker has to say to a question; None: nothing."""

_LONGEST = 16 * 1024 * 1024
"""Bytes of an answer."""
_SUFFIX = ".sock"
_LONGEST_PATH = 100
"""Bytes of a socket's name that every system takes."""


class Siblings:
    """The socket of one worker, in the folder of the run, and the way to those of the others."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self._folder = folder
        self._answer = answer
        self._own = f"{os.getpid()}{_SUFFIX}"
        self._server: asyncio.Server | None = None
        self._door = -1

    async def start(self) -> None:
        """Be there for questions. Raises OSError."""
        self._door = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(FileNotFoundError):
            (self._folder / self._own).unlink()
        self._server = await asyncio.start_unix_server(
            self._serve, self._path(self._own), limit=_LONGEST
        )

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(FileNotFoundError):
            (self._folder / self._own).unlink()
        if self._door >= 0:
            os.close(self._door)

    async def ask(self, question: dict[str, Any], within: float = 2.0) -> list[dict[str, Any]]:
        """The answers of all other workers that come in so many seconds."""
        names = [path.name for path in self._folder.glob("*" + _SUFFIX) if path.name != self._own]
        asked = [self._ask(name, question, within) for name in names]
        return [answer for answer in await asyncio.gather(*asked) if answer is not None]

    async def _ask(
        self, name: str, question: dict[str, Any], within: float
    ) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(within):
                reader, writer = await asyncio.open_unix_connection(
                    self._path(name), limit=_LONGEST
                )
                try:
                    writer.write(json.dumps(question).encode() + b"\n")
                    found: dict[str, Any] | None = json.loads(await reader.readline())
                    return found
                finally:
                    writer.close()
        except ConnectionRefusedError:
            if not is_alive(name.removesuffix(_SUFFIX)):  # else it has just begun to listen
                with contextlib.suppress(FileNotFoundError):
                    (self._folder / name).unlink()
        except (OSError, TimeoutError, ValueError) as error:
            log.warning("a worker does not answer", worker=name, error=str(error) or "too late")
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(json.loads(await reader.readline()))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError):  # who asked is gone
            pass
        finally:
            writer.close()

    def _path(self, name: str) -> str:
        """A name of a socket that is short enough, whatever the folder is called."""
        path = str(self._folder / name)
        if len(os.fsencode(path)) <= _LONGEST_PATH:
            return path
        return f"/proc/self/fd/{self._door}/{name}"
