"""The lossless codecs on one connection: which is tried on what, and what is sent of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.audio.algorithms import LOSSLESS
from proxy.audio.chooser import (
    LONGEST_RUN,
    NOTHING_GAINED,
    Chooser,
    LosslessTrial,
    Policy,
    Trial,
    pays,
    worth_trying,
)
from proxy.audio.codec import Encoded
from proxy.audio.counters import AlgorithmCounters, Passed, Tally
from proxy.audio.formats import FIRST_BYTES, OTHER_MARKS, Format
from proxy.audio.stream import Chunk, Stream
from proxy.errors import CodecError
from proxy.websocket.jobs import Attempts, LosslessJob, RunJob
from proxy.websocket.metadata import build_pair_head
from proxy.websocket.openings import MARK_SIZE, Openings
from proxy.websocket.segments import Buffer, Message, Run

MORE_OF = {known: Openings(FIRST_BYTES[known], OTHER_MARKS[known]) for known in Format}
"""How chunks begin that go on in a format."""

_STEADY_MOST = 1024
"""Messages after which a `Steady` is made anew."""


@dataclass(slots=True)
class Steady:
    """What is done with whole messages that are like the one before, each in a read of its own."""

    header: bytes
    """Of their frame."""
    step: int
    """Bytes of the frame."""
    openings: Openings
    trial: LosslessTrial
    chunk: Chunk
    """What they are, but for their data."""
    cell: AlgorithmCounters
    policy: Policy
    most: int
    """How many more it is good for."""
    count: int = 0
    """Messages that have come by it and are not accounted for; see `Lossless.account`."""

    def fits(self, frame: bytes) -> bool:
        """Whether a frame is such a message."""
        begin = len(self.header)
        return (
            len(frame) == self.step
            and frame.startswith(self.header)
            and self.openings.fit(frame[begin : begin + MARK_SIZE])
        )


class Lossless:
    """Decides, and sends what came of it; the jobs that it gives do the work."""

    __slots__ = ("_settled", "_stream", "_tally", "_warnings", "chooser")

    def __init__(
        self, accepted: Sequence[str], stream: Stream, tally: Tally, warnings: list[str]
    ) -> None:
        """`accepted`: algorithms in the client's order of preference."""
        self.chooser = Chooser([LOSSLESS[name] for name in accepted if name in LOSSLESS])
        self._stream = stream
        self._tally = tally
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
        sole = self.chooser.sole(policy, LONGEST_RUN)
        if sole is None:
            return None
        trial, most = sole
        if trial.is_doubtful:
            most = 1
        room = max(1, trial.codec.inline_size // max(1, size))
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

    def steady(self, job: RunJob) -> Steady | None:
        """What is to be done with more messages like those of a run that is completed; None where
        each is to be asked about. Its chunks are to be small."""
        run, policy = job.segment, job.policy
        sole = self.chooser.sole(policy, _STEADY_MOST, ahead=1)
        if sole is None or sole[0] is not job.trial:
            return None
        alike = self._stream.alike(run.size, sole[1])
        if alike is None or run.size > job.trial.codec.inline_size:
            return None
        chunk, most = alike
        if not job.trial.codec.takes(chunk):
            return None
        header = bytes(run.frames[: run.header_size])
        cell = self._tally.total.cell(job.trial.name, chunk.format.value)
        openings = MORE_OF[chunk.format]
        return Steady(header, run.step, openings, job.trial, chunk, cell, policy, most)

    def repeat(self, steady: Steady, frame: bytes) -> list[Buffer]:
        """Encode a message that fits: what `complete_run` would make of a run of one."""
        chunk, policy, step, tally = steady.chunk, steady.policy, steady.step, self._tally
        steady.count += 1
        tally.chunks += 1
        size = step - len(steady.header)
        chunk.data = memoryview(frame)[len(steady.header) :]
        try:
            encoded = steady.trial.codec.encode_chunk(chunk, policy.level)
        except CodecError as error:
            self.account(steady)  # before it may rest, and those that come count
            self.failed(steady.trial, error, steady.cell)
        else:
            chunk.data = b""  # a silent connection keeps no frame
            head = build_pair_head(steady.trial.name, size, encoded)
            wire = len(head) + len(encoded.data)
            if not pays(step, wire, policy):
                steady.cell.no_gain += 1
                self.missed(steady, len(encoded.data))
            elif policy.shadow:
                steady.trial.gained()
                self._shadow(steady.cell, step - wire)
            else:
                steady.trial.gained()
                tally.compressed += 1
                tally.algorithm = steady.trial.name
                steady.cell.add(1, size, len(encoded.data))
                tally.sent(step, wire)
                return [head, encoded.data]
        tally.sent(step, step)
        return [frame]

    def missed(self, steady: Steady, encoded: int) -> None:
        """A message was encoded to so many bytes, which did not pay."""
        self.account(steady)
        size = steady.step - len(steady.header)
        self._missed(steady.trial, steady.chunk, size, encoded)

    def account(self, steady: Steady) -> None:
        """Tell those who follow the audio of what has come by `steady`."""
        self._stream.skip(steady.count * (steady.step - len(steady.header)))
        self.chooser.passed(steady.count)
        steady.most -= steady.count
        steady.count = 0

    # What came of it.

    def complete_run(self, job: RunJob, attempts: Attempts) -> list[Buffer]:
        """Each chunk that pays, encoded, and the others as they came.

        What comes of it is what would have come of one after the other: who rests from now on
        rests for those that follow (`LONGEST_RUN`).
        """
        run, trial, policy, buffers = job.segment, job.trial, job.policy, list[Buffer]()
        frames, size, step, tally = run.frames, run.size, run.step, self._tally
        cell = tally.total.cell(trial.name, job.chunk.format.value)
        chunks = encoded_size = head_size = at = 0
        for attempt in attempts or [CodecError("an unforeseen error")] * run.count:
            if isinstance(attempt, CodecError):
                self.failed(trial, attempt, cell)
                self._pass(buffers, frames[at : at + step])
            else:
                data = attempt.data
                head = build_pair_head(trial.name, size, attempt)
                wire = len(head) + len(data)
                if not pays(step, wire, policy):
                    cell.no_gain += 1
                    self._pass(buffers, frames[at : at + step])
                    self._missed(trial, job.chunk, size, len(attempt.data))
                elif policy.shadow:
                    trial.gained()
                    self._shadow(cell, step - wire)
                    self._pass(buffers, frames[at : at + step])
                else:
                    trial.gained()
                    buffers.append(head)
                    buffers.append(data)
                    chunks += 1
                    head_size += len(head)
                    encoded_size += len(data)
            at += step
            if trial.resting or trial.is_off:
                break
        tally.format, tally.chunks = job.chunk.format.value, tally.chunks + at // step
        if chunks:
            tally.compressed += chunks
            tally.algorithm = trial.name
            cell.add(chunks, chunks * size, encoded_size)
            tally.sent(chunks * step, head_size + encoded_size)
        left = (len(frames) - at) // step
        if left:
            trial.passed(left)
            tally.passed(left, Passed.RESTING)
            self._pass(buffers, frames[at:])
        return buffers

    def complete(self, job: LosslessJob, attempts: Attempts) -> list[Buffer]:
        """The smallest, where it pays; else the chunk as it came."""
        message, size, tally = job.message, len(job.chunk.data), self._tally
        tally.chunks += 1
        if not attempts:
            attempts = [CodecError("an unforeseen error")] * len(job.trials)
        best: tuple[int, LosslessTrial, Encoded, bytes] | None = None
        tried: list[tuple[LosslessTrial, Encoded]] = []
        for trial, attempt in zip(job.trials, attempts, strict=True):
            if isinstance(attempt, CodecError):
                self.failed(trial, attempt, self._cell(trial, job.chunk))
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
            cell = self._cell(winner, job.chunk)
            if not job.policy.shadow:
                tally.compressed += 1
                tally.algorithm = winner.name
                cell.add(1, size, len(encoded.data))
                tally.sent(len(message.frames), wire_size)
                return [head, encoded.data]
            self._shadow(cell, len(message.frames) - wire_size)
        elif tried:
            self._cell(tried[0][0], job.chunk).no_gain += 1
            for trial, attempt in tried:
                self._missed(trial, job.chunk, size, len(attempt.data))
        buffers: list[Buffer] = []
        self._pass(buffers, message.frames)
        return buffers

    def failed(self, trial: Trial, error: CodecError, cell: AlgorithmCounters) -> None:
        """A codec failed; where it is given up, the others are tried anew."""
        cell.errors += 1
        trial.failed()
        if trial.is_off:
            self.chooser.reset()
            self._warnings.append(f"{trial.name} is off for this connection: {error}")

    def _missed(self, trial: Trial, chunk: Chunk, size: int, encoded: int) -> None:
        """A chunk of `size` bytes was encoded to `encoded`, and it did not pay."""
        # Samples that gained a little too little are loud: the next may be soft.
        if chunk.layout is None or encoded > NOTHING_GAINED * size:
            trial.missed()
        if trial.resting and not chunk.format.is_compressed:
            self._stream.doubt()

    def _cell(self, trial: Trial, chunk: Chunk) -> AlgorithmCounters:
        return self._tally.total.cell(trial.name, chunk.format.value)

    def _shadow(self, cell: AlgorithmCounters, saved: int) -> None:
        """A chunk is worth sending encoded, and is not."""
        cell.shadow += 1
        self._tally.total.shadow_saved_bytes += saved

    def _pass(self, buffers: list[Buffer], frames: Buffer) -> None:
        if frames:
            buffers.append(frames)
            self._tally.sent(len(frames), len(frames))
