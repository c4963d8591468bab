"""Raw samples, which cannot announce themselves: their layout named, parsed and guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import attrgetter, mul, sub
from struct import unpack, unpack_from
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview

FLOATS = "f32le"
SAMPLE_SIZES = {
    "u8": 1,
    "s16le": 2,
    "s24le": 3,
    "s32le": 4,
    FLOATS: 4,
    "mulaw": 1,
    "alaw": 1,
}
"""Bytes of one sample of one channel, by encoding."""

_ALIASES = {"ulaw": "mulaw", "mu-law": "mulaw", "u-law": "mulaw", "a-law": "alaw"}
_NAMED = re.compile(r"(?:pcm_)?([a-z0-9-]+)\s*/\s*([0-9]{1,6})\s*/\s*([0-9])")
_RATES = range(8000, 192_001)  # Hz
_CHANNELS = (1, 2)


@dataclass(frozen=True, slots=True)
class PcmLayout:
    """How samples stand in raw audio; channels are interleaved."""

    encoding: str
    """A key of `SAMPLE_SIZES`."""
    sample_rate: int
    """Hz."""
    channels: int

    @property
    def sample_size(self) -> int:
        """Bytes of one sample of one channel."""
        return SAMPLE_SIZES[self.encoding]

    @property
    def frame_size(self) -> int:
        """Bytes of one sample of all channels."""
        return SAMPLE_SIZES[self.encoding] * self.channels

    @property
    def byte_rate(self) -> int:
        """Bytes a second."""
        return self.frame_size * self.sample_rate

    def __str__(self) -> str:
        """As `parse_layout` reads it."""
        return f"{self.encoding}/{self.sample_rate}/{self.channels}"


def parse_layout(text: str) -> PcmLayout:
    """Read a layout such as `s16le/24000/1`: encoding, sample rate in Hz, channels.

    Raises ValueError that says what is expected.
    """
    match = _NAMED.fullmatch(text.strip().lower())
    if match is not None:
        encoding = _ALIASES.get(match[1], match[1])
        rate, channels = int(match[2]), int(match[3])
        if encoding in SAMPLE_SIZES and rate in _RATES and channels in _CHANNELS:
            return PcmLayout(encoding, rate, channels)
    raise ValueError(
        f"{text!r} is no PCM layout: expected ENCODING/RATE/CHANNELS, such as s16le/24000/1 "
        f"(encoding one of {', '.join(SAMPLE_SIZES)}; rate {_RATES[0]} to {_RATES[-1]} Hz; "
        f"1 or 2 channels)"
    )


GUESSED_RATE = 24_000
"""Hz: the sample rate of a guess, which samples alone do not tell."""

_SEARCHED = 16_384  # bytes that may be silence
_WINDOW = 480  # bytes that are looked at
_LEAST = 192  # bytes that a guess needs
_ALIGNED = 24  # bytes: whole samples of 2, 3 and 4 bytes, and whole pairs of them

_TEXT = bytes((*b"\t\n\r", *range(0x20, 0x7F)))
_TEXT_SHARE = 0.85
# Sign and upper exponent bits of floats from 2^-31 to 8; audio is within -1 to 1.
_FLOAT_TOPS = bytes((*range(0x30, 0x41), *range(0xB0, 0xC1)))

_NEARLY_ALL = 0.9

# Of two channels that play the same, one leaves so much less of the other unexplained than
# neighbours in time do.
_ALIKE = 0.3
# Of two channels that do not, a sample is so many bits nearer to the one two before it than to
# the one before it.
_APART = 1.0


class _Reading(NamedTuple):
    """The bytes of a window, read as one encoding from one phase on."""

    encoding: str
    phase: int  # bytes before the first whole sample
    samples: list[int]  # their upper 16 bits
    cost: float


def guess_layout(data: Buffer) -> tuple[PcmLayout, int] | None:
    """What raw samples most likely are, and where in `data` the first whole frame begins.

    Tells s16le, s24le and f32le, mono and stereo, cut anywhere. None: they look like no linear
    PCM (compressed data, text, mu-law, noise), or are too few. Silence is s16le, mono. Which of
    two channels that differ comes first is anybody's guess. Takes 0.2 ms, of whatever size.
    """
    head = bytes(data[:_SEARCHED])
    first_sound = len(head) - len(head.lstrip(b"\0"))
    if head and first_sound == len(head):
        return PcmLayout("s16le", GUESSED_RATE, 1), 0
    window = _lively_window(head[first_sound - first_sound % _ALIGNED :])
    if len(window) < _LEAST or _is_text(window):
        return None
    reading = _read_floats(window) or _read_integers(window)
    if reading is None:
        return None
    pair = _first_pair(reading)
    if pair is None:
        return PcmLayout(reading.encoding, GUESSED_RATE, 1), reading.phase
    layout = PcmLayout(reading.encoding, GUESSED_RATE, 2)
    return layout, reading.phase + pair * layout.sample_size


def _lively_window(head: bytes) -> bytes:
    """Of four parts of `head`, from multiples of `_ALIGNED` on, the one furthest from silence."""
    starts = (len(head) * quarter // 4 for quarter in range(4))
    windows = [head[start - start % _ALIGNED :][:_WINDOW] for start in starts]
    return max(windows, key=_liveliness)


def _liveliness(window: bytes) -> int:
    return len(set(window))


def _is_text(window: bytes) -> bool:
    others = window.translate(None, _TEXT)
    return len(others) < (1 - _TEXT_SHARE) * len(window)


def _read_floats(window: bytes) -> _Reading | None:
    """As floats, where all samples are of a size that audio has."""
    for phase in range(4):
        tops = window[phase + 3 :: 4]
        floats = unpack_from(f"<{len(tops)}f", window, phase)
        others = len(tops.translate(None, _FLOAT_TOPS))
        if others <= floats.count(0.0) < len(floats):
            samples = [int(value * 0x8000) for value in floats]
            return _Reading(FLOATS, phase, samples, _cost(samples))
    return None


def _read_integers(window: bytes) -> _Reading | None:
    """As 16 or 24 bits, where one phase is clearly better than the others."""
    padding = _padding(window)
    if padding is not None:
        return _read(window, "s24le", padding)
    found = []
    for encoding in ("s16le", "s24le"):
        phases = range(SAMPLE_SIZES[encoding])
        readings = (_read(window, encoding, phase) for phase in phases)
        best, second, *_ = sorted(readings, key=attrgetter("cost"))
        # In mu-law, noise and compressed data all phases cost about the same.
        if best.cost < 0.92 * second.cost - 0.5:
            found.append(best)
    return min(found, key=attrgetter("cost"), default=None)


def _padding(window: bytes) -> int | None:
    """Where the lowest byte of 24-bit samples is that were 16 bits once: it is always zero."""
    if window.count(0) > _NEARLY_ALL * len(window):
        return None  # near silence has such bytes by chance
    empty = [phase for phase in range(3) if not any(window[phase::3])]
    return empty[0] if len(empty) == 1 else None


def _read(window: bytes, encoding: str, phase: int) -> _Reading:
    size = SAMPLE_SIZES[encoding]
    tops = window[phase + size - 1 :: size]
    upper = bytearray(2 * len(tops))
    upper[::2] = window[phase + size - 2 :: size][: len(tops)]
    upper[1::2] = tops
    samples = list(unpack(f"<{len(tops)}h", upper))
    return _Reading(encoding, phase, samples, _cost(samples))


def _cost(samples: list[int]) -> float:
    """How far, in bits, a sample is from the one two before it: one of the same channel.

    Read in the right phase speech costs 1 to 12 bits; in a wrong one, or where it is no PCM at
    all, 13 to 14.5.
    """
    return _mean_length(samples[2:], samples)


def _mean_length(samples: list[int], predictions: list[int]) -> float:
    """How many bits it takes, on average, to say how far predictions are off."""
    return sum(map(int.bit_length, map(sub, samples, predictions))) / (len(samples) or 1)


def _first_pair(reading: _Reading) -> int | None:
    """How many samples stand before the first pair of channels, 0 or 1; None: one channel."""
    even, odd = reading.samples[::2], reading.samples[1::2]
    within, across = _unexplained(even, odd), _unexplained(odd, even[1:])
    if min(within, across) < _ALIKE * max(within, across):
        return int(across < within)
    one_before = _mean_length(reading.samples[1:], reading.samples)
    return 0 if reading.cost + _APART < one_before else None


def _unexplained(left: list[int], right: list[int]) -> float:
    """The share of a signal's energy that the other one, at the best gain, leaves."""
    left, right = left[: len(right)], right[: len(left)]
    common = sum(map(mul, left, right))
    energies = sum(map(mul, left, left)) * sum(map(mul, right, right))
    return max(0.0, 1 - common * common / energies) if energies else 1.0
