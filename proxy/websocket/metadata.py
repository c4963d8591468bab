"""The text message that stands before a compressed chunk: `audio_chunk_compressed`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from proxy.errors import AudioFrameError

TYPE = "audio_chunk_compressed"
MARKER = TYPE.encode()


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a compressed chunk's metadata says. Sizes are payload bytes."""

    algorithm: str
    original_size: int
    compressed_size: int


def build(algorithm: str, original_size: int, compressed_size: int) -> bytes:
    """Compact JSON; `type` first, then the three keys in the contract's order."""
    return (
        b'{"type":"audio_chunk_compressed","algorithm":"%b",'
        b'"original_size":%d,"compressed_size":%d}'
        % (algorithm.encode("ascii"), original_size, compressed_size)
    )


def parse(text: str) -> Metadata | None:
    """Read a text message. None where it is no `audio_chunk_compressed`.

    Keys that are not known are ignored. Raises AudioFrameError where it says that it is metadata
    and a key is missing or of the wrong type.
    """
    if TYPE not in text:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or nested beyond reason
        return None
    if not isinstance(record, dict) or record.get("type") != TYPE:
        return None
    algorithm = record.get("algorithm")
    if not isinstance(algorithm, str):
        raise AudioFrameError("metadata: 'algorithm' is missing or is no text")
    return Metadata(algorithm, _size(record, "original_size"), _size(record, "compressed_size"))


def _size(record: dict[str, Any], key: str) -> int:
    size = record.get(key)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise AudioFrameError(f"metadata: {key!r} is missing or is no size in bytes")
    return size
