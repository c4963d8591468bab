"""A proxy in a process of its own, as operators run it, and what the system says of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.values import Address, parse_address


@dataclass(frozen=True)
class Process:
    """A running `audio-proxy run`."""

    parent: int
    listen: Address
    admin: Address
    log: list[str]

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers."""
        return children_of(self.parent)

    @property
    def pid(self) -> int:
        """Of its only worker."""
        (pid,) = self.workers
        return pid

    def memory(self) -> int:
        """Resident memory in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    def sockets(self) -> int:
        """How many sockets it has open."""
        count = 0
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed in the meantime
                count += os.readlink(fd).startswith("socket:")
        return count


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, and that have not ended."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@asynccontextmanager
async def proxy_process(
    backend: int | str, state_dir: Path, *options: str
) -> AsyncIterator[Process]:
    """Run the command on free ports; ends it with SIGTERM, which must end it well."""
    url = f"http://127.0.0.1:{backend}" if isinstance(backend, int) else backend
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "run", "--backend", url),
        *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", str(state_dir)),
        *options,
        stderr=asyncio.subprocess.PIPE,
    )
    stderr = process.stderr
    assert stderr is not None
    log: list[str] = []

    async def follow(reader: asyncio.StreamReader) -> None:
        async for line in reader:
            log.append(line.decode())  # noqa: PERF401  # as it comes

    try:
        while not log or "serving" not in log[-1]:
            line = await stderr.readline()
            assert line, f"the proxy ended: {log}"
            log.append(line.decode())
        follower = asyncio.create_task(follow(stderr))
        addresses = {}
        for name in ("listen", "admin"):
            found = re.search(rf"\b{name}=(\S+)", log[-1])
            assert found is not None
            addresses[name] = parse_address(found[1])
        listen, admin = addresses["listen"], addresses["admin"]
        assert isinstance(listen, Address)
        assert isinstance(admin, Address)
        yield Process(process.pid, listen, admin, log)
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0, log
        await follower
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def socket_memory(where: str) -> list[int]:
    """Bytes that the kernel keeps for each established TCP socket that `ss` finds (`ss -m`)."""
    process = await asyncio.create_subprocess_exec(
        *("ss", "-tmnH", "state", "established", where), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    sizes = []
    for memory in re.findall(r"skmem:\(([^)]*)\)", output.decode()):
        fields = dict(re.findall(r"([a-z]+)(\d+)", memory))
        sizes.append(int(fields["r"]) + int(fields["w"]) + int(fields["f"]))
    return sizes
