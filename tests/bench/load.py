"""A backend and its clients, on raw sockets: they must never be what is waited for.

Clients that only count let the kernel throw away what they receive (MSG_TRUNC), so that half of
the load's work is not done at all.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import resource
import socket
from bisect import bisect_left
from dataclasses import dataclass, field
from time import perf_counter

from proxy.tunnel.handshake import accept_of
from proxy.websocket.frames import BINARY, TEXT, build_header, parse_header

CLOSE = b"\x88\x02\x03\xe8"
_CLOSE_REPLY = b"\x88\x82\0\0\0\0\x03\xe8"
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_READ = 1 << 20
_HEAR = 1 << 16
"""Bytes that a speaker's client reads at once: room for a megabyte each time is a system call."""
_WRITE = 256 * 1024
_ID = re.compile(rb"GET /(\d+)")
_ORIGINAL = re.compile(rb'"original_size":(\d+)')


class LoadError(Exception):
    """Something was lost, or did not come in time."""


class FullError(LoadError):
    """Speech was not taken as fast as it was spoken."""


@dataclass(frozen=True)
class Block:
    """Messages as they are sent, over and over."""

    size: int
    """Bytes of each payload."""
    wire: bytes = field(repr=False)
    ends: list[int] = field(repr=False)
    """Where each of them ends."""

    @classmethod
    def of(cls, audio: bytes, size: int) -> Block:
        """`audio` in messages of `size` bytes, as many as are whole."""
        audio = audio * (1 + _WRITE // len(audio))
        header = build_header(BINARY, size)
        count = len(audio) // size
        wire = b"".join(header + audio[at * size : (at + 1) * size] for at in range(count))
        step = len(header) + size
        return cls(size, wire, [step * (at + 1) for at in range(count)])

    def messages(self) -> list[bytes]:
        """One by one."""
        return [self.wire[a:b] for a, b in itertools.pairwise([0, *self.ends])]


@dataclass
class Pair:
    """Both ends of a connection through a peer."""

    client: socket.socket
    server: socket.socket

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Load:
    """Use as an async context manager; `port` is the backend's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count()
        self._greeted: dict[int, asyncio.Future[socket.socket]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.buffer = bytearray(_READ)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Load:
        self._start(self._accept())
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    def _start(self, coroutine: object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            sock, _ = await self._loop.sock_accept(self._listener)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._greet(sock))

    async def _greet(self, sock: socket.socket) -> None:
        head = await self._head(sock)
        found = _ID.match(head)
        key = re.search(rb"sec-websocket-key: *(\S+)", head, re.IGNORECASE)
        if found is None or key is None:  # somebody asks whether we are there
            sock.close()
            return
        answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        answer += b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept_of(key[1])
        await self._loop.sock_sendall(sock, answer)
        waiting = self._greeted.pop(int(found[1]))
        if not waiting.done():
            waiting.set_result(sock)

    async def _head(self, sock: socket.socket) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = await self._loop.sock_recv(sock, 65536)
            if not data:
                return head
            head += data
        return head

    async def open(self, port: int, query: str = "") -> Pair:
        """One connection through the peer at `port`. Raises LoadError where it is refused."""
        number = next(self._ids)
        greeted = self._greeted[number] = self._loop.create_future()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(sock, ("127.0.0.1", port))
            request = f"GET /{number}{query} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n"
            request += "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            request += f"Sec-WebSocket-Key: {_KEY.decode()}\r\n\r\n"
            await self._loop.sock_sendall(sock, request.encode())
            head = await self._head(sock)
            if not head.startswith(b"HTTP/1.1 101 "):
                raise LoadError(f"refused: {head[:100]!r}")
            async with asyncio.timeout(10):
                return Pair(sock, await greeted)
        except BaseException:
            sock.close()
            raise

    async def open_many(self, count: int, port: int, query: str = "") -> list[Pair]:
        """Many, 20 at a time."""
        gate = asyncio.Semaphore(20)

        async def one() -> Pair:
            async with gate:
                return await self.open(port, query)

        return list(await asyncio.gather(*(one() for _ in range(count))))


class Flood:
    """One connection that is sent messages as fast as they are taken, about `most` bytes."""

    def __init__(self, load: Load, pair: Pair, block: Block, most: float = math.inf) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = load.buffer
        self._pair = pair
        self._block = block
        self._most = most
        self._view = memoryview(block.wire)
        self._at = 0
        self._rounds = 0
        self._stop: int | None = None  # where the last message ends
        self._tail = b""
        self.received = 0
        """Bytes."""
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(pair.client, self._read)
        self._loop.add_writer(pair.server, self._write)

    @property
    def sent(self) -> int:
        """Messages."""
        return self._rounds * len(self._block.ends) + bisect_left(self._block.ends, self._at + 1)

    def finish(self) -> None:
        """End with the message that is being sent."""
        if self._stop is None:
            ends = self._block.ends
            self._stop = ends[bisect_left(ends, self._at)] if self._at else 0

    def _write(self) -> None:
        left = self._most - self._rounds * len(self._view) - self._at
        if left <= 0:
            self.finish()
        stop = self._stop
        view = self._view
        if stop == self._at:
            self._loop.remove_writer(self._pair.server)
            self._pair.server.send(CLOSE)
            self._pair.server.shutdown(socket.SHUT_WR)
            return
        end = len(view) if stop is None else stop
        step = _WRITE if left > _WRITE or stop is not None else math.ceil(left)
        try:
            self._at += self._pair.server.send(view[self._at : min(self._at + step, end)])
        except BlockingIOError:
            return
        if self._at == len(view) and stop is None:
            self._at = 0
            self._rounds += 1

    def _read(self) -> None:
        client = self._pair.client
        if self._stop is None:
            self.received += client.recv_into(self._buffer, _READ, socket.MSG_TRUNC)
            return
        data = client.recv(_READ)
        self.received += len(data)
        self._tail = (self._tail + data)[-len(CLOSE) :]
        if self._tail == CLOSE or not data:
            self._loop.remove_reader(client)
            if data:
                client.send(_CLOSE_REPLY)
                self.done.set_result(None)
            else:
                self.done.set_exception(LoadError("the peer closed before the end"))


class Speaker:
    """One connection that is sent a chunk every `interval` seconds.

    Chunks are told apart by the bytes of audio that were heard, so that it does not matter in
    which messages, and how small, they come.
    """

    def __init__(self, pair: Pair, block: Block, interval: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._pair = pair
        self._messages = block.messages()
        self._size = block.size
        self._interval = interval
        self._times: list[float] = []
        self._rest = b""
        self._announced: int | None = None
        self._is_stopped = False
        self.sent = 0
        """Chunks."""
        self.heard_bytes = 0
        """Of audio, as it was before it was made smaller."""
        self.latencies: list[float] = []
        """Seconds."""
        self.done: asyncio.Future[None] = self._loop.create_future()
        """Set when no more is said and all is heard; LoadError where that cannot be."""

    def start(self, first: float) -> None:
        """Speak from the time `first` of the event loop on."""
        self._next = first
        self._timer = self._loop.call_at(first, self._say)
        self._loop.add_reader(self._pair.client, self._hear)

    def stop(self) -> None:
        """Say no more."""
        self._timer.cancel()
        self._is_stopped = True
        self._check()

    def leave(self) -> None:
        """Hear no more."""
        self._timer.cancel()
        self._loop.remove_reader(self._pair.client)

    def _check(self) -> None:
        if self._is_stopped and self.heard_bytes == self.sent * self._size and not self.done.done():
            self.done.set_result(None)

    def _fail(self, error: LoadError) -> None:
        self.leave()
        if not self.done.done():
            self.done.set_exception(error)

    def _say(self) -> None:
        message = self._messages[self.sent % len(self._messages)]
        self._times.append(perf_counter())
        try:
            is_sent = self._pair.server.send(message) == len(message)
        except BlockingIOError:
            is_sent = False
        if not is_sent:
            self._fail(FullError("the backend's socket is full at speech pace"))
            return
        self.sent += 1
        self._next += self._interval
        self._timer = self._loop.call_at(self._next, self._say)

    def _hear(self) -> None:
        data = self._pair.client.recv(_HEAR)
        now = perf_counter()
        if not data:
            self._fail(LoadError("the peer closed while there was speech"))
            return
        data = self._rest + data
        at = 0
        while (header := parse_header(data, at)) is not None:
            first, header_size, size = header
            end = at + header_size + size
            if end > len(data):
                break
            if first & 0x0F == TEXT:
                found = _ORIGINAL.search(data, at, end)
                self._announced = int(found[1]) if found else None
            elif first & 0x0F == BINARY:
                self.heard_bytes += size if self._announced is None else self._announced
                self._announced = None
            at = end
        self._rest = data[at:]
        heard = self.heard_bytes // self._size
        if heard > self.sent:
            self._fail(LoadError("more was heard than said"))
            return
        self.latencies += [now - said for said in self._times[len(self.latencies) : heard]]
        self._check()


def raise_file_limit() -> int:
    """As many open files as are allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
