"""Which codecs for this chunk, and whether the result pays. Sizes are compared here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.audio.codec import Codec
from proxy.audio.stream import Chunk

MISSES = 3
"""So many times in a row without gain, and a codec rests."""
NOTHING_GAINED = 0.99
"""Of raw samples, a result of this share of them and more counts as one without gain. Of 129 chunks
of speech of 4 KiB, gzip makes 35 not small enough to pay, all but 3 of them smaller than this: were
it to rest for each three of those in a row, it would save 7.7 % instead of 11.7 %."""

_SAMPLE_SIZE = 256
_SAMPLE = slice(256, 256 + _SAMPLE_SIZE)  # bytes of a chunk: in front may stand tables
_VALUES = bytes(range(256))
_MOST_ABSENT = 128

FIRST_REST = 8
LONGEST_REST = 64
"""Chunks that it rests: twice as many each time."""
LONGEST_RUN = MISSES + FIRST_REST
"""Chunks that may be tried in one go: were the first of them to gain nothing, the others would be
those that pass while the codec rests."""
FAILURES = 3
"""So many times in a row failed, and it is off for the connection."""


class Policy(Protocol):
    """What the operator decides, as one immutable record."""

    @property
    def enabled(self) -> bool:
        """Compress at all."""
        ...

    @property
    def min_size(self) -> int:
        """Smaller chunks are not worth a try, in bytes."""
        ...

    @property
    def min_gain(self) -> float:
        """The least that a compressed pair must save, as a share of the original frames."""
        ...

    @property
    def level(self) -> int:
        """0, fastest, to 3, smallest."""
        ...

    @property
    def algorithms(self) -> Sequence[str]:
        """The algorithms allowed."""
        ...

    @property
    def shadow(self) -> bool:
        """Compress and count, but send what came."""
        ...


class LivePolicy(Protocol):
    """Where the operator's record is found. It is replaced whole, at any moment."""

    @property
    def current(self) -> Policy:
        """The record in force."""
        ...


def worth_trying(size: int, policy: Policy) -> bool:
    """Whether a chunk of `size` bytes is to be encoded at all."""
    return policy.enabled and size >= policy.min_size


def pays(original: int, encoded: float, policy: Policy) -> bool:
    """Whether `encoded` bytes on the wire are enough less than `original` ones.

    Both count everything that is sent: frame headers, and the metadata of what is encoded.
    """
    return encoded < original and original - encoded >= policy.min_gain * original


@dataclass(slots=True)
class Trial:
    """How an algorithm fares on one connection."""

    name: str
    resting: int = 0
    """Chunks that pass before it is tried again."""
    is_off: bool = False
    """It failed too often."""
    _misses: int = 0
    _failures: int = 0
    _rest: int = FIRST_REST

    @property
    def is_poor(self) -> bool:
        """Whether it has gained nothing lately."""
        return self._misses >= MISSES

    @property
    def is_doubtful(self) -> bool:
        """Whether it gained nothing, or failed, when it was tried last."""
        return bool(self._misses or self._failures)

    def gained(self) -> None:
        """It made a chunk smaller."""
        self._misses = self._failures = 0
        self._rest = FIRST_REST

    def missed(self) -> None:
        """It made a chunk not small enough."""
        self._failures = 0
        self._misses += 1
        if self.is_poor:
            self.rest()

    def rest(self) -> None:
        """It has nothing to gain as things are: let some chunks pass."""
        self.resting = self._rest
        self._rest = min(2 * self._rest, LONGEST_REST)

    def passed(self, chunks: int) -> None:
        """So many chunks have passed without it."""
        self.resting = max(0, self.resting - chunks)

    def failed(self) -> None:
        """It raised."""
        self._failures += 1
        self.is_off = self._failures >= FAILURES

    def reset(self) -> None:
        """Another kind of audio has come."""
        self.resting = self._misses = 0
        self._rest = FIRST_REST


@dataclass(slots=True, kw_only=True)
class LosslessTrial(Trial):
    """How a lossless codec fares."""

    codec: Codec


def _is_dense(head: bytes) -> bool:
    """Whether audio that is compressed already goes on so densely that no lossless codec can gain.

    Of 256 bytes of MP3, AAC or Ogg, 131 and more are different values in 19 of 20 chunks; of speech
    in PCM, half of the chunks have fewer than 114.
    """
    sample = head[_SAMPLE]
    return len(sample) == _SAMPLE_SIZE and len(_VALUES.translate(None, sample)) <= _MOST_ABSENT


class Chooser:
    """Chooses among the lossless codecs that one client accepts.

    They all give back the same bytes, so the smallest result wins, and the client's order decides
    where they are alike. Who loses rests, so that a chunk is seldom encoded twice: each codec gets
    every 64th chunk at least.
    """

    __slots__ = ("trials",)

    def __init__(self, codecs: Sequence[Codec]) -> None:
        """`codecs`: in the client's order of preference."""
        self.trials = tuple(LosslessTrial(codec.name, codec=codec) for codec in codecs)

    def reset(self) -> None:
        """Nobody rests: another kind of audio has come, or a codec has gone."""
        for trial in self.trials:
            trial.reset()

    def due(self, policy: Policy, head: bytes = b"") -> bool:
        """Whether any of them is to be tried on the chunk that comes. To be asked once for each.

        `head`: the chunk's first bytes where it is expected to be compressed already, else none.
        They spare most of the tries of those that have gained nothing.
        """
        due = False
        for trial in self.trials:
            if trial.resting:
                trial.resting -= 1
            elif not trial.is_off and trial.name in policy.algorithms:
                if trial.is_poor and _is_dense(head):
                    trial.missed()
                else:
                    due = True
        return due

    def sole(self, policy: Policy, most: int, ahead: int = 0) -> tuple[LosslessTrial, int] | None:
        """The codec that alone is to be tried on the chunk that comes, and for how many chunks
        from that one on, up to `most`, unless it is to rest; None: there are several. To be asked
        after `due`, or one chunk `ahead` of it."""
        found = None
        for trial in self.trials:
            if trial.is_off or trial.name not in policy.algorithms:
                continue
            if trial.resting > ahead:
                most = min(most, trial.resting - ahead)
            elif found is None:
                found = trial
            else:
                return None
        return None if found is None else (found, most)

    def idle(self, policy: Policy) -> int:
        """How many of the next chunks none of them is to be tried on, unless the audio changes."""
        idle = LONGEST_REST
        for trial in self.trials:
            if trial.resting < idle and not trial.is_off and trial.name in policy.algorithms:
                idle = trial.resting
        return idle

    def passed(self, chunks: int) -> None:
        """So many chunks have passed without `due` being asked."""
        for trial in self.trials:
            trial.passed(chunks)

    def choose(self, chunk: Chunk, policy: Policy) -> list[LosslessTrial]:
        """Those to try on a chunk."""
        chosen = []
        for trial in self.trials:
            if trial.resting or trial.is_off or trial.name not in policy.algorithms:
                continue
            if trial.codec.takes(chunk):
                chosen.append(trial)
            else:
                trial.rest()
        return chosen
