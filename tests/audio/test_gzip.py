from __future__ import annotations

import gzip as standard
import importlib.util
import sys
import tracemalloc
import zlib
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.audio import gzip
from proxy.audio.gzip import Gzip
from proxy.errors import CodecError
from tests.support import SPEECH, pcm, speech

PCM = pcm()[-400_000:]
CHUNK = PCM[:4096]
LEVELS = range(4)


def without_isal() -> ModuleType:
    """The module, as it loads where `isal` has no wheel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "isal", None)
        spec = importlib.util.spec_from_file_location("gzip_without_isal", gzip.__file__)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


MODULES = {"isal": gzip, "zlib": without_isal()}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> Any:
    """The module, with ISA-L and without."""
    return MODULES[request.param]


def test_without_isal_the_standard_library_does_the_work() -> None:
    fallback = MODULES["zlib"]
    assert fallback._isal is None
    for level in LEVELS:
        assert fallback.GZIP.encode(CHUNK, level) == Gzip(isal=False).encode(CHUNK, level)
        assert fallback.GZIP.encode(CHUNK, level) != Gzip(isal=True).encode(CHUNK, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [1, 1024, 4096, 65536, 1 << 20])
@pytest.mark.parametrize("name", sorted(SPEECH))
def test_round_trip_of_real_speech(module: Any, name: str, size: int, level: int) -> None:
    audio = speech(name)
    for start in range(0, len(audio), max(size, len(audio) // 3)):
        chunk = audio[start : start + size]
        encoded = module.GZIP.encode(chunk, level)
        assert standard.decompress(encoded) == chunk
        assert module.decode(encoded, len(chunk)) == chunk


@given(st.binary(max_size=5000), st.sampled_from(LEVELS), st.sampled_from(sorted(MODULES)))
@settings(deadline=None)
def test_round_trip_of_anything(data: bytes, level: int, name: str) -> None:
    """Given as any kind of buffer, a tunnel's memoryview of a bytearray too."""
    module: Any = MODULES[name]
    encoded = module.GZIP.encode(data, level)
    assert module.decode(encoded, len(data)) == data
    assert module.GZIP.encode(memoryview(bytearray(b"h" + data))[1:], level) == encoded


@pytest.mark.parametrize("level", LEVELS)
def test_speech_in_pcm_gets_smaller(module: Any, level: int) -> None:
    """At 4 KiB chunks, headers of the container paid: more than a tenth, at every level."""
    chunks = [PCM[at : at + 4096] for at in range(0, len(PCM), 4096)]
    encoded = sum(len(module.GZIP.encode(chunk, level)) for chunk in chunks)
    assert encoded < 0.9 * len(PCM)


def test_a_higher_level_is_no_larger(module: Any) -> None:
    chunks = [PCM[at : at + 16384] for at in range(0, len(PCM), 16384)]
    sizes = [sum(len(module.GZIP.encode(c, level)) for c in chunks) for level in LEVELS]
    assert sizes[3] <= sizes[2] <= sizes[1] <= sizes[0]


def test_a_level_that_does_not_exist(module: Any) -> None:
    with pytest.raises(module.CodecError, match="gzip of 4096 bytes failed"):
        module.GZIP.encode(CHUNK, 4)


# Decoding.


def test_the_limit_is_exact(module: Any) -> None:
    encoded = module.GZIP.encode(CHUNK, 1)
    assert module.decode(encoded, 4096) == CHUNK
    with pytest.raises(CodecError, match="more than 4095 bytes"):
        module.decode(encoded, 4095)


def test_nothing_is_something_too(module: Any) -> None:
    assert module.decode(module.GZIP.encode(b"", 1), 0) == b""


@pytest.mark.parametrize("limit", [-1, 0, 1, 65536])
def test_a_bomb_is_not_inflated_past_the_limit(module: Any, limit: int) -> None:
    bomb = standard.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            module.decode(bomb, limit)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_cut_short_anywhere(module: Any) -> None:
    encoded = module.GZIP.encode(CHUNK, 1)
    for end in range(len(encoded)):
        with pytest.raises(CodecError):
            module.decode(encoded[:end], 4096)


def test_a_bit_that_flipped_is_never_other_audio(module: Any) -> None:
    """An error, or the same audio: a time stamp in the header means nothing."""
    encoded = module.GZIP.encode(CHUNK[:300], 1)
    refused = set()
    for bit in range(len(encoded) * 8):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert module.decode(bytes(damaged), 300) == CHUNK[:300]
        except CodecError:
            refused.add(bit)
    check_sum_and_size = range(len(encoded) * 8 - 64, len(encoded) * 8)
    assert refused.issuperset(check_sum_and_size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f",
        b"RIFF....WAVEfmt ",
        zlib.compress(CHUNK),
        zlib.compress(CHUNK, wbits=-15),
        standard.compress(CHUNK) + b"\0",
        standard.compress(CHUNK[:99]) + standard.compress(CHUNK[99:]),
    ],
    ids=["empty", "one byte", "wav", "zlib", "deflate", "trailing byte", "two members"],
)
def test_what_is_no_gzip_member(module: Any, data: bytes) -> None:
    with pytest.raises(CodecError):
        module.decode(data, 1 << 20)
