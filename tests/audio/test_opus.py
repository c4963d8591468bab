"""Opus: what it saves, that nothing is cut off or stretched, that it is the same speech."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from proxy.audio.settings import AudioSettings
from tests.support import spoken
from tests.support.spoken import PCM, RATE, SOURCES, Heard, Samples, Talk, likeness, opus_of

FILES = {**SOURCES, "pcm": SOURCES["wav"]}
"""What other programs can read of each source."""
SAVES = {
    ("pcm", 16_384): 0.90,
    ("wav", 16_384): 0.90,
    ("mp3-48k", 16_384): 0.45,
    ("mp3-128k", 16_384): 0.75,
    ("pcm", 4096): 0.88,
    ("wav", 4096): 0.88,
    ("mp3-48k", 4096): 0.42,
    ("mp3-128k", 4096): 0.75,
}
OF_ALL = pytest.mark.parametrize("source", SOURCES)


@lru_cache(maxsize=32)
def heard(source: str, size: int, *, text: bool = False, pause: bool = False) -> list[Heard]:
    chunks = spoken.cut(SOURCES[source], size)
    return spoken.play(chunks, spoken.settings_for(source), text=text, pause=pause).eof()


def speech_of(source: str, size: int, *, text: bool = False, pause: bool = False) -> Samples:
    return opus_of(heard(source, size, text=text, pause=pause))


@pytest.mark.parametrize(("source", "size"), SAVES)
def test_net_savings(source: str, size: int) -> None:
    talk = spoken.play(spoken.cut(SOURCES[source], size), spoken.settings_for(source))
    talk.eof()
    saved = 1 - talk.counters.wire_bytes / talk.counters.wire_original_bytes
    assert saved >= SAVES[source, size]


@OF_ALL
@pytest.mark.parametrize("how", ["text", "pause"])
def test_what_was_said_is_as_long_as_what_came(source: str, how: str) -> None:
    """In total, however often it was interrupted; and none of it is sent in another way."""
    items = heard(source, 4096, **{how: True})
    expected = spoken.decoded(FILES[source])
    assert spoken.seconds(opus_of(items)) == pytest.approx(spoken.seconds(expected), abs=0.04)
    assert sum(item.info["original_size"] for item in items if item.info) == len(SOURCES[source])
    assert spoken.plain_of(items) == []


@OF_ALL
@pytest.mark.parametrize("size", [1000, 4096])
def test_a_text_between_changes_nothing_of_what_is_heard(source: str, size: int) -> None:
    items = heard(source, size, text=True)
    without = heard(source, size)
    assert np.array_equal(opus_of(items), opus_of(without))
    assert spoken.segments_of(items) == spoken.segments_of(without) == 1
    assert [item.info for item in items if item.info] == [item.info for item in without]
    chunks = -(-len(SOURCES[source]) // size)
    assert spoken.texts_of(items) == [f"word {n}" for n in range(chunks)]


@OF_ALL
def test_each_pause_begins_a_segment(source: str) -> None:
    """And `pre_skip` stands nowhere else."""
    talk = Talk(spoken.settings_for(source))
    begins = []
    for chunk in spoken.cut(SOURCES[source], 16_384)[:4]:
        before = len(talk.out)
        talk.say(chunk[:8192])
        talk.say(chunk[8192:])
        talk.pause()
        pairs = spoken.hear(talk.out[before:])
        begins.append([bool(pair.info and "pre_skip" in pair.info) for pair in pairs])
    assert all(flags == [True] + [False] * (len(flags) - 1) for flags in begins), begins
    assert all(len(flags) >= 2 for flags in begins)


@pytest.mark.parametrize("source", ["wav", "mp3-48k", "mp3-128k", "aac"])
def test_it_is_the_same_speech(source: str) -> None:
    """As near to the original as ffmpeg's own conversion at the same bit rate."""
    file = FILES[source]
    ours = likeness(file, speech_of(source, 4096))
    theirs = likeness(file, spoken.converted(file))
    assert ours.distance <= 1.03 * theirs.distance
    assert ours.pesq >= theirs.pesq - 0.1


@pytest.mark.parametrize("source", ["pcm", "mp3-48k"])
def test_pauses_are_hardly_heard(source: str) -> None:
    """Each segment has an encoder of its own, and is brought to where the last one had been.

    PCM pauses every 93 ms here; without that, PESQ is about 3.0.
    """
    assert likeness(FILES[source], speech_of(source, 4096, pause=True)).pesq > 3.4


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_rates_and_channels(rate: int, channels: int) -> None:
    """A tone comes back at its pitch and its loudness, to the sample as long; each side its own."""
    count = rate * 3 // 2 + 7
    times = np.arange(count) / rate
    pitches = (440, 1000)[:channels]
    tones = [8000 * np.sin(2 * np.pi * pitch * times) for pitch in pitches]
    file = spoken.wav(np.stack(tones, axis=1).astype("<i2").tobytes(), rate, channels)
    settings = AudioSettings(opus_bitrate=64_000)
    items = spoken.play(spoken.cut(file, 20_000), settings, pause=True).eof()
    assert spoken.plain_of(items) == []
    samples = np.concatenate([item.samples for item in items if item.samples is not None])
    assert samples.shape[1] == channels
    assert abs(len(samples) - count * RATE / rate) <= 1
    for channel, pitch in enumerate(pitches):
        spectrum = np.abs(np.fft.rfft(samples[:RATE, channel]))
        assert abs(int(spectrum.argmax()) - pitch) <= 1  # of bins of 1 Hz
        assert np.abs(samples[:, channel]).mean() == pytest.approx(8000 * 2 / np.pi, rel=0.1)


def test_the_operator_sets_the_bit_rate() -> None:
    sizes = []
    for bit_rate in (12_000, 24_000, 48_000):
        settings = replace(spoken.RAW, opus_bitrate=bit_rate)
        items = spoken.play(spoken.cut(PCM, 16_384), settings).eof()
        sizes.append(sum(len(item.payload) for item in items))
        assert sizes[-1] * 8 / 12 == pytest.approx(bit_rate, rel=0.15)
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 440, 441, 442, 1000])
def test_a_few_samples_are_speech_too(count: int) -> None:
    """Too few for a packet, and one after the other: they come with the end of the segment."""
    talk = Talk(spoken.RAW)
    talk.say(PCM[:44_100])
    for n in range(5):
        talk.say(PCM[44_100 + 2 * count * n :][: 2 * count])
    items = talk.eof()
    assert spoken.plain_of(items) == []
    assert abs(len(opus_of(items)) - (22_050 + 5 * count) * RATE / 22_050) <= 1
