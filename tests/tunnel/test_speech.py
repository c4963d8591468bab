"""Speech through a whole proxy, between a backend and a client that know nothing of each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Opcode

from proxy.app import App
from proxy.tunnel.encoder import Encoder
from proxy.websocket.jobs import Job, SpeechJob
from tests.conftest import Proxy
from tests.support import spoken
from tests.support.spoken import PCM, PCM_RATE, RATE, SOURCES, Heard

NEVER = {"opus_flush_ms": "10000"}
"""No test takes so long: what comes is not brought by a pause."""

Script = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def tutor(script: Script) -> AsyncIterator[int]:
    """A backend: `websockets`, for each connection a script. Yields its port."""
    async with asyncio.timeout(30), serve(script, "127.0.0.1", 0) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@asynccontextmanager
async def learner(app: App, query: str = "?audio_compression=opus") -> AsyncIterator[Learner]:
    async with connect(f"ws://{app.listen}/{query}", max_size=None) as socket:
        yield Learner(socket)


class Learner:
    """A client that hears."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._reader = spoken.PairReader()

    async def hear(self) -> Heard | str | bytes:
        """The next pair, text or binary message."""
        got = await self.socket.recv()
        if isinstance(got, bytes) or '"audio_chunk_compressed"' not in got:
            return got
        info = json.loads(got)
        data = await self.socket.recv()
        assert isinstance(data, bytes)
        return Heard(Opcode.BINARY, data, info, self._reader.read(info, data))

    async def hear_speech(self, samples: int) -> list[Heard]:
        """Pairs, until so much has been said."""
        pairs: list[Heard] = []
        while len(spoken.opus_of(pairs)) < samples:
            pair = await self.hear()
            assert isinstance(pair, Heard), pair
            pairs.append(pair)
        assert len(spoken.opus_of(pairs)) <= samples + 1
        return pairs


def samples_of(pcm: bytes) -> int:
    """At the rate of Opus; the part of one that is left is the next stretch's."""
    return len(pcm) // 2 * RATE // PCM_RATE


async def test_what_was_said_is_heard_to_its_end_before_it_goes_on(proxy: Proxy) -> None:
    """The backend says more only when all has arrived: nothing else can have brought its end."""
    parts = [PCM[at : at + 30_000] for at in range(100_000, 190_000, 30_000)]

    async def speak(socket: ServerConnection) -> None:
        head = spoken.streamed_wav(b"")
        for part in parts:
            for chunk in spoken.cut(head + part, 7000):
                await socket.send(chunk)
            head = b""
            assert await socket.recv() == "heard"

    async with tutor(speak) as port, proxy(port, opus_flush_ms="20") as app, learner(app) as client:
        for part in parts:
            pairs = await client.hear_speech(samples_of(part))
            assert pairs[0].info is not None
            assert "pre_skip" in pairs[0].info
            await client.socket.send("heard")


@pytest.mark.parametrize("source", ["wav", "mp3-48k", "aac"])
async def test_a_text_comes_behind_the_audio_before_it(proxy: Proxy, source: str) -> None:
    chunks = spoken.cut(SOURCES[source][:40_000], 5000)

    async def speak(socket: ServerConnection) -> None:
        for n, chunk in enumerate(chunks):
            await socket.send(chunk)
            await socket.send(f"word {n}")
        await socket.recv()

    async with tutor(speak) as port, proxy(port, **NEVER) as app, learner(app) as client:
        sent = 0
        for n, chunk in enumerate(chunks):
            pair = await client.hear()
            assert isinstance(pair, Heard)
            assert pair.info is not None
            sent += pair.info["original_size"]
            behind = sum(map(len, chunks[: n + 1])) - sent
            assert 0 <= behind < 1500, "packets of this chunk are missing"
            assert ("pre_skip" in pair.info) is (n == 0)
            assert await client.hear() == f"word {n}"
            assert len(chunk) == 5000
        await client.socket.send("bye")


async def test_the_last_pair_comes_before_the_close_frame(proxy: Proxy) -> None:
    async def speak(socket: ServerConnection) -> None:
        for chunk in spoken.cut(spoken.wav(PCM[100_000:160_000]), 9000):
            await socket.send(chunk)
        await socket.close(4321, "that is all")

    async with tutor(speak) as port, proxy(port, **NEVER) as app, learner(app) as client:
        await client.hear_speech(samples_of(PCM[:60_000]))
        with pytest.raises(ConnectionClosed) as closed:
            await client.hear()
        assert closed.value.rcvd == Close(4321, "that is all")


async def test_others_are_served_while_speech_is_encoded(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of one connection is kept from its end until another connection has had its answers."""
    begun, may_end = asyncio.Event(), asyncio.Event()
    submit = Encoder.submit

    def hold(self: Encoder, job: Job, done: Callable[..., None]) -> None:
        assert isinstance(job, SpeechJob)
        begun.set()
        work = job.work
        loop = asyncio.get_running_loop()

        def waits() -> Any:
            asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(20)
            return work()

        job.work = waits
        submit(self, job, done)

    monkeypatch.setattr(Encoder, "submit", hold)

    async def speak(socket: ServerConnection) -> None:
        async for request in socket:
            if request == "speak":
                await socket.send(spoken.wav(PCM[100_000:160_000]))
            else:
                await socket.send(request)

    async with (
        tutor(speak) as port,
        proxy(port, **NEVER) as app,
        learner(app) as client,
        learner(app, "") as other,
    ):
        await client.socket.send("speak")
        await begun.wait()
        for n in range(50):
            await other.socket.send(f"{n}")
            assert await other.hear() == f"{n}"
        assert not may_end.is_set()
        may_end.set()
        pair = await client.hear()
        assert isinstance(pair, Heard)
        assert pair.is_opus
