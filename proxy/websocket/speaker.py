"""Opus on one connection: which messages become speech, and what each segment gained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from proxy.audio import opus
from proxy.audio.chooser import LosslessTrial, Policy, Trial, pays
from proxy.audio.formats import sniff
from proxy.audio.opus import Speech
from proxy.audio.settings import AudioSettings
from proxy.audio.stream import Chunk
from proxy.websocket.jobs import SpeechJob
from proxy.websocket.segments import Message


class Speaker:
    """Decides; the jobs that it gives do the work. Flags and gain count where a segment starts."""

    __slots__ = ("_original", "_preferred", "_saved", "_speech", "_wire", "is_shadow", "trial")

    def __init__(self, accepted: Sequence[str], settings: AudioSettings) -> None:
        """`accepted`: algorithms in the client's order of preference, Opus one of them."""
        self._speech = Speech(settings)
        self._preferred = accepted[: accepted.index(opus.NAME)]
        self.trial = Trial(opus.NAME)
        self._original = self._wire = 0  # bytes of the segment on the wire, without us and with
        self._saved = 0  # by segments of shadow mode
        self.is_shadow = False
        """Whether what is held was sent as it came."""

    @property
    def is_speaking(self) -> bool:
        """Whether a segment is open."""
        return self._speech.is_open

    @property
    def carry(self) -> bytes:
        """What was taken and is no whole frame yet."""
        return self._speech.carry

    def is_allowed(self, policy: Policy) -> bool:
        """Whether a segment may start."""
        return policy.enabled and opus.NAME in policy.algorithms and not self.trial.is_off

    def wants(self, head: bytes, policy: Policy) -> bool:
        """Whether a message may become speech, by its first bytes, or must wait for its end."""
        if self._speech.holds:
            return True
        if self.is_allowed(policy):
            if not self.trial.resting:
                return True
            self.trial.resting -= 1
            if sniff(head) is not None:
                return True
        self._speech.forget()
        return False

    def job_for(
        self, message: Message, chunk: Chunk, policy: Policy, rivals: Sequence[LosslessTrial]
    ) -> SpeechJob | None:
        """To take a message, or to end what it does not continue; None: neither."""
        speech = self._speech
        if self.is_shadow != policy.shadow and not speech.is_open:
            if speech.holds:
                return SpeechJob(policy, speech.finish, message, chunk)
            self.is_shadow = policy.shadow
        begins = not speech.continues(chunk)
        if begins:
            if speech.holds:
                return SpeechJob(policy, speech.finish, message, chunk)
            speech.forget()
        if self._takes(message, chunk, policy, rivals, begins=begins):
            work = partial(speech.feed, chunk)
            return SpeechJob(policy, work, message, chunk, feeds=True, begins=begins)
        if speech.holds:
            return SpeechJob(policy, speech.finish, message, chunk)
        speech.forget()
        return None

    def pause(self, policy: Policy) -> SpeechJob:
        """To send what was said up to its end; more may follow."""
        return SpeechJob(policy, self._speech.pause)

    def end(self, policy: Policy, *, has_place: bool) -> SpeechJob | None:
        """To end speech before something else; None where nothing is held.

        `has_place`: whether a message may be sent. Within one that will never be whole, what was
        left to say is lost.
        """
        if self._speech.holds and has_place:
            return SpeechJob(policy, self._speech.finish)
        self._speech.abandon()
        return None

    def took(self, size: int) -> None:
        """A message of `size` bytes on the wire has become speech."""
        self._original += size

    def sent(self, size: int, policy: Policy, *, failed: bool) -> bool:
        """`size` bytes were sent for it. Returns whether with them a segment ended without gain."""
        self._wire += size
        if self._speech.is_open or not self._original:
            return False
        gained = pays(self._original, self._wire, policy)
        if self.is_shadow and gained:
            self._saved += self._original - self._wire
        self._original = self._wire = 0
        if failed:
            return False
        if gained:
            self.trial.gained()
        else:
            self.trial.missed()
        return not gained

    def take_shadow_saved(self) -> int:
        """Bytes that segments of shadow mode would have saved, since this was last asked."""
        saved, self._saved = self._saved, 0
        return saved

    def _takes(
        self,
        message: Message,
        chunk: Chunk,
        policy: Policy,
        rivals: Sequence[LosslessTrial],
        *,
        begins: bool,
    ) -> bool:
        speech, trial = self._speech, self.trial
        if not chunk.data:
            return False  # a mark of the backend's own
        if speech.is_open:
            return not begins
        if not self.is_allowed(policy) or self._is_second(chunk, policy, rivals):
            return False
        if begins and not speech.starts(chunk):
            if chunk.layout is None:
                trial.rest()
            return False
        if trial.resting and trial.is_poor:
            return False
        if not pays(len(message.frames), speech.expected_size(chunk), policy):
            trial.missed()
            return False
        return True

    def _is_second(self, chunk: Chunk, policy: Policy, rivals: Sequence[LosslessTrial]) -> bool:
        """Whether a lossless codec that can gain stands before Opus in the client's order."""
        return not chunk.format.is_compressed and any(
            rival.name in self._preferred
            and rival.name in policy.algorithms
            and not (rival.resting or rival.is_off)
            and rival.codec.takes(chunk)
            for rival in rivals
        )
