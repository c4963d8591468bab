"""A drain: who is closed when, with what, and who is waited for."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest

from proxy.app import App
from proxy.tunnel import registry
from proxy.tunnel.tunnel import Tunnel
from proxy.websocket.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT
from tests.conftest import Proxy
from tests.support import spoken, until
from tests.support.raw import (
    LIMIT,
    Peer,
    masked,
    parse_frames,
    raw_backend,
    raw_client,
    request,
    switch,
)
from tests.support.spoken import PCM, PCM_RATE, RATE
from tests.tunnel.test_tunnel import CHUNK, TARGETS, frame
from tests.tunnel.test_upgrade import nothing_left

GOING_AWAY = b"\x88\x02\x03\xe9"
REPLY = masked(CLOSE, b"\x03\xe9")
WORD = frame(TEXT, b"word")
GZIP = b"/?audio_compression=gzip"
NEVER = 3600
"""Seconds: what comes in a test has not been brought by this limit."""
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client is aborted for being slow, unless its test says so."""
    monkeypatch.setattr(registry, "GOODBYE", float(NEVER))


@pytest.fixture
def hurry(patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "GOODBYE", 0.05)


class Lesson(NamedTuple):
    """An open tunnel's two ends."""

    client: Peer
    backend: Peer

    async def hear(self, data: bytes) -> None:
        """The backend says something that passes as it is."""
        await self.backend.send(data)
        assert await self.client.read(len(data)) == data

    async def ask(self) -> None:
        """The client says something."""
        question = masked(TEXT, b"question")
        await self.client.send(question)
        assert await self.backend.read(len(question)) == question

    async def part(self) -> None:
        """The client answers a close frame; the backend closes; nothing else has come."""
        await self.client.send(REPLY)
        assert await self.backend.read(len(REPLY)) == REPLY
        await self.backend.close()
        assert await self.client.rest() == b""
        await self.client.close()


class School(NamedTuple):
    """A proxy, and a backend whose connections are spoken for by the test."""

    app: App
    backends: asyncio.Queue[Peer]
    stack: AsyncExitStack
    offer: tuple[bytes, ...]
    """Header lines of clients that need them."""

    async def open(self, target: bytes = b"/", *more: bytes, limit: int = LIMIT) -> Lesson:
        client = await self.stack.enter_async_context(raw_client(self.app.listen, limit))
        await client.send(request(target, *more))
        assert b" 101 " in await client.head()
        return Lesson(client, await self.backends.get())

    async def end(self, drain: asyncio.Task[None]) -> None:
        await drain
        await nothing_left(self.app)

    async def drain(self) -> asyncio.Task[None]:
        """Begin; returns once a lesson that was over has been closed for its silence."""
        witness = await self.open(b"/", *self.offer)
        await witness.hear(WORD)
        drain = asyncio.create_task(self.app.drain())
        assert await witness.client.read(4) == GOING_AWAY
        await witness.part()
        return drain


@asynccontextmanager
async def school(proxy: Proxy, *answer: bytes, **settings: Any) -> AsyncIterator[School]:
    """`answer`: header lines of the backend's 101."""
    backends: asyncio.Queue[Peer] = asyncio.Queue()
    over = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head(), *answer))
        backends.put_nowait(peer)
        await over.wait()

    options = {"drain_idle": 0.05, "drain_timeout": NEVER, **settings}
    async with (
        asyncio.timeout(20),
        raw_backend(script) as port,
        proxy(port, **options) as app,
        AsyncExitStack() as stack,
    ):
        stack.callback(over.set)
        yield School(app, backends, stack, answer)


@TARGETS
async def test_a_lesson_that_is_over_ends_with_1001(proxy: Proxy, target: bytes) -> None:
    """The client's answer travels, and what the backend says behind it all goes nowhere."""
    async with school(proxy) as at:
        lesson = await at.open(target)
        await lesson.ask()
        await lesson.hear(WORD)
        drain = asyncio.create_task(at.app.drain())
        assert await lesson.client.read(4) == GOING_AWAY
        await lesson.backend.send(1000 * frame(BINARY, CHUNK))  # more than any buffer holds
        await lesson.part()
        await at.end(drain)


@TARGETS
async def test_an_answer_is_waited_for(proxy: Proxy, target: bytes) -> None:
    async with school(proxy) as at:
        lesson = await at.open(target)
        await lesson.hear(WORD)
        await lesson.ask()
        drain = await at.drain()
        await lesson.hear(frame(TEXT, b"answer" * 20_000))
        assert await lesson.client.read(4) == GOING_AWAY
        await lesson.part()
        await at.end(drain)


@TARGETS
async def test_a_proxy_that_had_to_wait_is_no_silence(proxy: Proxy, target: bytes) -> None:
    """What was said while its process got no time is still to be read."""
    ready, trigger = socket.socketpair()

    def wait() -> None:  # among what is read: time limits are looked at before more is
        ready.recv(1)
        lesson.backend.writer.write(WORD)
        time.sleep(0.3)

    async with school(proxy, drain_idle=0.2) as at:
        lesson = await at.open(target)
        await lesson.hear(WORD)
        drain = asyncio.create_task(at.app.drain())
        await asyncio.sleep(0)  # a first look
        asyncio.get_running_loop().add_reader(ready, wait)
        trigger.send(b"!")
        assert await lesson.client.read(len(WORD)) == WORD
        assert await lesson.client.read(4) == GOING_AWAY
        await lesson.part()
        await at.end(drain)
        asyncio.get_running_loop().remove_reader(ready)
    ready.close()
    trigger.close()


@TARGETS
async def test_an_answer_that_does_not_come_is_not_waited_for(proxy: Proxy, target: bytes) -> None:
    async with school(proxy, drain_timeout=0.3) as at:
        lesson = await at.open(target)
        await lesson.ask()
        drain = asyncio.create_task(at.app.drain())
        assert await lesson.client.read(4) == GOING_AWAY
        await lesson.part()
        await at.end(drain)


@TARGETS
@pytest.mark.parametrize("size", [1, 3, 4000])
async def test_a_frame_is_not_cut(proxy: Proxy, target: bytes, size: int) -> None:
    """It stands still within its header or its payload, and is whole before the 1001."""
    text = frame(TEXT, CHUNK)
    async with school(proxy) as at:
        lesson = await at.open(target)
        await lesson.hear(WORD)
        if target == b"/" or size > 4:
            await lesson.hear(text[:size])
            drain = await at.drain()
            await lesson.hear(text[size:])
        else:  # a filter keeps a header that is not whole: nothing of it is sent at all
            await lesson.backend.send(text[:size])
            drain = await at.drain()
        assert await lesson.client.read(4) == GOING_AWAY
        await lesson.part()
        await at.end(drain)


@pytest.mark.usefixtures("hurry")
@TARGETS
async def test_a_frame_that_is_never_whole_is_aborted(proxy: Proxy, target: bytes) -> None:
    async with school(proxy, drain_timeout=0.2) as at:
        lesson = await at.open(target)
        await lesson.hear(frame(TEXT, CHUNK)[:4000])
        await at.app.drain()
        assert await lesson.client.ended() == b""
        assert await lesson.backend.ended() == b""
        await nothing_left(at.app)


@TARGETS
async def test_behind_a_close_frame_comes_no_other(proxy: Proxy, target: bytes) -> None:
    async with school(proxy) as at:
        lesson = await at.open(target)
        await lesson.hear(frame(CLOSE, b"\x03\xe8bye"))
        drain = await at.drain()
        await lesson.part()
        await at.end(drain)


@pytest.mark.usefixtures("hurry")
@TARGETS
@pytest.mark.parametrize("own", [False, True], ids=["1001", "the backend's"])
async def test_a_close_frame_that_is_not_answered(proxy: Proxy, target: bytes, own: bool) -> None:
    async with school(proxy) as at:
        lesson = await at.open(target)
        await lesson.hear(frame(CLOSE, b"\x03\xe8bye") if own else WORD)
        await at.app.drain()
        assert await lesson.client.ended() == (b"" if own else GOING_AWAY)
        assert await lesson.backend.ended() == b""
        await nothing_left(at.app)


async def test_a_chunk_held_in_part_is_waited_for(proxy: Proxy) -> None:
    async with school(proxy) as at:
        lesson = await at.open(GZIP)
        await lesson.backend.send(frame(BINARY, CHUNK[:2000], fin=False))
        await lesson.hear(frame(PING, b"the first part has come"))
        drain = await at.drain()
        await lesson.backend.send(frame(CONTINUATION, CHUNK[2000:]))
        pair = await lesson.client.reader.readuntil(GOING_AWAY)
        assert b"audio_chunk_compressed" in pair
        assert parse_frames(pair) == [(BINARY, CHUNK), (CLOSE, b"\x03\xe9")]
        await lesson.part()
        await at.end(drain)


async def test_a_chunk_that_is_never_whole_is_dropped(proxy: Proxy) -> None:
    async with school(proxy, drain_timeout=0.3) as at:
        lesson = await at.open(GZIP)
        await lesson.backend.send(frame(BINARY, CHUNK[:2000], fin=False))
        await lesson.hear(frame(PING, b"the first part has come"))
        drain = asyncio.create_task(at.app.drain())
        assert await lesson.client.read(4) == GOING_AWAY
        await lesson.backend.send(frame(CONTINUATION, CHUNK[2000:]))
        await lesson.part()
        await at.end(drain)


async def test_what_was_said_is_heard_to_its_end_before_1001(proxy: Proxy) -> None:
    said = PCM[100_000:160_000]
    async with school(proxy, opus_flush_ms=10_000) as at:
        lesson = await at.open(b"/?audio_compression=opus")
        for chunk in spoken.cut(spoken.wav(said), 9000):
            await lesson.backend.send(frame(BINARY, chunk))
        begin = await lesson.client.read(1)
        drain = asyncio.create_task(at.app.drain())
        out = begin + await lesson.client.reader.readuntil(GOING_AWAY)
        heard = spoken.opus_of(spoken.hear(out[:-4]))
        assert abs(len(heard) - len(said) // 2 * RATE // PCM_RATE) <= 1
        await lesson.part()
        await at.end(drain)


async def test_frames_of_an_extension_are_not_cut_either(proxy: Proxy) -> None:
    deflated = b"\xc1\x7e\x0f\xa0" + bytes(4000)  # a text with RSV1 set
    async with school(proxy, DEFLATE) as at:
        lesson = await at.open(b"/", DEFLATE)
        await lesson.hear(deflated + deflated[:100])
        drain = await at.drain()
        await lesson.hear(deflated[100:])
        assert await lesson.client.read(4) == GOING_AWAY
        await lesson.part()
        await at.end(drain)


@TARGETS
async def test_a_client_that_reads_slowly_hears_all(
    proxy: Proxy, target: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is we who do not read on: the backend is not silent, for however long that lasts."""
    speech = 600_000 * frame(TEXT, b"")  # wherever it is held up, that is likely between frames
    looks = 0
    heard = Tunnel.heard

    def look(tunnel: Tunnel) -> tuple[int, bool]:
        nonlocal looks
        looks += 1
        return heard.__get__(tunnel)

    monkeypatch.setattr(Tunnel, "heard", property(look))
    async with school(proxy) as at:
        lesson = await at.open(target, limit=4096)
        speaking = asyncio.create_task(lesson.backend.send(speech))
        begin = await lesson.client.read(1)
        drain = await at.drain()
        await until(lambda: looks >= 40)  # several times as long as a silence that ends a talk
        is_whole = begin + await lesson.client.read(len(speech) - 1) == speech
        assert is_whole
        assert await lesson.client.read(4) == GOING_AWAY
        await speaking
        await lesson.part()
        await at.end(drain)


async def test_requests_that_are_under_way_are_answered(proxy: Proxy) -> None:
    """And others are not taken; the operator's port says so."""
    asked, go_on = asyncio.Event(), asyncio.Event()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"

    async def script(peer: Peer) -> None:
        assert b"GET /slow" in await peer.head()
        await peer.send(answer + bytes(50_000))
        asked.set()
        await go_on.wait()
        await peer.send(bytes(50_000))

    async with (
        asyncio.timeout(20),
        raw_backend(script) as port,
        proxy(port, drain_timeout=NEVER) as app,
        raw_client(app.listen) as client,
    ):
        await client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await asked.wait()
        drain = asyncio.create_task(app.drain())
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{app.admin}/readyz") as ready,
        ):
            assert ready.status == 503
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(app.listen.host, app.listen.port)
        assert not drain.done()
        go_on.set()
        assert b" 200 " in await client.head()
        assert await client.read(100_000) == bytes(100_000)
        await client.close()
        await drain
        await nothing_left(app)


async def test_no_tunnel_is_opened_on_a_connection_that_was_there(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with (
        asyncio.timeout(20),
        raw_backend(script) as port,
        proxy(port) as app,
        raw_client(app.listen) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in await client.head()
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{app.admin}/drain") as answer,
        ):
            assert answer.status == 202
        await client.send(request())
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")
        assert b"stopping" in await client.rest()
        await app.drain()
        await nothing_left(app)
