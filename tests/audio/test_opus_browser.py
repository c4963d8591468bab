"""Opus pairs in Chromium: WebCodecs, a decoder for each segment, as the contract says."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Page

from tests.demo import conftest
from tests.support import spoken
from tests.support.spoken import RATE, SOURCES, Heard

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one Chromium for all

browser, page = conftest.browser, conftest.page

# Secure contexts only have an AudioDecoder.
URL = "http://127.0.0.1:9/"
# Takes segments: channels, packets in base64. Gives, for each, what its packets decode to: a list
# of channels of little-endian floats in base64. A decoder that is flushed forgets what it heard, so
# that is done at a segment's end only.
DECODE = """async (segments) => {
  const encode = (floats) => btoa(Array.from(
    new Uint8Array(floats.buffer), (byte) => String.fromCharCode(byte)).join(""));
  const heard = [];
  for (const [channels, packets] of segments) {
    const planes = Array.from({ length: channels }, () => []);
    let failure = null;
    const decoder = new AudioDecoder({
      output: (audio) => {
        for (let plane = 0; plane < audio.numberOfChannels; plane += 1) {
          const floats = new Float32Array(audio.numberOfFrames);
          audio.copyTo(floats, { planeIndex: plane, format: "f32-planar" });
          planes[plane].push(...floats);
        }
        if (audio.sampleRate !== 48000) failure = `a rate of ${audio.sampleRate}`;
        audio.close();
      },
      error: (error) => { failure = String(error); },
    });
    decoder.configure({ codec: "opus", sampleRate: 48000, numberOfChannels: channels });
    packets.forEach((packet, n) => {
      const data = Uint8Array.from(atob(packet), (char) => char.charCodeAt(0));
      decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: n * 20000, data }));
    });
    await decoder.flush();
    decoder.close();
    if (failure) throw new Error(failure);
    heard.push(planes.map((plane) => encode(Float32Array.from(plane))));
  }
  return heard;
}"""


def packets_of(item: Heard) -> list[str]:
    assert item.info is not None
    packets, at = [], 0
    for size in item.info["packet_sizes"]:
        packets.append(base64.b64encode(item.payload[at : at + size]).decode())
        at += size
    return packets


async def assert_alike(page: Page, items: list[Heard]) -> None:
    """Chromium hears what PyAV hears, but for what 16 bits cannot tell."""

    async def answer(route: Any) -> None:
        await route.fulfill(content_type="text/html", body="<!doctype html>")

    await page.route(URL, answer)
    await page.goto(URL)
    segments: list[list[Heard]] = []
    for item in items:
        assert item.info is not None
        if "pre_skip" in item.info:
            segments.append([])
        segments[-1].append(item)
    sent = [
        [
            (pairs[0].info or {})["channels"],
            [packet for pair in pairs for packet in packets_of(pair)],
        ]
        for pairs in segments
    ]
    decoded: list[Any] = await page.evaluate(DECODE, sent)
    for pairs, (_, packets), planes in zip(segments, sent, decoded, strict=True):
        floats = [np.frombuffer(base64.b64decode(plane), "<f4") for plane in planes]
        samples = np.stack(floats, axis=1) * 32_768
        assert len(samples) == len(packets) * RATE // 50
        expected = np.concatenate([pair.samples for pair in pairs if pair.samples is not None])
        skip = (pairs[0].info or {})["pre_skip"]
        # libopus rounds to 16 bits.
        assert np.abs(samples[skip : skip + len(expected)] - expected).max() <= 0.51


@pytest.mark.parametrize("source", ["wav", "mp3-48k", "mp3-128k"])
async def test_every_packet_of_a_segment(page: Page, source: str) -> None:
    items = spoken.play(
        spoken.cut(SOURCES[source][:50_000], 4096), spoken.settings_for(source), text=True
    ).eof()
    pairs = [item for item in items if item.is_opus]
    assert len(pairs) > 10
    await assert_alike(page, pairs)


async def test_each_segment_with_a_decoder_of_its_own(page: Page) -> None:
    items = spoken.play(spoken.cut(SOURCES["wav"][:60_000], 4096), pause=True).eof()
    assert spoken.segments_of(items) == 15
    await assert_alike(page, items)


async def test_stereo(page: Page) -> None:
    left = np.frombuffer(spoken.PCM[100_000:200_000], "<i2")
    samples = np.stack([left, left[::-1]], axis=1)
    items = spoken.play(spoken.cut(spoken.wav(samples.tobytes(), channels=2), 16_384)).eof()
    assert items[0].info is not None
    assert items[0].info["channels"] == 2
    await assert_alike(page, items)
