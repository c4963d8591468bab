"""Opus' own library: the packets that FFmpeg makes with it, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import av
import pytest

from proxy.audio import libopus
from proxy.audio.libopus import Encoder
from proxy.errors import CodecError
from tests.support import pcm

PACKETS = 50
SAMPLES = pcm()[:96_000]


def by_ffmpeg(
    samples: bytes, rate: int, layout: str, bit_rate: int, complexity: int
) -> list[bytes]:
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.format, encoder.layout = rate, "s16", layout  # type: ignore[assignment]
    encoder.bit_rate = bit_rate
    encoder.options = {
        "application": "voip",
        "frame_duration": str(1000 // PACKETS),
        "compression_level": str(complexity),
    }
    encoder.open()
    size = rate // PACKETS * encoder.layout.nb_channels * 2
    packets = []
    for at in range(0, len(samples), size):
        frame = av.AudioFrame("s16", layout, rate // PACKETS)
        frame.sample_rate = rate
        plane = frame.planes[0]
        plane.update(samples[at : at + size].ljust(plane.buffer_size, b"\0"))
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets


@pytest.mark.parametrize("rate", [8000, 12_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2)])
@pytest.mark.parametrize(("bit_rate", "complexity"), [(12_000, 10), (24_000, 6), (64_000, 0)])
def test_the_packets_are_those_that_ffmpeg_makes(
    rate: int, layout: str, channels: int, bit_rate: int, complexity: int
) -> None:
    encoder = Encoder(rate, channels, bit_rate, complexity, PACKETS)
    assert encoder.frame_size == rate // PACKETS * channels * 2
    samples = SAMPLES[: len(SAMPLES) // encoder.frame_size * encoder.frame_size]
    half = len(samples) // encoder.frame_size // 2 * encoder.frame_size
    packets = encoder.encode(samples[:half]) + encoder.encode(samples[half:])
    assert packets == by_ffmpeg(samples, rate, layout, bit_rate, complexity)
    assert len({*packets}) > 10


def test_the_lookahead_is_what_ffmpeg_tells() -> None:
    """In the header that players read, at 48 kHz (RFC 7845 section 5.1)."""
    for rate in (8000, 12_000, 16_000, 24_000, 48_000):
        theirs = av.CodecContext.create("libopus", "w")
        assert isinstance(theirs, av.AudioCodecContext)
        theirs.sample_rate, theirs.format, theirs.layout = rate, "s16", "mono"  # type: ignore[assignment]
        theirs.options = {"application": "voip"}
        theirs.open()
        head = theirs.extradata
        assert head is not None
        ours = Encoder(rate, 1, 24_000, 6, PACKETS).lookahead
        assert ours * 48_000 // rate == int.from_bytes(head[10:12], "little") > 0


@pytest.mark.parametrize(
    ("rate", "channels", "bit_rate", "complexity"),
    [(22_050, 1, 24_000, 6), (24_000, 3, 24_000, 6), (24_000, 1, 24_000, 11), (24_000, 1, -7, 6)],
)
def test_what_it_refuses_is_an_error(
    rate: int, channels: int, bit_rate: int, complexity: int
) -> None:
    with pytest.raises(CodecError, match=r"^libopus: invalid argument"):
        Encoder(rate, channels, bit_rate, complexity, PACKETS)


def test_it_is_found_where_wheels_have_it_or_in_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*libopus._names()]
    assert all("opus" in name for name in names)
    assert libopus._open() is not None
    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so.0")
    monkeypatch.setattr(libopus, "av", SimpleNamespace(__file__="/nowhere/av/__init__.py"))
    assert [*libopus._names()] == ["libopus.so.0"]
    monkeypatch.setattr(libopus, "av", None)
    assert libopus._open() is None
