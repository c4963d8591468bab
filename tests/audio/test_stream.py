"""What chunks are, told of recordings as a backend sends them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.audio.formats import Format, sniff
from proxy.audio.pcm import GUESSED_RATE, PcmLayout
from proxy.audio.stream import Chunk, Stream
from tests.support import pcm, speech

WAV = speech("speech-22050-s16.wav")
HEAD = 78  # bytes of its header: a LIST chunk stands before the samples
PCM = pcm()
LIVELY = np.frombuffer(PCM, "<i2")[100_000:]
MP3 = speech("speech-24000-48k.mp3")
MP3_ID3 = speech("speech-44100-128k.mp3")
MULAW = speech("speech-8000.ulaw")
AAC = speech("speech-48k.aac")

NOISE = random.Random(1).randbytes(4096)

S16 = PcmLayout("s16le", 22_050, 1)
LAYOUTS = [
    PcmLayout(encoding, 24_000, channels)
    for encoding in ("u8", "s16le", "s24le", "s32le", "f32le", "mulaw")
    for channels in (1, 2)
]
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf61.7.100\0\0"


def wav(layout: PcmLayout, samples: bytes, size: int | None = None, before: bytes = b"") -> bytes:
    """A WAV; `size` is what its header says, `before` stands before the samples."""
    tag = {"f32le": 3, "mulaw": 7, "alaw": 6}.get(layout.encoding, 1)
    fmt = struct.pack(
        *("<HHIIHH", tag, layout.channels, layout.sample_rate, layout.byte_rate),
        *(layout.frame_size, 8 * layout.sample_size),
    )
    size = len(samples) if size is None else size
    head = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + before
    riff = min(0xFFFFFFFF, len(head) + 8 + size)
    return b"RIFF" + struct.pack("<I", riff) + head + b"data" + struct.pack("<I", size) + samples


def packed(samples: np.ndarray, encoding: str) -> bytes:
    """16-bit samples in another encoding; the lowest byte of 24 bits is noise."""
    if encoding == "s16le":
        return samples.astype("<i2").tobytes()
    if encoding == "f32le":
        return (samples / np.float32(0x8000)).astype("<f4").tobytes()
    noise = np.random.default_rng(24).integers(0, 256, len(samples), "<i4")
    wide = samples.astype("<i4") << 8 | noise
    return wide.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def cut(data: bytes, *sizes: int) -> Iterator[bytes]:
    """`data` in chunks of these sizes, over and over."""
    at = 0
    for size in cycle(sizes):
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size


def follow(stream: Stream, messages: Sequence[bytes]) -> list[Chunk]:
    return [stream.recognise(data) for data in messages]


def assert_aligned(chunk: Chunk, before: int) -> None:
    """All whole samples of a chunk are told; `before`: bytes of samples that came before it."""
    assert chunk.layout is not None
    size = chunk.layout.frame_size
    assert chunk.start <= chunk.stop <= chunk.end
    assert (chunk.stop - chunk.start) % size == 0
    assert chunk.end - chunk.stop < size
    if chunk.start < chunk.end:
        assert (before + chunk.start) % size == 0
    assert chunk.start < size


# WAV.


@pytest.mark.parametrize("size", [79, 100, 1024, 4096, 4097, 16_383])
def test_a_wav_whose_header_is_in_the_first_chunk(size: int) -> None:
    first, *rest = follow(Stream(), list(cut(WAV, size)))
    assert (first.format, first.layout, first.start) == (Format.WAV, S16, HEAD)
    assert (first.announced, first.guessed) == (True, False)
    assert first.stop == size - (size - HEAD) % 2
    for number, chunk in enumerate(rest, 1):
        assert (chunk.format, chunk.layout) == (Format.WAV, S16)
        assert (chunk.announced, chunk.guessed) == (False, False)
        assert_aligned(chunk, number * size - HEAD)
    assert {chunk.kind for chunk in rest} <= {first.kind}


@pytest.mark.parametrize("size", [1, 3, 4096, 4097])
def test_a_header_in_a_message_of_its_own(size: int) -> None:
    stream = Stream()
    head = stream.recognise(WAV[:HEAD])
    assert (head.start, head.stop, head.end, head.announced) == (HEAD, HEAD, HEAD, True)
    for number, chunk in enumerate(follow(stream, list(islice(cut(WAV[HEAD:], size), 50)))):
        assert chunk.kind == head.kind == (Format.WAV, S16)
        assert_aligned(chunk, number * size)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_wav_of_any_layout(layout: PcmLayout) -> None:
    data = wav(layout, PCM[:50_000])
    for number, chunk in enumerate(follow(Stream(), list(cut(data, 1001)))):
        assert (chunk.format, chunk.layout) == (Format.WAV, layout)
        if number:
            assert_aligned(chunk, number * 1001 - 44)


def test_wavs_one_after_the_other() -> None:
    """Each with its own header and layout, the second before the first has said all."""
    stream = Stream()
    layouts = [S16, PcmLayout("s24le", 48_000, 2), S16, PcmLayout("mulaw", 8000, 1)]
    for layout in layouts:
        first, *rest = follow(stream, list(cut(wav(layout, PCM[:30_001], 40_000), 4096)))
        assert (first.announced, first.start, first.layout) == (True, 44, layout)
        assert {chunk.kind for chunk in rest} == {(Format.WAV, layout)}
        assert not any(chunk.announced or chunk.guessed for chunk in rest)
        assert_aligned(rest[0], 4096 - 44)


@pytest.mark.parametrize("tail", [LIST, b"\0" + LIST, b"\0"])
def test_what_stands_behind_the_samples_in_their_last_chunk(tail: bytes) -> None:
    """A LIST chunk; the byte of padding behind an odd number of samples."""
    data = wav(S16, PCM[:10_001], before=LIST) + tail
    chunks = follow(Stream(), list(cut(data, 4096)))
    last = chunks[-1]
    assert last.layout == S16
    assert len(last.data) - last.end == len(tail)
    assert last.stop == last.end - 1
    assert all(chunk.end == 4096 for chunk in chunks[:-1])


def test_a_chunk_that_begins_behind_the_samples_is_no_longer_of_the_wav() -> None:
    """More of the same may come without a header: its layout is then a guess."""
    stream = Stream()
    first = stream.recognise(wav(S16, PCM[:4001]))
    assert (first.stop, first.end) == (4044, 4045)
    tail = stream.recognise(LIST)
    assert (tail.format, tail.layout, tail.guessed) == (Format.PCM, S16, True)
    more = stream.recognise(PCM[:4096])
    assert (more.format, more.layout, more.guessed, more.start) == (Format.PCM, S16, True, 0)
    again = stream.recognise(WAV[:4096])
    assert (again.format, again.guessed, again.announced) == (Format.WAV, False, True)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_that_does_not_know_its_size(size: int) -> None:
    data = wav(S16, PCM, size)
    first, *rest = follow(Stream(), list(cut(data, 4097)))
    assert (first.announced, first.end) == (True, 4097)
    for number, chunk in enumerate(rest, 1):
        assert (chunk.kind, chunk.guessed) == ((Format.WAV, S16), False)
        assert chunk.end == len(chunk.data)
        assert_aligned(chunk, number * 4097 - 44)


def test_a_wav_of_samples_that_nobody_knows() -> None:
    """ADPCM: a WAV to the end, and no samples of it."""
    data = bytearray(wav(S16, PCM[:20_000]))
    data[20:22] = b"\x02\x00"
    first, *rest = follow(Stream(), list(cut(bytes(data), 4096)))
    assert (first.kind, first.announced) == ((Format.WAV, None), True)
    assert {(chunk.kind, chunk.announced) for chunk in rest} == {((Format.WAV, None), False)}


# Raw samples.


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("sizes", [(4096,), (4097,), (1, 2, 3, 5, 7, 1000), (11,)])
def test_samples_of_a_layout_that_was_named(layout: PcmLayout, sizes: tuple[int, ...]) -> None:
    """The operator's word needs no proof: noise and text, too."""
    at = 0
    stream = Stream(layout)
    for data in islice(cut(PCM[:20_000] + NOISE + b"no audio " * 2000, *sizes), 500):
        chunk = stream.recognise(data)
        assert (chunk.kind, chunk.announced, chunk.guessed) == ((Format.PCM, layout), False, False)
        assert_aligned(chunk, at)
        at += len(data)


@pytest.mark.parametrize("phase", range(6))
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("encoding", ["s16le", "s24le", "f32le"])
def test_samples_whose_layout_is_guessed(encoding: str, channels: int, phase: int) -> None:
    """Also where the first chunk begins amid a sample; from there on, it is carried."""
    expected = PcmLayout(encoding, GUESSED_RATE, channels)
    audio = packed(np.repeat(LIVELY[:60_000], channels), encoding)
    phase %= expected.frame_size
    chunks = follow(Stream(), list(cut(audio[phase:], 4097)))
    for number, chunk in enumerate(chunks):
        assert chunk.kind == (Format.PCM, expected)
        assert (chunk.guessed, chunk.announced) == (True, False)
        assert_aligned(chunk, phase + number * 4097)


def test_all_of_the_recording_is_one_kind() -> None:
    for size in (1024, 4096, 4097):
        chunks = follow(Stream(), list(cut(PCM, size)))
        kinds = [chunk.kind for chunk in chunks]
        first = kinds.index((Format.PCM, PcmLayout("s16le", GUESSED_RATE, 1)))
        assert set(kinds[:first]) <= {(Format.UNKNOWN, None)}
        assert first <= 2
        assert set(kinds[first:]) == {kinds[first]}


@pytest.mark.parametrize(("named", "expected"), [(None, Format.UNKNOWN), (S16, Format.PCM)])
def test_mu_law_is_unknown_unless_it_is_named(named: PcmLayout | None, expected: Format) -> None:
    layout = None if named is None else PcmLayout("mulaw", 8000, 1)
    chunks = follow(Stream(layout), list(cut(MULAW, 1024)))
    assert {chunk.kind for chunk in chunks} == {(expected, layout)}


# Formats that are compressed already.

COMPRESSED = {
    "mp3": (MP3, Format.MP3),
    "mp3 with a tag": (MP3_ID3, Format.MP3),
    "aac": (speech("speech-48k.aac"), Format.AAC),
    "opus": (speech("speech-24k.ogg"), Format.OPUS),
    "flac": (b"fLaC\x80\x00\x00\x22" + bytes(34) + NOISE, Format.FLAC),
    "webm": (b"\x1a\x45\xdf\xa3" + NOISE, Format.WEBM),
}


@pytest.mark.parametrize("size", [1024, 4096, 4097])
@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_formats(name: str, size: int) -> None:
    data, expected = COMPRESSED[name]
    first, *rest = follow(Stream(), list(cut(data, size)))
    assert (first.kind, first.announced, first.start) == ((expected, None), True, 0)
    assert {(chunk.kind, chunk.start) for chunk in rest} == {((expected, None), 0)}
    for chunk in rest:
        assert chunk.announced == (sniff(chunk.data) is not None)


@pytest.mark.parametrize(
    ("name", "expected"), [("mp3", Format.MP3), ("aac", Format.AAC), ("opus", Format.OGG)]
)
@pytest.mark.parametrize("begin", [1, 2000, 10_007])
def test_compressed_formats_from_amid_a_frame(name: str, expected: Format, begin: int) -> None:
    """A later page of Ogg does not tell its codec."""
    data = COMPRESSED[name][0][begin:]
    chunks = follow(Stream(), list(cut(data, 4096)))
    assert {chunk.kind for chunk in chunks} == {(expected, None)}
    assert not chunks[0].announced


def edge_tts(audio: bytes) -> bytes:
    """A binary message of Microsoft's service, as edge-tts reads it (its communicate.py)."""
    header = b"X-RequestId:0123456789abcdef\r\nContent-Type:audio/mpeg\r\nPath:audio\r\n"
    return struct.pack(">H", len(header)) + header + audio


@pytest.mark.parametrize("size", [720, 1000, 4096])
def test_mp3_in_the_wrapping_of_edge_tts(size: int) -> None:
    chunks = follow(Stream(), [edge_tts(data) for data in cut(MP3, size)])
    assert {(chunk.kind, chunk.start) for chunk in chunks} == {
        ((Format.MP3, None), len(edge_tts(b"")))
    }
    assert not any(chunk.announced for chunk in chunks)  # a wrapper is what each begins with


def test_formats_that_follow_each_other_on_one_connection() -> None:
    stream = Stream()
    for name in (*COMPRESSED, *reversed(COMPRESSED)):
        data, expected = COMPRESSED[name]
        assert {chunk.kind for chunk in follow(stream, list(cut(data[:9000], 3000)))} == {
            (expected, None)
        }
        wavs = follow(stream, list(cut(WAV[:9000], 3000)))
        assert {chunk.kind for chunk in wavs} == {(Format.WAV, S16)}


# What looks like something else.


def lookalike() -> bytes:
    """Speech in which two headers of MP3 frames stand where they would."""
    data = bytearray(LIVELY[:2048].tobytes())
    for at in (0, 144):
        data[at : at + 4] = MP3[:4]
    return bytes(data)


@pytest.mark.parametrize("before", [WAV[:4096], None], ids=["wav", "named"])
def test_samples_that_look_like_frames_are_samples(before: bytes | None) -> None:
    data = lookalike()
    assert sniff(data) is Format.MP3
    stream = Stream(None if before else S16)
    if before:
        stream.recognise(before)
    chunk = stream.recognise(data)
    assert (chunk.layout, chunk.announced) == (S16, False)
    assert stream.recognise(PCM[:4096]).layout == S16


@pytest.mark.parametrize("name", COMPRESSED)
def test_another_format_among_samples_of_a_named_layout(name: str) -> None:
    """Such as a jingle: seen when it comes, and when it ends."""
    data, expected = COMPRESSED[name]
    stream = Stream(S16)
    speech_chunks = list(islice(cut(LIVELY.tobytes(), 4096), 3))
    assert {chunk.kind for chunk in follow(stream, speech_chunks)} == {(Format.PCM, S16)}
    jingle = follow(stream, list(islice(cut(data, 4096), 2)))
    assert {chunk.kind for chunk in jingle} == {(expected, None)}
    assert {chunk.kind for chunk in follow(stream, speech_chunks)} == {(Format.PCM, S16)}


def test_a_wav_among_samples_of_a_named_layout() -> None:
    """Behind its end, the operator's word counts again, not the layout of the WAV."""
    other = PcmLayout("s16le", 48_000, 2)
    audio = LIVELY.tobytes()
    stream = Stream(S16)
    stream.recognise(audio[:4097])
    jingle = follow(stream, list(cut(wav(other, audio[:20_000]), 4096)))
    assert {chunk.kind for chunk in jingle} == {(Format.WAV, other)}
    assert (jingle[0].announced, jingle[0].start) == (True, 44)
    after = follow(stream, list(islice(cut(audio[20_000:], 4096), 3)))
    assert {chunk.kind for chunk in after} == {(Format.PCM, S16)}


# Chunks that were not shown.


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(LAYOUTS),
    st.booleans(),
    st.lists(st.tuples(st.booleans(), st.integers(1, 50) | st.integers(1, 5000)), min_size=1),
)
def test_alignment_is_carried_over_what_is_shown_and_what_is_skipped(
    layout: PcmLayout, is_wav: bool, messages: list[tuple[bool, int]]
) -> None:
    stream = Stream(None if is_wav else layout)
    if is_wav:
        stream.recognise(wav(layout, b"", 1 << 30))
    at = 0
    for shown, size in messages:
        if shown:
            chunk = stream.recognise(PCM[at % 1000 :][:size])
            assert (chunk.layout, chunk.guessed) == (layout, False)
            assert_aligned(chunk, at)
        else:
            stream.skip(size)
        at += size


def test_the_end_of_a_wav_is_found_among_what_is_skipped() -> None:
    stream = Stream()
    stream.recognise(wav(S16, PCM[:1000], 10_000))
    stream.skip(8001)
    chunk = stream.recognise(PCM[9001:13_001])
    assert (chunk.format, chunk.start, chunk.stop, chunk.end) == (Format.WAV, 1, 999, 999)
    stream.recognise(wav(S16, PCM[:1000], 10_000))
    stream.skip(9000)
    chunk = stream.recognise(PCM[:4000])
    assert (chunk.format, chunk.guessed, chunk.start, chunk.stop) == (Format.PCM, True, 0, 4000)


@pytest.mark.parametrize("before", [WAV[: HEAD + 1001], PCM[:1001]], ids=["wav", "named"])
def test_behind_a_message_of_unknown_size_the_alignment_is_a_guess(before: bytes) -> None:
    stream = Stream(S16)
    stream.recognise(before)
    chunk = stream.recognise(PCM[1001:2000])
    assert (chunk.layout, chunk.start, chunk.guessed) == (S16, 1, False)
    stream.skip(None)
    chunk = stream.recognise(PCM[:4096])
    assert (chunk.layout, chunk.guessed) == (S16, True)


@pytest.mark.parametrize("size", [None, 1, 4096])
def test_what_is_skipped_where_there_are_no_samples_changes_nothing(size: int | None) -> None:
    stream = Stream()
    stream.recognise(MP3[:4096])
    stream.skip(size)
    chunk = stream.recognise(MP3[4096:8192])
    assert (chunk.kind, chunk.start) == ((Format.MP3, None), 0)


@pytest.mark.parametrize(
    ("sent", "other"), [(MP3, AAC), (AAC, MP3)], ids=["mp3 to aac", "aac to mp3"]
)
def test_one_header_does_not_end_frames_of_another_kind_but_several_do(
    sent: bytes, other: bytes
) -> None:
    """A piece that begins amid a frame may look like the start of a longer one of the other."""
    stream = Stream()
    known = stream.recognise(sent[:4096]).format
    lone = other[:7] + bytes(80)  # so short that the next frame is not seen
    assert sniff(lone) not in (None, known)
    assert stream.recognise(lone).format is known
    assert stream.recognise(other[:4096]).format not in (Format.UNKNOWN, known)


# Looking anew.


def test_doubt_finds_samples_behind_another_format() -> None:
    """Nothing announces them; and once they are found, nothing is looked for."""
    stream = Stream()
    stream.recognise(MP3[:4096])
    audio = LIVELY.tobytes()
    assert stream.recognise(audio[:4096]).format is Format.MP3
    stream.doubt()
    chunk = stream.recognise(audio[4096:8192])
    assert (chunk.format, chunk.layout) == (Format.PCM, PcmLayout("s16le", GUESSED_RATE, 1))
    stream.doubt()
    assert stream.recognise(MP3[5000:9000]).format is Format.MP3


def test_doubt_corrects_a_guess() -> None:
    """Silence is taken for 16 bits, mono, until a codec finds nothing to gain."""
    stream = Stream()
    layout = PcmLayout("s24le", GUESSED_RATE, 2)
    audio = packed(np.repeat(LIVELY[:60_000], 2), "s24le")
    assert stream.recognise(bytes(4098)).layout == PcmLayout("s16le", GUESSED_RATE, 1)
    assert stream.recognise(audio[:4098]).layout == PcmLayout("s16le", GUESSED_RATE, 1)
    stream.doubt()
    for number, data in enumerate(cut(audio[4098:], 4097)):
        chunk = stream.recognise(data)
        assert (chunk.layout, chunk.guessed) == (layout, True)
        assert_aligned(chunk, 4098 + number * 4097)


def test_doubt_realigns_samples_of_a_named_layout() -> None:
    """A byte too many or too few: then it is a guess where they begin."""
    stream = Stream(S16)
    audio = LIVELY.tobytes()[1:]
    wrong = stream.recognise(audio[:4096])
    assert (wrong.start, wrong.guessed) == (0, False)
    stream.doubt()
    for number, data in enumerate(islice(cut(audio[4096:], 4097), 20)):
        chunk = stream.recognise(data)
        assert (chunk.layout, chunk.guessed) == (S16, True)
        assert_aligned(chunk, 1 + 4096 + number * 4097)


@pytest.mark.parametrize("data", [NOISE, LIVELY.tobytes()[1:4097]], ids=["noise", "speech"])
def test_doubt_keeps_an_alignment_that_nothing_speaks_against(data: bytes) -> None:
    stream = Stream(S16)
    stream.recognise(LIVELY.tobytes()[:4097])
    stream.doubt()
    chunk = stream.recognise(data)
    assert (chunk.layout, chunk.start, chunk.guessed) == (S16, 1, False)


def test_doubt_changes_nothing_about_a_wav() -> None:
    stream = Stream()
    stream.recognise(WAV[: HEAD + 1001])
    stream.doubt()
    chunk = stream.recognise(NOISE)
    assert (chunk.kind, chunk.start, chunk.guessed) == ((Format.WAV, S16), 1, False)


def doubts(stream: Stream, data: bytes) -> int:
    """How many doubts it takes until one is looked into; `data` is what comes then."""
    for number in range(1, 100):
        stream.doubt()
        if stream.format is Format.UNKNOWN:
            stream.recognise(data)
            return number
    raise AssertionError("doubts are of no consequence")


def test_what_was_right_is_doubted_ever_more_seldom() -> None:
    audio = LIVELY.tobytes()[:4096]
    stream = Stream()
    stream.recognise(audio)
    assert [doubts(stream, audio) for _ in range(5)] == [1, 2, 4, 4, 4]
    assert doubts(stream, audio[1:]) == 4  # the samples begin elsewhere
    assert [doubts(stream, audio) for _ in range(3)] == [1, 2, 4]
    assert [doubts(stream, MP3[5000:9000]), stream.format] == [4, Format.MP3]
    assert doubts(stream, audio) == 1


def test_what_is_announced_is_doubted_anew() -> None:
    audio = LIVELY.tobytes()[:4096]
    stream = Stream()
    stream.recognise(audio)
    assert [doubts(stream, audio) for _ in range(3)] == [1, 2, 4]
    stream.recognise(MP3[:4096])
    assert doubts(stream, audio) == 1


def looks(unknown: int) -> int:
    """How many chunks of speech pass behind unknown ones until one is recognised."""
    stream = Stream()
    for _ in range(unknown):
        assert stream.recognise(NOISE).kind == (Format.UNKNOWN, None)
        stream.doubt()  # a codec that gains nothing is no reason to look more often
    audio = LIVELY.tobytes()[:4096]
    return next(n for n in range(100) if stream.recognise(audio).format is Format.PCM)


def test_what_is_unknown_is_looked_at_ever_more_seldom() -> None:
    """After looks at chunks 0, 2, 5, 10, 19, … it is at most 64 that are not looked at."""
    waits = [looks(unknown) for unknown in range(300)]
    looked_at = [number for number, wait in enumerate(waits) if wait == 0]
    assert looked_at == [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]
    assert max(waits) == 64


@pytest.mark.parametrize("name", ["wav", *COMPRESSED])
def test_what_announces_itself_is_seen_at_once(name: str) -> None:
    data, expected = (WAV, Format.WAV) if name == "wav" else COMPRESSED[name]
    stream = Stream()
    follow(stream, [NOISE] * 80)
    chunk = stream.recognise(data[:4096])
    assert (chunk.format, chunk.announced) == (expected, True)


# The rest.


@given(st.binary(max_size=200), st.lists(st.binary(max_size=4000), max_size=5))
def test_any_bytes_are_told_in_range(first: bytes, rest: list[bytes]) -> None:
    for stream in (Stream(), Stream(PcmLayout("s24le", 8000, 2))):
        for data in (first, *rest):
            chunk = stream.recognise(data)
            assert chunk.data is data
            assert 0 <= chunk.start <= len(data)
            if chunk.layout is not None:
                assert chunk.start <= chunk.stop <= chunk.end <= len(data)
                assert (chunk.stop - chunk.start) % chunk.layout.frame_size == 0


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_every_buffer_is_alike(make: Any) -> None:
    for data in (WAV, PCM, MP3, MP3_ID3, MULAW, b"".join(map(edge_tts, cut(MP3, 720)))):
        pieces = list(islice(cut(data, 4097), 6))
        plain = follow(Stream(), pieces)
        assert follow(Stream(), [make(piece) for piece in pieces]) == plain


def test_the_format_of_what_comes() -> None:
    stream = Stream()
    assert stream.format is Format.UNKNOWN
    stream.recognise(MP3[:4096])
    assert stream.format is Format.MP3
    stream.recognise(WAV[:4096])
    assert stream.format is Format.WAV
