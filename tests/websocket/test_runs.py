"""Chunks encoded in one go: what is sent is what would have been, had each been looked at alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from proxy.audio.algorithms import LOSSLESS
from proxy.audio.codec import Encoded
from proxy.audio.counters import Counters
from proxy.audio.stream import Chunk
from proxy.control.flags import Flags, LiveFlags
from proxy.websocket.jobs import RunJob
from proxy.websocket.lossless import Lossless
from tests.support import speech
from tests.websocket.strategies import (
    PCM,
    Item,
    Player,
    binary,
    cut,
    examples,
    fragmented,
    message,
    read_sizes,
    same,
)

WAV = speech("speech-22050-s16.wav")
MP3 = speech("speech-24000-48k.mp3")
NOISE = zlib.compress(PCM, 9)
KINDS = {"pcm": PCM, "wav": WAV, "mp3": MP3, "noise": NOISE, "silence": bytes(200_000)}


class Rival:
    """A codec without memory, so that two plays can be compared; takes samples only."""

    name = "flac"
    inline_size = 8192

    def takes(self, chunk: Chunk) -> bool:
        return chunk.layout is not None

    def encode_chunk(self, chunk: Chunk, level: int) -> Encoded:
        extra = {"prefix": "A" * (chunk.start % 3)} if chunk.start else None
        return Encoded(zlib.compress(chunk.data, 1), extra)


@contextmanager
def rival() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSLESS, "flac", Rival())
        yield


@contextmanager
def one_by_one() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lossless, "settle", lambda *_: None)
        patch.setattr(Lossless, "steady", lambda *_: None)
        yield


def played(
    sent: Sequence[Item], reads: Sequence[int], accepted: Sequence[str], flags: Flags
) -> tuple[bytes, Counters]:
    player = Player(flags, accepted)
    for read in cut(b"".join(item.wire for item in sent), reads):
        player.feed(read)
    return player.eof(), player.counters


@st.composite
def talks(draw: st.DrawFn) -> list[Item]:
    """Stretches of audio of one kind and in chunks of one size, a few other messages between."""
    sent: list[Item] = []
    for _ in range(draw(st.integers(1, 4))):
        audio = KINDS[draw(st.sampled_from(sorted(KINDS)))]
        size = draw(st.sampled_from((600, 1024, 1025, 4096, 8000)))
        start = draw(st.sampled_from((0, 0, 100_001)))
        count = draw(st.integers(1, 40))
        pieces = [audio[at : at + size] for at in range(start, len(audio), size)][:count]
        sent += map(binary, pieces)
        sent += draw(
            st.lists(
                st.sampled_from(
                    (
                        message(Opcode.TEXT, b"hello"),
                        message(Opcode.PING, b"1"),
                        fragmented(Opcode.BINARY, [PCM[:2000], PCM[2000:3000]]),
                        binary(b"RIFFxxxxWAVE" + bytes(2000)),
                    )
                ),
                max_size=2,
            )
        )
    return sent


@examples(150)
@given(
    talks(),
    read_sizes,
    st.sampled_from((("gzip",), ("flac",), ("flac", "gzip"), ("gzip", "flac"))),
    st.sampled_from((0.03, 0.0, 0.3)),
    st.booleans(),
)
def test_a_run_is_as_good_as_one_by_one(
    sent: list[Item], reads: list[int], accepted: tuple[str, ...], min_gain: float, shadow: bool
) -> None:
    flags = Flags(min_gain=min_gain, shadow=shadow)
    reads = [*reads, 3000]  # or it takes minutes where all are of a byte
    with rival():
        together = played(sent, reads, accepted, flags)
        with one_by_one():
            alone = played(sent, reads, accepted, flags)
    assert same(together[0], alone[0])
    assert together[1] == alone[1]


def read_by_read(
    sent: Sequence[Item], pieces: Sequence[int], accepted: Sequence[str], flags: Sequence[Flags]
) -> tuple[bytes, Counters, int]:
    """Most messages each in a read of its own; `flags` are in force in turn. `pieces`: the reads
    that a message comes in, 1 for most."""
    live = LiveFlags(flags[0])
    player = Player(accepted=accepted, live=live)
    for number, item in enumerate(sent):
        live.current = flags[number * len(flags) // len(sent)]
        step = -(-len(item.wire) // pieces[number % len(pieces)])
        for at in range(0, len(item.wire), step):
            player.feed(item.wire[at : at + step])
    return player.eof(), player.counters, player.repeated


@examples(150)
@given(
    talks(),
    st.lists(st.sampled_from((1, 1, 1, 1, 1, 1, 1, 2, 3)), min_size=1, max_size=30),
    st.sampled_from((("gzip",), ("flac",), ("flac", "gzip"), ("gzip", "flac"))),
    st.lists(
        st.sampled_from(
            (Flags(), Flags(), Flags(enabled=False), Flags(shadow=True), Flags(min_size=4097))
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_a_message_like_the_one_before_is_dealt_with_as_if_it_were_looked_at(
    sent: list[Item], pieces: list[int], accepted: tuple[str, ...], flags: list[Flags]
) -> None:
    with rival():
        repeated = read_by_read(sent, pieces, accepted, flags)
        with one_by_one():
            alone = read_by_read(sent, pieces, accepted, flags)
    assert alone[2] == 0
    assert same(repeated[0], alone[0])
    assert repeated[1] == alone[1]


def test_speech_in_reads_of_its_own_is_repeated_and_a_text_between_ends_nothing() -> None:
    """Of 60 chunks the first is looked at, and some behind one that gained nothing at all."""
    sent = []
    for at in range(0, 60 * 4096, 4096):
        sent += [binary(PCM[at : at + 4096]), message(Opcode.TEXT, b"a word")]
    wire, counters, repeated = read_by_read(sent, [1], ("gzip",), [Flags()])
    assert repeated > 45
    assert counters.algorithm("gzip").chunks > 30
    assert same(wire, read_by_read(sent, [10], ("gzip",), [Flags()])[0])


def jobs_of(sent: Sequence[Item], accepted: Sequence[str] = ("gzip",)) -> list[Any]:
    """All jobs that come of messages which come in one read."""
    player = Player(accepted=accepted)
    _, job = player.filter.feed(b"".join(item.wire for item in sent))
    jobs = []
    while job is not None:
        jobs.append(job)
        _, job = player.filter.complete(job, job.run())
    return jobs


def sizes_of(jobs: Sequence[Any]) -> list[int]:
    """How many chunks each job encodes."""
    return [job.segment.count if isinstance(job, RunJob) else 1 for job in jobs]


def test_chunks_that_came_together_are_encoded_together() -> None:
    """The first is looked at alone; then as many as may rest, were they to gain nothing."""
    loud = PCM[60_000:]
    jobs = jobs_of([binary(loud[at : at + 4096]) for at in range(0, 30 * 4096, 4096)])
    sizes = sizes_of(jobs)
    assert sum(sizes) == 30
    assert max(sizes) == 11
    assert len(sizes) < 12


@pytest.mark.parametrize(("size", "most"), [(65_536, 4), (65_540, 3)])
def test_of_large_chunks_few_are_encoded_together(size: int, most: int) -> None:
    """A job is bounded by its bytes: others get their turn."""
    sizes = sizes_of(jobs_of([binary(PCM[at : at + size]) for at in range(0, 6 * size, size)]))
    assert sum(sizes) == 6
    assert max(sizes) == most


def test_a_run_ends_before_the_end_of_a_wav() -> None:
    """Of the chunk in which the samples end, more must be known than their size."""
    begin = WAV.index(b"data") + 8
    short = WAV[: begin - 4] + (40_000).to_bytes(4, "little") + WAV[begin:]
    chunks = [short[at : at + 4096] for at in range(0, 15 * 4096, 4096)]
    runs = [job for job in jobs_of([*map(binary, chunks)]) if isinstance(job, RunJob)]
    in_wav = sum(run.segment.count for run in runs if run.chunk.format == "wav")
    assert 1 + in_wav == (begin + 40_000) // 4096
