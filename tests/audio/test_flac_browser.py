"""FLAC chunks in Chromium: `decodeAudioData`, each chunk on its own."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Page

from proxy.audio.flac import FLAC
from proxy.audio.pcm import PcmLayout
from proxy.audio.stream import Stream
from tests.demo import conftest
from tests.support import pcm

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one Chromium for all

browser, page = conftest.browser, conftest.page

SPEECH = np.frombuffer(pcm(), "<i2")
LIVELY = SPEECH[100_000:]
LEVEL = 1
AS_MANY = 2048
"""Samples of 4 KiB of mono in 16 bits."""

# Gives each chunk's rate and channels: little-endian floats, in base64.
DECODE = """async ([chunks, rate, channels]) => {
  const decoded = [];
  for (const chunk of chunks) {
    const bytes = Uint8Array.from(atob(chunk), (char) => char.charCodeAt(0));
    const context = new OfflineAudioContext(channels, 1, rate);
    const buffer = await context.decodeAudioData(bytes.buffer);
    const planes = [];
    for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
      const plane = new Uint8Array(buffer.getChannelData(channel).buffer);
      planes.push(btoa(Array.from(plane, (byte) => String.fromCharCode(byte)).join("")));
    }
    decoded.push([buffer.sampleRate, planes]);
  }
  return decoded;
}"""


def integers(floats: np.ndarray, bits: int) -> np.ndarray:
    """The samples that Chromium's floats were. Of 16 bits, 32,767 becomes 1 and -32,768 -1, so
    that what is positive has another scale than what is negative."""
    top = 1 << bits - 1
    scaled = floats.astype("f8") * np.where((floats < 0) | (bits == 24), top, top - 1)
    assert np.abs(scaled - np.rint(scaled)).max() < 0.01
    return np.rint(scaled).astype("<i4")


def packed(samples: np.ndarray, bits: int) -> bytes:
    return samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()


async def wrong_chunks(page: Page, pieces: list[np.ndarray], bits: int, rate: int) -> list[int]:
    """The sizes, in samples, of those that Chromium gives other samples of. A row: one instant."""
    channels = pieces[0].shape[1]
    layout = PcmLayout(f"s{bits}le", rate, channels)
    chunks = []
    for samples in pieces:
        chunk = Stream(layout).recognise(packed(samples, bits))
        encoded = FLAC.encode_chunk(chunk, LEVEL)
        assert encoded.extra is None
        chunks.append(base64.b64encode(encoded.data).decode())
    decoded: list[Any] = await page.evaluate(DECODE, [chunks, rate, channels])
    wrong = []
    for samples, (decoded_rate, planes) in zip(pieces, decoded, strict=True):
        assert decoded_rate == rate
        floats = [np.frombuffer(base64.b64decode(plane), "<f4") for plane in planes]
        if not np.array_equal(integers(np.stack(floats, axis=1), bits), samples):
            wrong.append(len(samples))
    return wrong


def pieces_of(samples: np.ndarray, channels: int, count: int) -> list[np.ndarray]:
    frames = samples[: len(samples) // channels * channels].reshape(-1, channels)
    return [frames[at : at + count] for at in range(0, len(frames), count)]


def with_noise(samples: np.ndarray, bits: int) -> np.ndarray:
    """Samples of 16 bits, or of 24 with noise in the lowest eight."""
    if bits == 16:
        return samples.astype("<i4")
    return samples.astype("<i4") << 8 | np.random.default_rng(1).integers(
        0, 256, len(samples), "<i4"
    )


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bits", [16, 24])
async def test_every_chunk_of_the_recording(page: Page, bits: int, channels: int) -> None:
    """4 KiB of mono in 16 bits, and as many samples of the others."""
    pieces = pieces_of(with_noise(SPEECH, bits), channels, AS_MANY)
    assert sum(map(len, pieces)) == len(SPEECH) // channels
    assert await wrong_chunks(page, pieces, bits, 22_050) == []


@pytest.mark.parametrize("size", [1024, 16_384, 65_536])
async def test_other_sizes_of_chunks(page: Page, size: int) -> None:
    pieces = pieces_of(with_noise(SPEECH, 16), 1, size // 2)
    assert await wrong_chunks(page, pieces, 16, 22_050) == []


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bits", [16, 24])
async def test_the_shortest_chunks(page: Page, bits: int, channels: int) -> None:
    """From one sample on, every size is exact."""
    samples = with_noise(LIVELY, bits)
    pieces = [samples[: count * channels].reshape(-1, channels) for count in range(1, 300)]
    assert await wrong_chunks(page, pieces, bits, 24_000) == []


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 44_100, 48_000])
async def test_rates(page: Page, rate: int) -> None:
    pieces = pieces_of(with_noise(LIVELY[:10_000], 16), 1, AS_MANY + 5)
    assert await wrong_chunks(page, pieces, 16, rate) == []


@pytest.mark.parametrize("bits", [16, 24])
async def test_loud_samples(page: Page, bits: int) -> None:
    """Up to both ends of the scale: every value of 16 bits, and random ones of 24."""
    top = 1 << bits - 1
    random = np.random.default_rng(2).integers(-top, top, 5000, "<i4")
    ends = np.resize(np.array([top - 1, -top, -1, 0, top // 2], "<i4"), 5000)
    all_16 = np.arange(-0x8000, 0x8000, dtype="<i4")
    pieces = [samples.reshape(-1, 1) for samples in (random, ends, all_16)]
    assert await wrong_chunks(page, pieces, bits, 22_050) == []
