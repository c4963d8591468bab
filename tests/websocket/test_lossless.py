"""Several lossless codecs on one connection: which is tried on what, and what is sent of it."""

from __future__ import annotations

import gzip
import math
import random
import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from proxy.audio.algorithms import LOSSLESS
from proxy.control.flags import Flags
from proxy.websocket import metadata
from tests.support import speech
from tests.support.flac import decode_flac
from tests.websocket.strategies import (
    PCM,
    Item,
    Player,
    binary,
    cut,
    events_of,
    examples,
    is_control,
    lags,
    message,
    policies,
    read_frames,
    read_sizes,
    same,
    streams,
)

BOTH = ("flac", "gzip")
GZIP = ("gzip",)
LOUD = PCM[100_000:104_096]
MP3 = speech("speech-44100-128k.mp3")[4096:]  # without the tags at its start, which gzip likes
ULAW = speech("speech-8000.ulaw")
READS = pytest.mark.parametrize("sizes", [[10**6], [1000], [4], [3, 50], [1]], ids=str)


def chunks(audio: bytes, size: int = 4096) -> list[Item]:
    """Whole ones only."""
    return [binary(audio[at : at + size]) for at in range(0, len(audio) - size + 1, size)]


def noise(size: int = 4096) -> Item:
    return binary(random.Random(size).randbytes(size))


def wav_header(rate: int = 22_050, channels: int = 1, width: int = 2) -> bytes:
    """Of a writer who streams, and does not know the size."""
    layout = (16, 1, channels, rate, rate * channels * width, channels * width, 8 * width)
    unknown = struct.pack("<I", 0xFFFFFFFF)
    return b"RIFF" + unknown + b"WAVEfmt " + struct.pack("<IHHIIHH", *layout) + b"data" + unknown


WAV = wav_header()
SQUARE = (b"\xff\x7f" * 50 + b"\x00\x80" * 50) * 41
SINE = struct.pack("<4096h", *(round(20_000 * math.sin(n / 20)) for n in range(4096)))


def wire(sent: Iterable[Item]) -> bytes:
    return b"".join(item.wire for item in sent)


def play(
    sent: Iterable[Item],
    accepted: Sequence[str] = BOTH,
    sizes: Sequence[int] = (10**9,),
    player: Player | None = None,
) -> Player:
    player = player or Player(accepted=accepted)
    for read in cut(wire(sent), sizes):
        player.feed(read)
    return player


def tries(player: Player) -> list[str]:
    """By which algorithms chunks were encoded, one after the other."""
    return list(chain.from_iterable(player.tried))


# The judge.


class Heard(NamedTuple):
    """A message that the client hears."""

    opcode: Opcode
    payload: bytes
    algorithm: str | None = None
    """Of the pair that stood for it."""
    size: int = 0
    """Bytes of that pair on the wire."""


def hear(out: bytes) -> tuple[list[Heard], list[tuple[Opcode, bytes]]]:
    """Messages, their pairs decoded; and control frames."""
    heard: list[Heard] = []
    controls = []
    info = None
    for opcode, data in events_of(read_frames(out)):
        if info is not None:
            assert opcode is Opcode.BINARY, "something stands within a pair"
            decode = (
                decode_flac if info.algorithm == "flac" else lambda data, _: gzip.decompress(data)
            )
            payload = decode(data, info.extra)
            assert (info.original_size, info.compressed_size) == (len(payload), len(data))
            text = message(Opcode.TEXT, heard.pop().payload)
            size = len(text.wire) + len(binary(data).wire)
            heard.append(Heard(opcode, payload, info.algorithm, size))
            info = None
        elif opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
            controls.append((opcode, data))
        else:
            info = metadata.parse(data.decode()) if opcode is Opcode.TEXT else None
            heard.append(Heard(opcode, data))
    assert info is None
    return heard, controls


def check(player: Player, sent: Iterable[Item], flags: Flags | None = None) -> list[str | None]:
    """Everything is heard as it was sent, and each pair pays. Returns the chunks' algorithms."""
    items = [item for item in sent if not is_control(item.frames[0])]
    frames = [frame for item in sent for frame in item.frames]
    min_gain = (flags or Flags()).min_gain
    heard, controls = hear(player.eof())
    assert controls == [(f.opcode, bytes(f.data)) for f in frames if is_control(f)]
    for got, item in zip(heard, items, strict=True):
        assert got.opcode is item.opcode
        assert same(got.payload, item.payload)
        if got.algorithm is not None:
            original = len(item.data_wire)
            assert got.size < original
            assert original - got.size >= min_gain * original
    assert player.counters.wire_bytes <= player.counters.wire_original_bytes
    return [got.algorithm for got in heard if got.opcode is Opcode.BINARY]


@examples(60)
@given(streams, policies, read_sizes, lags, st.permutations(BOTH))
def test_any_stream_is_heard_as_it_was_sent(
    sent: list[Item], flags: Flags, sizes: list[int], waits: list[int], accepted: list[str]
) -> None:
    player = Player(flags, accepted)
    for n, read in enumerate(cut(wire(sent), sizes)):
        player.feed(read, waits[n % len(waits)])
    check(player, sent, flags)


# The contest.


@pytest.mark.parametrize("accepted", [BOTH, BOTH[::-1]])
@pytest.mark.parametrize(("size", "saves"), [(1024, 0.3), (4096, 0.44), (16_384, 0.46)])
def test_flac_wins_on_speech_whatever_the_clients_order(
    accepted: tuple[str, ...], size: int, saves: float
) -> None:
    """They give back the same, so the smaller is sent; and the loser is seldom tried again."""
    sent = chunks(PCM, size)
    player = play(sent, accepted)
    assert check(player, sent).count("flac") > 0.95 * len(sent)
    assert player.counters.wire_bytes < (1 - saves) * player.counters.wire_original_bytes
    tried = tries(player)
    assert tried.count("flac") > 0.95 * len(sent)
    assert 1 <= tried.count("gzip") <= 5 + len(sent) / 64


@pytest.mark.parametrize("accepted", [BOTH, BOTH[::-1]])
@pytest.mark.parametrize(
    "payload",
    [LOUD, bytes(4096), PCM[:8193], SINE, WAV + bytes(4096), WAV + SQUARE, WAV + LOUD],
    ids=["speech", "silence", "pause", "sine", "silent WAV", "square wave", "spoken WAV"],
)
def test_the_smaller_is_sent(accepted: tuple[str, ...], payload: bytes) -> None:
    alone = {name: play([binary(payload)], (name,)).eof() for name in BOTH}
    smallest = min(alone.values(), key=len)
    assert len(smallest) < len(payload) / 1.5
    player = play([binary(payload)], accepted)
    assert player.tried == [accepted]
    assert len(player.eof()) == len(smallest)


def test_where_flac_can_do_nothing_gzip_does_the_work() -> None:
    sent = chunks(bytes(2000) + ULAW, 16_384)
    player = play(sent)
    assert set(check(player, sent)) == {"gzip"}
    assert set(tries(player)) == {"gzip"}


def test_flac_alone_keeps_every_byte_around_its_samples() -> None:
    """A WAV's header, and samples that are cut anywhere."""
    stream = wav_header() + LOUD * 4
    sent = [binary(stream[at : at + 2047]) for at in range(0, len(stream), 2047)]
    player = play(sent, ("flac",))
    assert check(player, sent).count("flac") >= len(sent) - 1


def test_small_jobs_are_those_that_are_small_for_each_codec() -> None:
    limits = [LOSSLESS[name].inline_size for name in BOTH]
    for size, small in ((min(limits), True), (min(limits) + 1, False)):
        audio = PCM[100_000:][:size]
        _, job = Player(accepted=BOTH).filter.feed(binary(audio).wire)
        assert job is not None
        assert job.small is small
    _, job = Player(accepted=GZIP).filter.feed(binary(PCM[: min(limits) + 1]).wire)
    assert job is not None
    assert job.small


def test_what_the_operator_allows_counts_from_the_next_chunk_on() -> None:
    sent = chunks(PCM[100_000:], 16_384)[:4]
    player = Player(accepted=BOTH)
    for item, allowed in zip(sent, (BOTH, GZIP, ("opus",), ("flac",)), strict=True):
        player.flags.current = Flags(algorithms=allowed)
        play([item], player=player)
    assert check(player, sent) == ["flac", "gzip", None, "flac"]


# Rests.

TRIED_ON_MP3 = [0, 1, 2, 11, 28, 61, 126, 191, 256, 321, 386, 451]
"""Three, then the first after 8, 16, 32 and 64 that pass."""


@READS
@pytest.mark.parametrize("accepted", [GZIP, BOTH])
def test_what_is_compressed_already_is_seldom_tried(
    accepted: tuple[str, ...], sizes: list[int]
) -> None:
    """Of 500 chunks of MP3, twelve might be encoded; most of these are spared by a look at them."""
    size = 2048 if len(sizes) == 1 and sizes[0] < 10 else 4096
    sent = (chunks(MP3, size) * 11)[:500]
    player = Player(accepted=accepted)
    tried = []
    for n, item in enumerate(sent):
        before = len(player.tried)
        play([item], sizes=sizes, player=player)
        tried += [n] * (len(player.tried) - before)
    assert same(player.eof(), wire(sent))
    if sizes[0] >= 1000:
        assert set(tried) <= set(TRIED_ON_MP3)
    assert tried[:3] == TRIED_ON_MP3[:3]
    assert len(tried) <= len(TRIED_ON_MP3)
    assert set(tries(player)) == {"gzip"}
    assert player.counters.no_gain == len(tried)


@pytest.mark.parametrize("accepted", [GZIP, BOTH])
@pytest.mark.parametrize("due", TRIED_ON_MP3[3:8])
def test_a_try_that_is_due_is_spared_only_where_it_is_hopeless(
    accepted: tuple[str, ...], due: int
) -> None:
    """What gzip likes, and nothing tells of, passes as MP3 does until the next try is due."""
    dense = (chunks(MP3) * 6)[3:]
    dense = [item for item in dense if len(set(item.payload[256:512])) >= 128]
    likes = binary(b"Great job! " * 400)
    for at, found in ((due, "gzip"), (due - 1, None)):
        sent = [*(chunks(MP3)[:3] + dense)[:at], likes]
        player = play(sent, accepted)
        heard, _ = hear(player.eof())
        assert [each.payload for each in heard] == [item.payload for item in sent]
        assert heard[-1].algorithm == found
        assert len(player.tried) == 3 + (found is not None)


@pytest.mark.parametrize("accepted", [GZIP, BOTH])
def test_what_passes_between_chunks_shortens_no_rest(accepted: tuple[str, ...]) -> None:
    """Text, pings and what the backend sends compressed itself."""
    own = message(Opcode.TEXT, b'{"type":"audio_chunk_compressed"}')
    between = [message(Opcode.TEXT, b"hello"), message(Opcode.PING, b"?"), own, noise(5000)]
    sent = [item for chunk in chunks(MP3)[:30] for item in (*between, chunk)]
    player = play(sent, accepted)
    assert same(player.eof(), wire(sent))
    assert len(player.tried) <= TRIED_ON_MP3.index(61)


@pytest.mark.parametrize("accepted", [GZIP, BOTH, ("flac",)])
def test_noise_never_grows(accepted: tuple[str, ...]) -> None:
    sent = [binary(random.Random(n).randbytes(3000 + n)) for n in range(200)]
    player = play(sent, accepted)
    assert same(player.eof(), wire(sent))
    assert len(player.tried) < 20


@READS
@pytest.mark.parametrize("accepted", [GZIP, BOTH])
@pytest.mark.parametrize("alone", [False, True], ids=["with its audio", "alone"])
def test_another_kind_of_audio_is_noticed_at_once(
    accepted: tuple[str, ...], alone: bool, sizes: list[int]
) -> None:
    """A WAV after MP3, also where its header comes in a message of its own, too small to count."""
    header, audio = wav_header(), chunks(PCM[100_000:], 16_384)[0].payload
    wav = [binary(header), binary(audio)] if alone else [binary(header + audio)]
    resting = chunks(MP3)[:20]
    player = play([*resting, *wav], accepted, sizes)
    algorithms = check(player, [*resting, *wav])
    assert algorithms[:20] == [None] * 20
    assert algorithms[20:] == [None] * alone + [accepted[0]]


@READS
def test_another_layout_is_noticed_at_once(sizes: list[int]) -> None:
    """The next WAV of the same connection has 24 bits, and its header comes alone."""
    noises = [binary(wav_header()), *(noise(5000 + n) for n in range(5))]
    quiet = bytes(byte for at in range(100_000, 108_192, 2) for byte in (0, *PCM[at : at + 2]))
    sent = [*noises, binary(wav_header(width=3)), binary(quiet)]
    player = play(sent, ("flac",), sizes)
    assert check(player, sent) == [None] * 7 + ["flac"]
