"""Frames of MPEG audio (ISO 11172-3 and 13818-3, with MPEG 2.5) and of AAC in ADTS (13818-7).

Only headers are read: where a frame ends, what it decodes to, which earlier bytes it needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from proxy.audio.pcm import Buffer

_SYNC = 0xFF
_MP3_HEADER_SIZE = 4
_ADTS_HEADER_SIZE = 7
_ID3_HEADER_SIZE = 10

# ISO 11172-3, 2.4.2.3 and 13818-3, 2.4.2.3: kbit/s by bitrate_index. Index 0 is "free format",
# whose frames do not tell their size, and 15 is forbidden; both are None here.
_KBIT = {
    (1, 1): (None, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, None),
    (1, 2): (None, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, None),
    (1, 3): (None, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, None),
    (2, 1): (None, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, None),
    (2, 2): (None, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, None),
}
_KBIT[2, 3] = _KBIT[2, 2]

# By the two bits of the version: MPEG 2.5, reserved, MPEG-2, MPEG-1.
_MP3_RATES = ((11025, 12000, 8000), None, (22050, 24000, 16000), (44100, 48000, 32000))
_MPEG_1, _MPEG_25 = 3, 0
_LAYER_III_BITS = 1
_LAYER_I_SAMPLES = 384
_MONO = 3
_RESERVED_EMPHASIS = 2

# By sampling_frequency_index; 13 to 15 are reserved.
_ADTS_RATES = (
    *(96000, 88200, 64000, 48000, 44100, 32000),
    *(24000, 22050, 16000, 12000, 11025, 8000, 7350),
)
_ADTS_CHANNELS = (None, 1, 2, 3, 4, 5, 6, 8)  # by channel_configuration
_AAC_SAMPLES = 1024  # of one block of data
_AAC_MAX_SIZE = 768  # bytes of one block and channel: a decoder's input buffer has 6,144 bits

_INFO_TAGS = (b"Xing", b"Info")
_VBRI_OFFSET = 36


def _any_of(values: Iterable[int]) -> bytes:
    return b"[%b]" % b"".join(b"\\x%02x" % value for value in values)


MARK = b"\xff(?=[\xe2\xe3\xf2-\xf5\xfa-\xfd]%b|[\xf0\xf1\xf8\xf9]%b)" % (
    _any_of(each for each in range(256) if 0 < each >> 4 < 15 and each >> 2 & 3 < 3),
    _any_of(each for each in range(256) if each >> 2 & 0xF < len(_ADTS_RATES)),
)
"""The three bytes that frames of MPEG, layers II and III, and of AAC begin with, as an expression:
sync; version and layer; bitrate and sample rate, or sampling_frequency_index. Quiet PCM is full of
FF FF, and silence in mu-law is nothing else."""

_CANDIDATE = re.compile(MARK)
_SEARCH_SIZE = 4096  # bytes; the largest frame of MPEG has 1,729, one of stereo AAC 1,545


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame's header tells."""

    size: int
    """Bytes, header included."""
    samples: int
    """Per channel, that the frame decodes to. Of AAC with SBR, those of its core."""
    sample_rate: int
    """Hz. Of AAC with SBR, that of its core."""
    channels: int

    def agrees_with(self, other: FrameHeader) -> bool:
        """Whether both can be frames of one stream."""
        return (
            self.samples == other.samples
            and self.sample_rate == other.sample_rate
            and self.channels == other.channels
        )


ParseHeader = Callable[[Buffer, int], FrameHeader | None]


def parse_mp3_header(data: Buffer, at: int = 0) -> FrameHeader | None:
    """The header of an MPEG audio frame, layers I to III, at `at`; None where there is none.

    Free-format frames do not tell their size and are none.
    """
    if at + _MP3_HEADER_SIZE > len(data) or data[at] != _SYNC or data[at + 1] < 0xE0:
        return None
    return _mp3_header(data[at + 1] >> 1 & 0xF, data[at + 2] >> 1, data[at + 3] & 0xC3)


@lru_cache(maxsize=1024)
def _mp3_header(kind: int, format_bits: int, mode_bits: int) -> FrameHeader | None:
    """By ID and layer; bitrate, rate and padding; mode and emphasis."""
    version, layer_bits = kind >> 2, kind & 3
    rates = _MP3_RATES[version]
    if rates is None or not layer_bits or mode_bits & 3 == _RESERVED_EMPHASIS:
        return None
    if version == _MPEG_25 and layer_bits != _LAYER_III_BITS:
        return None
    layer = 4 - layer_bits
    bitrate_index, rate_index, padding = format_bits >> 3, format_bits >> 1 & 3, format_bits & 1
    kbit = _KBIT[1 if version == _MPEG_1 else 2, layer][bitrate_index]
    if kbit is None or rate_index == len(rates):
        return None
    samples = _LAYER_I_SAMPLES if layer == 1 else 576 if layer == 3 and version != _MPEG_1 else 1152
    slot = 4 if layer == 1 else 1  # bytes that the size is counted in, and that padding adds
    rate = rates[rate_index]
    size = (samples // 8 // slot * kbit * 1000 // rate + padding) * slot
    return FrameHeader(size, samples, rate, 1 if mode_bits >> 6 == _MONO else 2)


def parse_adts_header(data: Buffer, at: int = 0) -> FrameHeader | None:
    """The header of an ADTS frame (ISO 13818-7, 6.2) at `at`; None where there is none.

    Nor is there one where its channels are told by a program_config_element in the frame
    (channel_configuration 0), which no stream of speech does.
    """
    if at + _ADTS_HEADER_SIZE > len(data) or data[at] != _SYNC or data[at + 1] & 0xF6 != 0xF0:
        return None
    rate_index = data[at + 2] >> 2 & 0xF
    channels = _ADTS_CHANNELS[(data[at + 2] & 1) << 2 | data[at + 3] >> 6]
    if rate_index >= len(_ADTS_RATES) or channels is None:
        return None
    size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    blocks = (data[at + 6] & 3) + 1
    has_check = not data[at + 1] & 1
    # With a check sum (two bytes), positions of all blocks but the first (two bytes each).
    header_size = _ADTS_HEADER_SIZE + 2 * blocks * has_check
    if not header_size < size <= header_size + (_AAC_MAX_SIZE * channels + 2) * blocks:
        return None
    return FrameHeader(size, _AAC_SAMPLES * blocks, _ADTS_RATES[rate_index], channels)


def main_data_begin(data: Buffer, at: int = 0) -> int:
    """How many bytes of earlier frames the layer III frame at `at` needs: its bit reservoir.

    9 bits of MPEG-1's side information, 8 of the others' (ISO 11172-3 and 13818-3, 2.4.1.7).
    0 for layers I and II, which have none, and where the bytes are not there.
    """
    side_info = _side_info(data, at)
    if side_info is None or side_info + 2 > len(data):
        return 0
    if data[at + 1] >> 3 & 3 == _MPEG_1:
        return data[side_info] << 1 | data[side_info + 1] >> 7
    return data[side_info]


def is_info_frame(data: Buffer, at: int = 0) -> bool:
    """Whether the frame at `at` is an encoder's table (Xing, Info, VBRI) and holds no audio."""
    header = parse_mp3_header(data, at)
    side_info = _side_info(data, at)
    if header is None or side_info is None:
        return False
    mpeg_1 = data[at + 1] >> 3 & 3 == _MPEG_1
    size = (17 if header.channels == 1 else 32) if mpeg_1 else 9 if header.channels == 1 else 17
    # Encoders differ in whether a check sum moves their table.
    for start in (at + _MP3_HEADER_SIZE + size, side_info + size):
        if bytes(data[start : start + 4]) in _INFO_TAGS:
            return True
    return data[at + _VBRI_OFFSET : at + _VBRI_OFFSET + 4] == b"VBRI"


def _side_info(data: Buffer, at: int) -> int | None:
    """Where the side information of the layer III frame at `at` begins; None: no such frame."""
    header = parse_mp3_header(data, at)
    if header is None or data[at + 1] >> 1 & 3 != _LAYER_III_BITS:
        return None
    has_check = not data[at + 1] & 1
    return at + _MP3_HEADER_SIZE + 2 * has_check


def id3_size(data: Buffer) -> int | None:
    """The bytes of the ID3v2 tag that `data` begins with: header, body, footer; None: no tag.

    Versions 2.2 to 2.4 (https://id3.org/id3v2.4.0-structure, 3.1): text that says "ID3" is none.
    """
    if len(data) < _ID3_HEADER_SIZE or data[:3] != b"ID3" or not 2 <= data[3] <= 4:
        return None
    flags = data[5]
    if data[4] == 0xFF or flags & 0xF or any(byte & 0x80 for byte in data[6:10]):
        return None
    body = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9]
    has_footer = flags & 0x10 and data[3] == 4
    return _ID3_HEADER_SIZE + body + (_ID3_HEADER_SIZE if has_footer else 0)


def find_frames(data: Buffer, parse: ParseHeader) -> int | None:
    """Where in a chunk that begins in mid-frame the first whole frame begins; None: no frames.

    Three frames in a row that agree, or two where `data` ends with the second or in the third.
    They are looked for in the first 4 KiB. None of 200,000 chunks (1 and 4 KiB) of random bytes and
    of 246,000 of speech in PCM and mu-law was taken for frames.
    """
    for candidate in _CANDIDATE.finditer(data, 0, min(len(data), _SEARCH_SIZE)):
        if is_run(data, candidate.start(), parse, 3):
            return candidate.start()
    return None


def is_run(data: Buffer, at: int, parse: ParseHeader, least: int) -> bool:
    """Whether `least` frames that agree begin at `at`, or one less where `data` ends with it.

    Layer I does not count: nobody streams it, and quiet PCM is full of its headers (FF FF, FF FE).
    Nor do frames of 4 KiB and more, which only AAC of three channels and more could have.
    """
    first = parse(data, at)
    if first is None or first.samples == _LAYER_I_SAMPLES or first.size >= _SEARCH_SIZE:
        return False
    at += first.size
    for found in range(1, least):
        if at + _ADTS_HEADER_SIZE > len(data):
            return found == least - 1
        following = parse(data, at)
        if following is None or not following.agrees_with(first):
            return False
        at += following.size
    return True
