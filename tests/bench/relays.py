"""Two relays as one writes them by hand: an endpoint on each side. `python -m … KIND PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp
import uvloop
import websockets
from aiohttp import web
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve


async def aiohttp_relay(backend: int) -> int:
    """aiohttp on both sides. Returns the port."""
    session = aiohttp.ClientSession()

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


async def _main(kind: str, backend: int) -> None:
    start = {"aiohttp": aiohttp_relay, "websockets": websockets_relay}[kind]
    print(await start(backend), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
