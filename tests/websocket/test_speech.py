"""A connection's speech among everything else: nothing lost, nothing out of order, no more work."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from websockets.frames import Frame, Opcode

from proxy.audio import opus
from proxy.audio.pyav import Converter
from proxy.audio.settings import AudioSettings
from proxy.control.flags import Flags
from tests.support import speech, spoken
from tests.support.spoken import (
    PCM,
    PCM_RATE,
    RATE,
    RAW,
    SOURCES,
    Heard,
    Talk,
    cut,
    opus_of,
    plain_of,
    seconds,
    segments_of,
    settings_for,
    streamed_wav,
    texts_of,
    wav,
)
from tests.websocket.strategies import fragmented, message

OF_ALL = pytest.mark.parametrize("source", SOURCES)
OGG = speech("speech-24k.ogg")
FOREIGN = b"OggS\0\2" + OGG[6:1500]
MP3 = SOURCES["mp3-48k"]
CLOSE = message(Opcode.CLOSE, b"\x03\xe8bye").wire


def original_size(items: list[Heard]) -> int:
    return sum(item.info["original_size"] for item in items if item.info)


def assert_all_said(source: str, items: list[Heard], sent: int) -> None:
    """What the pairs stand for was said; what is no whole frame comes behind it as it is."""
    rest = b"".join(plain_of(items))
    assert len(rest) < 1500, "more than a part of a frame"
    said = sent - len(rest)
    left_out = SOURCES[source][said:sent]
    assert rest == left_out
    audio = SOURCES[source][:said]
    expected = spoken.decoded(audio, raw=PCM_RATE if source == "pcm" else None)
    assert seconds(opus_of(items)) == pytest.approx(seconds(expected), abs=0.04)


@OF_ALL
def test_each_byte_is_stood_for_once(source: str) -> None:
    """By a pair, or by itself where it is the end of a frame that is never whole."""
    talk = spoken.play(cut(SOURCES[source][:20_001], 5000), settings_for(source))
    items = talk.eof()
    assert original_size(items) + len(b"".join(plain_of(items))) == 20_001
    assert talk.counters.algorithm("opus").original_bytes == original_size(items)


ENDINGS: dict[str, Callable[[Talk], None]] = {
    "nothing": lambda talk: None,
    "pause": Talk.pause,
    "text": lambda talk: talk.tell("end"),
    "close": lambda talk: talk.feed(CLOSE),
    "foreign": lambda talk: talk.say(FOREIGN),
    "empty": lambda talk: talk.say(b""),
}


@OF_ALL
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_lost(source: str, ending: str) -> None:
    """However it ends, at a place that is no end of a frame."""
    talk = Talk(settings_for(source))
    for chunk in cut(SOURCES[source][:20_001], 5000):
        talk.say(chunk)
    ENDINGS[ending](talk)
    items = talk.eof()
    amid = {"foreign": FOREIGN, "empty": b""}.get(ending)
    if amid is not None:
        assert items.pop() == Heard(Opcode.BINARY, amid)
    elif ending == "close":
        assert items.pop() == Heard(Opcode.CLOSE, b"\x03\xe8bye")
    assert_all_said(source, items, 20_001)
    assert segments_of(items) == 1


def test_a_text_waits_for_the_audio_before_it_and_no_longer() -> None:
    """It does not end what is being said: what is in the encoder comes behind it."""
    talk = Talk()
    said: list[Any] = []
    for n, chunk in enumerate(cut(SOURCES["wav"][:40_000], 4000)):
        talk.say(chunk)
        talk.tell(str(n))
        items = spoken.hear(talk.out)
        said.append(len(opus_of(items)) / RATE - (4000 * (n + 1) - 78) / 2 / PCM_RATE)
        assert texts_of(items) == [str(m) for m in range(n + 1)]
        assert items[-1].opcode is Opcode.TEXT
        assert items[-2].is_opus
        assert talk.filter.is_speaking
    # A packet that is not full yet, and what an encoder looks ahead.
    assert all(-0.05 < behind <= 0 for behind in said), said


# Flags.


@OF_ALL
def test_a_flag_that_goes_off_counts_from_the_next_segment_on(source: str) -> None:
    """And what was held of a frame that is cut leaves as it came."""
    chunks = cut(SOURCES[source][:40_001], 5001)
    talk = Talk(settings_for(source))
    talk.say(chunks[0])
    talk.set(enabled=False)
    for chunk in chunks[1:4]:
        talk.say(chunk)
    talk.pause()
    before = spoken.hear(talk.out)
    assert plain_of(before) == []
    assert 4 * 5001 - 1500 < original_size(before) <= 4 * 5001, "all but a part of a frame"
    for chunk in chunks[4:]:
        talk.say(chunk)
    items = talk.eof()
    plain = plain_of(items)
    assert segments_of(items) == 1
    held = 4 * 5001 - (len(b"".join(plain)) - len(b"".join(chunks[4:])))
    assert plain[-len(chunks[4:]) :] == chunks[4:]
    assert b"".join(plain) == SOURCES[source][held:40_001]
    audio = SOURCES[source][:held]
    expected = spoken.decoded(audio, raw=PCM_RATE if source == "pcm" else None)
    assert seconds(opus_of(items)) == pytest.approx(seconds(expected), abs=0.04)


@pytest.mark.parametrize("change", [{"enabled": False}, {"algorithms": ("gzip", "flac")}])
def test_a_flag_that_goes_on(change: dict[str, Any]) -> None:
    """The WAV's header went by before: its samples are known, at whichever byte they begin."""
    chunks = cut(SOURCES["wav"][:50_000], 5001)
    talk = Talk(flags=Flags(**change))
    for chunk in chunks[:3]:
        talk.say(chunk)
    talk.flags.current = Flags()
    for chunk in chunks[3:]:
        talk.say(chunk)
    items = talk.eof()
    assert plain_of(items) == chunks[:3]
    later = spoken.decoded(PCM[3 * 5001 - 78 + 1 : 50_000 - 78], raw=PCM_RATE)
    heard = opus_of(items)
    assert abs(len(heard) - len(later)) <= 3
    assert loudness(heard) == pytest.approx(loudness(later), rel=0.1), "cut amid a sample"


def loudness(samples: spoken.Samples) -> float:
    return float(np.sqrt((samples.astype(float) ** 2).mean()))


# Among other messages.


@pytest.mark.parametrize("source", ["mp3-48k", "mp3-128k", "aac"])
@pytest.mark.parametrize("amid", [b"\0hello", FOREIGN, b"", random.Random(1).randbytes(3000)])
def test_something_else_comes_behind_what_was_said(source: str, amid: bytes) -> None:
    chunks = cut(SOURCES[source][:30_000], 5000)
    talk = Talk()
    for chunk in chunks[:3]:
        talk.say(chunk)
    talk.say(amid)
    before = spoken.hear(talk.out)
    assert not talk.filter.is_speaking
    assert before[-1] == Heard(Opcode.BINARY, amid)
    assert_all_said(source, before[:-1], 15_000)
    for chunk in chunks[3:]:
        talk.say(chunk)
    items = talk.eof()
    assert plain_of(items).count(amid) == 1


def test_a_message_in_fragments_is_speech_too() -> None:
    """The ping between them does not wait."""
    audio = SOURCES["wav"][:30_000]
    ping = Frame(Opcode.PING, b"now")
    talk = Talk()
    talk.feed(
        fragmented(Opcode.BINARY, [audio[:7], audio[7:9000], audio[9000:15_000]], [ping]).wire
    )
    talk.feed(fragmented(Opcode.BINARY, [audio[15_000:15_001], audio[15_001:]], [ping]).wire)
    items = talk.eof()
    assert [item.payload for item in items if item.opcode is Opcode.PING] == [b"now"] * 2
    assert items[0].opcode is Opcode.PING
    assert_all_said("wav", [item for item in items if item.opcode is not Opcode.PING], 30_000)


@pytest.mark.parametrize("size", [9000, 9001])
def test_a_message_that_is_too_large_comes_behind_what_was_said(size: int) -> None:
    """And those behind it go on where it ended."""
    settings = AudioSettings(max_audio_bytes=8192, pcm_layout=RAW.pcm_layout, opus_raw=True)
    speech_on = PCM[100_000:]
    talk = Talk(settings)
    talk.say(speech_on[:5000])
    talk.say(speech_on[5000 : 5000 + size])
    for chunk in cut(speech_on[5000 + size :][:30_001], 4000):
        talk.say(chunk)
    items = talk.eof()
    assert [item.is_opus for item in items[:4]] == [True, True, False, True]
    assert plain_of(items) == [speech_on[5000:][:size], *plain_of(items)[1:]]
    assert len(b"".join(plain_of(items))) <= size + 2
    expected = spoken.decoded(
        speech_on[:5000] + speech_on[5000 + size + size % 2 :][:30_000], raw=PCM_RATE
    )
    heard = opus_of(items)
    assert abs(len(heard) - len(expected)) <= 6
    assert loudness(heard) == pytest.approx(loudness(expected), rel=0.1), "cut amid a sample"


@pytest.mark.parametrize("source", ["mp3-48k", "mp3-128k", "aac"])
def test_a_message_that_completes_no_frame_loses_nothing(source: str) -> None:
    """Nothing tells whether it is audio: it passes as it came, and so does what follows it."""
    audio, at = SOURCES[source][:40_000], 0
    talk = Talk()
    for size in (4096, 50, 4096, 1, 1, 4096, 100, 20, 30_000):
        talk.say(audio[at : at + size])
        at += size
    items = talk.eof()
    plain = plain_of(items)
    assert b"".join(plain) == audio[original_size(items) :]
    assert {50, 1, 100, 20} <= set(map(len, plain))


@pytest.mark.parametrize("size", [16_384])
@pytest.mark.parametrize(
    ("files", "lasts"),
    [
        ([wav(PCM[:100_000]), wav(PCM[:100_000], 48_000)], 50_000 / PCM_RATE + 50_000 / RATE),
        (
            [streamed_wav(PCM[:100_000]), streamed_wav(PCM[:50_000], 8000)],
            50_000 / PCM_RATE + 25 / 8,
        ),
        ([wav(PCM[:100_000]), wav(PCM[:100_000])], 100_000 / PCM_RATE),
        ([wav(PCM[:100_000]), MP3[:14_400]], 50_000 / PCM_RATE + 2.4),
        ([MP3[:14_400], wav(PCM[:100_000])], 2.4 + 50_000 / PCM_RATE),
        ([MP3[:14_400], MP3[:28_800]], 7.2),
        ([SOURCES["mp3-128k"]] * 2, 24.0),
        ([SOURCES["mp3-128k"], SOURCES["aac"], MP3], 12 + 12.0744 + 12.048),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, list) else f"{value:.2f}s",
)
@pytest.mark.parametrize("pause", [False, True], ids=["", "pause"])
def test_one_recording_after_the_other(
    files: list[bytes], lasts: float, size: int, pause: bool
) -> None:
    talk = Talk()
    for file in files:
        for chunk in cut(file, size):
            talk.say(chunk)
        if pause:
            talk.pause()
    items = talk.eof()
    plain = sum(map(len, plain_of(items)))
    assert plain <= 2 * len(files), "a half sample at most"
    assert seconds(opus_of(items)) == pytest.approx(lasts, abs=0.04 * len(files))


def test_stereo_after_mono() -> None:
    """The reader is told of it where the segment starts."""
    both = np.repeat(np.frombuffer(PCM[100_000:120_000], "<i2"), 2).tobytes()
    items = spoken.play([wav(PCM[100_000:120_000]), wav(both, channels=2)]).eof()
    sizes = {1: 0, 2: 0}
    for item in items:
        assert item.samples is not None
        sizes[item.samples.shape[1]] += len(item.samples)
    assert sizes[1] == pytest.approx(sizes[2], abs=1)
    assert sizes[1] == pytest.approx(10_000 * RATE / PCM_RATE, abs=1)


# What does not become Opus.


@pytest.mark.parametrize(
    ("settings", "becomes"),
    [
        (RAW, True),
        (AudioSettings(pcm_layout=RAW.pcm_layout), False),
        (AudioSettings(opus_raw=True), False),
        (AudioSettings(), False),
    ],
    ids=["named and allowed", "named", "allowed", "neither"],
)
def test_raw_samples_become_opus_only_where_the_operator_says_what_they_are(
    settings: AudioSettings, becomes: bool
) -> None:
    """Never by a guess, which may be wrong: this would be heard."""
    chunks = cut(PCM[100_000:200_000], 4096)
    items = spoken.play(chunks, settings).eof()
    assert any(item.is_opus for item in items) is becomes
    assert plain_of(items) == ([] if becomes else chunks)


def test_what_follows_the_end_of_a_wav_is_a_guess() -> None:
    file = wav(PCM[100_000:120_000])
    talk = Talk(AudioSettings(opus_raw=True))
    talk.say(file)
    later = cut(PCM[120_000:150_000], 5000)
    for chunk in later:
        talk.say(chunk)
    items = talk.eof()
    assert plain_of(items) == later
    assert original_size(items) == len(file)


def edge_tts(audio: bytes) -> bytes:
    head = b"X-RequestId:1\r\nContent-Type:audio/mpeg\r\nPath:audio\r\n"
    return len(head).to_bytes(2, "big") + head + audio


@pytest.mark.parametrize(
    "sent",
    [cut(OGG, 4096), [edge_tts(part) for part in cut(MP3, 1440)], [edge_tts(MP3), edge_tts(b"")]],
    ids=["Ogg Opus", "edge-tts", "edge-tts, long"],
)
def test_opus_and_what_wraps_its_audio_pass(sent: list[bytes]) -> None:
    talk = spoken.play(sent)
    talk.eof()
    unchanged = talk.out == bytes(talk.sent)
    assert unchanged


# Rests and failures.


def test_what_gains_nothing_is_left_alone_for_a_while() -> None:
    """Three stretches too short to pay, and the next eight messages pass, be they what they may."""
    talk = Talk(RAW)
    small, large = cut(PCM[100_000:103_000], 300), cut(PCM[100_000:180_000], 4000)
    for chunk in small[:3]:
        talk.say(chunk)
        talk.pause()
    for chunk in large:
        talk.say(chunk)
    items = talk.eof()
    assert plain_of(items) == [*small[:3], *large[:8]]
    assert original_size(items) == sum(map(len, large[8:]))


def test_another_kind_of_audio_ends_a_rest() -> None:
    talk = Talk(RAW)
    for chunk in cut(PCM[100_000:103_000], 300):
        talk.say(chunk)
        talk.pause()
    talk.say(wav(PCM[100_000:120_000], 16_000))
    assert any(item.is_opus for item in talk.eof())


class Failing(Converter):
    """Fails once it has been asked so many times."""

    left = 0

    def convert(self, frame: Any) -> list[Any]:
        Failing.left -= 1
        if Failing.left < 0:
            raise ValueError("broken")
        return super().convert(frame)


@OF_ALL
@pytest.mark.parametrize("after", [0, 1, 5, 20])
def test_a_failing_encoder_is_given_up_after_three(
    source: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one warning; and what comes from then on passes."""
    monkeypatch.setattr(opus, "Converter", Failing)
    talk = Talk(settings_for(source))
    chunks = cut(SOURCES[source][:60_000], 3000)
    Failing.left = after
    for n in range(6):
        talk.say(SOURCES[source][:5000])
        talk.pause()
        Failing.left = min(Failing.left, after)
        talk.tell(str(n))
    before = len(talk.out)
    for chunk in chunks:
        talk.say(chunk)
    assert talk.filter.warnings == ["opus is off for this connection: opus: broken"]
    items = talk.eof()
    assert talk.counters.errors == 3
    assert texts_of(items) == [str(n) for n in range(6)]
    assert plain_of(spoken.hear(talk.out[before:])) == chunks
