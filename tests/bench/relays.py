"""Relays as one writes them by hand, to compare with. `python -m tests.bench.relays KIND PORT`.

Two are an endpoint on each side. The third is the least that a relay can be which compresses: it
asks and checks nothing, and would not survive a lesson.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import aiohttp
import uvloop
import websockets
from aiohttp import web
from isal import isal_zlib
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from proxy.audio.codec import Encoded
from proxy.websocket.frames import BINARY, parse_header
from proxy.websocket.metadata import build_pair_head


async def aiohttp_relay(backend: int) -> int:
    """aiohttp on both sides. Returns the port."""
    # By default 100 connections are all that it opens.
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def pump(source: Any, target: Any) -> None:
        async for message in source:
            if message.type is aiohttp.WSMsgType.BINARY:
                await target.send_bytes(message.data)
            else:
                await target.send_str(message.data)
        await target.close(code=source.close_code or 1000)

    async def handle(request: web.Request) -> web.WebSocketResponse:
        client = web.WebSocketResponse(compress=False, max_msg_size=0)
        await client.prepare(request)
        url = f"ws://127.0.0.1:{backend}{request.path_qs}"
        async with session.ws_connect(url, compress=0, max_msg_size=0) as server:
            await asyncio.gather(pump(client, server), pump(server, client))
        return client

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    port: int = runner.addresses[0][1]
    return port


async def websockets_relay(backend: int) -> int:
    """`websockets` on both sides. Returns the port."""
    options: dict[str, Any] = {"compression": None, "max_size": None, "ping_interval": None}

    async def pump(source: Any, target: Any) -> None:
        try:
            async for message in source:
                await target.send(message)
        except websockets.ConnectionClosed:
            pass
        await target.close()

    async def handle(client: ServerConnection) -> None:
        assert client.request is not None
        url = f"ws://127.0.0.1:{backend}{client.request.path}"
        async with connect(url, proxy=None, **options) as server:
            await asyncio.gather(pump(client, server), pump(server, client))

    server = await serve(handle, "127.0.0.1", 0, backlog=4096, **options)
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


class _Side(asyncio.BufferedProtocol):
    """One side of the bare relay."""

    buffer = bytearray(512 * 1024)

    def __init__(self) -> None:
        self.other: _Side | None = None
        self.early = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.file = transport.get_extra_info("socket").fileno()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(memoryview(self.buffer)[:nbytes])
        if self.other is None:
            self.early += data
        else:
            self.pass_on(data, self.other)

    def pass_on(self, data: bytes, other: _Side) -> None:
        other.send([data])

    def send(self, buffers: list[bytes]) -> None:
        sent = 0
        if not self.transport.get_write_buffer_size():
            try:
                sent = os.writev(self.file, buffers)
            except BlockingIOError:
                sent = 0
        if sent < sum(map(len, buffers)):
            self.transport.write(b"".join(buffers)[sent:])

    def pause_writing(self) -> None:
        assert self.other is not None
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        assert self.other is not None
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


class _Backend(_Side):
    """Compresses the binary messages that come behind the 101."""

    is_open = False
    rest = b""

    def pass_on(self, data: bytes, other: _Side) -> None:
        if not self.is_open:
            self.is_open = b"\r\n\r\n" in data
            other.send([data])
            return
        data, at, out = self.rest + data, 0, []
        while (header := parse_header(data, at)) is not None:
            begin, end = at + header[1], at + header[1] + header[2]
            if end > len(data):
                break
            encoded = isal_zlib.compress(data[begin:end], 1, 31)
            head = build_pair_head("gzip", end - begin, Encoded(encoded))
            if header[0] & 0x0F == BINARY and len(head) + len(encoded) < end - at:
                out += [head, encoded]
            else:
                out.append(data[at:end])
            at = end
        self.rest = data[at:]
        if out:
            other.send(out)


async def bare_relay(backend: int) -> int:
    """Sockets joined, gzip between. Returns the port."""
    loop = asyncio.get_running_loop()
    joining = set()

    async def join(client: _Side) -> None:
        _, server = await loop.create_connection(_Backend, "127.0.0.1", backend)
        client.other, server.other = server, client
        server.send([client.early])

    def accept() -> _Side:
        client = _Side()
        task = loop.create_task(join(client))
        joining.add(task)
        task.add_done_callback(joining.discard)
        return client

    server = await loop.create_server(accept, "127.0.0.1", 0, backlog=4096)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _main(kind: str, backend: int) -> None:
    start = {"aiohttp": aiohttp_relay, "websockets": websockets_relay, "bare": bare_relay}[kind]
    print(await start(backend), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
