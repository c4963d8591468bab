"""What is done with a chunk, in a thread where it takes long. A job changes no counter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.audio.chooser import LosslessTrial, Policy
from proxy.audio.codec import Encoded
from proxy.audio.opus import Spoken
from proxy.audio.stream import Chunk
from proxy.errors import CodecError
from proxy.websocket.segments import Message, Run

Attempts = list[Encoded | CodecError]
"""What became of a chunk, one for each codec that was tried on it."""


class Job(Protocol):
    """One piece of work. `run` may be called in any thread, once."""

    @property
    def small(self) -> bool:
        """Whether running it where it stands costs less than handing it to a thread."""
        ...

    @property
    def chunks(self) -> int:
        """How many it is about."""
        ...

    def run(self) -> Attempts | Spoken:
        """Do it. A codec's failure is a result, not an exception."""
        ...


@dataclass(slots=True)
class LosslessJob:
    """A chunk to encode by one codec, or by several to see which does best."""

    message: Message
    chunk: Chunk
    policy: Policy
    trials: list[LosslessTrial]
    chunks = 1

    @property
    def small(self) -> bool:
        """Whether it is small for each of its codecs."""
        size = len(self.chunk.data)
        for trial in self.trials:  # noqa: SIM110  # per chunk, and 0.5 us less than all()
            if size > trial.codec.inline_size:
                return False
        return True

    def run(self) -> Attempts:
        """Encode the chunk."""
        attempts: Attempts = []
        for trial in self.trials:
            try:
                attempts.append(trial.codec.encode_chunk(self.chunk, self.policy.level))
            except CodecError as error:
                attempts.append(error)
        return attempts


@dataclass(slots=True)
class RunJob:
    """Chunks in a row that are alike, to encode by the codec that does best with them."""

    segment: Run
    chunk: Chunk
    """What all of them are, but for their data."""
    policy: Policy
    trial: LosslessTrial

    @property
    def chunks(self) -> int:
        """How many there are."""
        return self.segment.count

    @property
    def small(self) -> bool:
        """Whether it is small for the codec."""
        return self.segment.count * self.segment.size <= self.trial.codec.inline_size

    def run(self) -> Attempts:
        """Encode the chunks, one by one."""
        chunk, encode, level = self.chunk, self.trial.codec.encode_chunk, self.policy.level
        attempts: Attempts = []
        for chunk.data in self.segment.payloads():
            try:
                attempts.append(encode(chunk, level))
            except CodecError as error:
                attempts.append(error)
        return attempts


@dataclass(slots=True)
class SpeechJob:
    """Work on a connection's speech: a chunk to take, or a segment to end."""

    policy: Policy
    work: Callable[[], Spoken]
    message: Message | None = None
    """What waits behind it: taken, or to be looked at once the segment has ended."""
    chunk: Chunk | None = None
    feeds: bool = False
    """Whether the chunk is taken, rather than waiting."""
    begins: bool = False
    """Whether it is the first that is taken, rather than more of what was."""
    small = False
    chunks = 1

    def run(self) -> Spoken:
        """Do the work."""
        return self.work()
