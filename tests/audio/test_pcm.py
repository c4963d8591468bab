from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audio.pcm import GUESSED_RATE, PcmLayout, guess_layout, parse_layout
from tests.support import pcm, speech

SPEECH = array("h", pcm())
CHUNK = 4096


# Layouts.


@pytest.mark.parametrize(
    ("text", "sample_size", "frame_size", "byte_rate"),
    [
        ("u8/8000/1", 1, 1, 8000),
        ("s16le/24000/1", 2, 2, 48000),
        ("s16le/44100/2", 2, 4, 176_400),
        ("s24le/48000/2", 3, 6, 288_000),
        ("s32le/48000/1", 4, 4, 192_000),
        ("f32le/22050/2", 4, 8, 176_400),
        ("mulaw/8000/1", 1, 1, 8000),
        ("alaw/8000/2", 1, 2, 16_000),
    ],
)
def test_sizes(text: str, sample_size: int, frame_size: int, byte_rate: int) -> None:
    layout = parse_layout(text)
    assert layout.sample_size == sample_size
    assert layout.frame_size == frame_size
    assert layout.byte_rate == byte_rate
    assert str(layout) == text


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        (" S16LE/24000/1\n", PcmLayout("s16le", 24000, 1)),
        ("s16le / 24000 / 1", PcmLayout("s16le", 24000, 1)),
        ("pcm_s16le/8000/2", PcmLayout("s16le", 8000, 2)),
        ("PCM_F32LE/192000/1", PcmLayout("f32le", 192_000, 1)),
        ("ulaw/8000/1", PcmLayout("mulaw", 8000, 1)),
        ("mu-law/8000/1", PcmLayout("mulaw", 8000, 1)),
        ("pcm_mulaw/8000/1", PcmLayout("mulaw", 8000, 1)),
        ("a-law/8000/1", PcmLayout("alaw", 8000, 1)),
    ],
)
def test_ways_to_write_a_layout(text: str, layout: PcmLayout) -> None:
    assert parse_layout(text) == layout


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s16le",
        "s16le/24000",
        "s16le/24000/1/1",
        "s16be/24000/1",
        "mp3/24000/1",
        "s16le/7999/1",
        "s16le/192001/1",
        "s16le/24000/0",
        "s16le/24000/3",
        "s16le/24000/-1",
        "s16le/24_000/1",
        "s16le/24000.0/1",
        "s16le/٢٤٠٠٠/1",
        "pcm_pcm_s16le/24000/1",
    ],
)
def test_what_is_no_layout(text: str) -> None:
    with pytest.raises(ValueError, match="such as s16le/24000/1") as raised:
        parse_layout(text)
    assert repr(text) in str(raised.value)


# Guesses.


def encoded(encoding: str, samples: Sequence[int]) -> bytes:
    """16-bit samples in another encoding; the lowest byte of 24 bits is noise."""
    if encoding == "s16le":
        return struct.pack(f"<{len(samples)}h", *samples)
    if encoding == "f32le":
        return struct.pack(f"<{len(samples)}f", *(value / 0x8000 for value in samples))
    noise = random.Random(24).randbytes(len(samples)) if encoding == "s24le" else None
    return b"".join(
        (value << 8 | (noise[at] if noise else 0)).to_bytes(3, "little", signed=True)
        for at, value in enumerate(samples)
    )


def stereo(left: Sequence[int], right: Sequence[int]) -> list[int]:
    return [value for pair in zip(left, right, strict=True) for value in pair]


LIVELY = SPEECH[100_000:130_000]  # 1.4 s without a pause
SIGNALS = {
    "mono": (1, LIVELY),
    "same on both": (2, stereo(LIVELY, LIVELY)),
    "softer on the right": (2, stereo(LIVELY, [value // 2 for value in LIVELY])),
    "silence on the right": (2, stereo(LIVELY, [0] * len(LIVELY))),
    "another voice on the right": (2, stereo(LIVELY, SPEECH[200_000:230_000])),
}


def chunks(data: bytes, phase: int) -> list[bytes]:
    """Chunks that begin `phase` bytes behind a multiple of 24, cut at even and odd sizes."""
    starts = range(phase, len(data) - CHUNK, 24 * 701)
    return [data[at : at + CHUNK - phase % 3] for at in starts]


@pytest.mark.parametrize("phase", range(8))
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("encoding", ["s16le", "s24le", "s24le from 16 bits", "f32le"])
def test_a_guess_of_speech_cut_anywhere(encoding: str, signal: str, phase: int) -> None:
    channels, samples = SIGNALS[signal]
    expected = PcmLayout(encoding.split()[0], GUESSED_RATE, channels)
    # Nobody can tell which of two channels that differ is the left one.
    differ = signal in ("another voice on the right", "silence on the right")
    step = expected.sample_size if differ else expected.frame_size
    guesses = [guess_layout(chunk) for chunk in chunks(encoded(encoding, samples), phase)]
    right = [g for g in guesses if g and g[0] == expected and (phase + g[1]) % step == 0]
    assert len(guesses) >= 3
    assert len(right) >= 0.85 * len(guesses)
    assert all(g[1] < g[0].frame_size for g in guesses if g)


@pytest.mark.parametrize("phase", [0, 1])
def test_all_of_the_recording_is_s16le(phase: int) -> None:
    """Its pauses too, where almost all samples are -1, 0 or 1: perhaps no guess, never wrong."""
    data = pcm()
    starts = range(phase, len(data) - CHUNK, CHUNK)
    guesses = [guess_layout(data[at : at + CHUNK]) for at in starts]
    right = guesses.count((PcmLayout("s16le", GUESSED_RATE, 1), phase))
    silent = sum(not any(data[at : at + CHUNK]) for at in starts)
    assert right + guesses.count(None) + silent >= len(guesses)
    assert right >= 0.95 * len(guesses)


@pytest.mark.parametrize("gain", [0.02, 0.1, 2.0])
def test_soft_and_loud_speech(gain: float) -> None:
    samples = [max(-0x8000, min(0x7FFF, round(value * gain))) for value in LIVELY]
    for encoding in ("s16le", "s24le", "f32le"):
        guesses = [guess_layout(chunk) for chunk in chunks(encoded(encoding, samples), 0)]
        right = guesses.count((PcmLayout(encoding, GUESSED_RATE, 1), 0))
        assert right >= 0.9 * len(guesses), encoding


def test_24_bits_in_one_of_two_channels() -> None:
    """Many of these make sense as 16 bits, and more as what they are."""
    samples = stereo([value // 10 for value in LIVELY], [0] * len(LIVELY))
    guesses = [guess_layout(chunk) for chunk in chunks(encoded("s24le", samples), 0)]
    assert {guess[0].encoding if guess else None for guess in guesses} == {"s24le"}


@pytest.mark.parametrize("size", [1, 2, 191, 4096, 100_000])
def test_silence(size: int) -> None:
    assert guess_layout(bytes(size)) == (PcmLayout("s16le", GUESSED_RATE, 1), 0)


@pytest.mark.parametrize("silent", [1, 1000, 4095, 12_001])
def test_speech_behind_silence(silent: int) -> None:
    """An odd number of zeros in front shifts the frames by one."""
    audio = encoded("s16le", LIVELY[:2048])
    assert guess_layout(bytes(silent) + audio) == (
        PcmLayout("s16le", GUESSED_RATE, 1),
        silent % 2,
    )


@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize("encoding", ["s16le", "s24le from 16 bits", "f32le"])
def test_speech_behind_noise_that_is_hardly_there(encoding: str, phase: int) -> None:
    """A window is looked for that tells more than the first one, in the same phase."""
    noise = [1, *random.Random(7).choices([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], k=1000)]
    data = encoded(encoding, [*noise, *LIVELY[:3000]])[phase : 7001 + phase]
    layout = PcmLayout(encoding.split()[0], GUESSED_RATE, 1)
    assert guess_layout(data) == (layout, -phase % layout.sample_size)


@pytest.mark.parametrize("clicks", [1, 2, 3])
def test_a_few_clicks_are_no_speech(clicks: int) -> None:
    assert guess_layout((b"\1" + bytes(48)) * clicks + bytes(CHUNK)) is None


def test_24_bits_softer_than_16_bits_can_tell() -> None:
    data = b"".join(bytes([value & 0x7F, 0, 0]) for value in LIVELY)
    assert guess_layout(data[:CHUNK]) == (PcmLayout("s24le", GUESSED_RATE, 1), 0)


def alaw(value: int) -> int:
    """G.711 A-law of a 16-bit sample."""
    magnitude = value >> 4 if value >= 0 else ~value >> 4
    exponent = max(0, magnitude.bit_length() - 5)
    mantissa = magnitude >> max(1, exponent) & 0xF
    return (exponent << 4 | mantissa) ^ (0xD5 if value >= 0 else 0x55)


NO_PCM = {
    "mp3, 24 kHz": speech("speech-24000-48k.mp3"),
    "mp3, 44 kHz": speech("speech-44100-128k.mp3"),
    "aac": speech("speech-48k.aac"),
    "ogg": speech("speech-24k.ogg"),
    "mulaw": speech("speech-8000.ulaw"),
    "alaw": bytes(map(alaw, SPEECH[::3])),
    "noise": random.Random(1).randbytes(300_000),
    "deflate": zlib.compress(pcm()),
    "json": json.dumps([{"word": "no", "at": value} for value in SPEECH[:20_000]]).encode(),
    "base64": base64.b64encode(pcm()),
}


@pytest.mark.parametrize("name", NO_PCM)
def test_what_is_no_linear_pcm(name: str) -> None:
    data = NO_PCM[name]
    guesses = [
        guess_layout(data[at : at + size])
        for size in (1024, CHUNK)
        for at in range(0, len(data) - size, len(data) // 150)
    ]
    assert {guess for guess in guesses if guess} == set()


@pytest.mark.parametrize("size", [0, 1, 190])
def test_too_few_to_tell(size: int) -> None:
    assert guess_layout(encoded("s16le", LIVELY)[:size]) is None


@given(st.binary(max_size=300) | st.binary(min_size=768, max_size=1200))
def test_no_bytes_are_an_error_and_every_buffer_is_alike(data: bytes) -> None:
    guess = guess_layout(data)
    assert guess_layout(bytearray(data)) == guess
    assert guess_layout(memoryview(b"x" + data)[1:]) == guess


@given(st.lists(st.floats(width=32) | st.just(0.0), min_size=48, max_size=99))
def test_floats_that_are_no_audio_are_no_error(values: list[float]) -> None:
    data = struct.pack(f"<{len(values)}f", *values)
    guess = guess_layout(data)
    assert guess is None or guess[1] < guess[0].frame_size
