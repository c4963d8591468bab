"""The text message that stands before a compressed chunk: `audio_chunk_compressed`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from proxy.audio.codec import Encoded
from proxy.errors import AudioFrameError
from proxy.websocket.frames import BINARY, TEXT, build_header

TYPE = "audio_chunk_compressed"
MARKER = TYPE.encode()

_KEYS = frozenset({"type", "algorithm", "original_size", "compressed_size"})


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a compressed chunk's metadata says. Sizes are payload bytes."""

    algorithm: str
    original_size: int
    compressed_size: int
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Every other key: each algorithm has its own."""


def build(
    algorithm: str,
    original_size: int,
    compressed_size: int,
    extra: Mapping[str, object] | None = None,
) -> bytes:
    """Compact JSON; `type` first, then the three keys in the contract's order, then `extra`."""
    text = (
        b'{"type":"audio_chunk_compressed","algorithm":"%b",'
        b'"original_size":%d,"compressed_size":%d}'
        % (algorithm.encode("ascii"), original_size, compressed_size)
    )
    if extra:
        members = json.dumps(extra, separators=(",", ":")).encode("ascii")
        text = text[:-1] + b"," + members[1:]
    return text


def build_pair_head(algorithm: str, original_size: int, encoded: Encoded) -> bytes:
    """All of a pair but its encoded bytes: the metadata frame and the binary frame's header."""
    if encoded.extra is None:
        return _plain_head(algorithm, original_size, len(encoded.data))
    size = len(encoded.data)
    return _head(build(algorithm, original_size, size, encoded.extra), size)


def _head(text: bytes, size: int) -> bytes:
    return build_header(TEXT, len(text)) + text + build_header(BINARY, size)


@lru_cache(maxsize=2048)
def _plain_head(algorithm: str, original_size: int, size: int) -> bytes:
    """Chunks of one size make few different ones: looked up in 0.1 us, built in 1.5."""
    return _head(build(algorithm, original_size, size), size)


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
    sizes = _size(record, "original_size"), _size(record, "compressed_size")
    extra = {key: value for key, value in record.items() if key not in _KEYS}
    return Metadata(algorithm, *sizes, extra)


def _size(record: dict[str, Any], key: str) -> int:
    size = record.get(key)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise AudioFrameError(f"metadata: {key!r} is missing or is no size in bytes")
    return size
