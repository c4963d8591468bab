"""Codecs that fail: what it costs, when they are given up, what is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from websockets.frames import Opcode

from proxy.audio.algorithms import LOSSLESS
from proxy.audio.codec import Encoded
from proxy.audio.counters import AlgorithmCounters
from proxy.audio.stream import Chunk
from proxy.errors import CodecError
from proxy.websocket.jobs import SpeechJob
from tests.support import speech
from tests.websocket.strategies import PCM, Player, binary, fragmented, message, same
from tests.websocket.test_lossless import check, chunks, play, wire

CHUNK = binary(PCM[:4096])
MP3 = speech("speech-44100-128k.mp3")
PING = message(Opcode.PING, b"12345")


class Scripted:
    """A codec that fails where its script says so, and gains much where not."""

    name = "flac"
    inline_size = 1 << 20

    def __init__(self, script: str) -> None:
        """`x` fails, `.` does not; over and over."""
        self.script = script
        self.calls = 0

    def takes(self, chunk: Chunk) -> bool:
        return True

    def encode_chunk(self, chunk: Chunk, level: int) -> Encoded:
        step = self.script[self.calls % len(self.script)]
        self.calls += 1
        if step == "x":
            raise CodecError(f"broken {self.calls}")
        return Encoded(b"tiny")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a scripted codec in the place of FLAC."""

    def put(script: str) -> Scripted:
        codec = Scripted(script)
        monkeypatch.setitem(LOSSLESS, "flac", codec)
        return codec

    return put


def test_a_codec_that_fails_three_times_in_a_row_is_off_and_others_go_on(scripted: Any) -> None:
    codec = scripted("x")
    sent = chunks(PCM[100_000:], 16_384)
    player = play(sent)
    assert check(player, sent) == ["gzip"] * len(sent)
    assert (codec.calls, player.counters.errors, player.counters.no_gain) == (3, 3, 0)
    assert player.filter.warnings == ["flac is off for this connection: broken 3"]
    another = play(sent)
    another.eof()
    assert codec.calls == 6, "off for one connection is off for all"


def test_a_codec_that_fails_now_and_then_goes_on(scripted: Any) -> None:
    codec = scripted("xx.")
    player = play(chunks(PCM, 4096)[:30], ("flac",))
    player.eof()
    assert codec.calls == 30
    assert player.counters.errors == 20
    assert player.counters.algorithm("flac").chunks == 10
    assert player.filter.warnings == []


@dataclass(frozen=True)
class Unchecked:
    """A record that no validation has seen: its level makes the real codec fail."""

    enabled = True
    min_size = 1024
    min_gain = 0.03
    level = 99
    algorithms = ("gzip",)


class Unforeseen(Unchecked):
    """A record whose level cannot even be read: no codec is to blame."""

    @property
    def level(self) -> int:  # type: ignore[override]
        raise ZeroDivisionError


@dataclass(slots=True)
class Live:
    current: Any


def test_a_failing_codec_costs_nothing_but_the_saving() -> None:
    """It is given up after three failures in a row, and that is told once."""
    player = Player(live=Live(Unchecked()))
    sent = [CHUNK, fragmented(Opcode.BINARY, [PCM[:2000], PCM[2000:3000]]), *[CHUNK] * 3]
    player.feed(wire([*sent, PING]))
    assert same(player.eof(), wire([*sent, PING]))
    assert len(player.tried) == 3
    counters = player.counters
    assert counters.algorithm("gzip") == AlgorithmCounters(errors=3)
    assert counters.wire_original_bytes == counters.wire_bytes == len(player.out)
    (warning,) = player.filter.warnings
    assert warning.startswith("gzip is off for this connection: gzip of 4096 bytes failed")


def test_what_nobody_foresaw_costs_no_more() -> None:
    """`complete` is told None by who ran the job."""
    player = Player(live=Live(Unforeseen()))
    buffers, job = player.filter.feed(wire([CHUNK] * 5))
    for _ in range(3):
        assert job is not None
        with pytest.raises(ZeroDivisionError):
            job.run()
        more, job = player.filter.complete(job, None)
        buffers += more
    assert job is None
    assert same(b"".join(buffers), wire([CHUNK] * 5))
    assert player.counters.errors == 3
    (warning,) = player.filter.warnings
    assert warning.startswith("gzip is off for this connection")


@pytest.mark.parametrize("junk", [bytes(1000), b"LYRICSBEGIN" * 90, PCM[100_000:101_000]])
def test_speech_that_ends_in_something_else_passes_as_it_came(junk: bytes) -> None:
    """Its frames are those of MP3, but not to its end: it is not tried for ever."""
    chunk = binary(speech("speech-44100-128k.mp3")[:4096] + junk)
    player = Player(accepted=("opus",))
    buffers, job = player.filter.feed(chunk.wire + PING.wire)
    for _ in range(5):
        if job is not None:
            more, job = player.filter.complete(job, job.run())
            buffers += more
    assert job is None
    assert same(b"".join(buffers), chunk.wire + PING.wire)


@pytest.mark.parametrize("ending", ["a chunk", "a pause", "something else"])
def test_a_job_that_fails_beyond_what_a_codec_may_loses_no_byte(ending: str) -> None:
    """The start of a frame that was carried is sent as it came, and so is all that follows."""
    player = Player(accepted=("opus",))
    buffers, job = player.filter.feed(binary(MP3[:4096]).wire)
    assert isinstance(job, SpeechJob)
    player.filter.complete(job, job.run())
    rest = MP3[4096 - len(player.filter._speaker.carry) : 4096]  # type: ignore[union-attr]
    assert 0 < len(rest) < 418
    following = {"a chunk": MP3[4096:8192], "a pause": b"", "something else": b"no audio" * 200}
    wire = binary(following[ending]).wire if ending != "a pause" else b""
    buffers, job = player.filter.pause() if ending == "a pause" else player.filter.feed(wire)
    assert buffers == []
    assert job is not None
    buffers, job = player.filter.complete(job, None)
    assert job is None
    assert b"".join(buffers) + b"".join(player.filter.feed_eof()) == binary(rest).wire + wire
    assert player.filter.warnings == ["opus is off for this connection: an unforeseen error"]
