"""A backend's bytes in, an opted-in client's bytes out: splitter, codec and metadata joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.audio.chooser import Policy, choose, pays, worth_trying
from proxy.audio.codec import Codec
from proxy.audio.counters import Counters
from proxy.websocket import metadata
from proxy.websocket.frames import BINARY, TEXT, build_header
from proxy.websocket.splitter import Buffer, Message, Splitter


class LivePolicy(Protocol):
    """Where the operator's record is found. It is replaced whole, at any moment."""

    @property
    def current(self) -> Policy:
        """The record in force."""
        ...


@dataclass(slots=True)
class Job:
    """One chunk to encode. `run` may be called in any thread; it changes nothing."""

    message: Message
    codec: Codec
    policy: Policy

    @property
    def small(self) -> bool:
        """Whether running it where it stands costs less than handing it to a thread."""
        return len(self.message.payload) <= self.codec.inline_size

    def run(self) -> bytes:
        """Encode the chunk. Raises CodecError."""
        return self.codec.encode(self.message.payload, self.policy.level)


def build_pair_head(algorithm: str, original_size: int, encoded_size: int) -> bytes:
    """All of a pair but its encoded bytes: the metadata frame and the binary frame's header."""
    text = metadata.build(algorithm, original_size, encoded_size)
    return build_header(TEXT, len(text)) + text + build_header(BINARY, encoded_size)


class AudioFilter:
    """Replaces binary messages by compressed pairs where that pays; lets everything else pass.

    Each of its verbs returns (buffers to write at once and in order, a job or None). While a job
    is out, `feed` only keeps what it is given; `complete` takes the job's result and goes on.
    The policy is read once per chunk, at its first frame's header.
    """

    __slots__ = ("_accepted", "_codec", "_counters", "_flags", "_job", "_policy", "_splitter")

    def __init__(
        self,
        accepted: Sequence[str],
        flags: LivePolicy,
        counters: Counters,
        max_audio_bytes: int,
    ) -> None:
        self._accepted = accepted
        self._flags = flags
        self._policy = flags.current
        self._codec: Codec | None = None
        self._counters = counters
        self._splitter = Splitter(self._wants, max_audio_bytes)
        self._job: Job | None = None

    @property
    def fault(self) -> str | None:
        """Why filtering stopped, or None."""
        return self._splitter.fault

    def feed(self, data: bytes) -> tuple[list[Buffer], Job | None]:
        """Take bytes from the backend."""
        self._splitter.feed(data)
        return self._advance([]) if self._job is None else ([], None)

    def feed_eof(self) -> list[Buffer]:
        """The backend's stream has ended, and no job is out: what was held, as it came."""
        assert self._job is None
        buffers: list[Buffer] = []
        self._pass(buffers, self._splitter.feed_eof())
        return buffers

    def complete(self, job: Job, encoded: bytes | None) -> tuple[list[Buffer], Job | None]:
        """Take a job's result (None: the codec failed) and go on."""
        assert job is self._job
        self._job = None
        buffers: list[Buffer] = []
        message, counters = job.message, self._counters
        original_size = len(message.payload)
        if encoded is None:
            counters.errors += 1
            self._pass(buffers, message.frames)
            return self._advance(buffers)
        head = build_pair_head(job.codec.name, original_size, len(encoded))
        pair_size = len(head) + len(encoded)
        if pays(len(message.frames), pair_size, job.policy):
            counters.algorithm(job.codec.name).add(original_size, len(encoded))
            counters.wire_original_bytes += len(message.frames)
            counters.wire_bytes += pair_size
            buffers += (head, encoded)
        else:
            counters.no_gain += 1
            self._pass(buffers, message.frames)
        return self._advance(buffers)

    def _advance(self, buffers: list[Buffer]) -> tuple[list[Buffer], Job | None]:
        """Pass what passes, up to the next chunk to encode."""
        while (segment := self._splitter.next_segment()) is not None:
            if isinstance(segment, Message):
                self._job = self._job_for(segment)
                if self._job is not None:
                    return buffers, self._job
                segment = segment.frames
            self._pass(buffers, segment)
        return buffers, None

    def _pass(self, buffers: list[Buffer], data: Buffer) -> None:
        if data:
            buffers.append(data)
            self._counters.wire_original_bytes += len(data)
            self._counters.wire_bytes += len(data)

    def _wants(self, size: int | None) -> bool:
        """Whether a binary message is to be held: of `size` bytes, or of a size unknown yet."""
        policy = self._policy = self._flags.current
        self._codec = choose(self._accepted, policy)
        if self._codec is None:
            return False
        return policy.enabled if size is None else worth_trying(size, policy)

    def _job_for(self, message: Message) -> Job | None:
        """A job for a message that `_wants` wanted; None where it turned out too small."""
        assert self._codec is not None
        if not worth_trying(len(message.payload), self._policy):
            return None
        return Job(message, self._codec, self._policy)
