"""The lossless codecs on one connection: which is tried on what, and what is sent of it."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.audio.algorithms import LOSSLESS
from proxy.audio.chooser import (
    NOTHING_GAINED,
    Chooser,
    LosslessTrial,
    Policy,
    Trial,
    pays,
    worth_trying,
)
from proxy.audio.codec import Encoded
from proxy.audio.counters import Counters
from proxy.audio.formats import FIRST_BYTES, OTHER_MARKS, Format
from proxy.audio.stream import Chunk, Stream
from proxy.errors import CodecError
from proxy.websocket.jobs import Attempts, LosslessJob, RunJob
from proxy.websocket.metadata import build_pair_head
from proxy.websocket.openings import Openings
from proxy.websocket.segments import Buffer, Message, Run

MORE_OF = {known: Openings(FIRST_BYTES[known], OTHER_MARKS[known]) for known in Format}
"""How chunks begin that go on in a format."""

_RUN_SIZE = 64 * 1024
"""Bytes of chunks that are encoded in one go, or one chunk: by gzip, in 0.2 to 0.5 ms."""


class Lossless:
    """Decides, and sends what came of it; the jobs that it gives do the work."""

    __slots__ = ("_counters", "_settled", "_stream", "_warnings", "chooser")

    def __init__(
        self, accepted: Sequence[str], stream: Stream, counters: Counters, warnings: list[str]
    ) -> None:
        """`accepted`: algorithms in the client's order of preference."""
        self.chooser = Chooser([LOSSLESS[name] for name in accepted if name in LOSSLESS])
        self._stream = stream
        self._counters = counters
        self._warnings = warnings
        self._settled: tuple[LosslessTrial, Chunk] | None = None  # for the next run

    # What is to be done.

    def job_for(self, message: Message, chunk: Chunk, policy: Policy) -> LosslessJob | None:
        """What to do with a message; None: let it pass."""
        if worth_trying(len(chunk.data), policy):
            trials = self.chooser.choose(chunk, policy)
            if trials:
                return LosslessJob(message, chunk, policy, trials)
            if self.chooser.trials and not any(trial.is_poor for trial in self.chooser.trials):
                self._stream.doubt()  # nobody takes it, and nobody's tries would show a change
        return None

    def settle(self, size: int, policy: Policy) -> tuple[int, Openings] | None:
        """How many chunks of `size` bytes, from the one on that comes, are one `run_job`, and how
        they begin; None where each is to be looked at, as there is more than one way to go."""
        sole = self.chooser.sole(policy)
        if sole is None:
            return None
        trial, most = sole
        room = max(1, min(_RUN_SIZE, trial.codec.inline_size) // max(1, size))
        alike = self._stream.alike(size, min(most, room))
        if alike is None or not trial.codec.takes(alike[0]):
            return None
        chunk, most = alike
        self._settled = trial, chunk
        return most, MORE_OF[chunk.format]

    def run_job(self, run: Run, policy: Policy) -> RunJob:
        """What to do with the chunks that `settle` was asked for."""
        assert self._settled is not None
        trial, chunk = self._settled
        self._settled = None  # its data would keep a whole read in memory
        self._stream.skip(run.count * run.size)
        self.chooser.passed(run.count - 1)
        return RunJob(run, chunk, policy, trial)

    # What came of it.

    def complete_run(self, job: RunJob, attempts: Attempts) -> list[Buffer]:
        """Each chunk that pays, encoded, and the others as they came.

        What comes of it is what would have come of one after the other: who rests from now on
        rests for those that follow (`LONGEST_RUN`).
        """
        run, trial, policy, buffers = job.segment, job.trial, job.policy, list[Buffer]()
        frames, size, step = run.frames, run.size, run.step
        chunks = encoded_size = head_size = at = 0
        for attempt in attempts or [CodecError("an unforeseen error")] * run.count:
            if isinstance(attempt, CodecError):
                self.failed(trial, attempt)
                self._pass(buffers, frames[at : at + step])
            else:
                data = attempt.data
                head = build_pair_head(trial.name, size, attempt)
                if pays(step, len(head) + len(data), policy):
                    trial.gained()
                    buffers.append(head)
                    buffers.append(data)
                    chunks += 1
                    head_size += len(head)
                    encoded_size += len(data)
                else:
                    self._counters.no_gain += 1
                    self._pass(buffers, frames[at : at + step])
                    self._missed(trial, job.chunk, size, attempt)
            at += step
            if trial.resting or trial.is_off:
                break
        if chunks:
            self._counters.algorithm(trial.name).add(chunks, chunks * size, encoded_size)
            self._counters.sent(chunks * step, head_size + encoded_size)
        trial.passed((len(frames) - at) // step)
        self._pass(buffers, frames[at:])
        return buffers

    def complete(self, job: LosslessJob, attempts: Attempts) -> list[Buffer]:
        """The smallest, where it pays; else the chunk as it came."""
        message, size = job.message, len(job.chunk.data)
        if not attempts:
            attempts = [CodecError("an unforeseen error")] * len(job.trials)
        best: tuple[int, LosslessTrial, Encoded, bytes] | None = None
        tried: list[tuple[LosslessTrial, Encoded]] = []
        for trial, attempt in zip(job.trials, attempts, strict=True):
            if isinstance(attempt, CodecError):
                self.failed(trial, attempt)
                continue
            tried.append((trial, attempt))
            head = build_pair_head(trial.name, size, attempt)
            wire_size = len(head) + len(attempt.data)
            if best is None or wire_size < best[0]:
                best = wire_size, trial, attempt, head
        if best is not None and pays(len(message.frames), best[0], job.policy):
            wire_size, winner, encoded, head = best
            for trial, _ in tried:
                if trial is winner:
                    trial.gained()
                else:
                    trial.rest()
            if job.chunk.format.is_compressed:
                self._stream.doubt()  # it seems to be something else by now
            self._counters.algorithm(winner.name).add(1, size, len(encoded.data))
            self._counters.sent(len(message.frames), wire_size)
            return [head, encoded.data]
        for trial, attempt in tried:
            self._missed(trial, job.chunk, size, attempt)
        self._counters.no_gain += bool(tried)
        buffers: list[Buffer] = []
        self._pass(buffers, message.frames)
        return buffers

    def failed(self, trial: Trial, error: CodecError) -> None:
        """A codec failed; where it is given up, the others are tried anew."""
        self._counters.errors += 1
        trial.failed()
        if trial.is_off:
            self.chooser.reset()
            self._warnings.append(f"{trial.name} is off for this connection: {error}")

    def _missed(self, trial: Trial, chunk: Chunk, size: int, attempt: Encoded) -> None:
        """A chunk of `size` bytes was encoded, and it did not pay."""
        # Samples that gained a little too little are loud: the next may be soft.
        if chunk.layout is None or len(attempt.data) > NOTHING_GAINED * size:
            trial.missed()
        if trial.resting and not chunk.format.is_compressed:
            self._stream.doubt()

    def _pass(self, buffers: list[Buffer], frames: Buffer) -> None:
        if frames:
            buffers.append(frames)
            self._counters.sent(len(frames), len(frames))
