"""Streams made samples: wherever they are cut, whatever stands in them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import cycle
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.audio.decoder import Decoder, open_decoder, starts
from proxy.audio.pcm import SAMPLE_SIZES, PcmLayout
from proxy.audio.stream import Stream
from proxy.errors import CodecError, DiscontinuityError
from tests.support.spoken import PCM, SOURCES, ffmpeg
from tests.websocket.strategies import examples

MPEG = {name: SOURCES[name][:30_000] for name in ("mp3-48k", "mp3-128k", "aac")}
OF_ALL = pytest.mark.parametrize("source", MPEG)
LONGER_THAN_A_FRAME = st.lists(st.integers(800, 5000), min_size=1, max_size=5)
ENCODINGS = sorted(SAMPLE_SIZES)
PCM_CODECS = {"mulaw": "mulaw", "alaw": "alaw"}


class Listening:
    """A decoder that is shown chunks as a connection shows them."""

    def __init__(self, layout: PcmLayout | None = None) -> None:
        self._stream = Stream(layout)
        self.decoder: Decoder | None = None
        self._pieces: list[Any] = []

    def take(self, data: bytes) -> None:
        chunk = self._stream.recognise(data)
        if self.decoder is None:
            assert starts(chunk)
            self.decoder = open_decoder(chunk)
        assert self.decoder.continues(chunk)
        for frame in self.decoder.decode(chunk):
            channels = frame.layout.nb_channels
            samples = frame.to_ndarray()
            self._pieces.append(
                samples.T if frame.format.is_planar else samples.reshape(-1, channels)
            )

    @property
    def samples(self) -> Any:
        return np.concatenate(self._pieces)


def listen(chunks: Iterable[bytes], layout: PcmLayout | None = None) -> Listening:
    listening = Listening(layout)
    for chunk in chunks:
        listening.take(chunk)
    return listening


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    chunks: list[bytes] = []
    at = 0
    for size in cycle(sizes):
        if at >= len(data):
            return chunks
        chunks.append(data[at : at + size])
        at += size
    raise AssertionError


@lru_cache
def whole(source: str) -> Any:
    """By FFmpeg's own demuxer."""
    with av.open(io.BytesIO(SOURCES[source]), "r") as container:
        return np.concatenate([frame.to_ndarray().T for frame in container.decode(audio=0)])


def assert_alike(heard: Any, expected: Any) -> None:
    assert heard.shape == expected.shape
    assert np.abs(heard - expected).max() < 1e-6


@OF_ALL
@examples(25)
@given(LONGER_THAN_A_FRAME)
@example([1827])  # of mp3-48k: what begins like a frame of AAC is the midst of one of MP3
def test_frames_wherever_they_are_cut(source: str, sizes: list[int]) -> None:
    """What FFmpeg hears of the file; the last part of a frame is left."""
    chunks = cut(MPEG[source], sizes)
    chunks[-2:] = [b"".join(chunks[-2:])]  # the last may be shorter than a frame
    listening = listen(chunks)
    assert listening.decoder is not None
    carry = listening.decoder.carry
    is_tail = MPEG[source].endswith(carry)
    assert is_tail
    heard = listening.samples
    assert len(heard) == len(listen([MPEG[source]]).samples)
    assert_alike(heard, whole(source)[: len(heard)])


def raw(encoding: str, channels: int) -> bytes:
    """Speech in an encoding, by ffmpeg."""
    name = PCM_CODECS.get(encoding, encoding)
    source = ("-f", "s16le", "-ar", "8000", "-ac", str(channels), "-i", "-")
    return ffmpeg(PCM[100_000:108_000], *source, "-f", name, "-")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("encoding", ENCODINGS)
@examples(15)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=5), st.booleans())
def test_samples_of_every_encoding_wherever_they_are_cut(
    encoding: str, channels: int, sizes: list[int], as_wav: bool
) -> None:
    expected, data, file = encoded(encoding, channels)
    layout = PcmLayout(encoding, 8000, channels)
    head = len(file) - len(data)
    chunks = [data[:16], *cut(data[16:], sizes)]
    if as_wav:
        chunks[0] = file[:head] + chunks[0]
    listening = listen(chunks, None if as_wav else layout)
    assert_alike(as_floats(listening.samples), expected)
    assert listening.decoder is not None
    assert listening.decoder.carry == b""


@lru_cache
def encoded(encoding: str, channels: int) -> tuple[Any, bytes, bytes]:
    """What is to be heard; samples; the same as a WAV."""
    data = raw(encoding, channels)
    name = PCM_CODECS.get(encoding, encoding)
    source = ("-f", name, "-ar", "8000", "-ac", str(channels), "-i", "-")
    codec = ("-c:a", f"pcm_{name}", "-fflags", "+bitexact", "-f", "wav", "-")
    file = ffmpeg(data, *source, *codec)
    file = file[: len(file) - len(data)] + data
    floats = ffmpeg(data, *source, "-f", "f64le", "-")
    return np.frombuffer(floats, "<f8").reshape(-1, channels), data, file


def as_floats(samples: Any) -> Any:
    if samples.dtype.kind == "f":
        return samples.astype("f8")
    if samples.dtype == np.uint8:
        return (samples.astype("f8") - 128) / 128
    return samples.astype("f8") / -float(np.iinfo(samples.dtype).min)


def test_what_an_encoder_put_before_the_first_sample_is_dropped() -> None:
    """Of a second file too: by its table, which is no audio."""
    file = SOURCES["mp3-128k"]
    once = listen(cut(file, [4096])).samples
    twice = listen(cut(file * 2, [4096])).samples
    assert len(twice) == 2 * len(once)
    # The decoder's memory of the first file reaches into the second.
    assert np.abs(twice[len(once) + 4096 :] - once[4096:]).max() < 1e-6
    expected = whole("mp3-128k")
    assert_alike(once[: len(expected)], expected)
    assert len(once) - len(expected) < 2 * 1152  # what was put behind the last one


ID3V1 = b"TAG" + b"Speech".ljust(125, b"\0")
ID3V2 = b"ID3\4\0\0\0\0\x08\x34" + bytes(0x434)


@pytest.mark.parametrize("tag", [ID3V1, ID3V2, ID3V1 + ID3V2], ids=["v1", "v2", "both"])
@examples(15)
@given(st.integers(0, 900))
@example(457)
@example(459)
def test_tags_amid_frames_are_no_audio(tag: bytes, moved: int) -> None:
    file = SOURCES["mp3-48k"][:14_400]
    stream = file[:7200] + tag + file[7200:]
    expected = listen([file]).samples
    heard = listen(cut(stream, [7200 - 450 + moved, 1500]))
    assert_alike(heard.samples, expected)


@OF_ALL
@pytest.mark.parametrize("junk", [b"OggS" * 300, b"\0hello", PCM[100_000:104_096]])
def test_what_is_no_continuation_leaves_all_as_it_was(source: str, junk: bytes) -> None:
    file = MPEG[source]
    stream = Stream()
    first, junk_chunk = stream.recognise(file[:5001]), Stream().recognise(junk)
    decoder = open_decoder(first)
    frames = decoder.decode(first)
    carry = decoder.carry
    assert carry
    with pytest.raises(DiscontinuityError):
        decoder.decode(junk_chunk)
    kept = decoder.carry == carry
    assert kept
    frames += decoder.decode(stream.recognise(file[5001:]))
    heard = np.concatenate([frame.to_ndarray().T for frame in frames])
    assert_alike(heard, listen([file]).samples)


@OF_ALL
@examples(40)
@given(
    LONGER_THAN_A_FRAME,
    st.lists(st.tuples(st.integers(0, 11_999), st.integers(0, 255)), min_size=1, max_size=30),
)
def test_broken_bytes_raise_nothing_else(
    source: str, sizes: list[int], faults: list[tuple[int, int]]
) -> None:
    """And whoever raises takes nothing."""
    file = bytearray(MPEG[source][:12_000])
    for at, value in faults:
        file[at] = value
    stream = Stream()
    decoder = open_decoder(Stream().recognise(MPEG[source][:2000]))
    for data in cut(bytes(file), sizes):
        chunk = stream.recognise(data)
        carry = decoder.carry
        try:
            frames = decoder.decode(chunk)
        except (CodecError, DiscontinuityError):
            kept = decoder.carry == carry
            assert kept
        else:
            assert all(frame.samples > 0 for frame in frames)
