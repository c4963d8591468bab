"""Frames as RFC 9639 has them, told by libFLAC (`soundfile`) and FFmpeg (PyAV), not by us."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from proxy.audio.flac_frames import crc8, crc16, renumbered, stream_info, verbatim
from tests.support import pcm

SPEECH = np.frombuffer(pcm(), "<i2")
LIVELY = SPEECH[100_000:200_000]

# RFC 9639, appendix D.1: STREAMINFO, one frame of one stereo sample (25,588 and 10,416).
EXAMPLE = bytes.fromhex(
    "664c6143 80000022 10001000 00000f00 000f0ac4 42f00000 00013e84 b41807dc 69030758 6a3dad1a"
    "2e0ffff8 69180000 bf0358fd 03128baa 9a"
)
HEAD = 42  # bytes of a stream's mark and STREAMINFO

# RFC 9639, table 18: how many bits a coded number has, and its bytes; x: a bit of the number.
CODED = [
    (7, "0xxxxxxx"),
    (11, "110xxxxx 10xxxxxx"),
    (16, "1110xxxx 10xxxxxx 10xxxxxx"),
    (21, "11110xxx 10xxxxxx 10xxxxxx 10xxxxxx"),
    (26, "111110xx 10xxxxxx 10xxxxxx 10xxxxxx 10xxxxxx"),
    (31, "1111110x 10xxxxxx 10xxxxxx 10xxxxxx 10xxxxxx 10xxxxxx"),
    (36, "11111110 10xxxxxx 10xxxxxx 10xxxxxx 10xxxxxx 10xxxxxx 10xxxxxx"),
]
EDGES = [0, *(n for bits, _ in CODED for n in ((1 << bits) - 1, 1 << bits))][:-1]
NUMBERS = [0, 127, 128, 2047, 2048, 65_535, 65_536, 1 << 20, (1 << 36) - 1]

# Every block size that has a code of its own (RFC 9639, table 14), and some that have none.
FIXED = [192, *(576 << n for n in range(4)), *(256 << n for n in range(8))]
OTHERS = [16, 100, 255, 1000, 2000, 65_535]


def coded(number: int) -> bytes:
    """A number as the table has it."""
    pattern = next(bytes_ for bits, bytes_ in CODED if number < 1 << bits).replace(" ", "")
    digits = iter(f"{number:0{pattern.count('x')}b}")
    bits = "".join(next(digits) if bit == "x" else bit for bit in pattern)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def frames_of(file: bytes) -> list[bytes]:
    """The frames of a FLAC file, as FFmpeg's parser cuts them."""
    with av.open(io.BytesIO(file)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def libflac_file(samples: np.ndarray, rate: int, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype=subtype)
    return file.getvalue()


def ffmpeg_frames(block: int, count: int, bits: int = 16, channels: int = 1) -> Iterator[bytes]:
    """Frames that FFmpeg makes of speech, numbered from 0."""
    encoder = av.CodecContext.create("flac", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.layout = 44_100, "mono" if channels == 1 else "stereo"
    encoder.format = "s16" if bits == 16 else "s32"
    encoder.options = {"frame_size": str(block), "bits_per_raw_sample": str(bits)}
    samples = speech_of(block, bits, channels)
    for _ in range(count):
        frame = av.AudioFrame.from_ndarray(
            samples.reshape(1, -1).astype("<i2") if bits == 16 else samples.reshape(1, -1) << 8,
            encoder.format.name,
            encoder.layout.name,
        )
        frame.sample_rate = 44_100
        (packet,) = encoder.encode(frame)
        yield bytes(packet)


def speech_of(block: int, bits: int = 16, channels: int = 1) -> np.ndarray:
    """Samples of a frame, one row for each point in time; 24 bits with noise in the lowest ones."""
    samples = np.resize(LIVELY, block * channels).astype("<i4").reshape(-1, channels)
    if bits == 16:
        return samples
    noise = np.random.default_rng(1).integers(0, 256, samples.shape, "<i4")
    return samples << 8 | noise


def little_endian(samples: np.ndarray, bits: int) -> bytes:
    """Samples as they stand in raw PCM."""
    return samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()


def decode(stream: bytes, bits: int = 16) -> np.ndarray:
    """All samples of a stream, by libFLAC, which checks every checksum."""
    with soundfile.SoundFile(io.BytesIO(stream)) as file:
        assert file.subtype == f"PCM_{bits}"
        samples = file.read(dtype="int32", always_2d=True)
        assert len(samples) == file.frames
    return samples >> (32 - bits)


def assert_checked(frame: bytes, header: int) -> None:
    """Both checksums of a frame, whose header has so many bytes with its own, are right."""
    assert crc8(frame[: header - 1]) == frame[header - 1]
    assert crc16(frame[:-2]) == int.from_bytes(frame[-2:], "big")


def header_size(frame: bytes, number: int) -> int:
    return 4 + len(coded(number)) + {6: 1, 7: 2}.get(frame[2] >> 4, 0) + 1


# Checksums.


def test_checksums_of_known_answers() -> None:
    """CRC-8/SMBUS and CRC-16/UMTS of the usual "123456789", and the RFC's own example."""
    assert crc8(b"123456789") == 0xF4
    assert crc16(b"123456789") == 0xFEE8
    assert decode(EXAMPLE).tolist() == [[25_588, 10_416]]
    assert_checked(EXAMPLE[HEAD:], 7)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_checksums_of_every_frame_of_a_file_by_libflac(channels: int, subtype: str) -> None:
    file = libflac_file(SPEECH[: len(SPEECH) // 2 * 2].reshape(-1, channels), 22_050, subtype)
    frames = frames_of(file)
    assert len(frames) > 30
    assert file.endswith(b"".join(frames))
    for number, frame in enumerate(frames):
        assert_checked(frame, header_size(frame, number))


@given(st.binary(max_size=600))
def test_checksums_take_any_buffer(data: bytes) -> None:
    assert crc8(memoryview(data)) == crc8(bytearray(data)) == crc8(data)
    assert crc16(memoryview(data)) == crc16(bytearray(data)) == crc16(data)
    # A checksum behind its data leaves nothing.
    assert crc8(data + bytes((crc8(data),))) == 0
    assert crc16(data + crc16(data).to_bytes(2, "big")) == 0


# Coded numbers, which stand in the fifth byte of a frame and those behind it.


def number_of(frame: bytes) -> bytes:
    """The coded number of a frame of one 16-bit sample as it is: eight bytes follow it."""
    return frame[4:-8]


@pytest.mark.parametrize("number", EDGES)
def test_coded_numbers_at_the_edges(number: int) -> None:
    assert number_of(verbatim(b"\1\2", number, 24_000, 1, 16)) == coded(number)


@given(st.integers(0, 36).flatmap(lambda bits: st.integers(0, (1 << bits) - 1)))
def test_coded_numbers_up_to_36_bits(number: int) -> None:
    frame = verbatim(b"\1\2", number, 24_000, 1, 16)
    assert number_of(frame) == coded(number)
    assert renumbered(frame, 0, 24_000) == verbatim(b"\1\2", 0, 24_000, 1, 16)
    if number < 0xD800:
        assert coded(number) == chr(number).encode()


# Frames numbered anew.


@pytest.mark.parametrize("block", [*FIXED, *OTHERS])
def test_a_renumbered_frame_decodes_to_the_same_samples(block: int) -> None:
    first, second = ffmpeg_frames(block, 2)
    code = first[2] >> 4
    assert (code in (6, 7)) == (block in OTHERS)
    assert (code == 6) == (block in OTHERS and block <= 256)
    for number in NUMBERS:
        for rate in (24_000, 11_025, 44_100):  # with a code of its own and without
            frame = renumbered(second, number, rate)
            assert frame[:2] == b"\xff\xf9"
            assert frame[2] >> 4 == code
            assert frame[4:].startswith(coded(number))
            assert_checked(frame, header_size(frame, number))
            assert frame == renumbered(first, number, rate)
            head = stream_info([block], rate, 1, 16, block)
            same = np.array_equal(decode(head + frame), speech_of(block))
            assert same, (number, rate)


@pytest.mark.parametrize(("bits", "channels"), [(16, 2), (24, 1), (24, 2)])
@pytest.mark.parametrize("block", [192, 200, 2000, 2048])
def test_a_renumbered_frame_of_other_layouts(block: int, bits: int, channels: int) -> None:
    *_, frame = ffmpeg_frames(block, 3, bits, channels)
    stream = stream_info([block], 24_000, channels, bits, block) + renumbered(frame, 0, 24_000)
    same = np.array_equal(decode(stream, bits), speech_of(block, bits, channels))
    assert same


def test_frames_that_an_encoder_numbered_with_one_two_and_three_bytes() -> None:
    frames = list(ffmpeg_frames(16, 2100))
    assert {len(coded(number)) for number in range(2100)} == {1, 2, 3}
    assert [frame[4:].startswith(coded(number)) for number, frame in enumerate(frames)] == (
        [True] * 2100
    )
    assert {renumbered(frame, 5, 8000) for frame in frames} == {renumbered(frames[0], 5, 8000)}


def test_damage_stays_damage() -> None:
    """The checksum is carried over, not made anew: what was wrong is not made to look right."""
    (frame,) = ffmpeg_frames(100, 1)
    whole = renumbered(frame, 128, 24_000)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        again = renumbered(bytes(damaged), 128, 24_000)
        assert crc16(again[:-2]) != int.from_bytes(again[-2:], "big"), at


def test_a_stream_of_frames_of_different_origin() -> None:
    """Encoded ones from two encoders, and one as it is at the end."""
    blocks = [2048, 1000, 37]
    (one,), (two,) = ffmpeg_frames(2048, 1), ffmpeg_frames(1000, 1)
    rest = speech_of(37)
    stream = (
        stream_info(blocks, 22_050, 1, 16, sum(blocks))
        + renumbered(one, 0, 22_050)
        + renumbered(two, 2048, 22_050)
        + verbatim(little_endian(rest, 16), 3048, 22_050, 1, 16)
    )
    expected = np.concatenate([speech_of(2048), speech_of(1000), rest])
    same = np.array_equal(decode(stream), expected)
    assert same


# Frames of samples as they are.


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 255, 256, 257, 4096, 65_535])
@pytest.mark.parametrize("rate", [8000, 22_050, 12_345, 96_000, 192_000])
def test_samples_as_they_are(bits: int, channels: int, count: int, rate: int) -> None:
    data = random.Random(count).randbytes(count * channels * bits // 8)
    frame = verbatim(memoryview(data), 0, rate, channels, bits)
    stream = stream_info([count], rate, channels, bits, count) + frame
    same = little_endian(decode(stream, bits), bits) == data
    assert same
    assert_checked(frame, header_size(frame, 0))


# The head.


# RFC 9639, 8.1 and 8.2: the bits of each field behind the mark.
WIDTHS = {
    "last block": 1,
    "type": 7,
    "size": 24,
    "smallest block": 16,
    "largest block": 16,
    "smallest frame": 24,
    "largest frame": 24,
    "rate": 20,
    "channels - 1": 3,
    "bits - 1": 5,
    "samples": 36,
    "md5": 128,
}


def fields(head: bytes) -> dict[str, int]:
    assert (len(head), head[:4]) == (HEAD, b"fLaC")
    found, left = {}, int.from_bytes(head[4:], "big")
    for name, width in reversed(WIDTHS.items()):
        found[name] = left & (1 << width) - 1
        left >>= width
    return {name: found[name] for name in WIDTHS}


@pytest.mark.parametrize(
    ("blocks", "smallest", "largest"),
    [
        ([2048], 2048, 2048),
        ([2048, 2048, 5], 2048, 2048),  # the last one does not count
        ([2048, 1000, 5], 1000, 2048),
        ([256, 2000], 256, 2000),
        ([3], 16, 16),  # less cannot be told
        ([65_535], 65_535, 65_535),
    ],
)
@pytest.mark.parametrize("rate", [8000, 22_050, 655_350, (1 << 20) - 1])
@pytest.mark.parametrize(("channels", "bits"), [(1, 16), (2, 24)])
def test_stream_info(
    blocks: list[int], smallest: int, largest: int, rate: int, channels: int, bits: int
) -> None:
    head = fields(stream_info(blocks, rate, channels, bits, sum(blocks)))
    assert tuple(head.values()) == (
        *(1, 0, 34, smallest, largest, 0, 0),
        *(rate, channels - 1, bits - 1, sum(blocks), 0),
    )


@given(st.integers(0, (1 << 36) - 1))
def test_stream_info_of_any_number_of_samples(samples: int) -> None:
    head = stream_info([4096], 24_000, 1, 16, samples)
    assert fields(head)["samples"] == samples
    assert (fields(head)["rate"], fields(head)["channels - 1"]) == (24_000, 0)


@pytest.mark.parametrize(("channels", "bits"), [(1, 16), (2, 16), (1, 24), (2, 24)])
@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 24_000, 44_100, 48_000, 192_000])
def test_readers_take_the_head_as_it_is_meant(rate: int, channels: int, bits: int) -> None:
    data = bytes(300 * channels * bits // 8)
    stream = stream_info([300], rate, channels, bits, 300) + verbatim(data, 0, rate, channels, bits)
    with soundfile.SoundFile(io.BytesIO(stream)) as file:
        assert (file.samplerate, file.channels, file.frames) == (rate, channels, 300)
    with av.open(io.BytesIO(stream)) as container:
        audio = container.streams.audio[0]
        assert (audio.rate, audio.channels) == (rate, channels)
        assert audio.duration is not None
        assert audio.time_base is not None
        assert audio.duration * audio.time_base * rate == 300
