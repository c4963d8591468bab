"""The real command, as an operator types it, and what a running proxy says of itself."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from proxy.client import connect
from tests.support import SPEECH

NOBODY = "127.0.0.1:9"
"""An address where nobody listens."""

BACKEND = ("--backend", f"http://{NOBODY}")
FREE_PORTS = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")


@dataclass(frozen=True)
class Ended:
    """What a command said, and its status."""

    status: int | None
    output: str
    problems: str

    def refused(self, *names: str) -> None:
        """It must have ended with one line for the operator, which names what is wrong."""
        assert (self.status, self.output) == (2, ""), self.problems
        assert len(self.problems.splitlines()) == 1, self.problems
        for name in names:
            assert name in self.problems


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's, without what may be in it of settings for us and for the web."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if "proxy" not in name.lower() and name.upper() != "ENABLE_WS_COMPRESSION"
    }
    return {**kept, **more}


@asynccontextmanager
async def start(
    *arguments: str | Path, **more: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """Start a command; yields it and its standard error. Keywords are environment variables."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(more),
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            yield process, process.stderr
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def audio_proxy(*arguments: str | Path, **more: str) -> Ended:
    """Run a command to its end."""
    async with start(*arguments, **more) as (process, _):
        output, problems = await process.communicate()
    return Ended(process.returncode, output.decode(), problems.decode())


@asynccontextmanager
async def running(
    *options: str | Path, stop: signal.Signals = signal.SIGTERM, **more: str
) -> AsyncIterator[dict[str, str]]:
    """`audio-proxy run` until the block ends, then a signal, which must end it well.

    Yields what it says of itself when it serves: `listen`, `admin`, `backend`, `flags`.
    """
    async with start("run", *options, **more) as (process, stderr):
        log = ""
        while "serving" not in log:
            line = (await stderr.readline()).decode()
            assert line, log
            log += line
        yield dict(re.findall(r"(\w+)=(\S+)", log))
        process.send_signal(stop)
        output, rest = await process.communicate()
    assert (process.returncode, output) == (0, b""), rest
    assert b"stopping" in rest
    assert b"Traceback" not in rest


async def ask(admin: object, path: str, **options: Any) -> Any:
    """The JSON that an admin port answers."""
    url = f"http://{admin}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, **options) as response:
        return await response.json()


async def ask_until(admin: object, path: str, key: str, seconds: float = 5) -> Any:
    """Ask again until `key` is neither null nor true."""
    async with asyncio.timeout(seconds):
        while (value := (await ask(admin, path))[key]) in (None, True):
            pass
    return value


async def lesson(url: str) -> None:
    """Have one recording streamed from a backend of tests.support.backends."""
    recording = str(SPEECH["speech-22050-s16.wav"])
    async with connect(url, proxy=None) as tutor:
        await tutor.send(json.dumps({"path": recording, "size": 4096, "limit": 100_000}))
        while await tutor.recv() != "end":
            pass
