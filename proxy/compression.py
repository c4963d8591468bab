"""The Python API: compress one chunk of audio, and know what it saved."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import structlog

from proxy.audio import gzip
from proxy.audio.chooser import pays, worth_trying
from proxy.audio.codec import Encoded
from proxy.audio.counters import Counters
from proxy.audio.formats import Format
from proxy.config import parse_switch
from proxy.control.flags import Flags
from proxy.control.stats import summary
from proxy.errors import CodecError
from proxy.websocket.frames import BINARY, build_header
from proxy.websocket.metadata import build_pair_head

log = structlog.get_logger(__name__)

MAX_DECOMPRESSED = 16 * 1024 * 1024
"""What `decompress` inflates to at most unless told otherwise, in bytes."""


@dataclass(frozen=True, slots=True)
class CompressionResult:
    """A chunk, compressed or as it was. Sizes are payload bytes."""

    data: bytes
    is_compressed: bool
    original_size: int
    compressed_size: int


class AudioCompression:
    """Compresses chunks by the same rules as the proxy, and counts what that saved."""

    def __init__(self, flags: Flags | None = None) -> None:
        self._flags = Flags() if flags is None else flags
        self._counters = Counters()
        self._cell = self._counters.cell("gzip", Format.UNKNOWN.value)

    def should_compress(self, size: int) -> bool:
        """Whether a chunk of `size` bytes is worth a try."""
        return worth_trying(size, self._flags)

    async def compress(self, data: bytes) -> CompressionResult:
        """Compress a chunk. Where that fails or does not pay, the result is the original.

        It pays where the metadata frame and the binary one save at least `min_gain` of the plain
        frame. A large chunk is encoded in a thread.
        """
        size = len(data)
        if self.should_compress(size):
            try:
                encoded = await self._encode(data)
            except CodecError as error:
                log.warning("codec failed", algorithm="gzip", error=str(error))
                self._cell.errors += 1
            else:
                pair_size = len(build_pair_head("gzip", size, Encoded(encoded))) + len(encoded)
                if pays(len(build_header(BINARY, size)) + size, pair_size, self._flags):
                    self._cell.add(1, size, len(encoded))
                    return CompressionResult(encoded, True, size, len(encoded))
                self._cell.no_gain += 1
        return CompressionResult(data, False, size, size)

    async def decompress(self, data: bytes, max_size: int = MAX_DECOMPRESSED) -> bytes:
        """Undo `compress`. Raises CodecError where `data` is no gzip or exceeds `max_size`."""
        # Always in a thread: a few bytes may inflate to `max_size`.
        return await asyncio.to_thread(gzip.decode, data, max_size)

    def get_stats(self) -> dict[str, Any]:
        """What was compressed so far; see the README for the keys."""
        return summary(self._counters, self._flags.min_size)

    async def _encode(self, data: bytes) -> bytes:
        if len(data) <= gzip.GZIP.inline_size:
            return gzip.GZIP.encode(data, self._flags.level)
        return await asyncio.to_thread(gzip.GZIP.encode, data, self._flags.level)


audio_compression = AudioCompression(
    Flags(enabled=parse_switch("ENABLE_WS_COMPRESSION", os.environ.get("ENABLE_WS_COMPRESSION")))
)
"""One instance for those who need no other; `ENABLE_WS_COMPRESSION=false` switches it off."""
