"""The proxy as an operator runs it: a process of its own, in front of a backend.

In the backend's and client's process it would answer 0.1 ms sooner, for want of a wake-up: the
latency that the demo shows would be too good.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from proxy.config import PREFIX
from proxy.errors import AudioProxyError

START_TIMEOUT = 30.0
STOP_TIMEOUT = 15.0
"""Seconds to end in; longer than the proxy's own `close_timeout`."""

_ADDRESSES = re.compile(r"\bserving\b.*\blisten=(?P<listen>\S+).*\badmin=(?P<admin>\S+)")


class DemoError(AudioProxyError):
    """The demo cannot go on. The message says why."""


class ProxyProcess:
    """A running proxy and where it listens."""

    def __init__(self, process: asyncio.subprocess.Process, *, show_log: bool) -> None:
        self._process = process
        self._show_log = show_log
        self._log: deque[str] = deque(maxlen=20)
        self.listen = ""
        self.admin = ""

    @property
    def log(self) -> str:
        """The last lines that it logged."""
        return "\n".join(self._log)

    async def start(self) -> None:
        """Wait until it serves. Raises DemoError where it does not."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while (line := await self._next_line()) is not None:
                    if found := _ADDRESSES.search(line):
                        self.listen, self.admin = found["listen"], found["admin"]
                        return
        except TimeoutError as error:
            raise DemoError(f"the proxy did not start in time\n{self.log}") from error
        raise DemoError(f"the proxy did not start\n{self.log}")

    async def follow(self) -> None:
        """Read its log until it ends: a full pipe would stop it."""
        while (line := await self._next_line()) is not None:
            if self._show_log:
                print(line, file=sys.stderr)

    async def stop(self) -> None:
        """End it, and wait until it has ended."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _next_line(self) -> str | None:
        stream = self._process.stderr
        assert stream is not None
        line = await stream.readline()
        if not line:
            return None
        self._log.append(line.decode(errors="replace").rstrip())
        return self._log[-1]


@asynccontextmanager
async def run_proxy(
    backend: str, state_dir: Path, *, show_log: bool
) -> AsyncIterator[tuple[ProxyProcess, asyncio.Task[None]]]:
    """Run the proxy on free ports of this machine; gives it, and a task that ends when it does.

    Raises DemoError where it does not start.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "run", "--backend", backend),
        *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", str(state_dir)),
        env=_plain_environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    proxy = ProxyProcess(process, show_log=show_log)
    following: asyncio.Task[None] | None = None
    try:
        await proxy.start()
        following = asyncio.create_task(proxy.follow())
        yield proxy, following
    finally:
        await proxy.stop()
        if following is not None:
            await following


def _plain_environment() -> dict[str, str]:
    """Ours, without settings that are meant for another proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(PREFIX) and name.upper() != "ENABLE_WS_COMPRESSION"
    }
