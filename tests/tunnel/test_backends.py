"""Opted-in speech through the proxy, from four backends that know nothing of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from proxy.client import connect as audio_connect
from proxy.websocket.frames import build_header
from tests.conftest import Proxy
from tests.support import SPEECH, pcm
from tests.support.backends import BACKENDS, messages
from tests.support.flac import decode_flac

SIZES = (1023, 1024, 4096, 65535, 65536, 1 << 20)
CASES = [(path, size, None) for path in SPEECH.values() for size in SIZES]
CASES += [(path, 1, 8192) for path in SPEECH.values()]


def frame_size(payload: str | bytes) -> int:
    """Bytes of a message in one unmasked frame."""
    size = len(payload.encode() if isinstance(payload, str) else payload)
    return len(build_header(1, size)) + size


async def raw_messages(url: str, requests: list[str]) -> list[str | bytes]:
    """What a client gets that does not decode, up to the `end` of each request."""
    received = []
    async with connect(url, compression=None, max_size=None, proxy=None) as socket:
        for request in requests:
            await socket.send(request)
            while (message := await socket.recv()) != "end":
                received.append(message)
            received.append(message)
    return received


def same(one: list[str | bytes], other: list[str | bytes]) -> bool:
    """For an `assert` that shows neither: they are long."""
    return one == other


def decode(received: list[str | bytes]) -> tuple[list[str | bytes], int]:
    """The messages that stand for what was received, and how many pairs there were.

    Each pair must be in order, its sizes right, and its frames fewer bytes than the original's.
    """
    decoded: list[str | bytes] = []
    pairs = 0
    stream = iter(received)
    for message in stream:
        if isinstance(message, bytes) or "audio_chunk_compressed" not in message:
            decoded.append(message)
            continue
        metadata = json.loads(message)
        assert list(metadata)[:4] == ["type", "algorithm", "original_size", "compressed_size"]
        encoded = next(stream)
        assert isinstance(encoded, bytes), "a metadata frame stands before its binary"
        if metadata["algorithm"] == "flac":
            original = decode_flac(encoded, metadata)
        else:
            assert metadata["algorithm"] == "gzip"
            original = gzip.decompress(encoded)
        assert metadata["compressed_size"] == len(encoded)
        assert metadata["original_size"] == len(original)
        assert frame_size(message) + frame_size(encoded) < frame_size(original)
        decoded.append(original)
        pairs += 1
    return decoded, pairs


@pytest.mark.asyncio(loop_factories=["uvloop"])  # both loops in the next test
@pytest.mark.parametrize("backend", BACKENDS)
async def test_every_recording_arrives_byte_for_byte(backend: str, proxy: Proxy) -> None:
    requests = [
        json.dumps({"path": str(path), "size": size, "limit": limit}) for path, size, limit in CASES
    ]
    expected = [message for request in requests for message in messages(request)]
    async with BACKENDS[backend]() as port, proxy(port) as app:
        url = f"ws://{app.listen}/?audio_compression="
        received = [await raw_messages(url + value, requests) for value in ("gzip", "flac,gzip")]
        plain = await raw_messages(url + "0", requests)
    for messages_received, least in zip(received, (len(pcm()) // 4096, 600), strict=True):
        decoded, pairs = decode(messages_received)
        assert same(decoded, expected)
        assert pairs > least  # PCM is worth it at most of the sizes
    assert same(plain, expected)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_backends_own_pairs_arrive_untouched(
    backend: str, proxy: Proxy, tmp_path: Path
) -> None:
    recording = tmp_path / "pcm"
    recording.write_bytes(pcm())
    script = {"path": str(recording), "size": 4096, "limit": None, "own_pairs": True}
    request = json.dumps(script)
    async with BACKENDS[backend]() as port, proxy(port) as app:
        received = await raw_messages(f"ws://{app.listen}/?audio_compression=flac,gzip", [request])
    assert same(received, list(messages(request)))


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_python_client_decodes_in_order(
    backend: str, proxy: Proxy, tmp_path: Path
) -> None:
    recording = tmp_path / "pcm"
    recording.write_bytes(pcm())
    request = json.dumps({"path": str(recording), "size": 4096, "limit": None})
    expected = list(messages(request))
    async with BACKENDS[backend]() as port, proxy(port) as app:
        async with audio_connect(f"ws://{app.listen}/a?b=c", proxy=None) as socket:
            assert socket.response is not None
            assert socket.response.headers["X-Audio-Compression"] == "gzip"
            await socket.send(request)
            received = [await socket.recv() for _ in expected]
        assert same(received, expected)
        assert app.counters.algorithm("gzip").chunks > 80
