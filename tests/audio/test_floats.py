"""FLAC of 32-bit floats: only of those that were 16-bit samples, and then exactly."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audio.decoding import PairDecoder
from proxy.audio.flac import FLAC, to_floats
from proxy.audio.formats import Format
from proxy.audio.pcm import PcmLayout
from proxy.audio.stream import Chunk
from proxy.errors import CodecError
from proxy.websocket import metadata
from tests.support import pcm

INTEGERS = pcm()[200_000:204_096]
FLOATS = to_floats(INTEGERS)


def chunk_of(data: bytes, start: int = 0, channels: int = 1) -> Chunk:
    layout = PcmLayout("f32le", 22_050, channels)
    stop = len(data) - (len(data) - start) % layout.frame_size
    return Chunk(data, Format.PCM, layout, start, stop, len(data))


def decoded(chunk: Chunk) -> bytes:
    """What a client makes of the pair."""
    encoded = FLAC.encode_chunk(chunk, 1)
    text = metadata.build("flac", len(chunk.data), len(encoded.data), encoded.extra)
    pair = metadata.parse(text.decode())
    assert pair is not None
    return PairDecoder().decode(pair, encoded.data, None)


def test_floats_are_what_dividing_gives() -> None:
    samples = array("h", INTEGERS)
    assert list(array("f", FLOATS)) == [sample / 32_768 for sample in samples]


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_speech_comes_back_exactly_and_much_smaller(start: int, channels: int) -> None:
    data = b"abc"[:start] + FLOATS + b"d"
    chunk = chunk_of(data, start, channels)
    assert FLAC.takes(chunk)
    is_same = decoded(chunk) == data
    assert is_same
    assert len(FLAC.encode_chunk(chunk, 1).data) < 0.4 * len(data)


@given(st.lists(st.integers(-32_768, 32_767), min_size=1, max_size=300))
def test_every_16_bit_sample_comes_back(samples: list[int]) -> None:
    data = to_floats(array("h", samples).tobytes())
    assert FLAC.takes(chunk_of(data))
    assert decoded(chunk_of(data)) == data


@pytest.mark.parametrize(
    "value", [1.0, -0.0, 2.0, float("inf"), float("nan"), 1e-30, 0.5 / 32_768, -1.5]
)
def test_what_was_no_16_bit_sample_is_refused(value: float) -> None:
    """Also where its last bits are zero, as theirs are."""
    data = array("f", [0.25, value]).tobytes()
    with pytest.raises(CodecError, match="f32le"):
        FLAC.encode_chunk(chunk_of(data), 1)


def test_floats_of_more_bits_are_not_tried() -> None:
    data = array("f", [sample / 32_767 for sample in array("h", INTEGERS)]).tobytes()
    assert not FLAC.takes(chunk_of(data))


@pytest.mark.parametrize("sample_format", ["f64le", "", 1, True])
def test_a_sample_format_that_is_none_is_an_error(sample_format: object) -> None:
    encoded = FLAC.encode_chunk(chunk_of(FLOATS), 1)
    text = metadata.build("flac", len(FLOATS), len(encoded.data), {"sample_format": sample_format})
    pair = metadata.parse(text.decode())
    assert pair is not None
    with pytest.raises(CodecError, match="sample_format"):
        PairDecoder().decode(pair, encoded.data, None)
