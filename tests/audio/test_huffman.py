"""What gzip makes of samples, where it looks for nothing that repeats."""

from __future__ import annotations

import gzip
import heapq
import json
import random
import shutil
import subprocess
import zlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.audio import huffman
from proxy.audio.formats import Format
from proxy.audio.gzip import Gzip, decode
from proxy.audio.pcm import PcmLayout, parse_layout
from proxy.audio.stream import Chunk
from proxy.errors import CodecError
from tests.support import pcm

BLOCK = 14 * 1024
"""Bytes that have a code of their own."""
LARGEST = 64 * 1024
LONGEST = 14
"""Bits of a code."""
LAYOUT = parse_layout("s16le/24000/1")
OTHERWISE = b"another encoder's"


def compress(data: Any) -> bytes | None:
    """None: it is another encoder's."""
    encoded = huffman.compress(data, zlib.crc32, lambda data: OTHERWISE)
    return None if encoded is OTHERWISE else encoded


def by_zlib(data: bytes) -> bytes:
    encoder = zlib.compressobj(9, zlib.DEFLATED, 31, 9, zlib.Z_HUFFMAN_ONLY)
    return encoder.compress(data) + encoder.flush()


def check(data: bytes) -> bool:
    """Whether it is encoded; it is what it was, to two decoders, and as small as zlib makes it."""
    encoded = compress(data)
    if encoded is None:
        return False
    assert gzip.decompress(encoded) == data
    assert decode(encoded, len(data)) == data  # ISA-L's
    other = by_zlib(data)
    if len(data) <= BLOCK and other[10] >> 1 & 3 == 2:  # one block, with codes of its own
        assert len(encoded) <= len(other) + 8  # where symbols are as frequent, the order differs
    assert len(encoded) <= len(data) * 9 / 8 + 100 * (len(data) / BLOCK + 1) + 400
    return True


def shuffled(counts: list[int], seed: int) -> bytes:
    """Values as often as `counts` says."""
    chosen = random.Random(seed)
    values = chosen.sample(range(256), len(counts))
    data = [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
    chosen.shuffle(data)
    return bytes(data)


def deepest(counts: dict[int, int]) -> int:
    """Bits of the longest code that Huffman's algorithm gives, with the end of a block."""
    heap = [(count, number, 0) for number, count in enumerate([*counts.values(), 1])]
    heapq.heapify(heap)
    number = len(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        number += 1
        heapq.heappush(heap, (first[0] + second[0], number, max(first[2], second[2]) + 1))
    return heap[0][2]


@pytest.mark.parametrize("size", [320, 1024, 4096, 12288, 16384, 65536])
def test_speech(size: int) -> None:
    speech = pcm()
    chunks = [speech[at : at + size] for at in range(0, len(speech), size)]
    encoded = [check(chunk) for chunk in chunks]
    assert sum(encoded) > 0.7 * len(chunks)  # the others hold silence


@given(st.binary(min_size=1, max_size=600) | st.binary(min_size=4000, max_size=5000))
@settings(deadline=None)
@example(b"\0")
@example(b"\0\1")
@example(bytes(range(256)))
@example(bytes(range(256)) * 64)
def test_any_bytes(data: bytes) -> None:
    """Given as any kind of buffer."""
    check(data)
    assert compress(memoryview(bytearray(b"h" + data))[1:]) == compress(data)


@given(
    st.lists(st.integers(0, 300) | st.integers(0, 3) | st.integers(0, 9000), max_size=256),
    st.integers(0, 9),
)
@settings(deadline=None)
def test_any_distribution(counts: list[int], seed: int) -> None:
    data = shuffled(counts, seed)[:LARGEST]
    if data:
        check(data)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, LARGEST - 1, LARGEST])
def test_sizes_around_a_block(size: int) -> None:
    assert check(random.Random(size).randbytes(size))
    assert check((pcm() * 2)[30_000 : 30_000 + size])


@pytest.mark.parametrize(("rare", "common"), [(9, 80), (11, 30), (12, 18)])
def test_codes_that_would_be_too_long(rare: int, common: int) -> None:
    counts = [1, 2]  # and the end of a block, once: Fibonacci's numbers
    while len(counts) < rare:
        counts.append(counts[-1] + counts[-2])
    data = shuffled([*counts, *[sum(counts)] * common], 1)
    assert len(data) <= BLOCK
    assert deepest(Counter(data)) > LONGEST
    assert check(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (bytes(4096), "one value"),
        (bytes(4000) + b"\1" * 96, "almost one value"),
        (random.Random(1).randbytes(LARGEST + 1), "large"),
        (random.Random(1).randbytes(BLOCK) + bytes(BLOCK), "silence in its second block"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_another_encoders(data: bytes, why: str) -> None:
    assert compress(data) is None
    for encoder in (Gzip(), Gzip(isal=False)):
        encoded = encoder.encode_chunk(Chunk(data, Format.PCM, LAYOUT), 1).data
        assert encoded == encoder.encode(data, 1)
        assert gzip.decompress(encoded) == data


def test_another_encoder_is_given_the_data_and_the_rest() -> None:
    given_: list[Any] = []

    def otherwise(*args: Any) -> bytes:
        given_.append(args)
        return b"its"

    assert huffman.compress(bytes(9), zlib.crc32, otherwise, 1, 31) == b"its"
    assert given_ == [(bytes(9), 1, 31)]


def test_errors_are_the_callers() -> None:
    def fail(*args: Any) -> Any:
        raise ZeroDivisionError

    noise = random.Random(1).randbytes(999)
    with pytest.raises(ZeroDivisionError):
        huffman.compress(noise, fail, zlib.compress)
    with pytest.raises(ZeroDivisionError):
        huffman.compress(b"", zlib.crc32, fail)
    with pytest.raises(TypeError):
        huffman.compress(noise, lambda data: None, zlib.compress)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError):
        huffman.compress("text", zlib.crc32, zlib.compress)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="3 arguments"):
        huffman.compress(noise, zlib.crc32)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="too many arguments"):
        huffman.compress(b"", zlib.crc32, zlib.compress, *range(20))


def test_node_reads_it() -> None:
    """Chromium's zlib, which checks the sum and the size."""
    node = shutil.which("node")
    assert node is not None, "Node.js is needed: tests/run.sh installs it"
    chunks = [pcm()[at : at + 4096] for at in range(100_000, 140_000, 4096)]
    encoded = [compress(chunk) for chunk in chunks]
    script = """
        const all = JSON.parse(require("fs").readFileSync(0));
        const plain = all.map(each => require("zlib").gunzipSync(Buffer.from(each, "hex")));
        console.log(JSON.stringify(plain.map(each => each.toString("hex"))));
    """
    heard = subprocess.run(
        [node, "-e", script],
        input=json.dumps([each.hex() for each in encoded if each is not None]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(heard.stdout) == [chunk.hex() for chunk in chunks]


@pytest.mark.parametrize(
    ("layout", "level", "is_used"),
    [
        ("s16le/24000/1", 0, True),
        ("s16le/24000/1", 1, True),
        ("s16le/24000/1", 2, False),
        ("s16le/24000/1", 3, False),
        ("s16le/24000/2", 1, False),
        ("mulaw/8000/1", 1, False),
        (None, 1, False),
    ],
)
def test_which_chunks_are_encoded_so(layout: str | None, level: int, is_used: bool) -> None:
    data = pcm()[30_000:34_096]
    parsed: PcmLayout | None = parse_layout(layout) if layout else None
    chunk = Chunk(data, Format.PCM, parsed)
    for encoder in (Gzip(), Gzip(isal=False)):
        encoded = encoder.encode_chunk(chunk, level).data
        assert (encoded == compress(data)) is is_used
        assert (encoded == encoder.encode(data, level)) is not is_used
        function, *rest = encoder.plain(parsed, level)
        assert function(data, *rest) == encoded


def test_a_fault_is_a_codec_error(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Gzip()
    monkeypatch.setattr(encoder, "_crc32", None)
    with pytest.raises(CodecError, match="gzip of 4096 bytes failed"):
        encoder.encode_chunk(Chunk(pcm()[:4096], Format.PCM, LAYOUT), 1)
