"""An open tunnel: what travels, how it ends, and that nothing is lost or left."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from proxy.app import App
from proxy.http.sockets import KEEP_IDLE
from proxy.websocket.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, build_header
from tests.conftest import Proxy
from tests.support import pcm
from tests.support.raw import Peer, masked, raw_backend, raw_client, request, switch
from tests.tunnel.test_upgrade import nothing_left

TARGETS = pytest.mark.parametrize("target", [b"/", b"/?audio_compression=gzip"])
CHUNK = pcm()[40_000:44_096]


def frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    """A server's frame."""
    header = bytearray(build_header(opcode, len(data)))
    if not fin:
        header[0] &= 0x7F
    return bytes(header) + data


@asynccontextmanager
async def tunnel(app: App, target: bytes) -> AsyncIterator[Peer]:
    """A client whose tunnel is open."""
    async with raw_client(app.listen) as client, asyncio.timeout(20):
        await client.send(request(target))
        assert b" 101 " in await client.head()
        yield client


async def stream_on(peer: Peer) -> None:
    """Send chunks for ever."""
    while True:
        await peer.send(frame(BINARY, CHUNK))
        await asyncio.sleep(0)


@pytest.mark.parametrize("query", ["", "?audio_compression=gzip"])
async def test_pings_close_codes_and_reasons_travel_both_ways(proxy: Proxy, query: str) -> None:
    closed: list[tuple[int | None, str | None]] = []

    async def backend(socket: ServerConnection) -> None:
        await (await socket.ping(b"from the backend"))
        if await socket.recv() == "you close":
            await socket.close(4321, "lesson over")
        else:
            try:
                await socket.recv()
            except ConnectionClosed:
                closed.append((socket.close_code, socket.close_reason))

    async with (
        serve(backend, "127.0.0.1", 0) as server,
        proxy(next(iter(server.sockets)).getsockname()[1]) as app,
    ):
        url = f"ws://{app.listen}/{query}"
        async with connect(url, proxy=None) as client:
            await (await client.ping(b"from the client"))
            await client.send("you close")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert (client.close_code, client.close_reason) == (4321, "lesson over")
        async with connect(url, proxy=None) as client:
            await client.send("I close")
            await client.close(4999, "bored")
        await nothing_left(app)
    assert closed == [(4999, "bored")]


@TARGETS
async def test_a_backend_that_sends_and_closes_while_the_client_sends(
    proxy: Proxy, target: bytes
) -> None:
    """2 MB and a FIN, the client sending all the while: every byte arrives."""
    speech = b"".join(frame(BINARY, bytes([n % 251]) * 1000) for n in range(2000))

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await peer.send(speech)
        peer.writer.write_eof()
        await peer.ended()

    async with raw_backend(script) as port, proxy(port) as app, tunnel(app, target) as client:

        async def talk() -> None:
            while True:
                await client.send(masked(BINARY, bytes(8000)))
                await asyncio.sleep(0)

        talking = asyncio.create_task(talk())
        received = await client.rest()
        talking.cancel()
        await client.close()
        await nothing_left(app)
    assert received == speech


@TARGETS
@pytest.mark.parametrize("reset", [False, True])
async def test_a_backend_that_dies_in_mid_frame(proxy: Proxy, target: bytes, reset: bool) -> None:
    """What it sent arrives as it was, then the connection ends."""
    beginning = frame(TEXT, b"hello") + frame(BINARY, CHUNK)[:1500]
    arrived = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + beginning)
        await arrived.wait()
        if reset:
            peer.reset()

    async with raw_backend(script) as port, proxy(port) as app, tunnel(app, target) as client:
        hello = await client.read(7)
        arrived.set()
        assert hello + await client.ended() == beginning
        await client.close()
        await nothing_left(app)


@TARGETS
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_dies_in_mid_chunk(proxy: Proxy, target: bytes, reset: bool) -> None:
    """The backend, which streams on, is let go."""

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        with pytest.raises(ConnectionError):
            await stream_on(peer)

    async with raw_backend(script) as port, proxy(port, close_timeout="0.2") as app:
        async with tunnel(app, target) as client:
            await client.read(100_000)
            if reset:
                client.reset()
        await nothing_left(app)


@pytest.mark.parametrize(
    "held",
    [
        frame(BINARY, CHUNK)[:-1],
        frame(BINARY, CHUNK, fin=False),
        frame(BINARY, CHUNK, fin=False) + frame(CONTINUATION, CHUNK)[:2000],
        b"\x82\x7f\x00",
    ],
)
async def test_bytes_held_at_the_end_arrive_as_they_were(proxy: Proxy, held: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + frame(TEXT, b"x") + held)

    async with (
        raw_backend(script) as port,
        proxy(port) as app,
        tunnel(app, b"/?audio_compression=gzip") as client,
    ):
        assert await client.rest() == frame(TEXT, b"x") + held


async def test_bytes_held_leave_before_the_backends_close_frame(proxy: Proxy) -> None:
    held, close = frame(BINARY, CHUNK, fin=False), frame(CLOSE, b"\x03\xe8bye")

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + held + frame(PING, b"p") + close)
        await peer.ended()

    async with (
        raw_backend(script) as port,
        proxy(port) as app,
        tunnel(app, b"/?audio_compression=gzip") as client,
    ):
        expected = frame(PING, b"p") + held + close
        assert await client.read(len(expected)) == expected


async def test_control_frames_between_fragments_pass_at_once(proxy: Proxy) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + frame(BINARY, CHUNK[:2000], fin=False))
        await peer.send(frame(PING, b"still here"))
        await go_on.wait()
        await peer.send(frame(CONTINUATION, CHUNK[2000:]))
        await peer.ended()

    async with (
        raw_backend(script) as port,
        proxy(port) as app,
        tunnel(app, b"/?audio_compression=gzip") as client,
    ):
        ping = frame(PING, b"still here")
        assert await client.read(len(ping)) == ping
        go_on.set()
        metadata_size = (await client.read(2))[1]
        assert b'"original_size":4096' in await client.read(metadata_size)
        header = await client.read(4)
        encoded = await client.read(header[2] << 8 | header[3])
        assert gzip.decompress(encoded) == CHUNK


@pytest.mark.parametrize(
    "nonsense", [b"\x82\xfe\x10\x00", b"\xf2\x05", b"\x83\x05", b"\x89\x7e\x10\x00", b"\x80\x05"]
)
async def test_an_unreadable_backend_is_passed_on_and_logged_once(
    proxy: Proxy, nonsense: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = frame(TEXT, b"x") + nonsense + 3 * frame(BINARY, CHUNK)
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + stream)
        await asked.wait()
        await peer.send(stream)

    async with (
        raw_backend(script) as port,
        proxy(port) as app,
        tunnel(app, b"/?audio_compression=gzip") as client,
    ):
        assert await client.read(len(stream)) == stream
        asked.set()
        assert await client.rest() == stream
    assert capsys.readouterr().out.count("filtering stopped") == 1


async def test_a_half_closed_client_still_hears_the_backend(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        assert await peer.rest() == b"question"
        await peer.send(frame(BINARY, CHUNK))

    async with raw_backend(script) as port, proxy(port) as app, tunnel(app, b"/") as client:
        await client.send(b"question")
        client.writer.write_eof()
        assert await client.rest() == frame(BINARY, CHUNK)
        await nothing_left(app)


@TARGETS
async def test_a_side_that_does_not_close_is_aborted(proxy: Proxy, target: bytes) -> None:
    """The backend has ended; the client reads on but never ends its side."""

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + frame(TEXT, b"bye"))

    async with (
        raw_backend(script) as port,
        proxy(port, close_timeout="0.2") as app,
        tunnel(app, target) as client,
    ):
        assert await client.rest() == frame(TEXT, b"bye")
        await nothing_left(app)  # though the client's socket is still open


async def test_stopping_the_proxy_ends_tunnels_with_all_they_hold(proxy: Proxy) -> None:
    """What is held in mid-chunk when the proxy stops still arrives."""
    hello, held = frame(TEXT, b"x"), frame(BINARY, CHUNK)[:2000]

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + hello + held)
        await peer.ended()

    async with raw_backend(script) as port, contextlib.AsyncExitStack() as outlives:
        async with proxy(port) as app:
            client = await outlives.enter_async_context(raw_client(app.listen))
            await client.send(request(b"/?audio_compression=gzip"))
            assert b" 101 " in await client.head()
            assert await client.read(len(hello)) == hello
            ending = asyncio.create_task(client.rest())
            ending.add_done_callback(lambda _: client.writer.close())
        assert await ending == held


async def test_silent_connections_are_probed_at_times_of_their_own(proxy: Proxy) -> None:
    """Thousands at once are more than a queue takes, and who does not answer is taken for dead."""

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await peer.ended()

    async with (
        raw_backend(script) as port,
        proxy(port) as app,
        contextlib.AsyncExitStack() as open_,
    ):
        for _ in range(20):
            await open_.enter_async_context(tunnel(app, b"/"))
        for side in ("client", "backend"):
            legs = [getattr(each, side) for each in app.tunnels._open.values()]
            idle = [
                leg.transport.get_extra_info("socket").getsockopt(
                    socket.IPPROTO_TCP, socket.TCP_KEEPIDLE
                )
                for leg in legs
            ]
            assert len(idle) == 20
            assert len({*idle}) > 1
            assert all(KEEP_IDLE // 2 <= each <= KEEP_IDLE for each in idle)
