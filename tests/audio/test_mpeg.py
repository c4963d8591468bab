from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audio.mpeg import (
    MARK,
    FrameHeader,
    ParseHeader,
    find_frames,
    id3_size,
    is_info_frame,
    is_run,
    main_data_begin,
    parse_adts_header,
    parse_mp3_header,
)
from tests.support import pcm, speech

MP3_24 = speech("speech-24000-48k.mp3")
MP3_44 = speech("speech-44100-128k.mp3")
AAC = speech("speech-48k.aac")
ID3 = 45  # bytes of the tag that MP3_44 begins with

STREAMS: dict[str, tuple[bytes, int, ParseHeader]] = {
    "mp3-24": (MP3_24, 0, parse_mp3_header),
    "mp3-44": (MP3_44, ID3, parse_mp3_header),
    "aac": (AAC, 0, parse_adts_header),
}


def walk(data: bytes, at: int, parse: ParseHeader) -> list[tuple[int, FrameHeader]]:
    """Every frame and where it begins; they must end where the data ends."""
    frames = []
    while at < len(data):
        header = parse(data, at)
        assert header is not None, at
        frames.append((at, header))
        at += header.size
    assert at == len(data)
    return frames


def bits(data: bytes, first: int, count: int) -> int:
    """A field of a big-endian bit stream."""
    value = int.from_bytes(data, "big") >> (len(data) * 8 - first - count)
    return value & ((1 << count) - 1)


# Headers of whole recordings.


@pytest.mark.parametrize(
    ("name", "samples", "rate", "count"),
    [("mp3-24", 576, 24000, 502), ("mp3-44", 1152, 44100, 462), ("aac", 1024, 22050, 260)],
)
def test_a_recording_is_its_frames(name: str, samples: int, rate: int, count: int) -> None:
    data, start, parse = STREAMS[name]
    frames = walk(data, start, parse)
    assert {(h.samples, h.sample_rate, h.channels) for _, h in frames} == {(samples, rate, 1)}
    assert len(frames) == count
    assert sum(h.samples for _, h in frames) / rate == pytest.approx(12.0, abs=0.1)


def test_sizes_of_constant_bitrate() -> None:
    assert {header.size for _, header in walk(MP3_24, 0, parse_mp3_header)} == {144}
    sizes = [header.size for _, header in walk(MP3_44, ID3, parse_mp3_header)]
    assert set(sizes) == {417, 418}
    assert sum(sizes) / (len(sizes) * 1152 / 44100) == pytest.approx(16_000, rel=0.001)


# Headers by the standards' tables. The bytes were put together by hand.


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("fffb9064", FrameHeader(417, 1152, 44100, 2)),  # MPEG-1, III, 128 kbit/s
        ("fffb9264", FrameHeader(418, 1152, 44100, 2)),  # padded
        ("fffa9064", FrameHeader(417, 1152, 44100, 2)),  # with a check sum
        ("fffbe0c4", FrameHeader(1044, 1152, 44100, 1)),  # 320 kbit/s, mono
        ("fffb1464", FrameHeader(96, 1152, 48000, 2)),  # 32 kbit/s
        ("fffb1864", FrameHeader(144, 1152, 32000, 2)),
        ("fff364c4", FrameHeader(144, 576, 24000, 1)),  # MPEG-2, III, 48 kbit/s
        ("fff310c4", FrameHeader(26, 576, 22050, 1)),  # 8 kbit/s
        ("fff3e8c4", FrameHeader(720, 576, 16000, 1)),  # 160 kbit/s
        ("ffe318c4", FrameHeader(72, 576, 8000, 1)),  # MPEG 2.5
        ("ffe340c4", FrameHeader(208, 576, 11025, 1)),
        ("fffde404", FrameHeader(1152, 1152, 48000, 2)),  # MPEG-1, II, 384 kbit/s
        ("fff5a404", FrameHeader(576, 1152, 24000, 2)),  # MPEG-2, II, 96 kbit/s
        ("ffff1a04", FrameHeader(52, 384, 32000, 2)),  # MPEG-1, I, 32 kbit/s, padded by 4
        ("fff7e0c4", FrameHeader(556, 384, 22050, 1)),  # MPEG-2, I, 256 kbit/s
    ],
)
def test_mpeg_headers(head: str, expected: FrameHeader) -> None:
    assert parse_mp3_header(bytes.fromhex(head)) == expected


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("fffb90", "too short"),
        ("fefb9064", "no sync word"),
        ("ffdb9064", "no sync word"),
        ("ffeb9064", "reserved version"),
        ("fff99064", "reserved layer"),
        ("ffe51864", "layer II of MPEG 2.5"),
        ("fffb0064", "free format"),
        ("fffbf064", "forbidden bitrate"),
        ("fffb9c64", "reserved rate"),
        ("fffb9066", "reserved emphasis"),
    ],
)
def test_what_is_no_mpeg_header(head: str, why: str) -> None:
    assert parse_mp3_header(bytes.fromhex(head)) is None, why


def adts(
    *, size: int, rate_index: int = 7, channels: int = 1, blocks: int = 1, check: bool = False
) -> bytes:
    """The fixed and variable header of ADTS: ISO 13818-7, 6.2."""
    fields = [(0xFFF, 12), (0, 1), (0, 2), (not check, 1), (1, 2), (rate_index, 4), (0, 1)]
    fields += [(channels, 3), (0, 4), (size, 13), (0x7FF, 11), (blocks - 1, 2)]
    value = 0
    for field, width in fields:
        value = value << width | field
    return value.to_bytes(7, "big")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (adts(size=371), FrameHeader(371, 1024, 22050, 1)),
        (adts(size=8, channels=2), FrameHeader(8, 1024, 22050, 2)),
        (adts(size=300, blocks=4), FrameHeader(300, 4096, 22050, 1)),
        (adts(size=777, rate_index=0), FrameHeader(777, 1024, 96000, 1)),
        (adts(size=777, rate_index=12), FrameHeader(777, 1024, 7350, 1)),
        (adts(size=6000, channels=7), FrameHeader(6000, 1024, 22050, 8)),
        (adts(size=10, check=True), FrameHeader(10, 1024, 22050, 1)),
        (adts(size=7), None),
        (adts(size=9, check=True), None),
        (adts(size=778), None),  # more than a decoder's buffer has room for
        (adts(size=100, rate_index=13), None),
        (adts(size=100, channels=0), None),
        (adts(size=100)[:6], None),
        (b"\xff\xf3" + adts(size=100)[2:], None),  # a layer: MPEG audio, not AAC
        (b"\xff\xe1" + adts(size=100)[2:], None),
        (b"\xfe\xf1" + adts(size=100)[2:], None),
    ],
)
def test_adts_headers(head: bytes, expected: FrameHeader | None) -> None:
    assert parse_adts_header(head) == expected


# The bit reservoir.


def main_data_bytes(data: bytes, at: int, *, mpeg_1: bool) -> int:
    """What a mono layer III frame's granules take, rounded up; side information of 2.4.1.7."""
    if mpeg_1:
        lengths = [bits(data[at + 4 : at + 21], first, 12) for first in (18, 18 + 59)]
    else:
        lengths = [bits(data[at + 4 : at + 13], 9, 12)]
    return -(-sum(lengths) // 8)


@pytest.mark.parametrize(("name", "side_info"), [("mp3-24", 9), ("mp3-44", 17)])
def test_main_data_of_a_recording(name: str, side_info: int) -> None:
    """Each frame's begins where the one before ends, or later where the encoder stuffed some."""
    data, start, parse = STREAMS[name]
    frames = walk(data, start, parse)
    if is_info_frame(data, start):
        frames = frames[1:]
    written = end = 0  # bytes of main data, from the recording's start
    needed, gaps = [], []
    for at, header in frames:
        begin = main_data_begin(data, at)
        needed.append(begin)
        gaps.append(written - begin - end)
        end = written - begin + main_data_bytes(data, at, mpeg_1=header.samples == 1152)
        written += header.size - 4 - side_info
        assert end <= written
    assert needed[0] == 0
    assert max(needed) > 100
    assert min(gaps) == 0
    assert gaps.count(0) > 0.9 * len(gaps)


@pytest.mark.parametrize(
    ("head", "needed"),
    [
        ("fffb9064 ff80", 511),
        ("fffb9064 007f", 0),
        ("fffb9064 0180", 3),
        ("fffa9064 aaaa 0180", 3),  # behind a check sum
        ("fff364c4 ffff", 255),
        ("fff264c4 aaaa 0aff", 10),
        ("ffe318c4 0aff", 10),
        ("fffde404 ffff", 0),  # layer II
        ("fff364c4 0a", 0),  # not there
        ("fffa9064 aaaa", 0),
        ("00000000 ffff", 0),
    ],
)
def test_main_data_begin(head: str, needed: int) -> None:
    data = bytes.fromhex(head)
    assert main_data_begin(data) == needed
    assert main_data_begin(b"\xff" * 5 + data, 5) == needed


# Tags.


def test_the_info_frame_of_a_recording() -> None:
    frames = walk(MP3_44, ID3, parse_mp3_header)
    assert [at for at, _ in frames if is_info_frame(MP3_44, at)] == [ID3]
    assert not any(is_info_frame(MP3_24, at) for at, _ in walk(MP3_24, 0, parse_mp3_header))


@pytest.mark.parametrize(
    ("head", "at", "tag", "is_info"),
    [
        ("fffb9064", 36, b"Xing", True),
        ("fffb90c4", 21, b"Info", True),
        ("fff364c4", 13, b"Xing", True),
        ("fff36444", 21, b"Xing", True),
        ("fffb90c4", 36, b"VBRI", True),
        ("fffa90c4", 21, b"Info", True),  # with a check sum that moves nothing
        ("fffa90c4", 23, b"Info", True),  # and one that does
        ("fffb90c4", 23, b"Info", False),
        ("fffb90c4", 21, b"Talk", False),
        ("fffb9064", 21, b"Xing", False),
        ("fffde404", 36, b"Xing", False),  # layer II
        ("fff90064", 36, b"Xing", False),  # no header
    ],
)
def test_info_frames(head: str, at: int, tag: bytes, is_info: bool) -> None:
    frame = bytes.fromhex(head).ljust(at, b"\0") + tag
    assert is_info_frame(frame) is is_info
    assert is_info_frame(b"\xff" + frame, 1) is is_info
    assert not is_info_frame(frame[:-1])


@pytest.mark.parametrize(
    ("tag", "size"),
    [
        (b"ID3\4\0\0\0\0\0\x23", 45),
        (b"ID3\3\0\0\0\0\x02\x01", 267),
        (b"ID3\2\0\0\x7f\x7f\x7f\x7f", 10 + (1 << 28) - 1),
        (b"ID3\4\0\x10\0\0\0\x23", 55),  # with a footer
        (b"ID3\4\0\0\0\0\0", None),
        (b"ID3\4\0\0\0\0\0\x80", None),
        (b"ID3\4\0\1\0\0\0\x23", None),
        (b"ID3\xff\0\0\0\0\0\x23", None),
        (b"ID3\4\xff\0\0\0\0\x23", None),
        (b"ID3 v 1.0 is text", None),
        (b"TAG\4\0\0\0\0\0\x23", None),
    ],
)
def test_id3(tag: bytes, size: int | None) -> None:
    assert id3_size(tag) == size
    assert id3_size(tag + b"\xff" * 99) == size or len(tag) < 10


def test_id3_of_a_recording() -> None:
    assert id3_size(MP3_44) == ID3
    assert id3_size(MP3_24) is None


# Frames in chunks that begin anywhere.


@pytest.mark.parametrize("size", [1024, 4096, 16384])
@pytest.mark.parametrize("name", STREAMS)
def test_the_first_whole_frame_of_any_chunk(name: str, size: int) -> None:
    data, start, parse = STREAMS[name]
    beginnings = [at for at, _ in walk(data, start, parse)]
    for at in range(start, len(data) - size, 61):
        first = next(begin for begin in beginnings if begin >= at)
        assert find_frames(data[at : at + size], parse) == first - at, at


def test_two_frames_are_enough_where_the_data_ends() -> None:
    frames = MP3_24[1440 : 1440 + 3 * 144]
    assert find_frames(b"\0" * 9 + frames[: 2 * 144], parse_mp3_header) == 9
    assert find_frames(b"\0" * 9 + frames[:300], parse_mp3_header) == 9
    assert find_frames(b"\0" * 9 + frames[:140], parse_mp3_header) is None
    assert find_frames(b"\0" * 9 + frames[:288] + b"\0" * 9, parse_mp3_header) is None
    assert find_frames(b"\0" * 9 + frames + b"\0" * 9, parse_mp3_header) == 9


def test_frames_that_disagree_are_none() -> None:
    other_rate = bytes.fromhex("fff360c4").ljust(156, b"\0")
    stereo = bytes.fromhex("fff36444").ljust(144, b"\0")
    layer_2 = bytes.fromhex("fff5a4c4").ljust(576, b"\0")
    mono = MP3_24[1440:1584]
    assert is_run(mono * 2, 0, parse_mp3_header, 2)
    for other in (other_rate, stereo, layer_2):
        assert is_run(other * 2, 0, parse_mp3_header, 2)
        assert not is_run(mono + other, 0, parse_mp3_header, 2)


def test_a_frame_is_looked_for_in_the_first_4_kib() -> None:
    frames = MP3_24[1440:5760]
    assert find_frames(b"\0" * 4000 + frames, parse_mp3_header) == 4000
    assert find_frames(b"\0" * 4096 + frames, parse_mp3_header) is None


def test_layer_1_is_parsed_and_not_looked_for() -> None:
    frame = bytes.fromhex("ffff1a04").ljust(52, b"\0")
    assert find_frames(frame * 9, parse_mp3_header) is None


@pytest.mark.parametrize(
    ("parse", "rest"), [(parse_mp3_header, "00"), (parse_adts_header, "40 20 00")]
)
def test_the_mark_is_what_headers_begin_with(parse: ParseHeader, rest: str) -> None:
    mark = re.compile(MARK)
    found = 0
    for first in range(1 << 16):
        data = b"\xff" + first.to_bytes(2, "big") + bytes.fromhex(rest).ljust(4, b"\0")
        header = parse(data, 0)
        if header is not None and header.samples != 384:  # layer I is not looked for
            found += 1
            assert mark.match(data)
    assert found > 200


@pytest.mark.parametrize("parse", [parse_mp3_header, parse_adts_header])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pcm(), id="pcm"),
        pytest.param(speech("speech-8000.ulaw"), id="mulaw"),
        pytest.param(random.Random(1).randbytes(500_000), id="random"),
        pytest.param(b"\xff" * 20_000, id="mulaw silence"),
    ],
)
def test_other_data_holds_no_frames(data: bytes, parse: ParseHeader) -> None:
    found = [
        at
        for size in (1024, 4096)
        for at in range(0, len(data) - size, 487)
        if find_frames(data[at : at + size], parse) is not None
    ]
    assert found == []


@pytest.mark.parametrize("name", ["mp3-24", "mp3-44"])
def test_mp3_holds_no_adts_frames(name: str) -> None:
    data, _, _ = STREAMS[name]
    chunks = [data[at : at + 2048] for at in range(0, len(data), 487)]
    assert all(find_frames(chunk, parse_adts_header) is None for chunk in chunks)


def test_aac_holds_no_mp3_frames() -> None:
    chunks = [AAC[at : at + 2048] for at in range(0, len(AAC), 487)]
    assert all(find_frames(chunk, parse_mp3_header) is None for chunk in chunks)


# Any bytes.

NEARLY = st.lists(
    st.sampled_from([b"\xff", b"\xfb", b"\xf1", b"\x90", b"\xc4", b"\0", b"ID3\4", b"Xing"])
    | st.binary(max_size=4)
    | st.sampled_from([MP3_24[1440:1584], AAC[:374]]),
    max_size=30,
).map(b"".join)


@given(NEARLY, st.integers(0, 200))
def test_no_bytes_are_an_error_and_every_buffer_is_alike(data: bytes, at: int) -> None:
    for buffer in (bytearray(data), memoryview(b"x" + data)[1:]):
        assert id3_size(buffer) == id3_size(data)
        assert main_data_begin(buffer, at) == main_data_begin(data, at)
        assert is_info_frame(buffer, at) == is_info_frame(data, at)
        for parse in (parse_mp3_header, parse_adts_header):
            assert parse(buffer, at) == parse(data, at)
            assert find_frames(buffer, parse) == find_frames(data, parse)


@given(NEARLY)
def test_what_is_found_is_a_frame(data: bytes) -> None:
    for parse in (parse_mp3_header, parse_adts_header):
        at = find_frames(data, parse)
        if at is not None:
            header = parse(data, at)
            assert header is not None
            assert parse(data, at + header.size) is not None
