"""What terminals show; the real command in one of its own: 80 columns, and rows enough for all."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from io import StringIO
from pathlib import Path

from rich.console import Console, RenderableType

from tests.support.command import environment

COLUMNS, ROWS = 80, 100


def drawn(what: RenderableType, width: int) -> str:
    """What rich makes of something, without colours, in so many columns."""
    file = StringIO()
    Console(file=file, width=width).print(what)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


class Terminal:
    """What a command shows; see `terminal`."""

    def __init__(self, process: asyncio.subprocess.Process, fd: int) -> None:
        self._process = process
        self._fd = fd
        self._more = asyncio.Event()
        self._shown = ""
        self._ended = False

    def read(self) -> None:
        """There is something to read."""
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # so Linux says that nobody has the other end open any more
            data = b""
        self._shown += data.decode(errors="replace")
        if not data:
            self._ended = True
            asyncio.get_running_loop().remove_reader(self._fd)
        self._more.set()

    @property
    def picture(self) -> str:
        """The last one, without colours; the cursor goes up a line before each new one."""
        last = re.split(r"(?:\x1b\[2K|\x1b\[1A|\r)+(?!\n)", self._shown)[-1]
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last).replace("\r", "")

    async def until(self, pattern: str) -> None:
        """Wait for something in the last picture."""
        while not re.search(pattern, self.picture):
            assert not self._ended, self._shown
            self._more.clear()
            await self._more.wait()

    async def end(self) -> str:
        """Wait for the command's good end; what is left on the screen."""
        while not self._ended:
            self._more.clear()
            await self._more.wait()
        assert await self._process.wait() == 0, self._shown
        return self.picture

    async def interrupt(self) -> str:
        """The same, after Ctrl-C."""
        os.write(self._fd, b"\x03")
        return await self.end()


def _take_terminal(fd: int) -> None:
    """In the child: a session of which this is the terminal, so that Ctrl-C there means it."""
    os.setsid()
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


@asynccontextmanager
async def terminal(*arguments: str | Path) -> AsyncIterator[Terminal]:
    """Start a command in a terminal."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", *map(str, arguments)),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment({"TERM": "xterm-256color"}),
        preexec_fn=partial(_take_terminal, theirs),
    )
    os.close(theirs)
    screen = Terminal(process, ours)
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, screen.read)
    try:
        async with asyncio.timeout(30):
            yield screen
    finally:
        loop.remove_reader(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
