"""A backend's bytes in, an opted-in client's bytes out: splitter, codecs and metadata joined."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.audio import opus
from proxy.audio.chooser import LivePolicy
from proxy.audio.counters import AlgorithmCounters, Counters, Passed, Tally
from proxy.audio.formats import Format, sniff
from proxy.audio.opus import Spoken
from proxy.audio.settings import AudioSettings
from proxy.audio.stream import Chunk, Kind, Stream
from proxy.errors import CodecError
from proxy.websocket.frames import BINARY, build_header
from proxy.websocket.jobs import Attempts, Job, LosslessJob, RunJob, SpeechJob
from proxy.websocket.lossless import MORE_OF, Lossless, Steady
from proxy.websocket.metadata import build_pair_head
from proxy.websocket.segments import Boundary, Buffer, Message, Run, Verdict
from proxy.websocket.speaker import Speaker
from proxy.websocket.splitter import Splitter

_SNIFFED = 40
"""Bytes that tell whether another kind of audio begins."""
_UNTIL_CHANGED = 64
"""Messages that pass unasked while nothing is to be compressed; then they are counted."""


class AudioFilter:
    """Replaces binary messages by compressed pairs where that pays; lets everything else pass.

    Each of its verbs returns (buffers to write at once and in order, a job or None). While a job
    is out, `feed` only keeps what it is given; `complete` takes the job's result and goes on.
    The policy is read once per chunk, at its first frame's header. While `is_speaking`, the end of
    what was said is held back: call `pause` once the backend has paused.
    """

    __slots__ = (
        "_allowed",
        "_job",
        "_kind",
        "_lossless",
        "_policy",
        "_rests",
        "_speaker",
        "_splitter",
        "_stream",
        "flags",
        "has_audio",
        "steady",
        "tally",
        "warnings",
    )

    def __init__(
        self,
        accepted: Sequence[str],
        flags: LivePolicy,
        counters: Counters,
        settings: AudioSettings,
    ) -> None:
        """`accepted`: algorithms in the client's order of preference."""
        self.flags = flags
        """What the operator decides."""
        self._policy = flags.current
        self.tally = Tally(counters)
        """What was sent on this connection."""
        self.warnings: list[str] = []
        """What an operator should know of; for the reader to take."""
        self._stream = Stream(settings.pcm_layout)
        self._lossless = Lossless(accepted, self._stream, self.tally, self.warnings)
        self._splitter = Splitter(self._wants, settings.max_audio_bytes, self._skip)
        self._allowed = 0  # messages that the splitter was last told to let pass unasked
        self._rests = False  # why: nothing is gained lately, rather than it is switched off
        speaks = opus.INSTALLED and opus.NAME in accepted
        self._speaker = Speaker(accepted, settings) if speaks else None
        self._kind: Kind | None = None
        self._job: Job | None = None
        self.has_audio = False
        """Whether a binary message has begun to arrive."""
        self.steady: Steady | None = None
        """What is done with messages like the one before, while more of them are expected."""

    @property
    def is_speaking(self) -> bool:
        """Whether a segment of speech is open."""
        return self._speaker is not None and self._speaker.is_speaking

    @property
    def close_code(self) -> int | None:
        """What the backend's close frame said, 1005 if nothing; None: there was none."""
        return self._splitter.close_code

    @property
    def is_between_frames(self) -> bool:
        """Whether what was given out ends with a frame, and nothing is on its way."""
        return self._job is None and self._splitter.is_between_frames

    @property
    def is_over(self) -> bool:
        """Whether nothing is filtered any more: the backend has closed, or cannot be read."""
        return self._splitter.is_over

    @property
    def is_holding(self) -> bool:
        """Whether a message has begun to arrive that may become part of what is said."""
        return self._splitter.is_holding

    def feed_whole(self, data: bytes) -> list[Buffer] | None:
        """Take bytes from the backend where they are one small message, whole, and like the one
        before: it is encoded on the spot. None: they are not; `feed` them."""
        steady = self.steady
        if steady is None or self.flags.current is not self._policy or not steady.fits(data):
            return None
        buffers = self._lossless.repeat(steady, data)
        self._review(steady)
        return buffers

    def missed(self, encoded: int) -> None:
        """A message like those of `steady` was encoded to so many bytes, which did not pay. It has
        been counted."""
        steady = self.steady
        assert steady is not None
        self._lossless.missed(steady, encoded)
        self._review(steady)

    def feed(self, data: bytes) -> tuple[list[Buffer], Job | None]:
        """Take bytes from the backend."""
        if self.steady is not None:
            self._lossless.account(self.steady)
        if self._allowed and self.flags.current is not self._policy:
            self._ask_again()
        if self._splitter.feed(data):
            self.tally.sent(len(data), len(data))
            return [data], None
        return self._advance([]) if self._job is None else ([], None)

    def account(self) -> None:
        """Count what has passed unasked by now."""
        if self._allowed:
            self._ask_again()

    def pause(self) -> tuple[list[Buffer], Job | None]:
        """The backend has paused: what was said so far is to be sent to its end.

        Where it paused within a message that passes, nothing happens: call again.
        """
        speaker = self._speaker
        if self._job is not None or speaker is None or not speaker.is_speaking:
            return [], None
        if self._splitter.is_between:
            self._job = speaker.pause(self._policy)
        return [], self._job

    def feed_eof(self) -> list[Buffer]:
        """The backend's stream has ended, and no job is out: what was held, as it came."""
        assert self._job is None
        self.account()
        buffers: list[Buffer] = []
        job = self._end_of_speech()
        if job is not None and self._speaker is not None:
            self._add_spoken(buffers, job.run(), self._speaker, None)
        self._pass(buffers, self._splitter.feed_eof())
        return buffers

    def leave(self) -> None:
        """Nothing more will be fed; see `Leg.leave`."""
        self._splitter.leave()

    def complete(
        self, job: Job, result: Attempts | Spoken | None
    ) -> tuple[list[Buffer], Job | None]:
        """Take a job's result (None: it failed beyond what a codec may) and go on."""
        assert job is self._job
        self._job = None
        buffers: list[Buffer] = []
        if isinstance(job, RunJob):
            buffers = self._lossless.complete_run(job, result if isinstance(result, list) else [])
            done = len(buffers)
            buffers, next_job = self._advance(buffers)
            if next_job is None and len(buffers) == done and self._splitter.is_at_rest:
                self.steady = self._lossless.steady(job)
            return buffers, next_job
        if isinstance(job, LosslessJob):
            buffers = self._lossless.complete(job, result if isinstance(result, list) else [])
        elif isinstance(job, SpeechJob):
            self._job = self._complete_speech(
                buffers, job, result if isinstance(result, Spoken) else None
            )
            if self._job is not None:
                return buffers, self._job
        return self._advance(buffers)

    def _advance(self, buffers: list[Buffer]) -> tuple[list[Buffer], Job | None]:
        """Pass what passes, up to the next chunk to work on."""
        more = self._next_job(buffers)
        if self.steady is not None and not self._splitter.is_at_rest:
            self._end_steady()
        return buffers, more

    def _next_job(self, buffers: list[Buffer]) -> Job | None:
        while (segment := self._splitter.next_segment()) is not None:
            if isinstance(segment, Run):
                self._job = self._lossless.run_job(segment, self._policy)
            elif isinstance(segment, Boundary):
                self._job = self._end_of_speech()
                if self._splitter.fault is not None:
                    self.warnings.append(f"filtering stopped: {self._splitter.fault}")
            elif isinstance(segment, Message):
                self._job = self._job_for(segment, self._recognise(segment))
                if self._job is None:
                    self._pass_message(buffers, segment)
            else:
                self._pass(buffers, segment)
            if self._job is not None:
                return self._job
        return None

    def _recognise(self, message: Message) -> Chunk:
        """What a message is. Another kind of audio than before, and all is tried anew."""
        chunk = self._stream.recognise(message.payload)
        self.tally.format = chunk.format.value
        if chunk.kind != self._kind and chunk.format is not Format.UNKNOWN:
            self._kind = chunk.kind
            self._lossless.chooser.reset()
            if self._speaker is not None:
                self._speaker.trial.reset()
        return chunk

    def _pass(self, buffers: list[Buffer], data: Buffer) -> None:
        if data:
            buffers.append(data)
            self.tally.sent(len(data), len(data))

    def _pass_message(self, buffers: list[Buffer], message: Message) -> None:
        """Nothing is to be done with a message that was held."""
        self._pass(buffers, message.frames)
        self.tally.passed(1, self._why(len(message.payload), Passed.OTHER))

    def _why(self, size: int | None, otherwise: Passed) -> Passed:
        """Why a message of `size` bytes is not encoded."""
        policy = self._policy
        if not policy.enabled:
            return Passed.DISABLED
        if size is not None and size < policy.min_size:
            return Passed.TOO_SMALL
        return otherwise

    def _skip(self, size: int | None) -> None:
        """A message that is too large to be held passes."""
        self._end_steady()
        self.tally.passed(1, Passed.OTHER)
        self._stream.skip(size)

    def _review(self, steady: Steady) -> None:
        if steady.count >= steady.most or steady.trial.resting or steady.trial.is_off:
            self._end_steady()

    def _end_steady(self) -> None:
        """What comes next may be something else."""
        if self.steady is not None:
            self._lossless.account(self.steady)
            self.steady = None

    # What is to be done.

    def _wants(self, size: int | None, head: bytes) -> Verdict:
        """Whether a binary message is to be held: of `size` bytes, or of a size unknown yet."""
        policy, before = self.flags.current, self._policy
        self._policy = policy
        self.steady = None
        self.has_audio = True
        if policy is not before and policy.algorithms != before.algorithms:
            self._lossless.chooser.reset()  # who lost to another may be alone now
        if self._allowed:
            self._ask_again()
        speaker = self._speaker
        if speaker is not None and speaker.wants(head, policy):
            return Verdict.HOLD
        large = policy.enabled and (size is None or size >= policy.min_size)
        # What rests is tried again, and other messages are looked at too, where another kind of
        # audio may begin: a WAV's header may come alone, or while compression is off.
        sample = head if self._stream.format.is_compressed else b""
        if large and self._lossless.chooser.due(policy, sample):
            # Of the first of its kind more is to be known than `settle` asks for.
            if speaker is None and size is not None and self._kind == self._stream.kind:
                run = self._lossless.settle(size, policy)
                if run is not None:
                    self._splitter.join(*run)
            return Verdict.HOLD
        if self._may_begin(size, head):
            return Verdict.HOLD
        self._stream.skip(size)
        self.tally.passed(1, self._why(size, Passed.RESTING))
        may_speak = speaker is not None and speaker.is_allowed(policy)
        if not may_speak and not self._stream.has_end:
            self._rests = policy.enabled
            self._allowed = self._lossless.chooser.idle(policy) if self._rests else _UNTIL_CHANGED
            self._splitter.allow(self._allowed, MORE_OF[self._stream.format])
        return Verdict.PASS

    def _ask_again(self) -> None:
        """No message passes unasked any more; account for those that have."""
        left, size = self._splitter.allow(0)
        passed = self._allowed - left
        self._lossless.chooser.passed(passed)
        self._stream.skip(size)
        self.tally.passed(passed, Passed.RESTING if self._rests else Passed.DISABLED)
        self._allowed = 0

    def _may_begin(self, size: int | None, head: bytes) -> bool:
        """Whether another kind of audio may begin with these bytes, the first of a message."""
        if size is None:
            return False  # held without need, its fragments would wait for each other
        if len(head) < min(size, _SNIFFED):
            return True  # the rest has not come yet
        found = sniff(head)
        return found is Format.WAV or found not in (None, self._stream.format)

    def _job_for(self, message: Message, chunk: Chunk) -> Job | None:
        """What to do with a message; None: let it pass."""
        if self._speaker is not None:
            trials = self._lossless.chooser.trials
            job = self._speaker.job_for(message, chunk, self._policy, trials)
            if job is not None:
                return job
        return self._lossless.job_for(message, chunk, self._policy)

    def _end_of_speech(self) -> SpeechJob | None:
        """Something passes that speech does not go on behind."""
        if self._speaker is None:
            return None
        return self._speaker.end(self._policy, has_place=self._splitter.is_between)

    # What came of it.

    def _complete_speech(
        self, buffers: list[Buffer], job: SpeechJob, spoken: Spoken | None
    ) -> Job | None:
        """Send what was said. Returns what is to be done with the message that waited."""
        message, chunk, speaker = job.message, job.chunk, self._speaker
        if spoken is None:
            rest = speaker.carry if speaker is not None else b""
            self._speaker, spoken = None, Spoken(None, 0, rest, refused=job.feeds)
            self._opus(chunk).errors += 1
            self.warnings.append("opus is off for this connection: an unforeseen error")
        if speaker is not None:
            self._add_spoken(buffers, spoken, speaker, chunk)
        if message is None or chunk is None:
            return None
        if job.feeds and not spoken.refused:
            size = len(message.frames)
            self.tally.chunks += 1
            if speaker is not None and speaker.is_shadow:
                self._pass(buffers, message.frames)
            else:
                self.tally.sent(size, 0)
            if speaker is not None:
                speaker.took(size)
            return None
        # A chunk that does not continue what was said may be the start of something else.
        again = not job.feeds or not (job.begins or spoken.error)
        next_job = (
            self._job_for(message, chunk)
            if again
            else self._lossless.job_for(message, chunk, self._policy)
        )
        if next_job is None:
            self._pass_message(buffers, message)
        return next_job

    def _add_spoken(
        self, buffers: list[Buffer], spoken: Spoken, speaker: Speaker, chunk: Chunk | None
    ) -> None:
        """Send what was said; in shadow mode it has been sent as it came."""
        cell, tally, out = self._opus(chunk), self.tally, list[Buffer]()
        if spoken.pair is not None:
            out += (build_pair_head(opus.NAME, spoken.original_size, spoken.pair), spoken.pair.data)
            if speaker.is_shadow:
                cell.shadow += 1
            else:
                tally.compressed += 1
                tally.algorithm = opus.NAME
                cell.add(1, spoken.original_size, len(spoken.pair.data))
        if spoken.rest:
            out.append(build_header(BINARY, len(spoken.rest)) + spoken.rest)
        wire = sum(map(len, out))
        if not speaker.is_shadow:
            buffers += out
            tally.sent(0, wire)
        failed = spoken.error is not None
        cell.no_gain += speaker.sent(wire, self._policy, failed=failed)
        tally.total.shadow_saved_bytes += speaker.take_shadow_saved()
        if spoken.error is not None:
            self._lossless.failed(speaker.trial, CodecError(spoken.error), cell)

    def _opus(self, chunk: Chunk | None) -> AlgorithmCounters:
        """The counters of what Opus makes of a chunk, or of the last that was recognised."""
        known = chunk.format.value if chunk is not None else self._stream.format.value
        return self.tally.total.cell(opus.NAME, known)
