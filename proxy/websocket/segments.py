"""What a stream is cut into."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

Buffer = bytes | bytearray | memoryview


@dataclass(slots=True)
class Message:
    """One whole binary message, lifted out of the stream.

    `payload` is its fragments joined. `frames` is what came, header and payload of each of its
    frames, without the control frames that stood between them: those have passed already.
    """

    payload: Buffer
    frames: Buffer


@dataclass(slots=True)
class Run:
    """Whole binary messages in a row, a frame each, with equal headers, hence of one size."""

    frames: memoryview
    """As they came."""
    header_size: int
    """Bytes."""
    count: int

    @property
    def step(self) -> int:
        """Bytes of each frame."""
        return len(self.frames) // self.count

    @property
    def size(self) -> int:
        """Payload bytes of each."""
        return self.step - self.header_size

    def payloads(self) -> list[memoryview]:
        """Of each of them."""
        frames, header_size, step = self.frames, self.header_size, self.step
        return [frames[at + header_size : at + step] for at in range(0, len(frames), step)]


class Verdict(Enum):
    """What is to become of a binary message."""

    HOLD = 0
    PASS = 1
    BREAK = 2
    """Pass, with a `Boundary` before it."""


class Boundary:
    """Stands before what ends a stretch of audio that is being encoded: a binary message that
    passes, a close frame, bytes that cannot be read."""


BOUNDARY = Boundary()

Segment = Buffer | Message | Run | Boundary
"""What a stream is cut into: bytes that pass are as they came."""
