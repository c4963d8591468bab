"""The operator's flag, flipped while lessons run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from tests.conftest import Proxy
from tests.support import pcm, until
from tests.tunnel.test_backends import decode

FLIPS = 200
CONNECTIONS = 20
CHUNKS = [pcm()[at : at + 4096] for at in range(0, 400_000, 4096)]


async def test_flipping_tears_loses_and_reorders_nothing(proxy: Proxy) -> None:
    """Every client gets its numbered messages in order, whole, until the flips are over."""
    over = asyncio.Event()

    async def backend(socket: ServerConnection) -> None:
        sent = 0
        while not over.is_set() or sent < 2 * len(CHUNKS):
            await socket.send(str(sent))
            await socket.send(CHUNKS[sent % len(CHUNKS)])
            sent += 1
            await asyncio.sleep(0)
        await socket.send("over")
        await socket.wait_closed()

    async def lesson(url: str) -> tuple[int, int]:
        """How many chunks came compressed, and how many plain."""
        received: list[str | bytes] = []
        async with connect(url, compression=None, proxy=None) as socket:
            while (message := await socket.recv()) != "over":
                received.append(message)
        messages, pairs = decode(received)
        assert len(messages) % 2 == 0
        for n, (text, chunk) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
            assert text == str(n)
            assert chunk == CHUNKS[n % len(CHUNKS)]
        return pairs, len(messages) // 2 - pairs

    async with (
        serve(backend, "127.0.0.1", 0) as server,
        proxy(next(iter(server.sockets)).getsockname()[1]) as app,
    ):
        url = f"ws://{app.listen}/?audio_compression=gzip"
        lessons = [asyncio.create_task(lesson(url)) for _ in range(CONNECTIONS)]
        for n in range(FLIPS):
            app.store.set({"enabled": n % 2 == 1})
            seen = app.counters.wire_bytes
            await until(lambda seen=seen: app.counters.wire_bytes > seen)  # type: ignore[misc]
        over.set()
        for pairs, plain in await asyncio.gather(*lessons):
            assert pairs > 0
            assert plain > 0


async def test_off_means_plain_from_the_next_chunk_on(proxy: Proxy) -> None:
    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async def kinds(socket: ClientConnection) -> list[str]:
        """What one echoed chunk arrives as."""
        await socket.send(CHUNKS[0])
        await socket.send("done")
        seen = []
        while (message := await socket.recv()) != "done":
            seen.append("text" if isinstance(message, str) else f"{len(message)}")
        return seen

    async with (
        serve(echo, "127.0.0.1", 0) as server,
        proxy(next(iter(server.sockets)).getsockname()[1]) as app,
        connect(f"ws://{app.listen}/?audio_compression=gzip", proxy=None) as socket,
    ):
        for _ in range(20):
            assert (await kinds(socket))[0] == "text"
            app.store.set({"enabled": False})
            assert await kinds(socket) == ["4096"]
            app.store.set({"enabled": "true"})


async def test_a_running_proxy_notices_another_programs_flip(proxy: Proxy) -> None:
    """Another process, such as `audio-proxy flags set`, writes the file."""

    def write(lines: Iterable[str]) -> None:
        replacement = app.store.path.with_suffix(".new")
        replacement.write_text("".join(lines))
        replacement.replace(app.store.path)

    async def follows(enabled: bool, *, broken: bool) -> None:
        expected = (enabled, broken)
        store = app.store
        await until(
            lambda: (store.live.current.enabled, store.error is not None) == expected,
            seconds=1,  # the promise
        )

    async with proxy(9) as app:
        assert app.store.live.current.enabled
        write(json.dumps({"enabled": False}))
        await follows(False, broken=False)
        write('{"enabled": tru')
        await follows(False, broken=True)
        write(json.dumps({"enabled": True}))
        await follows(True, broken=False)
