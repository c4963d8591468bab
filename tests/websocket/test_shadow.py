"""Shadow mode: the client gets what the backend sent, and what would be saved is counted."""

from __future__ import annotations

import pytest
from websockets.frames import Frame
from websockets.protocol import Protocol, Side

from proxy.audio.settings import AudioSettings
from proxy.control.flags import Flags
from tests.support import pcm, speech
from tests.support.spoken import Talk

CASES: dict[str, tuple[bytes, tuple[str, ...], AudioSettings]] = {
    "gzip of PCM": (pcm(), ("gzip",), AudioSettings()),
    "FLAC of PCM": (pcm(), ("flac", "gzip"), AudioSettings()),
    "FLAC of a WAV": (speech("speech-22050-s16.wav"), ("flac",), AudioSettings()),
    "Opus of a WAV": (speech("speech-22050-s16.wav"), ("opus",), AudioSettings()),
    "Opus of MP3": (speech("speech-24000-48k.mp3"), ("opus", "gzip"), AudioSettings()),
    "Opus of AAC": (speech("speech-48k.aac"), ("opus",), AudioSettings()),
}


def talk(name: str, *, shadow: bool, pause_every: int = 40) -> Talk:
    """A lesson in chunks of 4 KiB, texts between them, with a pause every now and then."""
    audio, accepted, settings = CASES[name]
    talk = Talk(settings, accepted, Flags(shadow=shadow))
    for number, at in enumerate(range(0, len(audio), 4096)):
        talk.say(audio[at : at + 4096])
        if number % 7 == 0:
            talk.tell(f"word {number}")
        if number % pause_every == pause_every - 1:
            talk.pause()
    talk.eof()
    return talk


@pytest.mark.parametrize("name", CASES)
def test_what_it_would_save_is_what_it_saves(name: str) -> None:
    shadow, real = talk(name, shadow=True), talk(name, shadow=False)
    assert shadow.out == shadow.sent, "the client gets what the backend sent"
    assert real.sent == shadow.sent
    saved = real.counters.wire_original_bytes - real.counters.wire_bytes
    assert saved > 0.05 * len(real.sent)
    assert shadow.counters.shadow_saved_bytes == pytest.approx(saved, rel=0.01)
    for algorithm, counted in real.counters.by_algorithm.items():
        assert shadow.counters.algorithm(algorithm).shadow == counted.chunks
        assert shadow.counters.algorithm(algorithm).chunks == 0
    assert real.counters.shadow_saved_bytes == 0


@pytest.mark.parametrize("name", CASES)
def test_a_flip_of_the_mode_loses_and_doubles_nothing(name: str) -> None:
    """What is sent is sent once: each message encoded, or as it came. Several answers, and the
    mode flips in the midst of each."""
    audio, accepted, settings = CASES[name]
    talk, answers = Talk(settings, accepted), 4
    for answer in range(answers):
        for number, at in enumerate(range(0, len(audio), 4096)):
            talk.say(audio[at : at + 4096])
            if number == 3 + answer:
                talk.set(shadow=answer % 2 == 0)
            if number % 5 == 4:
                talk.pause()
        talk.pause()
    talk.eof()
    encoded = sum(one.original_bytes for one in talk.counters.by_algorithm.values())
    assert encoded + sum(map(len, plain_of(talk))) == answers * len(audio)
    assert talk.counters.shadow_saved_bytes > 0
    assert talk.counters.wire_bytes < talk.counters.wire_original_bytes


def plain_of(talk: Talk) -> list[bytes]:
    """The binary messages that came without metadata."""
    found, announced = [], False
    for opcode, data in frames_of(talk.out):
        if opcode == 2 and not announced:
            found.append(data)
        announced = opcode == 1 and b"audio_chunk_compressed" in data
    return found


def frames_of(wire: bytes) -> list[tuple[int, bytes]]:
    """A server's frames, by `websockets`' parser."""
    protocol = Protocol(Side.CLIENT, max_size=None)
    protocol.receive_data(wire)
    events = protocol.events_received()
    return [(event.opcode, bytes(event.data)) for event in events if isinstance(event, Frame)]
