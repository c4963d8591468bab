"""The backend's leg of an opted-in tunnel: pauses in what is said, and codecs that fail."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import wave
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.audio.counters import Counters, Histogram
from proxy.audio.gzip import GZIP
from proxy.audio.settings import AudioSettings
from proxy.control.flags import Flags, LiveFlags
from proxy.tunnel.encoder import Encoder
from proxy.tunnel.filtered_leg import FilteredLeg
from proxy.tunnel.tunnel import Tunnel
from proxy.tunnel.walked_leg import WalkedLeg
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.frames import BINARY, CLOSE, TEXT
from tests.conftest import Proxy
from tests.support import pcm
from tests.support.raw import Peer, raw_backend
from tests.tunnel.test_tunnel import frame, switch, tunnel
from tests.websocket.test_codec_failures import Live, Unforeseen

RATE = 22_050
RAW = pcm()[100_000:112_000]
SPOKEN = len(RAW) // 2 * 48_000 // RATE
"""Samples of it, at the rate that Opus counts in."""
HELLO = frame(TEXT, b"hello")
SOON, NEVER = 0.01, 3600.0  # seconds


def wav() -> bytes:
    """A frame with a whole WAV."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(RAW)
    return frame(BINARY, file.getvalue())


@asynccontextmanager
async def filtered(
    flush_after: float, accepted: Sequence[str] = ("opus",), flags: Any = None
) -> AsyncIterator[tuple[Peer, Peer]]:
    """A tunnel on real sockets: (the backend, the client)."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    encoder = Encoder(1, Histogram())
    made = Tunnel(lambda _: ended.set())
    peers, transports = [], []
    for _ in range(2):
        ours, theirs = socket.socketpair()
        peers.append(Peer(*await asyncio.open_connection(sock=theirs)))
        transports.append((await loop.create_connection(asyncio.Protocol, sock=ours))[0])
    backend, client = peers
    audio_filter = AudioFilter(accepted, flags or LiveFlags(Flags()), Counters(), AudioSettings())
    made.join(
        WalkedLeg(transports[1], made.leg_lost),
        FilteredLeg(transports[0], made.leg_lost, audio_filter, encoder, flush_after),
    )
    for leg in (made.client, made.backend):
        leg.attach(64 * 1024)
        leg.start(b"")
    try:
        async with asyncio.timeout(20):
            yield backend, client
    finally:
        made.abort()
        await ended.wait()
        for peer in peers:
            await peer.close()
        encoder.close()


async def read_frame(peer: Peer) -> tuple[int, bytes]:
    first, size = await peer.read(2)
    assert first & 0x80
    if size >= 126:
        size = int.from_bytes(await peer.read(2 if size == 126 else 8), "big")
    return first & 0x0F, await peer.read(size)


async def hear(peer: Peer) -> dict[str, Any] | tuple[int, bytes]:
    """The metadata of a pair, or any other frame."""
    opcode, data = await read_frame(peer)
    if opcode != TEXT or b"audio_chunk_compressed" not in data:
        return opcode, data
    info: dict[str, Any] = json.loads(data)
    opcode, packets = await read_frame(peer)
    assert opcode == BINARY
    assert sum(info["packet_sizes"]) == len(packets) == info["compressed_size"]
    return info


async def hear_speech(peer: Peer) -> list[int]:
    """The samples of each pair, up to the end of what is said."""
    samples: list[int] = []
    while sum(samples) < SPOKEN:
        info = await hear(peer)
        assert isinstance(info, dict), info
        assert ("pre_skip" in info) == (not samples), "a stretch of speech is one segment"
        samples.append(info["samples"])
    assert sum(samples) <= SPOKEN + 48  # a millisecond
    return samples


async def test_the_end_of_what_was_said_comes_when_the_backend_pauses() -> None:
    """Again and again; without a pause it would wait for more to come."""
    async with filtered(SOON) as (backend, client):
        for _ in range(3):
            await backend.send(wav())
            assert len(await hear_speech(client)) == 2
        await backend.send(HELLO)
        assert await hear(client) == (TEXT, b"hello")


async def test_while_the_backend_goes_on_its_end_waits_and_text_ends_nothing() -> None:
    async with filtered(NEVER) as (backend, client):
        await backend.send(wav() + HELLO)
        first = await hear(client)
        assert isinstance(first, dict)
        assert first["samples"] < SPOKEN
        assert await hear(client) == (TEXT, b"hello")
        await backend.send(wav() + HELLO)
        second = await hear(client)
        assert isinstance(second, dict)
        assert "pre_skip" not in second
        assert await hear(client) == (TEXT, b"hello")


async def test_a_pause_within_a_message_of_the_backends_tears_nothing() -> None:
    """The end of what was said comes once that message is whole."""
    text = frame(TEXT, b"x" * 1000)
    async with filtered(SOON / 10) as (backend, client):
        await backend.send(wav() + text[:500])
        first = await hear(client)
        assert isinstance(first, dict)
        begun = await client.read(500)
        await backend.send(text[500:])
        assert begun + await client.read(len(text) - 500) == text
        last = await hear(client)
        assert isinstance(last, dict)
        assert first["samples"] + last["samples"] == pytest.approx(SPOKEN, abs=48)


@pytest.mark.parametrize("close", [b"", frame(CLOSE, b"\x03\xe8bye")], ids=["end", "close"])
async def test_the_end_of_what_was_said_comes_before_the_end_of_the_stream(close: bytes) -> None:
    async with filtered(NEVER) as (backend, client):
        await backend.send(wav() + close)
        if not close:
            backend.writer.write_eof()
        assert len(await hear_speech(client)) == 2
        if close:
            assert await hear(client) == (CLOSE, b"\x03\xe8bye")
            backend.writer.write_eof()
        assert await client.rest() == b""


@pytest.mark.parametrize("size", [4096, GZIP.inline_size + 1])
async def test_a_fault_that_nobody_foresaw_costs_the_saving_and_no_lesson(size: int) -> None:
    """Where it happens, on the event loop or in a thread; and it is told once that gzip is off."""
    stream = frame(BINARY, (pcm() * 2)[:size]) * 5 + HELLO
    with capture_logs() as log:
        async with filtered(SOON, ("gzip",), Live(Unforeseen())) as (backend, client):
            _, heard = await asyncio.gather(backend.send(stream), client.read(len(stream)))
            assert heard == stream
    assert [entry["event"] for entry in log] == [
        *["a chunk could not be encoded"] * 3,
        "gzip is off for this connection: an unforeseen error",
    ]


# What the operator set.


def serve(audio: bytes) -> Any:
    """A backend's script: one message, and nothing more."""

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + frame(BINARY, audio))
        await peer.ended()

    return script


async def test_the_pause_is_the_operators(proxy: Proxy) -> None:
    async with (
        raw_backend(serve(wav()[4:])) as port,
        proxy(port, opus_flush_ms="100") as app,
        tunnel(app, b"/?audio_compression=opus") as client,
    ):
        assert len(await hear_speech(client)) == 2


@pytest.mark.parametrize(
    ("path", "settings", "becomes"),
    [
        (b"/speak", {"pcm_layout": "s16le/22050/1", "opus_raw": "true"}, "opus"),
        (b"/speak/a%20b", {"pcm_layout": "/speak/a b=s16le/22050/1", "opus_raw": "1"}, "opus"),
        (b"/other", {"pcm_layout": "/speak*=s16le/22050/1", "opus_raw": "true"}, "flac"),
        (b"/speak", {"pcm_layout": "/speak*=s16le/22050/1"}, "flac"),
        (b"/speak", {"opus_raw": "true"}, "flac"),
    ],
)
async def test_raw_samples_become_opus_only_where_the_operator_named_and_allowed_it(
    proxy: Proxy, path: bytes, settings: dict[str, str], becomes: str
) -> None:
    async with (
        raw_backend(serve(RAW)) as port,
        proxy(port, **settings) as app,
        tunnel(app, path + b"?audio_compression=opus,flac") as client,
    ):
        text = json.loads((await read_frame(client))[1])
    assert text["algorithm"] == becomes
