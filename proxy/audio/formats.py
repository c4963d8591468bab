"""What a chunk is, told from its bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from struct import unpack_from

from proxy.audio import mpeg
from proxy.audio.pcm import Buffer, PcmLayout


class Format(StrEnum):
    """A container, or a codec whose frames need none."""

    WAV = "wav"
    PCM = "pcm"
    """Raw samples: named or guessed, never recognised here."""
    MP3 = "mp3"
    """MPEG audio, any layer."""
    AAC = "aac"
    """In ADTS frames."""
    OPUS = "opus"
    """Ogg Opus, from its first page on."""
    VORBIS = "vorbis"
    """Ogg Vorbis, from its first page on."""
    OGG = "ogg"
    """Another codec in Ogg, or a later page, which does not tell its codec."""
    FLAC = "flac"
    WEBM = "webm"
    """WebM or another Matroska."""
    UNKNOWN = "unknown"

    @property
    def is_compressed(self) -> bool:
        """Whether it holds audio that a codec has made small already."""
        return self not in _NOT_COMPRESSED


_NOT_COMPRESSED = frozenset({Format.WAV, Format.PCM, Format.UNKNOWN})


@dataclass(frozen=True, slots=True)
class WavHeader:
    """What stands before the samples of a WAV file."""

    layout: PcmLayout | None
    """None: an encoding that we do not know (ADPCM, 64-bit floats), or none is told."""
    start: int
    """Where the samples begin, in bytes."""
    size: int | None
    """Bytes of samples. None: the header does not say, as that of a writer who streams."""


_WAV_ENCODINGS = {
    (1, 8): "u8",
    (1, 16): "s16le",
    (1, 24): "s24le",
    (1, 32): "s32le",
    (3, 32): "f32le",
    (6, 8): "alaw",
    (7, 8): "mulaw",
}
"""By format tag and bits of a sample (RFC 2361 and Microsoft's mmreg.h)."""

_WAV_EXTENSIBLE = 0xFFFE
# The rest of a KSDATAFORMAT_SUBTYPE, whose first two bytes are a format tag.
_SUBTYPE = bytes.fromhex("000000001000800000aa00389b71")
# Writers who do not know the size yet leave 0, 0xFFFFFFFF, 0x7FFFFFFF or something near: sox, for
# one, 0x7FFFF000.
_STREAMED_SIZE = 0x7FFF0000
_MAX_WAV_CHUNKS = 64


def parse_wav(data: Buffer) -> WavHeader | None:
    """The header of a RIFF or RF64 WAVE; None: no WAV, or its header is not all in `data`."""
    if not _is_wav(data):
        return None
    layout: PcmLayout | None = None
    long_size = 0  # RF64's 64-bit size of the data chunk (EBU Tech 3306)
    at = 12
    for _ in range(_MAX_WAV_CHUNKS):
        if at + 8 > len(data):
            return None
        name, size = unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + min(size, 40)]
        if name == b"data":
            return WavHeader(layout, at + 8, _data_size(size, long_size))
        if name == b"fmt ":
            layout = _wav_layout(body)
        elif name == b"ds64" and len(body) >= 16:
            (long_size,) = unpack_from("<Q", body, 8)
        at += 8 + size + size % 2  # chunks are padded to even sizes
    return None


def _data_size(size: int, long_size: int) -> int | None:
    if size == 0xFFFFFFFF and 0 < long_size < 1 << 63:
        return long_size
    return size if 0 < size < _STREAMED_SIZE else None


def _wav_layout(body: Buffer) -> PcmLayout | None:
    """The layout that a fmt chunk tells."""
    if len(body) < 16:
        return None
    tag, channels, rate, _, block, bits = unpack_from("<HHIIHH", body)
    if tag == _WAV_EXTENSIBLE and body[26:40] == _SUBTYPE:
        (tag,) = unpack_from("<H", body, 24)
    encoding = _WAV_ENCODINGS.get((tag, bits))
    if encoding is None or not channels or not rate or block != channels * bits // 8:
        return None
    return PcmLayout(encoding, rate, channels)


def sniff(data: Buffer) -> Format | None:
    """What `data` begins with, by its first bytes; None: nothing that is known.

    A sync word is weak evidence: the header's fields must be valid, and where `data` has it, the
    next frame must follow. Of 40 bytes of noise 1 in 7,000 is taken for MPEG, of speech in 16-bit
    PCM or mu-law 1 in 5,000, in 24-bit PCM 1 in 1,200; of 4 KiB none.
    """
    probe = _PROBES.get(data[0]) if len(data) else None
    return probe(data) if probe else None


def _sniff_mpeg(data: Buffer, at: int = 0) -> Format | None:
    for parse, found in _MPEG:
        if mpeg.is_run(data, at, parse, 2):
            return found
    return None


def _sniff_id3(data: Buffer) -> Format | None:
    """MP3, or what stands behind the tag where that is seen."""
    size = mpeg.id3_size(data)
    return None if size is None else _sniff_mpeg(data, size) or Format.MP3


def _sniff_ogg(data: Buffer) -> Format | None:
    """By the first packet (RFC 7845, 5.1; Vorbis I, 4.2.1), which a stream's first page holds."""
    if data[:5] != b"OggS\0":
        return None
    if len(data) > 27:
        first = 27 + data[26]  # behind the table of segments
        if data[first : first + 8] == b"OpusHead":
            return Format.OPUS
        if data[first : first + 7] == b"\x01vorbis":
            return Format.VORBIS
    return Format.OGG


def _is_wav(data: Buffer) -> bool:
    return data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE"


def _is_flac(data: Buffer) -> bool:
    """Its mark and STREAMINFO, of 34 bytes, the only block or not (RFC 9639, 8)."""
    return data[:4] == b"fLaC" and data[4:8] in (b"\0\0\0\x22", b"\x80\0\0\x22")


_MPEG: tuple[tuple[mpeg.ParseHeader, Format], ...] = (
    (mpeg.parse_mp3_header, Format.MP3),
    (mpeg.parse_adts_header, Format.AAC),
)

_PROBES: dict[int, Callable[[Buffer], Format | None]] = {
    0xFF: _sniff_mpeg,
    b"I"[0]: _sniff_id3,
    b"O"[0]: _sniff_ogg,
    b"R"[0]: lambda data: Format.WAV if _is_wav(data) else None,
    b"f"[0]: lambda data: Format.FLAC if _is_flac(data) else None,
    0x1A: lambda data: Format.WEBM if data[:4] == b"\x1a\x45\xdf\xa3" else None,
}
"""By the first byte, which of most chunks is none of these."""

_OWN = {
    Format.MP3: b"\xffI",
    Format.AAC: b"\xffI",
    Format.OGG: b"O",
    Format.OPUS: b"O",
    Format.VORBIS: b"O",
}
FIRST_BYTES = {
    known: bytes({*range(256)} - {*_PROBES} | {*_OWN.get(known, b"")}) for known in Format
}
"""A chunk that begins with one of these bytes is no other format to `sniff` than a given one."""
_MARKS = (mpeg.MARK, b"ID3", b"OggS\0", b"RIFF", b"RF64", b"fLaC", b"\x1a\x45\xdf\xa3")
OTHER_MARKS = {
    known: re.compile(b"|".join(mark for mark in _MARKS if mark[0] not in FIRST_BYTES[known]))
    for known in Format
}
"""One that is begins with one of these, of 5 bytes at most."""

_WRAPPER_SIZE = 512  # bytes that may stand before audio and be none
_MAGIC = re.compile(rb"RIFF|RF64|OggS|fLaC|ID3|\x1a\x45\xdf\xa3")
_OGG_PAGE = re.compile(rb"OggS\0[\0-\x07]")
_MAX_OGG_PAGE = 65_307  # bytes (RFC 3533, 6)
_HEADERS = re.compile(rb"(?:[A-Za-z0-9-]+:[ -~]*\r\n)+(?:\r\n)?")


def recognise(data: Buffer) -> tuple[Format, int] | None:
    """What `data` is, and where its first whole frame or page, or its magic, begins.

    More thorough than `sniff`: finds audio behind a small header, too, and frames and pages in a
    chunk that begins amid one. `wrapped` tells these two apart. An ID3 tag is part of the audio.

    The stronger evidence wins: magic, then frames in a row, then a single header at the start.
    4 KiB of MP3, Ogg or noise take 10 to 20 us, of AAC, PCM or mu-law 75, of its silence 150.
    """
    start = wrapped(data) or 0
    audio = memoryview(data)[start:]
    for magic in _MAGIC.finditer(audio, 0, min(len(audio), _WRAPPER_SIZE)):
        announced = sniff(audio[magic.start() :])
        if announced is not None:
            return announced, start + magic.start()
    for parse, framed in _MPEG:
        frame = mpeg.find_frames(audio, parse)
        if frame is not None:
            return framed, start + frame
    page = _OGG_PAGE.search(audio, 0, min(len(audio), _MAX_OGG_PAGE + 6))
    if page is not None:
        return Format.OGG, start + page.start()
    likely = sniff(audio)
    return None if likely is None else (likely, start)


def wrapped(data: Buffer) -> int | None:
    """Where audio begins (it may be empty) behind a header as edge-tts has it; None: no header.

    Its length in two bytes, big-endian, then lines such as `Path:audio`, each ending with CRLF.
    """
    if len(data) < 2:
        return None
    start = 2 + (data[0] << 8 | data[1])
    return start if start <= len(data) and _HEADERS.fullmatch(data, 2, start) else None
