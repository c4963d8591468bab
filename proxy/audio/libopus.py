"""libopus, the encoder of Opus (RFC 6716), without FFmpeg's wrapper of it.

That one keeps 13 KiB more of each encoder, and needs frames of exact size, which took another 9.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
from collections.abc import Iterator
from pathlib import Path

from proxy.audio.pyav import av
from proxy.errors import CodecError

_LONGEST_PACKET = 1276
"""Bytes of a packet of one frame (RFC 6716 section 3.4)."""
_Packet = ctypes.c_char * _LONGEST_PACKET

# Of opus_defines.h.
_VOIP = 2048
_SET_BITRATE, _SET_COMPLEXITY, _SET_VBR_CONSTRAINT, _GET_LOOKAHEAD = 4002, 4010, 4020, 4027


def _open() -> ctypes.CDLL | None:
    """The library that came with FFmpeg's, or the system's; None without FFmpeg: nothing could be
    decoded."""
    for name in _names():
        with contextlib.suppress(OSError, AttributeError):  # another library of such a name
            library = ctypes.CDLL(name)
            library.opus_encoder_ctl.argtypes = (ctypes.c_void_p, ctypes.c_int)  # and one by kind
            library.opus_strerror.restype = ctypes.c_char_p
            return library
    return None


def _names() -> Iterator[str]:
    if av is None:
        return
    package = Path(av.__file__).parent
    # Where wheels have it, on Linux and on macOS.
    yield from map(str, package.parent.glob("av.libs/libopus*"))
    yield from map(str, package.glob(".dylibs/libopus*"))
    if (name := ctypes.util.find_library("opus")) is not None:
        yield name


_library = _open()

INSTALLED = _library is not None


class Encoder:
    """Makes a packet of each frame of samples. Its verbs raise CodecError."""

    __slots__ = ("_channels", "_state", "frame_size", "lookahead")

    def __init__(
        self, rate: int, channels: int, bit_rate: int, complexity: int, packets: int
    ) -> None:
        """`rate` in Hz, one that Opus knows; `bit_rate` in bits a second; `packets` a second."""
        assert _library is not None
        self._channels = channels
        # Memory of ours: it is freed like any other object's.
        self._state = ctypes.create_string_buffer(_library.opus_encoder_get_size(channels))
        _check(_library.opus_encoder_init(self._state, rate, channels, _VOIP))
        self.frame_size = rate // packets * channels * 2
        """Bytes of samples, 16 bits each, that become a packet."""
        lookahead = ctypes.c_int32()
        for request, value in (
            (_SET_BITRATE, ctypes.c_int(bit_rate)),
            (_SET_COMPLEXITY, ctypes.c_int(complexity)),
            (_SET_VBR_CONSTRAINT, ctypes.c_int(0)),
            (_GET_LOOKAHEAD, ctypes.byref(lookahead)),
        ):
            _check(_library.opus_encoder_ctl(self._state, request, value))
        self.lookahead = lookahead.value
        """Samples at `rate` by which what is decoded is late."""

    def encode(self, samples: bytes) -> list[bytes]:
        """The packets of so many whole frames."""
        assert _library is not None
        packet = _Packet()
        size, packets = self.frame_size, []
        assert not len(samples) % size  # or it would read beyond them
        for at in range(0, len(samples), size):
            length = _library.opus_encode(
                self._state,
                samples[at : at + size],
                size // (2 * self._channels),
                packet,
                _LONGEST_PACKET,
            )
            packets.append(packet.raw[: _check(length)])
        return packets


def _check(answer: int) -> int:
    assert _library is not None
    if answer < 0:
        raise CodecError(f"libopus: {_library.opus_strerror(answer).decode()}")
    return answer
