"""What a lossless codec is: one chunk at a time, nothing carried over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from proxy.audio.pcm import PcmLayout
from proxy.audio.stream import Chunk

KNOWN = ("gzip", "flac", "opus")
"""The algorithms' names on the wire, installed or not."""


class Encoded(NamedTuple):
    """What became of a chunk."""

    data: bytes
    extra: Mapping[str, object] | None = None
    """What its metadata says besides the contract's four keys."""


class Codec(Protocol):
    """Encodes one chunk at a time."""

    name: str
    """The algorithm's name on the wire."""

    inline_size: int
    """Bytes of a chunk, or of several in a row, up to which they are encoded where they stand: it
    takes less than a turn of a millisecond."""

    def plain(self, layout: PcmLayout | None, level: int) -> tuple[Any, ...] | None:
        """(a function, what it takes behind the data), where such a call is all that
        `encode_chunk` does at `level` with a chunk of that layout, and `Encoded.extra` None."""
        ...

    def takes(self, chunk: Chunk) -> bool:
        """Whether it can do anything with what the chunk is."""
        ...

    def encode_chunk(self, chunk: Chunk, level: int) -> Encoded:
        """Encode a chunk at `level` (0 to 3). Safe in any thread. Raises CodecError."""
        ...
