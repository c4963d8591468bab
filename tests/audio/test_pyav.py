"""What is ours of PyAV's work: the same bytes come of it, and no threads."""

from __future__ import annotations

import os
from typing import Any

import av
import pytest

from proxy.audio.flac import Flac
from proxy.audio.opus import Speech
from proxy.audio.pcm import PcmLayout
from proxy.audio.pyav import Converter, encode
from proxy.audio.settings import AudioSettings
from proxy.audio.stream import Stream
from tests.support import pcm

SAMPLES = pcm()[:48_000]


def frames(encoding: str, layout: str, rate: int, size: int) -> list[Any]:
    """Frames of `size` bytes a plane, in any encoding: not all of them are speech."""
    made = []
    for at in range(0, len(SAMPLES) - size, size):
        width = av.AudioFormat(encoding).bytes
        frame = av.AudioFrame(encoding, layout, size // width)
        frame.sample_rate = rate
        for plane in frame.planes:
            data = SAMPLES[at : at + size] if encoding[0] != "f" else bytes(size)
            plane.update(data.ljust(plane.buffer_size, b"\0"))
        made.append(frame)
    return made


def samples(mono: list[Any]) -> bytes:
    """Without what fills their buffers."""
    return b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in mono)


def opened(name: str, rate: int) -> Any:
    encoder = av.CodecContext.create(av.Codec(name, "w"))
    encoder.sample_rate, encoder.format, encoder.layout = rate, "s16", "mono"
    encoder.open()
    return encoder


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_an_encoder_makes_of_whole_frames_what_it_always_makes(rate: int) -> None:
    ours, theirs = opened("flac", rate), opened("flac", rate)
    size = 2 * ours.frame_size
    sent = [*frames("s16", "mono", rate, size), None]
    packets = [packet for frame in sent for packet in encode(ours, frame)]
    expected = [bytes(packet) for frame in sent for packet in theirs.encode(frame)]
    assert packets == expected
    assert len(packets) >= len(sent) - 1 > 4


@pytest.mark.parametrize(
    ("encoding", "layout", "rate"),
    [
        ("s16", "mono", 22_050),
        ("s16", "mono", 24_000),
        ("s16", "stereo", 44_100),
        ("u8", "mono", 8000),
        ("fltp", "stereo", 24_000),
    ],
)
def test_samples_become_what_pyav_makes_of_them(encoding: str, layout: str, rate: int) -> None:
    sent = frames(encoding, layout, rate, 4096)
    ours = Converter(sent[0], "s16", "mono", 24_000)
    theirs = av.AudioResampler("s16", "mono", 24_000)
    converted = [frame for each in [*sent, None] for frame in ours.convert(each)]
    expected = [frame for each in sent for frame in theirs.resample(each)]
    if not (encoding == "s16" and layout == "mono" and rate == 24_000):
        expected += theirs.resample(None)
    assert samples(converted) == samples(expected)
    assert sum(frame.samples for frame in converted) > 10_000


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("rate", [22_050, 24_000])
def test_no_thread_is_started_for_a_connection(rate: int) -> None:
    """A filter graph has one for each core unless it is told otherwise."""
    layout = PcmLayout("s16le", rate, 1)
    chunk = Stream(layout).recognise(SAMPLES[:9600])
    before = threads()
    speeches = [Speech(AudioSettings(opus_raw=True, pcm_layout=layout)) for _ in range(3)]
    assert all(speech.feed(chunk).pair for speech in speeches)
    assert Flac().encode_chunk(chunk, 1).data
    assert threads() == before
