"""A real Redis server that can be killed, halted and started again, and a bad line to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from tests.support.tls import Certificates

HOST = "127.0.0.1"
READY = b"Ready to accept connections"


class RedisServer:
    """A `redis-server` process on a port of its own; see `redis_server`."""

    def __init__(self, folder: Path, options: tuple[str, ...], tls: Certificates | None) -> None:
        self._folder = folder
        self._options = options
        self._tls = tls
        self._process: asyncio.subprocess.Process | None = None
        self._draining: asyncio.Task[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Without a password."""
        if self._tls is not None:
            return f"rediss://{HOST}:{self.port}?ssl_ca_certs={self._tls.ca}"
        return f"redis://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    async def open(self) -> None:
        """Start on a free port."""
        for _ in range(20):
            self.port = _free_port()
            with contextlib.suppress(ChildProcessError):  # another process was faster
                await self.start()
                return
        raise AssertionError("no free port")

    async def start(self) -> None:
        """Start, again on the same port. It knows nothing of what it was told before."""
        port = str(self.port)
        ports = ["--port", port]
        if self._tls is not None:
            ports = ["--port", "0", "--tls-port", port, "--tls-auth-clients", "no"]
            ports += ["--tls-cert-file", str(self._tls.cert), "--tls-key-file", str(self._tls.key)]
            ports += ["--tls-ca-cert-file", str(self._tls.ca)]
        process = await asyncio.create_subprocess_exec(
            *("redis-server", "--bind", HOST, *ports, "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "no", *self._options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        said = b""
        async with asyncio.timeout(20):
            while READY not in said:
                line = await process.stdout.readline()
                said += line
                if not line:
                    await process.wait()
                    raise ChildProcessError(said.decode())
        self._process = process
        self._draining = asyncio.create_task(process.stdout.read())

    async def kill(self) -> None:
        """SIGKILL: what it was told last may be lost."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._draining is not None:
            await self._draining

    def stop(self) -> None:
        """It keeps its connections, and the system even takes new ones, but nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Go on after `stop`."""
        os.kill(self.pid, signal.SIGCONT)


@asynccontextmanager
async def redis_server(
    *options: str, tls: Certificates | None = None
) -> AsyncIterator[RedisServer]:
    """Run a server on a free port of loopback that keeps nothing on disk, unless `options` say so.

    `tls`: it speaks TLS and nothing else.
    """
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(folder, options, tls)
    try:
        await server.open()
        yield server
    finally:
        await server.kill()
        shutil.rmtree(folder)


@asynccontextmanager
async def redis_client(url: str) -> AsyncIterator[Any]:
    """A hand at the server, to look at it and to change things by."""
    # With a limit, redis-py calls asyncio.wait_for, which may swallow a cancellation.
    client = Redis.from_url(url, socket_timeout=None)
    try:
        yield client
    finally:
        await client.aclose()


async def subscribed(redis: Any, channel: str, count: int = 1) -> None:
    """Wait until so many listen to a channel."""
    async with asyncio.timeout(20):
        while await redis.pubsub_numsub(channel) != [(channel.encode(), count)]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # it happens in another process


async def calls(redis: Any, command: str) -> int:
    """How often a command was given so far."""
    statistics = await redis.info("commandstats")
    return int(statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"])


class Relay:
    """Passes TCP connections on to a port, as well as it is told to."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._passing = asyncio.Event()
        self._passing.set()
        self._stalls_at = b""
        self._drops = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.delay = 0.0
        """Seconds that everything takes longer, each way."""
        self.accepted = 0
        """Connections so far."""

    @property
    def url(self) -> str:
        """For Redis."""
        return f"redis://{HOST}:{self.port}"

    def drop(self) -> None:
        """All connections are lost, and new ones as soon as they are made."""
        self._drops = True
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Connections are accepted, and nothing passes; what comes waits."""
        self._passing.clear()

    def stall_at(self, words: bytes) -> None:
        """Stall as soon as a client says this, which waits already."""
        self._stalls_at = words

    @property
    def is_stalled(self) -> bool:
        """Whether it does."""
        return not self._passing.is_set()

    def resume(self) -> None:
        """Be a good line again: what waited passes."""
        self._drops = False
        self._stalls_at = b""
        self._passing.set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        self.accepted += 1
        if self._drops:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        writers = {writer, far_writer}
        self._writers |= writers
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, far_writer, is_client=True))
                tasks.create_task(self._pump(far_reader, writer, is_client=False))
        finally:
            self._writers -= writers
            for each in writers:
                each.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_client and self._stalls_at and self._stalls_at in data:
                    self.stall()
                await self._passing.wait()
                await asyncio.sleep(self.delay)
                if writer.is_closing():
                    return
                writer.write(data)
                await writer.drain()
            if not writer.is_closing():
                writer.write_eof()


@asynccontextmanager
async def relay(target: int) -> AsyncIterator[Relay]:
    """A relay to a port of loopback."""
    line = Relay(target)
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):  # at the end, below
            await line.handle(reader, writer)
        tasks.discard(task)

    server = await asyncio.start_server(handle, HOST, 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        for task in tasks.copy():
            task.cancel()
        await asyncio.gather(*tasks.copy())


@asynccontextmanager
async def unreachable_port() -> AsyncIterator[int]:
    """A port whose packets are lost: its queue is full, and Linux drops what comes then."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        while True:
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            try:
                async with asyncio.timeout(0.2):
                    await loop.sock_connect(client, (HOST, port))
            except TimeoutError:
                break
        yield port


def _free_port() -> int:
    """One that no outgoing connection has: while the server is down, one of those could get it."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        outgoing = int(file.read().split()[0])
    while True:
        port = random.randrange(10_000, max(outgoing, 12_000))
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, port))
            return port
