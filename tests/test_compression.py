from __future__ import annotations

import asyncio
import gzip
import os
import random
import subprocess
import sys
import tracemalloc

import pytest

from proxy.audio.gzip import GZIP
from proxy.compression import AudioCompression, CompressionResult, audio_compression
from proxy.control.flags import Flags
from proxy.errors import CodecError
from proxy.websocket import metadata
from tests.support import SPEECH, pcm, speech

PCM = pcm()[-400_000:]
CHUNK = PCM[:4096]


@pytest.fixture
def compression() -> AudioCompression:
    return AudioCompression()


def test_before_the_first_chunk(compression: AudioCompression) -> None:
    stats = compression.get_stats()
    assert stats == {
        "algorithm": "gzip",
        "total_compressed": 0,
        "total_original_bytes": 0,
        "total_compressed_bytes": 0,
        "average_ratio": 0.0,
        "min_size_threshold": 1024,
    }
    assert isinstance(stats["average_ratio"], float)


@pytest.mark.parametrize("name", sorted(SPEECH))
@pytest.mark.parametrize("size", [1023, 1024, 4096, 65536, 1 << 20])
async def test_real_speech_comes_back(name: str, size: int) -> None:
    """In statistics stands what was compressed, and nothing else."""
    compression = AudioCompression()
    audio = speech(name)
    results = []
    for at in range(0, len(audio), size):
        chunk = audio[at : at + size]
        result = await compression.compress(chunk)
        results.append(result)
        assert result.original_size == len(chunk)
        assert result.compressed_size == len(result.data)
        if not result.is_compressed:
            assert result.data == chunk
            continue
        assert len(chunk) >= 1024
        assert await compression.decompress(result.data) == chunk
        assert gzip.decompress(result.data) == chunk
        pair = 4 + len(metadata.build("gzip", len(chunk), len(result.data))) + len(result.data)
        assert pair <= 0.97 * (len(chunk) + 10)
    done = [result for result in results if result.is_compressed]
    original = sum(result.original_size for result in done)
    compressed = sum(result.compressed_size for result in done)
    assert compression.get_stats() == {
        "algorithm": "gzip",
        "total_compressed": len(done),
        "total_original_bytes": original,
        "total_compressed_bytes": compressed,
        "average_ratio": compressed / original if done else 0.0,
        "min_size_threshold": 1024,
    }
    if name.endswith((".wav", ".ulaw")) and size >= 4096:
        assert compressed < 0.95 * original


@pytest.mark.parametrize(
    ("flags", "size", "should"),
    [
        (Flags(), 1024, True),
        (Flags(), 1023, False),
        (Flags(min_size=0), 0, True),
        (Flags(enabled=False), 1 << 20, False),
    ],
)
async def test_what_is_tried(flags: Flags, size: int, should: bool) -> None:
    compression = AudioCompression(flags)
    assert compression.should_compress(size) is should
    if size and not should:
        silence = bytes(size)
        assert await compression.compress(silence) == CompressionResult(silence, False, size, size)
    assert compression.get_stats()["total_compressed"] == 0
    assert compression.get_stats()["min_size_threshold"] == flags.min_size


async def test_the_metadata_is_paid_for() -> None:
    """gzip saves 8 % of this chunk, and its metadata frame takes 6.5 % back."""
    chunk = random.Random(1).randbytes(1300) + bytes(200)
    assert len(GZIP.encode(chunk, 1)) < 0.93 * len(chunk)
    assert (await AudioCompression().compress(chunk)).is_compressed is False
    assert (await AudioCompression(Flags(min_gain=0.0)).compress(chunk)).is_compressed is True


async def test_a_codec_that_fails_gives_the_original() -> None:
    broken = AudioCompression(Flags.model_construct(level=99))
    assert await broken.compress(CHUNK) == CompressionResult(CHUNK, False, 4096, 4096)
    large = PCM[: GZIP.inline_size + 1]
    assert await broken.compress(large) == CompressionResult(large, False, len(large), len(large))
    assert broken.get_stats()["total_compressed"] == 0


async def test_many_at_once() -> None:
    """Large ones run in threads; each result is its own chunk's."""
    compression = AudioCompression()
    chunks = [PCM[n * 1000 :][: GZIP.inline_size + n] for n in range(20)]
    results = await asyncio.gather(*map(compression.compress, chunks))
    assert [gzip.decompress(result.data) for result in results] == chunks
    assert compression.get_stats()["total_compressed"] == 20
    assert compression.get_stats()["total_original_bytes"] == sum(map(len, chunks))


# Decompression.


async def test_the_limit_is_exact(compression: AudioCompression) -> None:
    for chunk in (CHUNK, PCM):
        encoded = gzip.compress(chunk)
        assert await compression.decompress(encoded, max_size=len(chunk)) == chunk
        with pytest.raises(CodecError, match=f"more than {len(chunk) - 1} bytes"):
            await compression.decompress(encoded, max_size=len(chunk) - 1)


@pytest.mark.parametrize("size", [32 << 20, 256 << 20])
async def test_a_bomb_is_not_inflated(compression: AudioCompression, size: int) -> None:
    bomb = gzip.compress(bytes(size), 1)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="more than 65536 bytes"):
            await compression.decompress(bomb, max_size=65536)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        with pytest.raises(CodecError, match="more than 16777216 bytes"):
            await compression.decompress(bomb)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip", gzip.compress(CHUNK)[:-1], gzip.compress(CHUNK) + b"x"],
    ids=["empty", "garbage", "cut short", "trailing"],
)
async def test_what_is_no_gzip(compression: AudioCompression, data: bytes) -> None:
    with pytest.raises(CodecError):
        await compression.decompress(data)


# The module's own instance.


def test_there_is_one_for_all() -> None:
    assert isinstance(audio_compression, AudioCompression)


@pytest.mark.parametrize(("value", "on"), [("true", True), ("false", False), ("", True)])
def test_the_environment_switches_it_off(value: str, on: bool) -> None:
    script = "from proxy.compression import audio_compression as a; print(a.should_compress(4096))"
    environment = {**os.environ, "ENABLE_WS_COMPRESSION": value}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout == f"{on}\n"
