"""The binaries of compressed pairs made audio again, by algorithm.

What comes is not trusted: before anything is decoded it is known how much may come of it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from proxy.audio import gzip
from proxy.audio.flac import FLOAT_SIZE, to_floats
from proxy.audio.flac_frames import crc8
from proxy.audio.pcm import FLOATS
from proxy.audio.pyav import av, has_codec
from proxy.errors import CodecError

OPUS_RATE = 48_000
"""Hz. Opus decodes to this rate whatever went in (RFC 7845 section 5.1)."""

_FFMPEG = {"gzip": None, "flac": "flac", "opus": "libopus"}
"""FFmpeg's decoder that an algorithm needs."""

_SPARE_SAMPLES = 1 << 18
"""Of FLAC, of all channels, that bytes which only look like a frame's header may seem to have."""

_LONGEST_PADDING = OPUS_RATE
"""Samples of a pair, per channel, that are no speech; more than any encoder leaves."""


class PcmAudio(bytes):
    """Speech that came as Opus, decoded, and so not what the backend sent: s16le, interleaved."""

    sample_rate: int
    """Hz."""
    channels: int

    def __new__(cls, data: bytes, sample_rate: int, channels: int) -> PcmAudio:
        """`data`: the samples."""
        audio = super().__new__(cls, data)
        audio.sample_rate, audio.channels = sample_rate, channels
        return audio

    def __getnewargs__(self) -> tuple[bytes, int, int]:  # type: ignore[override]
        """For `pickle` and `copy`."""
        return bytes(self), self.sample_rate, self.channels


class Pair(Protocol):
    """What a pair's metadata says."""

    @property
    def algorithm(self) -> str:
        """Its name on the wire."""
        ...

    @property
    def original_size(self) -> int:
        """Bytes of audio that the pair stands for."""
        ...

    @property
    def extra(self) -> Mapping[str, Any]:
        """What the algorithm adds."""
        ...


def reason_against(algorithm: str) -> str | None:
    """Why pairs of an algorithm cannot be decoded here, and what to do; None: they can be."""
    if algorithm not in _FFMPEG:
        return f"no decoder for {algorithm!r}; there are {', '.join(_FFMPEG)}"
    if algorithm in _AVAILABLE:
        return None
    return (
        f"no decoder for {algorithm!r} is installed: "
        f"pip install 'audio-compression-proxy[{algorithm}]'"
    )


_AVAILABLE = frozenset(
    name for name, decoder in _FFMPEG.items() if decoder is None or has_codec(decoder, "r")
)


class PairDecoder:
    """Decodes the pairs of one connection, which are to be shown to it in order."""

    def __init__(self) -> None:
        self._segment: _Segment | None = None

    def forget(self) -> None:
        """A pair was missed: what goes on behind it cannot be decoded."""
        self._segment = None

    def decode(self, pair: Pair, data: bytes, max_size: int | None) -> bytes:
        """The audio that `data` stands for: the original bytes, or PcmAudio.

        Raises CodecError where metadata and data are not as they must be, do not fit each other
        or stand for more than `max_size` bytes (None: any number). The rest of the segment, where
        it is Opus, is then lost.
        """
        reason = reason_against(pair.algorithm)
        if reason is not None:
            raise CodecError(reason)
        if pair.algorithm == "opus":
            return self._decode_opus(pair.extra, data, max_size)
        _check_size(pair.original_size, max_size)
        if pair.algorithm == "flac":
            return _decode_flac(pair, data)
        audio = gzip.decode(data, pair.original_size)
        if len(audio) != pair.original_size:
            raise CodecError(
                f"decodes to {len(audio)} bytes; its metadata says {pair.original_size}"
            )
        return audio

    def _decode_opus(self, extra: Mapping[str, Any], data: bytes, max_size: int | None) -> PcmAudio:
        segment, self._segment = self._segment, None  # none is left by a pair that is broken
        if extra.get("sample_rate") != OPUS_RATE:
            raise CodecError(f"metadata: 'sample_rate' is missing or is not {OPUS_RATE}")
        channels = _number(extra, "channels", range(1, 3))
        samples = _number(extra, "samples", range(1 << 36))
        if "pre_skip" in extra:
            segment = _Segment(channels, _number(extra, "pre_skip", range(1 << 16)))
        if segment is None:
            raise CodecError("opus: the start of its segment, or a part of it, was missed")
        if segment.channels != channels:
            raise CodecError(f"opus: 'channels' is {channels} amid a segment of {segment.channels}")
        _check_size(samples * channels * 2, max_size)
        audio = segment.decode(_split(extra, data), samples)
        self._segment = segment
        return PcmAudio(audio, OPUS_RATE, channels)


def _check_size(size: int, max_size: int | None) -> None:
    if max_size is not None and size > max_size:
        raise CodecError(f"stands for {size} bytes; max_size is {max_size}")


def _number(extra: Mapping[str, Any], name: str, allowed: range) -> int:
    value = extra.get(name)
    if type(value) is not int or value not in allowed:
        raise CodecError(
            f"metadata: {name!r} is missing or is no number from {allowed[0]} to {allowed[-1]}"
        )
    return value


@contextmanager
def _naming(algorithm: str) -> Iterator[None]:
    """FFmpeg's errors as ours."""
    try:
        yield
    except Exception as error:
        raise CodecError(f"{algorithm}: {error}") from error


# FLAC.


class _StreamInfo(NamedTuple):
    """The head of a FLAC stream (RFC 9639 section 8.2)."""

    block: bytes
    """STREAMINFO itself."""
    largest: int
    """Samples of a frame at most, per channel."""
    channels: int
    bits: int
    samples: int
    """Per channel."""
    end: int
    """Where the first frame begins."""


def _decode_flac(pair: Pair, data: bytes) -> bytes:
    info = _read_head(data)
    if info.bits not in (16, 24):
        raise CodecError(f"flac: samples of {info.bits} bits; 16 or 24 are expected")
    prefix, suffix = _edge(pair.extra, "prefix"), _edge(pair.extra, "suffix")
    floats = _are_floats(pair.extra, info)
    width = FLOAT_SIZE if floats else info.bits // 8
    size = len(prefix) + info.samples * info.channels * width + len(suffix)
    if size != pair.original_size:
        raise CodecError(
            f"flac: the stream says that there are {size} bytes; metadata: {pair.original_size}"
        )
    samples = _decode_frames(info, data[info.end :])
    return prefix + (to_floats(samples) if floats else samples) + suffix


def _are_floats(extra: Mapping[str, Any], info: _StreamInfo) -> bool:
    """Whether the samples were floats before they became FLAC."""
    sample_format = extra.get("sample_format")
    if sample_format is None:
        return False
    if sample_format != FLOATS or info.bits != 16:
        raise CodecError(f"metadata: 'sample_format' is not {FLOATS} of 16-bit samples")
    return True


def _edge(extra: Mapping[str, Any], name: str) -> bytes:
    """Bytes that stand before or behind the samples."""
    text = extra.get(name, "")
    if isinstance(text, str):
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:
            pass
    raise CodecError(f"metadata: {name!r} is no base64")


def _read_head(data: bytes) -> _StreamInfo:
    if len(data) < 42 or data[:4] != b"fLaC" or data[4] & 0x7F or data[5:8] != b"\0\0\x22":
        raise CodecError("flac: the data does not begin with STREAMINFO")
    at, is_last = 4, False
    while not is_last:
        if len(data) < at + 4:
            raise CodecError("flac: the data is cut short in its head")
        is_last = data[at] >= 0x80
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    packed = int.from_bytes(data[18:26], "big")
    return _StreamInfo(
        data[8:42],
        int.from_bytes(data[10:12], "big"),
        (packed >> 41 & 0b111) + 1,
        (packed >> 36 & 0b1_1111) + 1,
        packed & 0xF_FFFF_FFFF,
        at,
    )


def _decode_frames(info: _StreamInfo, data: bytes) -> bytes:
    """The samples: interleaved, little-endian."""
    expected = info.samples * info.channels
    if _has_more(data, expected + _SPARE_SAMPLES, info.largest):
        raise CodecError(f"flac: more frames than for the {info.samples} samples of its head")
    with _naming("flac"):
        decoder = av.CodecContext.create(av.Codec("flac", "r"))
        decoder.extradata = info.block
        decoder.options = {"err_detect": "crccheck+explode"}
        decoder.open()
        frames = decoder.decode(av.Packet(data))  # of all frames, FFmpeg takes one by one
    # 24 bits come in 32, of which the lowest are empty.
    name, width = ("s16", 2) if info.bits == 16 else ("s32", 4)
    if any(
        frame.format.name != name or frame.layout.nb_channels != info.channels for frame in frames
    ):
        raise CodecError("flac: a frame is unlike the stream's head")
    samples = b"".join(_samples(frame, width * info.channels) for frame in frames)
    if len(samples) != expected * width:
        decoded = len(samples) // (width * info.channels)
        raise CodecError(
            f"flac: {decoded} of {info.samples} samples; the data is cut short or broken"
        )
    return samples if width == 2 else _narrowed(samples)


def _samples(frame: Any, stride: int) -> memoryview:
    """The samples of a frame, whose buffer may be longer."""
    return memoryview(frame.planes[0])[: frame.samples * stride]


def _narrowed(wide: bytes) -> bytes:
    """32-bit samples in 24 bits, without the lowest eight."""
    samples = bytearray(len(wide) // 4 * 3)
    for byte in range(3):
        samples[byte::3] = wide[byte + 1 :: 4]
    return bytes(samples)


_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_LONGEST_HEADER = 17  # bytes


def _has_more(data: bytes, samples: int, largest: int) -> bool:
    """Whether frames may decode to more than `samples`, of all channels.

    Fourteen bytes may be a frame of 65,535 samples: frames are counted before one is decoded. The
    decoder takes none that has more than `largest` samples per channel.
    """
    for match in _SYNC.finditer(data):
        block, channels = _frame_size(data[match.start() : match.start() + _LONGEST_HEADER])
        if block <= largest:
            samples -= block * channels
        if samples < 0:
            return True
    return False


def _frame_size(head: bytes) -> tuple[int, int]:
    """Samples per channel, and channels, of a frame; (0, 0): this is no frame's header.

    See RFC 9639 section 9.1.
    """
    head = head.ljust(_LONGEST_HEADER, b"\0")
    block, rate = divmod(head[2], 16)
    channels = head[3] >> 4
    at = 4 + (1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length())
    block_bytes = block - 5 if block in (6, 7) else 0
    if block_bytes:
        samples = int.from_bytes(head[at : at + block_bytes], "big") + 1
    elif block >= 8:
        samples = 1 << block
    else:
        samples = (0, 192, 576, 1152, 2304, 4608)[block]
    end = at + block_bytes + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if crc8(head[:end]) != head[end]:
        return 0, 0
    return samples, channels + 1 if channels < 8 else 2


# Opus.


def _split(extra: Mapping[str, Any], data: bytes) -> list[bytes]:
    """The packets."""
    sizes = extra.get("packet_sizes")
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise CodecError("metadata: 'packet_sizes' is missing or is no list of sizes in bytes")
    if sum(sizes) != len(data):
        raise CodecError(
            f"opus: {len(data)} bytes; the sizes of the packets in metadata do not add up to that"
        )
    packets, at = [], 0
    for size in sizes:
        packets.append(data[at : at + size])
        at += size
    return packets


class _Segment:
    """Speech from where an encoder was started to where it was flushed."""

    def __init__(self, channels: int, pre_skip: int) -> None:
        """`pre_skip`: samples that are to be dropped at the start."""
        self.channels = channels
        self._skip = pre_skip
        with _naming("opus"):
            self._decoder = av.CodecContext.create(av.Codec("libopus", "r"))
            self._decoder.sample_rate = OPUS_RATE
            self._decoder.layout = "mono" if channels == 1 else "stereo"
            self._decoder.open()

    def decode(self, packets: list[bytes], samples: int) -> bytes:
        """The first `samples` of what packets decode to: s16le, interleaved."""
        stride = 2 * self.channels
        most = self._skip + samples + _LONGEST_PADDING
        pieces, decoded = [], 0
        for packet in packets:
            with _naming("opus"):
                frames = self._decoder.decode(av.Packet(packet))
            pieces += [_samples(frame, stride) for frame in frames]
            decoded += sum(frame.samples for frame in frames)
            if decoded > most:
                raise CodecError(f"opus: the packets have more than {samples} samples")
        skip = min(self._skip, decoded)
        if samples > decoded - skip:
            raise CodecError(
                f"opus: the packets have {decoded - skip} samples; metadata says {samples}"
            )
        self._skip -= skip
        return b"".join(pieces)[skip * stride : (skip + samples) * stride]
