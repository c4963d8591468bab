"""FLAC (RFC 9639) by FFmpeg's encoder: every chunk a complete stream, its samples unchanged.

An encoder costs about eight times what it takes to encode 4 KiB with it, so encoders are kept, one
for each size of frame, and the frames that they make in mid-stream are numbered anew.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections import deque
from typing import Any

from proxy.audio.codec import Encoded
from proxy.audio.flac_frames import SMALLEST_BLOCK, renumbered, stream_info, verbatim
from proxy.audio.pcm import FLOATS, Buffer, PcmLayout
from proxy.audio.pyav import av, encode, has_codec
from proxy.audio.stream import Chunk
from proxy.errors import CodecError

INSTALLED = has_codec("flac", "w")

# Our level -> FFmpeg's. Of 4 KiB chunks of speech, on the same machine: 3 saved 44.6 % in 42 us,
# 5 45.3 % in 46 us, 8 45.9 % in 86 us.
_LEVELS = (3, 5, 7, 8)

_BITS = {"s16le": 16, "s24le": 24, FLOATS: 16}

FLOAT_SIZE = 4
_FLOATS_TRIED = 256
_FLOAT_SCALE = 32_768
"""What 16-bit samples are divided by to make floats from -1 to 1."""

_BLOCK = 2048
"""Samples of a frame at most, per channel. Of 16 KiB chunks of speech, frames of 2048 saved 47.8 %
net, of 4096 46.2 %, of 8192 45.1 %."""

_MULTIPLE = 8
"""What a frame's samples are a multiple of; the rest of a chunk goes as it is. An odd number cannot
be partitioned (RFC 9639 section 9.2.5): chunks of 2009 samples saved 38.4 % whole, 44.5 % so."""

_GRID = 256
"""The same for sizes that were not asked for lately: otherwise a backend that never cuts twice
alike would have an encoder made for every chunk. Costs it 5 % of a 4 KiB chunk."""

_ENCODERS = 8
"""Encoders kept idle: all sizes of the grid. Each holds 7.2 MiB."""

_ENCODER_RATE = 44_100
"""Hz; any would do, as `renumbered` writes the real one."""

_Key = tuple[int, int, int, int]  # bits, channels, samples of a frame, level


class Flac:
    """One FLAC stream per chunk: STREAMINFO, then frames."""

    name = "flac"
    # A chunk of 16 KiB in bulk, all of the proxy's CPU: 495 us where it stands, 622 by a thread.
    inline_size = 16_384

    def __init__(self) -> None:
        # What is done with them here is atomic, so that threads may share them. (An OrderedDict's
        # popitem is not: beside another thread's pop it left a key behind that was not there.)
        self._idle: dict[_Key, Any] = {}  # the one used last stands last
        self._recent: deque[_Key] = deque(maxlen=16)

    def plain(self, layout: PcmLayout | None, level: int) -> None:
        """See `Codec`: the layout of its samples decides."""

    def takes(self, chunk: Chunk) -> bool:
        """Linear PCM of 16 and 24 bits, and floats that seem to have been 16 bits before."""
        layout = chunk.layout
        return (
            layout is not None
            and layout.encoding in _BITS
            and layout.channels in _LAYOUTS
            and layout.sample_rate < 1 << 20
            and chunk.start < chunk.stop
            and (layout.encoding != FLOATS or _may_be_integers(chunk))
        )

    def encode_chunk(self, chunk: Chunk, level: int) -> Encoded:
        """Encode a chunk's whole samples; what stands around them goes into the metadata."""
        layout = chunk.layout
        assert layout is not None
        view = memoryview(chunk.data)
        samples = view[chunk.start : chunk.stop]
        extra = {
            name: base64.b64encode(edge).decode("ascii")
            for name, edge in (("prefix", view[: chunk.start]), ("suffix", view[chunk.stop :]))
            if edge
        }
        try:
            if layout.encoding == FLOATS:
                samples = memoryview(_integers(samples))
                extra["sample_format"] = FLOATS
            bits = _BITS[layout.encoding]
            data = self._encode(samples, layout.sample_rate, layout.channels, bits, level)
        except Exception as error:
            raise CodecError(f"flac of {len(view)} bytes of {layout} failed: {error}") from error
        return Encoded(data, extra or None)

    def _encode(
        self, samples: memoryview, rate: int, channels: int, bits: int, level: int
    ) -> bytes:
        stride = channels * bits // 8
        total = len(samples) // stride
        blocks, rest = self._plan(total, bits, channels, level)
        frames = []
        at = 0
        for block in blocks:
            key = (bits, channels, block, level)
            piece = samples[at * stride : (at + block) * stride]
            frames.append(renumbered(self._encode_frame(key, piece), at, rate))
            at += block
        if rest:
            frames.append(verbatim(samples[at * stride :], at, rate, channels, bits))
            blocks.append(rest)
        return stream_info(blocks, rate, channels, bits, total) + b"".join(frames)

    def _plan(self, total: int, bits: int, channels: int, level: int) -> tuple[list[int], int]:
        """Samples of each frame to encode, and of a last one to send as it is."""
        whole, last = divmod(total, _BLOCK)
        block = last - last % _MULTIPLE
        if block % _GRID:
            key = (bits, channels, block, level)
            if key not in self._idle and self._recent.count(key) < 2:
                block -= block % _GRID
            self._recent.append(key)
        if block < SMALLEST_BLOCK:
            block = 0
        return [_BLOCK] * whole + [block] * (block > 0), last - block

    def _encode_frame(self, key: _Key, samples: memoryview) -> bytes:
        encoder = self._idle.pop(key, None)
        if encoder is None:
            encoder = _open_encoder(*key)
        bits, channels, block, _ = key
        frame = av.AudioFrame(_FORMATS[bits], _LAYOUTS[channels], block)
        frame.sample_rate = _ENCODER_RATE
        frame.planes[0].update(samples if bits == 16 else _widened(samples))
        packets = encode(encoder, frame)
        if len(packets) != 1:
            raise CodecError(f"{len(packets)} frames came of {block} samples")
        self._idle[key] = encoder
        for oldest in list(self._idle)[:-_ENCODERS]:
            self._idle.pop(oldest, None)
        return packets[0]


def _may_be_integers(chunk: Chunk) -> bool:
    """Whether floats may be 16-bit samples divided: of their 24 bits, the last eight are zero, and
    the first of them are."""
    lowest = bytes(chunk.data[chunk.start : chunk.stop : FLOAT_SIZE])
    if sys.byteorder != "little" or lowest.count(0) != len(lowest):
        return False
    stop = min(chunk.stop, chunk.start + _FLOATS_TRIED * FLOAT_SIZE)
    try:
        _integers(memoryview(chunk.data)[chunk.start : stop])
    except (ValueError, OverflowError):
        return False
    return True


def _integers(samples: memoryview) -> bytes:
    """The 16-bit samples that floats were. Raises ValueError or OverflowError where they were not.

    The floats that come of them are compared as bytes: no -0.0 is lost.
    """
    floats = array("f", bytes(samples))
    integers = array("h", [int(value * _FLOAT_SCALE) for value in floats]).tobytes()
    if to_floats(integers) != samples:
        raise ValueError("these floats were no 16-bit samples")
    return integers


def to_floats(samples: bytes) -> bytes:
    """16-bit samples as 32-bit floats from -1 to 1, little-endian both."""
    integers = array("h", samples)
    if sys.byteorder != "little":
        integers.byteswap()
    floats = array("f", [value / _FLOAT_SCALE for value in integers])
    if sys.byteorder != "little":
        floats.byteswap()
    return floats.tobytes()


def _widened(samples: Buffer) -> bytearray:
    """24-bit samples in 32 bits, the lowest eight of them zero."""
    wide = bytearray(len(samples) // 3 * 4)
    for byte in range(3):
        wide[byte + 1 :: 4] = samples[byte::3]
    return wide


def _open_encoder(bits: int, channels: int, block: int, level: int) -> Any:
    encoder = av.CodecContext.create(av.Codec("flac", "w"))
    encoder.thread_count = 1
    encoder.sample_rate = _ENCODER_RATE
    encoder.format = _FORMATS[bits]
    encoder.layout = _LAYOUTS[channels]
    encoder.options = {
        "compression_level": str(_LEVELS[level]),
        "frame_size": str(block),
        "bits_per_raw_sample": str(bits),
    }
    encoder.open()
    return encoder


if INSTALLED:
    _FORMATS = {16: av.AudioFormat("s16"), 24: av.AudioFormat("s32")}
    _LAYOUTS = {1: av.AudioLayout("mono"), 2: av.AudioLayout("stereo")}

FLAC = Flac()
