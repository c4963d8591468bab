"""Whatever a backend says, and whatever the operator does: it is all heard, once, in its order."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle, pairwise
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from proxy.audio.settings import AudioSettings
from proxy.websocket import metadata
from tests.support import speech, spoken
from tests.support.spoken import PCM, PCM_RATE, RATE, RAW, SOURCES, Talk, opus_of, wav
from tests.websocket.strategies import events_of, examples, message, read_frames

FILES = {
    **SOURCES,
    "wav": wav(PCM[60_000:160_001]),
    "wav-8k": spoken.streamed_wav(PCM[60_000:120_000], 8000),
}
RATES = {"pcm": PCM_RATE, "wav": PCM_RATE, "wav-8k": 8000}
OURS = re.compile(rb'\{"type":"audio_chunk_compressed","algorithm":"(opus|flac|gzip)"')
OGG = speech("speech-24k.ogg")
DELAY = (576 + 529) / 44_100
"""Seconds that LAME's tag in this file says are not to be heard."""


@lru_cache(maxsize=8)
def frames_of(name: str) -> list[tuple[Any, Any, float]]:
    """Start, end and seconds of a file's frames, as FFmpeg's demuxer finds them."""
    with av.open(io.BytesIO(FILES[name]), "r") as container:
        packets: list[Any] = [packet for packet in container.demux(audio=0) if packet.size]
        base = packets[0].time_base
        return [(p.pos, p.pos + p.size, float(p.duration * base)) for p in packets]


def lasts(name: str, start: int, end: int) -> float:
    """Seconds of what stands whole in a part of a file."""
    if name in RATES:
        head = 0 if name == "pcm" else 44
        first, last = max(0, start - head), max(0, end - head)
        return (last // 2 - -(-first // 2)) / RATES[name]
    return sum(long for at, stop, long in frames_of(name) if start <= at and stop <= end)


@dataclass
class Stretch:
    """A file, or its beginning, as a backend sends it."""

    name: str
    bounds: list[int]
    """Where its chunks begin and end."""
    passed: list[int] = field(default_factory=list)
    """Which of them passed."""

    def chunk(self, n: int) -> bytes:
        return FILES[self.name][self.bounds[n] : self.bounds[n + 1]]

    @property
    def said(self) -> tuple[float, float]:
        """Seconds that are to be heard as Opus; and by how much that may be wrong.

        A run of chunks begins and ends with a whole frame. Of what is dropped of an MP3's start
        some may stand in chunks that passed.
        """
        total, unsure = 0.0, 0.002
        runs = [-1, *self.passed, len(self.bounds) - 1]
        for before, after in pairwise(runs):
            start, end = self.bounds[before + 1], self.bounds[after]
            total += lasts(self.name, start, end)
            unsure += 2 / RATES.get(self.name, RATE)
        if self.name == "mp3-128k" and 0 not in self.passed:
            dropped = min(total, DELAY)
            total -= dropped
        return total, unsure


ANNOUNCED = 2000
"""Bytes of a file's first chunk, at least: samples of a WAV that was cut short might go on so."""


@st.composite
def stretches(draw: st.DrawFn, names: Sequence[str]) -> Stretch:
    name = draw(st.sampled_from(names))
    end = draw(st.integers(ANNOUNCED, min(len(FILES[name]), 60_000)))
    odd = st.integers(1, 6000) | st.sampled_from((1, 144, 1000, 4096))
    sizes = draw(st.lists(odd, min_size=1, max_size=5))
    bounds = [0, draw(st.integers(ANNOUNCED, min(end, 3900)))]
    for size in cycle(sizes):
        if bounds[-1] == end or len(bounds) == 20:
            return Stretch(name, bounds)
        bounds.append(min(end, bounds[-1] + size))
    raise AssertionError


talks = st.tuples(
    st.lists(stretches(sorted(FILES)), min_size=1, max_size=1),
    st.lists(stretches(sorted(set(FILES) - {"pcm"})), max_size=3),
).map(lambda drawn: drawn[0] + drawn[1])
"""Raw samples only at the start: behind a WAV that was cut short they are more of that."""
interruptions = st.sampled_from(
    ("nothing", "nothing", "nothing", "text", "pause", "junk", "empty", "own", "flip", "dear")
)
SETTINGS = {"raw": RAW, "plain": AudioSettings(), "small": AudioSettings(max_audio_bytes=4000)}


def something_else(kind: str, number: int) -> list[tuple[Opcode, bytes]]:
    """Messages that are no audio, and must come as they are."""
    if kind == "text":
        return [(Opcode.TEXT, b"text %d" % number)]
    if kind == "own":
        head = b'{"type":"audio_chunk_compressed","algorithm":"own","n":%d}' % number
        return [(Opcode.TEXT, head), (Opcode.BINARY, b"own %d" % number)]
    if kind == "junk":
        return [(Opcode.BINARY, b"OggS\0\2%d" % number + OGG[28:100])]
    return [(Opcode.BINARY, b"")] if kind == "empty" else []


class Listener:
    """Hears what comes of each message."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.said = b""
        self._at = 0

    def others(self) -> tuple[list[tuple[Opcode, bytes]], list[int]]:
        """What has come since, but for Opus: messages, and the sizes that other pairs stand for."""
        out = self.talk.out
        events = iter(events_of(read_frames(out[self._at :])))
        self._at = len(out)
        plain, sizes = [], []
        for opcode, payload in events:
            info = metadata.parse(payload.decode()) if OURS.match(payload) else None
            if info is None:
                plain.append((opcode, payload))
                continue
            assert next(events)[0] is Opcode.BINARY, "something stands within a pair"
            if info.algorithm != "opus":
                sizes.append(info.original_size)
        return plain, sizes

    def send(self, messages: list[tuple[Opcode, bytes]]) -> None:
        for opcode, payload in messages:
            self.talk.feed(message(opcode, payload).wire)
        plain, sizes = self.others()
        assert sizes == []
        at = len(plain) - len(messages)
        assert plain[at:] == messages
        self._check_rest(plain[:at])

    def say(self, chunk: bytes) -> bool:
        """Whether the chunk passed, as it is or as a lossless pair."""
        self.talk.say(chunk)
        plain, sizes = self.others()
        passed = sizes == [len(chunk)] or plain[-1:] == [(Opcode.BINARY, chunk)]
        assert passed or not sizes
        self._check_rest(plain[:-1] if passed and not sizes else plain)
        self.said += chunk
        return passed

    def end(self) -> list[spoken.Heard]:
        items = self.talk.eof()
        plain, sizes = self.others()
        assert sizes == []
        self._check_rest(plain)
        return items

    def _check_rest(self, plain: list[tuple[Opcode, bytes]]) -> None:
        """Nothing but the last bytes of what was said, which are no whole frame."""
        assert len(plain) <= 1
        for opcode, rest in plain:
            is_rest = self.said.endswith(rest)
            assert (opcode, is_rest) == (Opcode.BINARY, True)
            assert 0 < len(rest) < 1500


@examples(40)
@given(
    talks,
    st.lists(interruptions, min_size=1, max_size=12),
    st.sampled_from(sorted(SETTINGS)),
    st.sampled_from((("opus",), ("opus", "flac"), ("gzip", "opus"))),
)
def test_any_talk_is_heard(
    said: list[Stretch], between: list[str], settings: str, accepted: Sequence[str]
) -> None:
    talk = Talk(SETTINGS[settings], accepted)
    listener = Listener(talk)
    kinds = cycle(between)
    for number, stretch in enumerate(said):
        stretch.passed.clear()
        for n in range(len(stretch.bounds) - 1):
            kind = next(kinds)
            if kind == "pause":
                talk.pause()
            elif kind == "flip":
                talk.set(enabled=not talk.flags.current.enabled)
            elif kind == "dear":
                talk.set(min_gain=0.9 if talk.flags.current.min_gain < 0.5 else 0.03)
            listener.send(something_else(kind, 100 * number + n))
            if listener.say(stretch.chunk(n)):
                stretch.passed.append(n)
    items = listener.end()
    assert talk.filter.warnings == []
    assert talk.counters.errors == 0
    assert all(item.samples.shape[1] == 1 for item in items if item.samples is not None)
    expected = sum(stretch.said[0] for stretch in said)
    unsure = sum(stretch.said[1] for stretch in said)
    assert spoken.seconds(opus_of(items)) == pytest.approx(expected, abs=unsure)


@pytest.mark.parametrize("source", ["mp3-48k", "mp3-128k", "aac"])
@pytest.mark.parametrize("accepted", [("opus",), ("opus", "flac"), ("opus", "flac", "gzip")])
def test_the_midst_of_a_stream_is_not_taken_for_the_samples_that_were_named(
    source: str, accepted: tuple[str, ...]
) -> None:
    """It would be noise: here the operator's flag goes on when an MP3 is being sent already."""
    talk = Talk(RAW, accepted)
    talk.set(enabled=False)
    chunks = spoken.cut(SOURCES[source][:60_000], 4000)
    for n, chunk in enumerate(chunks):
        talk.set(enabled=n >= 2)
        talk.say(chunk)
    items = talk.eof()
    said = sum(item.info["original_size"] for item in items if item.is_opus and item.info)
    assert spoken.seconds(opus_of(items)) == pytest.approx(lasts(source, 0, said), abs=0.05)
