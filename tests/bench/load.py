"""A backend and its clients, on raw sockets: they must never be what is waited for.

Clients that only count let the kernel throw away what they receive (MSG_TRUNC), so that half of
the load's work is not done at all.
"""

from __future__ import annotations

import asyncio
import itertools
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
_WRITE = 256 * 1024
_ID = re.compile(rb"GET /(\d+)")
_ORIGINAL = re.compile(rb'"original_size":(\d+)')


class LoadError(Exception):
    """Something was lost, or did not come in time."""


@dataclass(frozen=True)
class Block:
    """Messages as they are sent, over and over."""

    wire: bytes
    ends: list[int]
    """Where each of them ends."""

    @classmethod
    def of(cls, audio: bytes, size: int) -> Block:
        """`audio` in messages of `size` bytes, as many as are whole."""
        audio = audio * (1 + _WRITE // len(audio))
        header = build_header(BINARY, size)
        count = len(audio) // size
        wire = b"".join(header + audio[at * size : (at + 1) * size] for at in range(count))
        step = len(header) + size
        return cls(wire, [step * (at + 1) for at in range(count)])

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
    """One connection that is sent messages as fast as they are taken."""

    def __init__(self, load: Load, pair: Pair, block: Block) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = load.buffer
        self._pair = pair
        self._block = block
        self._view = memoryview(block.wire)
        self._at = 0
        self._rounds = 0
        self._stop: int | None = None  # where the last message ends
        self._tail = b""
        self.received = 0
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(pair.client, self._read)
        self._loop.add_writer(pair.server, self._write)

    @property
    def sent(self) -> int:
        """Messages."""
        return self._rounds * len(self._block.ends) + bisect_left(self._block.ends, self._at + 1)

    def finish(self) -> None:
        """End with the message that is being sent."""
        ends = self._block.ends
        self._stop = ends[bisect_left(ends, self._at)] if self._at else 0

    def _write(self) -> None:
        stop = self._stop
        view = self._view
        if stop == self._at:
            self._loop.remove_writer(self._pair.server)
            self._pair.server.send(CLOSE)
            self._pair.server.shutdown(socket.SHUT_WR)
            return
        try:
            end = len(view) if stop is None else stop
            self._at += self._pair.server.send(view[self._at : min(self._at + _WRITE, end)])
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


@dataclass
class Speaker:
    """One connection that is sent a chunk every `interval` seconds."""

    pair: Pair
    messages: list[bytes]
    interval: float
    latencies: list[float] = field(default_factory=list)
    sent: int = 0
    sent_bytes: int = 0
    heard: int = 0
    heard_bytes: int = 0
    """Payload bytes that the chunks stood for before they were made smaller."""
    closed: bool = False

    def start(self, first: float) -> None:
        """Speak from the time `first` of the event loop on."""
        self._loop = asyncio.get_running_loop()
        self._times: list[float] = []
        self._rest = b""
        self._announced: int | None = None
        self._next = first
        self._timer = self._loop.call_at(first, self._say)
        self._loop.add_reader(self.pair.client, self._hear)

    def stop(self) -> None:
        """Say no more."""
        self._timer.cancel()

    def leave(self) -> None:
        """Hear no more."""
        self._loop.remove_reader(self.pair.client)

    def _say(self) -> None:
        message = self.messages[self.sent % len(self.messages)]
        self._times.append(perf_counter())
        if self.pair.server.send(message) != len(message):
            raise LoadError("the backend's socket is full at speech pace")
        self.sent += 1
        header = parse_header(message, 0)
        assert header is not None
        self.sent_bytes += header[2]
        self._next += self.interval
        self._timer = self._loop.call_at(self._next, self._say)

    def _hear(self) -> None:
        data = self.pair.client.recv(_READ)
        now = perf_counter()
        if not data:
            self.closed = True
            self.leave()
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
                self.latencies.append(now - self._times[self.heard])
                self.heard += 1
            else:
                self.closed = True
            at = end
        self._rest = data[at:]


def raise_file_limit() -> int:
    """As many open files as are allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
