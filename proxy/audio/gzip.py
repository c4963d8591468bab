"""gzip (RFC 1952) by Intel's ISA-L, or by the standard library where `isal` is missing."""

from __future__ import annotations

import zlib
from types import ModuleType
from typing import Any

from proxy.audio.codec import Encoded
from proxy.audio.pcm import Buffer, PcmLayout
from proxy.audio.stream import Chunk
from proxy.errors import CodecError

_isal: ModuleType | None
try:
    from isal import isal_zlib as _isal
except ImportError:  # no wheel for this platform: see pyproject.toml
    _isal = None

huffman: ModuleType | None
try:
    from proxy.audio import huffman
except ImportError:  # no compiler: see pyproject.toml
    huffman = None

_GZIP_WBITS = 31  # 15-bit window, gzip header and trailer

# Our level -> the library's. ISA-L's own level 0 has a fixed Huffman table and made 4 KiB chunks
# of speech 12.6 % larger, so 0 is its level 1 here. zlib, on the same chunks: level 1, 110 us,
# 14.4 % saved; 6, 118 us, 14.7 %; 9, 200 us, 14.7 % (ISA-L: 30 to 36 us, 14.4 %).
_ISAL_LEVELS = (1, 1, 2, 3)
_ZLIB_LEVELS = (1, 1, 6, 9)


# In samples of one channel and 16 bits or more hardly anything repeats: without looking for it
# (huffman.c), 4 KiB of speech take 6 us instead of 19, and 14.3 % is saved instead of 14.4; 16 KiB
# 16 us instead of 35, 14.5 % instead of 14.6. (24 and 32 bits: as much is saved; floats: 38 %
# instead of 39; but two channels: 16.0 % instead of 19.7, mu-law: 7.4 instead of 9.3.) So it is
# done at the levels that ask for speed. What repeats exactly, a generated tone, is found at the
# others.
_HUFFMAN_LEVEL = 1


# Handing a chunk to a thread costs 40 to 60 us of CPU on the event loop alone. Of 256 KiB, one
# chunk or eleven, ISA-L takes 0.30 to 0.48 ms at its levels 1 and 2, 0.54 to 0.67 at 3; zlib takes
# 0.32 ms of 16 KiB.
_ISAL_INLINE = 256 * 1024
_ZLIB_INLINE = 16 * 1024


class Gzip:
    """One gzip member per chunk."""

    name = "gzip"

    def __init__(self, *, isal: bool = _isal is not None) -> None:
        if isal:
            assert _isal is not None
            self._compress = _isal.compress
            self._levels = _ISAL_LEVELS
            self.inline_size = _ISAL_INLINE
        else:
            self._compress = zlib.compress
            self._levels = _ZLIB_LEVELS
            self.inline_size = _ZLIB_INLINE
        self._crc32 = (_isal or zlib).crc32

    def plain(self, layout: PcmLayout | None, level: int) -> tuple[Any, ...]:
        """See `Codec`."""
        return self._plain(layout, level)

    def takes(self, chunk: Chunk) -> bool:
        """Everything."""
        return True

    def encode_chunk(self, chunk: Chunk, level: int) -> Encoded:
        """Compress a chunk; see `encode`."""
        return Encoded(self._encode(chunk.data, chunk.layout, level))

    def encode(self, data: Buffer, level: int) -> bytes:
        """Compress `data`, whatever it is, at `level`, 0 (fastest) to 3 (smallest)."""
        return self._encode(data, None, level)

    def _encode(self, data: Buffer, layout: PcmLayout | None, level: int) -> bytes:
        try:
            compress, *rest = self._plain(layout, level)
            encoded: bytes = compress(data, *rest)
        except Exception as error:
            raise CodecError(f"gzip of {len(data)} bytes failed: {error}") from error
        return encoded

    def _plain(self, layout: PcmLayout | None, level: int) -> tuple[Any, ...]:
        compress = self._compress, self._levels[level], _GZIP_WBITS
        if huffman is None or layout is None or level > _HUFFMAN_LEVEL:
            return compress
        if layout.channels > 1 or layout.sample_size < 2:
            return compress
        return huffman.compress, self._crc32, *compress


GZIP = Gzip()


def decode(data: bytes, max_size: int) -> bytes:
    """Decompress one gzip member, to at most `max_size` bytes.

    Raises CodecError where `data` is no gzip, is cut short, has bytes after its end, or inflates
    past `max_size`; never inflates further than that.
    """
    inflater = (_isal or zlib).decompressobj(_GZIP_WBITS)
    try:
        decoded: bytes = inflater.decompress(data, max(max_size, 0) + 1)
    except Exception as error:
        raise CodecError(f"not gzip: {error}") from error
    if len(decoded) > max_size:
        raise CodecError(f"inflates to more than {max_size} bytes")
    if not inflater.eof:
        raise CodecError("gzip data is cut short")
    if inflater.unused_data:
        raise CodecError(f"{len(inflater.unused_data)} bytes stand after the gzip data")
    return decoded
