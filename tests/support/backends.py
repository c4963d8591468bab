"""Four real backends that know nothing of the proxy, and answer the same requests.

A request is a JSON text: `path` of a recording, `size` of its chunks in bytes, `limit` in bytes
or null, `own_pairs`. The answer: a text before every third chunk, the chunks, then `end`. With
`own_pairs` each chunk follows an `audio_chunk_compressed` text of the backend's own. A binary
message is sent back as it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from aiohttp import WSMsgType, web
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.server import ServerConnection, serve

NODE = Path(__file__).parent / "node"


def compact(record: dict[str, Any]) -> str:
    """JSON as Node writes it."""
    return json.dumps(record, separators=(",", ":"))


def messages(request: str | bytes) -> Iterator[str | bytes]:
    """What a backend answers to a request."""
    if isinstance(request, bytes):
        yield request
        return
    script = json.loads(request)
    audio = Path(script["path"]).read_bytes()[: script["limit"]]
    for n, at in enumerate(range(0, len(audio), script["size"])):
        if n % 3 == 0:
            yield compact({"type": "text", "n": n})
        if script.get("own_pairs"):
            yield compact({"type": "audio_chunk_compressed", "algorithm": "own", "n": n})
        yield audio[at : at + script["size"]]
    yield "end"


@asynccontextmanager
async def websockets_backend() -> AsyncIterator[int]:
    """`websockets`, with its own permessage-deflate. Yields its port."""

    async def handle(socket: ServerConnection) -> None:
        async for request in socket:
            for message in messages(request):
                await socket.send(message)

    async with serve(handle, "127.0.0.1", 0) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@asynccontextmanager
async def echo_backend() -> AsyncIterator[int]:
    """`websockets`, sending everything back, text too. Yields its port."""

    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with serve(echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@asynccontextmanager
async def aiohttp_server(app: web.Application) -> AsyncIterator[int]:
    """Any aiohttp application. Yields its port."""
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def aiohttp_backend() -> AsyncIterator[int]:
    """aiohttp. Yields its port."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                continue
            for answer in messages(message.data):
                if isinstance(answer, str):
                    await socket.send_str(answer)
                else:
                    await socket.send_bytes(answer)
        return socket

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    async with aiohttp_server(app) as port:
        yield port


@asynccontextmanager
async def uvicorn_backend() -> AsyncIterator[int]:
    """uvicorn with Starlette. Yields its port."""

    async def handle(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                event = await socket.receive()
                if event["type"] == "websocket.disconnect":
                    return
                for answer in messages(event.get("text") or event.get("bytes")):
                    if isinstance(answer, str):
                        await socket.send_text(answer)
                    else:
                        await socket.send_bytes(answer)
        except WebSocketDisconnect:
            return

    app = Starlette(routes=[WebSocketRoute("/{path:path}", handle)])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="websockets-sansio"
    )
    server = _Uvicorn(config)
    task = asyncio.create_task(server.serve())
    try:
        await server.up.wait()
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


class _Uvicorn(uvicorn.Server):
    """Says when it listens; leaves the signals to pytest."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def serve(self, sockets: Any = None) -> None:
        await self._serve(sockets)


@asynccontextmanager
async def node_backend() -> AsyncIterator[int]:
    """Node's `ws`. Yields its port."""
    process = await asyncio.create_subprocess_exec(
        "node", NODE / "backend.js", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.communicate()


BACKENDS: dict[str, Callable[[], AbstractAsyncContextManager[int]]] = {
    "websockets": websockets_backend,
    "aiohttp": aiohttp_backend,
    "uvicorn": uvicorn_backend,
    "node-ws": node_backend,
}
