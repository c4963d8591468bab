"""The end of what was said is sent when nothing of the backend's is under way on the wire."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from tests.websocket.strategies import (
    PCM,
    Item,
    Player,
    binary,
    events_of,
    fragmented,
    message,
    read_frames,
    same,
    wire_of,
)
from tests.websocket.test_lossless import WAV

SPOKEN = binary(WAV + PCM[100_000:112_000])
TEXT = message(Opcode.TEXT, b"x" * 1000)
PING = message(Opcode.PING, b"p" * 100)
SPLIT = fragmented(Opcode.TEXT, [b"a" * 500, b"b" * 500])
CLOSE = message(Opcode.CLOSE, b"\x03\xe8bye")
MASKED = b"\x82\x85maskhello"


def speaking() -> Player:
    """A player with speech under way, whose end is still to come."""
    player = Player(accepted=("opus",))
    player.feed(SPOKEN.wire)
    assert player.filter.is_speaking
    return player


def heard(out: bytes) -> tuple[list[tuple[Opcode, bytes]], int]:
    """What a client reads besides our pairs, as `websockets` reads it; and how many pairs."""
    frames = read_frames(out)
    assert same(wire_of(frames), out)
    others = []
    pairs = 0
    events = iter(events_of(frames))
    for opcode, payload in events:
        if opcode is Opcode.TEXT and b'"algorithm":"opus"' in payload:
            assert next(events)[0] is Opcode.BINARY
            pairs += 1
        else:
            others.append((opcode, payload))
    return others, pairs


@pytest.mark.parametrize("item", [TEXT, PING, SPLIT], ids=["text", "ping", "fragmented text"])
def test_a_pause_within_a_frame_or_a_message_tears_nothing(item: Item) -> None:
    for at in range(1, len(item.wire), 37):
        player = speaking()
        player.feed(item.wire[:at])
        player.pause()
        player.feed(item.wire[at:])
        others, pairs = heard(player.eof())
        assert others == [(item.opcode, item.payload or bytes(item.frames[0].data))]
        assert pairs == 2, "the end of what was said did not come"


@pytest.mark.parametrize("end", [CLOSE.wire, MASKED], ids=["close", "fault"])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_the_end_of_speech_stands_in_no_message_that_is_cut_off(opcode: Opcode, end: bytes) -> None:
    """Only control frames may stand within a message (RFC 6455 section 5.4)."""
    first = Frame(opcode, b"a" * 500, fin=False)
    player = speaking()
    player.feed(first.serialize(mask=False) + end)
    out = player.eof()
    cut_off = first.serialize(mask=False) + end
    assert out.endswith(cut_off)
    others, pairs = heard(out.removesuffix(cut_off))
    assert others == []
    assert pairs >= (2 if opcode is Opcode.BINARY else 1)


def test_the_backends_own_pair_stays_one() -> None:
    """The text has passed when its binary message comes, and speech was still to end."""
    player = speaking()
    own = [message(Opcode.TEXT, b'{"type":"audio_chunk_compressed"}'), binary(b"own")]
    player.feed(own[0].wire + own[1].wire)
    assert own[0].wire + own[1].wire in player.eof()
