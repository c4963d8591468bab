from __future__ import annotations

import io
import json
import random
import struct
import wave
import zlib
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audio.formats import (
    FIRST_BYTES,
    OTHER_MARKS,
    Format,
    WavHeader,
    parse_wav,
    recognise,
    sniff,
    wrapped,
)
from proxy.audio.pcm import PcmLayout
from tests.support import pcm, speech

MP3_24 = speech("speech-24000-48k.mp3")
MP3_44 = speech("speech-44100-128k.mp3")
AAC = speech("speech-48k.aac")
OPUS = speech("speech-24k.ogg")
WAV = speech("speech-22050-s16.wav")
MULAW = speech("speech-8000.ulaw")
PCM = pcm()
ID3 = 45  # bytes of the tag that MP3_44 begins with
SIZES = [1024, 4096, 16384]

# A stream of nothing but STREAMINFO, the last block or not: RFC 9639, 8.
FLAC_ALONE = b"fLaC\x80\x00\x00\x22" + bytes(34)
FLAC = b"fLaC\x00\x00\x00\x22" + bytes(34)
WEBM = bytes.fromhex("1a45dfa3 9f 4286 81 01 42f7 81 01 42f2 81 04 42f3 81 08 4282 84") + b"webm"


def ogg_page(packet: bytes, *, flags: int = 2) -> bytes:
    """A page of one packet: RFC 3533, 6; the check sum is left out."""
    lacing = bytes([*[255] * (len(packet) // 255), len(packet) % 255])
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, 0, 1, 0, 0, len(lacing))
    return head + lacing + packet


# Vorbis I, 4.2.2: mono, 24 kHz.
VORBIS = ogg_page(b"\x01vorbis" + struct.pack("<IBIiiiBB", 0, 1, 24000, 0, 64000, 0, 0xB8, 1))
SPEEX = ogg_page(b"Speex   1.2.0".ljust(80, b"\0"))


def edge_tts(audio: bytes, *, content_type: str = "Content-Type:audio/mpeg\r\n") -> bytes:
    """A binary message of Microsoft's service, as edge-tts reads it (its communicate.py)."""
    header = (
        f"X-RequestId:{'0123456789abcdef' * 2}\r\n{content_type}"
        f"X-StreamId:{'0123456789ABCDEF' * 2}\r\nPath:audio\r\n"
    ).encode()
    return struct.pack(">H", len(header)) + header + audio


def mp3_frames() -> list[int]:
    """Where the frames of MP3_44 begin: 128 kbit/s, constant, 417 bytes or padded to 418."""
    found = [ID3]
    while found[-1] < len(MP3_44):
        found.append(found[-1] + 417 + (MP3_44[found[-1] + 2] >> 1 & 1))
    assert found.pop() == len(MP3_44)
    return found


def aac_frames() -> list[int]:
    """Where the frames of AAC begin: each tells its size in 13 bits."""
    found = [0]
    while found[-1] < len(AAC):
        found.append(found[-1] + (int.from_bytes(AAC[found[-1] + 3 :][:3], "big") >> 5 & 0x1FFF))
    assert found.pop() == len(AAC)
    return found


FRAMES = {
    "mp3, 24 kHz": (MP3_24, Format.MP3, list(range(0, len(MP3_24), 144))),
    "mp3, 44 kHz": (MP3_44, Format.MP3, mp3_frames()),
    "aac": (AAC, Format.AAC, aac_frames()),
}


# The formats themselves.


def test_what_is_compressed() -> None:
    plain = {Format.WAV, Format.PCM, Format.UNKNOWN}
    assert {known for known in Format if not known.is_compressed} == plain
    assert str(Format.OPUS) == "opus"


# The first bytes.

HEADS = {
    "wav": (WAV, Format.WAV),
    "rf64": (b"RF64\xff\xff\xff\xffWAVEds64", Format.WAV),
    "mp3": (MP3_24, Format.MP3),
    "mp3 behind id3": (MP3_44, Format.MP3),
    "mp3 behind id3 whose end is not there": (MP3_44[:40], Format.MP3),
    "aac": (AAC, Format.AAC),
    "aac behind id3": (MP3_44[:ID3] + AAC, Format.AAC),
    "opus": (OPUS, Format.OPUS),
    "vorbis": (VORBIS, Format.VORBIS),
    "speex": (SPEEX, Format.OGG),
    "ogg, cut": (OPUS[:28], Format.OGG),
    "ogg, later page": (ogg_page(b"OpusHea", flags=0), Format.OGG),
    "flac": (FLAC, Format.FLAC),
    "flac, one block": (FLAC_ALONE, Format.FLAC),
    "webm": (WEBM, Format.WEBM),
}


@pytest.mark.parametrize("size", [None, 4096, 40])
@pytest.mark.parametrize("name", HEADS)
def test_the_first_bytes(name: str, size: int | None) -> None:
    data, expected = HEADS[name]
    if size == 40 and "id3" in name:
        expected = Format.MP3  # what is behind the tag is not seen
    assert sniff(data[:size]) is expected
    assert sniff(memoryview(data)[:size]) is expected
    assert recognise(data[:size]) == (expected, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"R",
        b"RIFF\0\0\0\0AVI LIST",
        b"RIFF\0\0\0\0WAV",
        b"RIFX\0\0\0\0WAVE",
        b"OggS",
        b"OggS\1" + bytes(40),
        b"fLaC",
        b"fLaC is text",
        b"fLaC\x04\0\0\x22" + bytes(34),
        b"\x1a\x45\xdf",
        b"ID3 is text, too",
        b"\xff\xfb",
        b"\xff" * 40,
        MP3_24[:144] + b"\0" + MP3_24[144:],  # no frame behind the first
        AAC[:374] + b"\xff\xf3" + AAC[376:],
    ],
    ids=lambda data: data[:12].hex(),
)
def test_first_bytes_that_say_nothing(data: bytes) -> None:
    assert sniff(data) is None


@pytest.mark.parametrize("name", FRAMES)
def test_chunks_at_frames(name: str) -> None:
    data, expected, frames = FRAMES[name]
    for at in frames[1:]:
        for size in (16, 40, *SIZES):
            assert sniff(data[at : at + size]) is expected, (at, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FRAMES)
def test_chunks_in_mid_frame(name: str, size: int) -> None:
    data, expected, frames = FRAMES[name]
    for at in range(frames[1], len(data) - size, 67):
        first = next(frame for frame in frames if frame >= at)
        assert recognise(data[at : at + size]) == (expected, first - at), at


@pytest.mark.parametrize("size", SIZES)
def test_chunks_of_ogg_in_mid_page(size: int) -> None:
    """The first page's beginning, where one begins in the chunk: there are 3 to 4 KiB in each."""
    pages = [at for at in range(len(OPUS)) if OPUS[at : at + 5] == b"OggS\0"]
    for at in range(100, len(OPUS) - size, 67):
        begin = next((page - at for page in pages if page >= at), size)
        expected = (Format.OGG, begin) if begin <= size - 6 else None
        assert recognise(OPUS[at : at + size]) == expected, at


def test_a_page_is_looked_for_as_far_as_one_reaches() -> None:
    """The largest has 27 bytes, a table of 255 and as many segments of 255 (RFC 3533, 6)."""
    rest = bytes(27 + 255 + 255 * 255)
    assert recognise(rest + VORBIS) == (Format.OGG, len(rest))
    assert recognise(rest + b"\0" + VORBIS) is None


# Audio behind a header.

INNER = {
    "mp3": (MP3_24[:720], Format.MP3, 0),
    "mp3 behind id3": (MP3_44[:4096], Format.MP3, 0),
    "mp3 in mid-frame": (MP3_24[1500:5500], Format.MP3, 84),
    "one frame of mp3": (MP3_24[1440:1584], Format.MP3, 0),
    "aac": (AAC[:4096], Format.AAC, 0),
    "opus": (OPUS[:4096], Format.OPUS, 0),
    "webm": (WEBM, Format.WEBM, 0),
    "wav": (WAV[:4096], Format.WAV, 0),
}


def test_the_header_is_as_long_as_the_service_sends_it() -> None:
    """Public clients know it by these two lengths."""
    assert edge_tts(b"")[:2] == b"\0\x80"
    assert edge_tts(b"", content_type="")[:2] == b"\0\x67"


@pytest.mark.parametrize("name", INNER)
def test_audio_behind_edge_tts_headers(name: str) -> None:
    audio, expected, offset = INNER[name]
    message = edge_tts(audio)
    assert sniff(message) is None
    assert wrapped(message) == 130
    assert recognise(message) == (expected, 130 + offset)


@pytest.mark.parametrize("header", [b"\x01\x02", b'{"seq":1,"bytes":720}\n', bytes(500)])
@pytest.mark.parametrize("name", ["mp3", "mp3 behind id3", "aac", "opus", "webm", "wav"])
def test_audio_behind_any_small_header(name: str, header: bytes) -> None:
    audio, expected, _ = INNER[name]
    assert recognise(header + audio) == (expected, len(header))
    assert wrapped(header + audio) is None


def test_magic_is_looked_for_in_512_bytes() -> None:
    assert recognise(bytes(508) + WEBM) == (Format.WEBM, 508)
    assert recognise(bytes(509) + WEBM) is None


@pytest.mark.parametrize(
    ("message", "audio"),
    [
        (edge_tts(b"", content_type=""), 105),  # the service's last one
        (b"\0\x0ePath: audio\r\n\r\n" + MP3_24[:99], None),
        (b"\0\x0fPath: audio\r\n\r\n" + MP3_24[:99], 17),  # a blank line as in HTTP
        (b"\0\x0dPath: audio\r\n" + MP3_24[:99], 15),
        (b"\0\x0cPath:audio\r\n" + bytes(9), 14),
        (b"\0\x0dPath:audio\r\n" + bytes(9), None),
        (b"\0\x0aPath:audio" + bytes(9), None),
        (b"\0\x0cPath:audio\r\n"[:-1], None),
        (b"\0\x20Path:audio\r\n", None),  # cut
        (b"\0\x0cPath audio\r\n", None),
        (b"\0\x0dP\xc3\xa4th:audio\r\n", None),
        (b"\x0c\0Path:audio\r\n" + bytes(4000), None),
        (b"\0\0" + MP3_24[:99], None),
        (b"\0", None),
        (b"", None),
    ],
)
def test_wrapped(message: bytes, audio: int | None) -> None:
    assert wrapped(message) == audio
    assert wrapped(memoryview(message)) == audio


def test_the_header_may_be_long() -> None:
    header = b"X-Trace:" + b"a" * 60_000 + b"\r\n"
    message = struct.pack(">H", len(header)) + header + MP3_24[:4096]
    assert recognise(message) == (Format.MP3, 2 + len(header))


# WAV headers.


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of RIFF, padded to an even size."""
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def fmt(tag: int, bits: int, *, channels: int = 1, rate: int = 24000, more: bytes = b"") -> bytes:
    block = channels * bits // 8
    body = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)
    return chunk(b"fmt ", body + more)


def extensible(tag: int, bits: int, *, guid: str = "000000001000800000aa00389b71") -> bytes:
    subtype = struct.pack("<H", tag) + bytes.fromhex(guid)
    return fmt(0xFFFE, bits, more=struct.pack("<HHI", 22, bits, 4) + subtype)


def riff(*chunks: bytes, size: int = 1000, name: bytes = b"RIFF") -> bytes:
    """A WAVE up to its samples."""
    return name + b"\xff\xff\xff\xffWAVE" + b"".join(chunks) + b"data" + struct.pack("<I", size)


def test_the_recording() -> None:
    """It has a LIST chunk before its samples."""
    start = len(WAV) - len(PCM)
    assert start > 44
    expected = WavHeader(PcmLayout("s16le", 22050, 1), start, len(PCM))
    assert parse_wav(WAV) == expected
    assert parse_wav(WAV[:start]) == expected
    assert parse_wav(WAV[: start - 1]) is None


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize(
    ("width", "encoding"), [(1, "u8"), (2, "s16le"), (3, "s24le"), (4, "s32le")]
)
def test_the_standard_librarys_wav(width: int, encoding: str, rate: int, channels: int) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(bytes(240))
    header = parse_wav(file.getvalue())
    assert header == WavHeader(PcmLayout(encoding, rate, channels), 44, 240)


@pytest.mark.parametrize(
    ("format_chunk", "encoding"),
    [
        (fmt(3, 32, more=b"\0\0"), "f32le"),
        (fmt(6, 8, rate=8000), "alaw"),
        (fmt(7, 8, rate=8000, more=b"\0\0"), "mulaw"),
        (extensible(1, 16), "s16le"),
        (extensible(1, 24), "s24le"),
        (extensible(3, 32), "f32le"),
        (extensible(7, 8), "mulaw"),
        (extensible(1, 16, guid="00" * 14), None),
        (extensible(2, 4), None),
        (fmt(2, 4), None),  # ADPCM
        (fmt(0x11, 4), None),
        (fmt(0x55, 0), None),  # MP3 in WAV
        (fmt(3, 64), None),
        (fmt(1, 12), None),
        (fmt(0xFFFE, 16), None),
        (fmt(1, 16, channels=0), None),
        (fmt(1, 16, rate=0), None),
        (chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 24000, 72000, 3, 16)), None),
        (chunk(b"fmt ", b"\1\0\1\0"), None),
        (b"", None),
    ],
)
def test_encodings_of_wav(format_chunk: bytes, encoding: str | None) -> None:
    data = riff(format_chunk)
    header = parse_wav(data)
    assert header is not None
    assert (header.layout and header.layout.encoding) == encoding
    assert header.start == len(data)
    assert header.size == 1000


@pytest.mark.parametrize(
    ("size", "known"),
    [
        (0, None),
        (0xFFFFFFFF, None),
        (0x7FFFFFFF, None),
        (0x7FFFF000, None),  # sox
        (0x80000000, None),
        (0xFFFFFFFF - 36, None),
        (1, 1),
        (0x7FFEFFFF, 0x7FFEFFFF),
    ],
)
def test_sizes_that_a_stream_leaves(size: int, known: int | None) -> None:
    header = parse_wav(riff(fmt(1, 16), size=size))
    assert header == WavHeader(PcmLayout("s16le", 24000, 1), 44, known)


@pytest.mark.parametrize(
    ("long_size", "size", "known"),
    [
        (5 << 30, 0xFFFFFFFF, 5 << 30),
        (0, 0xFFFFFFFF, None),
        ((1 << 64) - 1, 0xFFFFFFFF, None),
        (5 << 30, 1234, 1234),
        (None, 0xFFFFFFFF, None),
    ],
)
def test_rf64(long_size: int | None, size: int, known: int | None) -> None:
    sizes = b"" if long_size is None else struct.pack("<QQI", long_size, 77, 0)
    ds64 = chunk(b"ds64", struct.pack("<Q", 1 << 40) + sizes)
    header = parse_wav(riff(ds64, fmt(1, 16), size=size, name=b"RF64"))
    assert header is not None
    assert header.size == known


@pytest.mark.parametrize("odd", [0, 1, 25, 26, 5001])
def test_chunks_before_the_samples(odd: int) -> None:
    """LIST and others, of odd sizes too, before fmt and behind it."""
    data = riff(chunk(b"JUNK", bytes(odd)), fmt(1, 16), chunk(b"LIST", b"d" * odd))
    header = parse_wav(data + b"samples")
    assert header == WavHeader(PcmLayout("s16le", 24000, 1), len(data), 1000)
    assert all(parse_wav(data[:end]) is None for end in range(len(data)))


def test_chunks_are_counted() -> None:
    """Walking through a million of them would hold up everybody."""
    others = [chunk(b"JUNK", b"")] * 62
    assert parse_wav(riff(*others, fmt(1, 16))) is not None
    assert parse_wav(riff(*others, chunk(b"JUNK", b""), fmt(1, 16))) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0AVI " + fmt(1, 16) + b"data\0\0\0\0",
        b"RIFX\0\0\0\0WAVE" + fmt(1, 16) + b"data\0\0\0\0",
        b"RIFF\0\0\0\0WAVE" + fmt(1, 16) + b"LIST\xff\xff\xff\xffdata\0\0\0\0",
    ],
    ids=["nothing", "cut", "avi", "big-endian", "endless chunk"],
)
def test_what_is_no_wav(data: bytes) -> None:
    assert parse_wav(data) is None


# What is no audio, or audio that cannot announce itself.


def protobuf(count: int) -> bytes:
    """Messages as gRPC streams send them: tags, varints, floats, strings, small bytes."""
    source = random.Random(2)
    message = bytearray()
    for number in range(count):
        text = f"word-{number}".encode()
        message += b"\x08" + bytes([0x80 | number & 0x7F, 1]) + b"\x12" + bytes([len(text)]) + text
        message += b"\x1d" + struct.pack("<f", source.random())
        message += b"\x22\x08" + source.randbytes(8)
    return bytes(message)


def png(size: int) -> bytes:
    """A picture of noise."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 512, 512, 8, 0, 0, 0, 0)
    body = zlib.compress(random.Random(3).randbytes(size))
    return head + bytes(4) + struct.pack(">I4s", len(body), b"IDAT") + body


def jpeg(size: int) -> bytes:
    """Markers, then noise in which 0xFF is stuffed, with a restart marker every 500 bytes."""
    noise = random.Random(4).randbytes(size).replace(b"\xff", b"\xff\0")
    scan = b"".join(
        noise[at : at + 500] + bytes([0xFF, 0xD0 + at // 500 % 8]) for at in range(0, size, 500)
    )
    tables = b"\xff\xdb\0\x43\0" + bytes(range(64)) + b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    return b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" + tables + scan


OTHERS = {
    "pcm": PCM,
    "24 bits": b"".join((v << 8).to_bytes(3, "little", signed=True) for v in array("h", PCM)),
    "floats": array("f", [value / 0x8000 for value in array("h", PCM)]).tobytes(),
    "mulaw": MULAW,
    "mulaw silence": b"\xff" * 20_000,
    "almost silence": array("h", random.Random(5).choices([-2, -1, 0, 1], k=50_000)).tobytes(),
    "noise": random.Random(6).randbytes(500_000),
    "json": json.dumps(
        [{"word": "ID3 fLaC RIFF WAVE OggS", "at": n} for n in range(5000)]
    ).encode(),
    "protobuf": protobuf(10_000),
    "png": png(300_000),
    "jpeg": jpeg(300_000),
}


@pytest.mark.parametrize("size", [4096, 16384])
@pytest.mark.parametrize("name", OTHERS)
def test_other_data_is_nothing(name: str, size: int) -> None:
    data = OTHERS[name]
    found = {at: recognise(data[at : at + size]) for at in range(0, len(data) - size, 1999)}
    assert {at: what for at, what in found.items() if what} == {}
    assert {at for at in range(0, len(data) - size, 97) if sniff(data[at : at + size])} == set()


# Any bytes.

PIECES = st.sampled_from(
    [
        *(b"RIFF", b"\0\0\0\0WAVE", b"fmt \x10\0\0\0", b"data", b"OggS\0\2", b"OpusHead", b"ID3\4"),
        *(b"\0\x0c", b"Path:audio\r\n", FLAC[:8], WEBM[:4], b"\xff\xfb\x90", riff(fmt(1, 16))),
        *(MP3_24[1440:1584], AAC[:374], VORBIS, MP3_44[:ID3]),
    ]
)
NEARLY = st.lists(PIECES | st.binary(max_size=8), max_size=12).map(b"".join)


@given(NEARLY)
def test_no_bytes_are_an_error_and_every_buffer_is_alike(data: bytes) -> None:
    for function in (sniff, recognise, wrapped, parse_wav):
        expected = function(data)
        assert function(bytearray(data)) == expected
        assert function(memoryview(b"x" + data)[1:]) == expected


@given(NEARLY)
def test_what_is_recognised_stands_there(data: bytes) -> None:
    found = recognise(data)
    if found is not None:
        format_, at = found
        assert 0 <= at < len(data)
        assert format_ in Format
    if sniff(data) is not None:
        assert found is not None


@pytest.mark.parametrize("known", Format)
@pytest.mark.parametrize(
    "data", [MP3_24, MP3_44, MP3_44[ID3:], AAC, OPUS, WAV, VORBIS, SPEEX, FLAC, FLAC_ALONE, WEBM]
)
def test_another_format_is_told_by_its_first_bytes(known: Format, data: bytes) -> None:
    """By one alone where a byte is no start of a mark, else by five."""
    found = sniff(data[:4096])
    assert found is not None
    same_family = {found, known} <= {Format.MP3, Format.AAC} or (
        {found, known} <= {Format.OGG, Format.OPUS, Format.VORBIS}
    )
    if found is not known and not same_family:
        assert data[0] not in FIRST_BYTES[known]
        assert OTHER_MARKS[known].match(data[:5])


@given(st.binary(min_size=5, max_size=60) | NEARLY, st.sampled_from(Format))
def test_what_has_no_mark_is_no_other_format(data: bytes, known: Format) -> None:
    if data and (data[0] in FIRST_BYTES[known] or not OTHER_MARKS[known].match(data)):
        own = {Format.MP3, Format.AAC}, {Format.OGG, Format.OPUS, Format.VORBIS}
        found = sniff(data)
        assert found in (None, known) or any({found, known} <= family for family in own)
