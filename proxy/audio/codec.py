"""What a codec is, and which ones this installation has."""

from __future__ import annotations

from typing import Protocol

from proxy.audio.gzip import GZIP


class Codec(Protocol):
    """Encodes one chunk at a time, nothing carried over."""

    name: str
    """The algorithm's name on the wire."""

    inline_size: int
    """Up to so many bytes, encoding costs less than handing the chunk to a thread."""

    def encode(self, data: bytes | bytearray | memoryview, level: int) -> bytes:
        """Encode a chunk at `level` (0 to 3). Safe in any thread. Raises CodecError."""
        ...


CODECS: dict[str, Codec] = {codec.name: codec for codec in (GZIP,)}
"""The codecs of this installation, by algorithm name."""
