"""Peers that speak in bytes: a backend that follows a script, a client that reads when told to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from typing import TypeVar

from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.protocol import Event
from websockets.streams import StreamReader
from websockets.uri import parse_uri

from proxy.values import Address
from proxy.websocket.frames import build_header

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
T = TypeVar("T")

LIMIT = 64 * 1024 * 1024


def accept(head: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a request head."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-key":
            digest = hashlib.sha1(value.strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            return base64.b64encode(digest)
    raise AssertionError("the request has no key")


def switch(head: bytes, *more: bytes) -> bytes:
    """A 101 that accepts a request head."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept(head),
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def request(target: bytes = b"/", *more: bytes, host: bytes = b"tutor.example") -> bytes:
    """An opening handshake."""
    lines = [
        b"GET " + target + b" HTTP/1.1",
        b"Host: " + host,
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Peer:
    """One end of a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """Read up to the blank line; returns what stands before it."""
        return (await self.reader.readuntil(b"\r\n\r\n"))[:-4]

    async def send(self, data: bytes) -> None:
        """Write, and wait until not too much is left to send."""
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        return await self.reader.read()

    async def ended(self) -> bytes:
        """What still comes until the other side has ended or reset the connection."""
        rest = b""
        with contextlib.suppress(ConnectionError):  # a reset is an end too
            while data := await self.reader.read(1 << 16):
                rest += data
        return rest

    def reset(self) -> None:
        """Abort the connection."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):  # the other side may have been faster
            await self.writer.wait_closed()


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def raw_backend(script: Script) -> AsyncIterator[int]:
    """Run `script` for every connection. Yields the port; a script that fails fails the test."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)

        async def run() -> None:
            try:
                await script(peer)
            finally:
                await peer.close()

        tasks.add(asyncio.create_task(run()))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=LIMIT)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks)


@asynccontextmanager
async def raw_client(address: Address | int, limit: int = LIMIT) -> AsyncIterator[Peer]:
    """A TCP connection to a proxy or a port."""
    host, port = (
        ("127.0.0.1", address) if isinstance(address, int) else (address.host, address.port)
    )
    reader, writer = await asyncio.open_connection(host, port, limit=limit)
    peer = Peer(reader, writer)
    try:
        yield peer
    finally:
        await peer.close()


def masked(opcode: int, data: bytes) -> bytes:
    """A client's frame. Its mask is four zeros, so the same payload gives the same bytes."""
    header = bytearray(build_header(opcode, len(data)))
    header[1] |= 0x80
    return bytes(header) + bytes(4) + data


class Oracle:
    """A client whose frames are read by `websockets`' own parser, and its raw bytes kept."""

    def __init__(self, peer: Peer, target: str, *, deflate: bool) -> None:
        extensions = [ClientPerMessageDeflateFactory()] if deflate else None
        uri = parse_uri("ws://tutor.example" + target)
        self.protocol = ClientProtocol(uri, extensions=extensions, max_size=None)
        self.protocol.key = KEY.decode()
        self.received = bytearray()
        self._peer = peer

    async def handshake(self) -> None:
        """Raises what `websockets` raises where the answer is no valid 101."""
        self.protocol.send_request(self.protocol.connect())
        await self._peer.send(b"".join(self.protocol.data_to_send()))
        await self._read()
        if self.protocol.handshake_exc is not None:
            raise self.protocol.handshake_exc

    async def until(self, opcode: int, data: bytes) -> None:
        """Read up to a frame, inflated."""
        while not any(
            isinstance(event, Frame) and event.opcode == opcode and event.data == data
            for event in await self._read()
        ):
            pass

    async def _read(self) -> list[Event]:
        data = await self._peer.reader.read(1 << 16)
        assert data, "the connection ended"
        self.received += data
        self.protocol.receive_data(data)
        return self.protocol.events_received()


def parse_frames(data: bytes) -> list[tuple[int, bytes]]:
    """A server's unfragmented frames, by `websockets`' parser; gzip pairs decoded."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    frames: list[tuple[int, bytes]] = []
    while not _at_end(reader):
        frame = _finish(Frame.parse(reader.read_exact, mask=False))
        if frames and b"audio_chunk_compressed" in frames[-1][1] and frame.opcode == 2:
            frames.pop()
            frames.append((2, gzip.decompress(frame.data)))
        else:
            frames.append((int(frame.opcode), bytes(frame.data)))
    return frames


def _at_end(reader: StreamReader) -> bool:
    return _finish(reader.at_eof())


def _finish(steps: Generator[None, None, T]) -> T:
    """Run one of `websockets`' generators, which has all its bytes."""
    try:
        next(steps)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("bytes are missing")
