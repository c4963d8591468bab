from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from proxy.audio.codec import Encoded
from proxy.audio.counters import Counters
from proxy.audio.gzip import GZIP
from proxy.control.flags import Flags
from proxy.websocket.metadata import build_pair_head
from tests.support import SPEECH, speech
from tests.websocket.strategies import (
    MARKER,
    MAX,
    PCM,
    Item,
    Player,
    assert_same,
    binary,
    cut,
    data_frames,
    examples,
    fragmented,
    is_control,
    items,
    lags,
    message,
    outcome,
    pair_of,
    play,
    policies,
    read_frames,
    read_sizes,
    same,
    streams,
    wire_of,
)

CHUNK = binary(PCM[:4096])
PING = message(Opcode.PING, b"12345")
CLOSE = message(Opcode.CLOSE, b"\x03\xe8done")
DEFAULT = Flags()
PAIR = wire_of(pair_of(CHUNK.payload, DEFAULT))


def wire(*sent: Item) -> bytes:
    return b"".join(item.wire for item in sent)


def under(flags: Flags, sent: Iterable[Item]) -> list[tuple[Item, Flags]]:
    return [(item, flags) for item in sent]


# Any stream, in any reads.


def check_stream(sent: list[Item], flags: Flags, sizes: list[int], waits: list[int]) -> None:
    stream = wire(*sent)
    out, counters = play(stream, flags, sizes, waits)
    expected = outcome(under(flags, sent), out)
    assert_same(out, expected.frames)

    if not expected.rested:
        assert same(out, play(stream, flags)[0]), "the output depends on how the stream was cut"
    original = sum(len(item.payload) for item in expected.paired)
    encoded = sum(len(GZIP.encode(item.payload, flags.level)) for item in expected.paired)
    total = counters.algorithm("gzip")
    assert (total.chunks, total.original_bytes, total.compressed_bytes) == (
        len(expected.paired),
        original,
        encoded,
    )
    assert (counters.wire_original_bytes, counters.wire_bytes) == (len(stream), len(out))
    assert counters.errors == 0


@examples(60)
@given(streams, policies, read_sizes, lags)
@example([CHUNK, fragmented(Opcode.BINARY, [PCM[:MAX], b"", b""])], Flags(), [3], [1])
def test_any_stream_in_any_reads(
    sent: list[Item], flags: Flags, sizes: list[int], waits: list[int]
) -> None:
    check_stream(sent, flags, sizes, waits)


@pytest.mark.deep
@examples(10_000)
@given(streams, policies, read_sizes, lags)
def test_any_stream_in_any_reads_for_long(
    sent: list[Item], flags: Flags, sizes: list[int], waits: list[int]
) -> None:
    check_stream(sent, flags, sizes, waits)


def test_one_byte_at_a_time() -> None:
    ping = PING.frames
    sent = [
        message(Opcode.TEXT, '{"answer":"naïve"}'.encode()),
        *(binary(PCM[:size]) for size in (0, 1, 125, 126, 1023, 1024, 65535, 65536, MAX, MAX + 1)),
        PING,
        fragmented(Opcode.BINARY, [PCM[:3000], b"", PCM[3000:9000]], between=ping),
        fragmented(Opcode.TEXT, [MARKER[:9], MARKER[9:]], between=ping),
        CHUNK,
        CHUNK,
        fragmented(Opcode.BINARY, [bytes(500), bytes(523)]),  # too small, as it turns out
        CLOSE,
    ]
    whole = outcome(under(DEFAULT, sent), play(wire(*sent))[0])
    assert (len(whole.paired), whole.rested) == (6, False)
    check_stream(sent, Flags(), [1], [0, 700])


@examples(60)
@given(streams, policies, read_sizes, st.floats(0, 1))
def test_a_stream_cut_off_anywhere(
    sent: list[Item], flags: Flags, sizes: list[int], where: float
) -> None:
    """Whole messages arrive as ever; of the last one, every byte does."""
    stream = wire(*sent)
    end = int(where * len(stream))
    whole: list[Item] = []
    for item in sent:
        if len(wire(*whole, item)) > end:
            break
        whole.append(item)
    rest = stream[len(wire(*whole)) : end]

    out, counters = play(stream[:end], flags, sizes)

    before, _ = play(wire(*whole), flags)
    assume(not outcome(under(flags, whole), before).rested)
    assert same(out[: len(before)], before)
    tail = out[len(before) :]
    assert len(tail) == len(rest)
    sent_frames, frames = read_frames(rest), read_frames(tail)
    assert data_frames(frames) == data_frames(sent_frames)
    assert list(filter(is_control, frames)) == list(filter(is_control, sent_frames))
    if not any(map(is_control, sent_frames)):
        assert tail == rest
    assert counters.wire_original_bytes == end


def test_a_control_frame_cut_off_between_fragments_swallows_no_fragment() -> None:
    """A backend that dies within a ping: the fragments before it must not become its payload."""
    first, ping = Frame(Opcode.BINARY, PCM[:2000], fin=False), PING.frames[0]
    stream = wire_of([first, ping])[:-3]
    out, _ = play(stream)
    assert read_frames(out) == [first]


@examples(40)
@given(st.lists(items, min_size=1, max_size=5), st.binary(max_size=300), read_sizes)
def test_behind_a_close_frame_everything_passes(
    sent: list[Item], rest: bytes, sizes: list[int]
) -> None:
    before, _ = play(wire(*sent, CLOSE))
    assume(not outcome(under(DEFAULT, sent), before).rested)
    out, _ = play(wire(*sent, CLOSE, CHUNK) + rest, None, sizes)
    assert same(out, before + CHUNK.wire + rest)


@pytest.mark.parametrize("sizes", [[1], [3], [2010], [10**6]])
@pytest.mark.parametrize("end", [CLOSE.wire, b"\x82\x85masked"], ids=["close", "fault"])
def test_what_is_held_leaves_before_the_end(end: bytes, sizes: list[int]) -> None:
    """And after the control frame that came between: that one passed at once."""
    player = Player()
    first = Frame(Opcode.BINARY, PCM[:2000], fin=False).serialize(mask=False)
    for read in cut(first + PING.wire, sizes):
        player.feed(read)
    assert player.out == PING.wire
    player = Player()
    for read in cut(first + PING.wire + end, sizes):
        player.feed(read)
    assert player.out == PING.wire + first + end


# The pair.


@pytest.mark.parametrize("name", sorted(SPEECH))
@pytest.mark.parametrize("size", [1, 1023, 1024, 4096, 65535, 65536, 1 << 20])
def test_real_speech(name: str, size: int) -> None:
    """In every format, at every chunk size: the same audio, and never a byte more."""
    audio = speech(name)[: 8192 if size == 1 else None]
    sent = [binary(audio[at : at + size]) for at in range(0, len(audio), size)]
    out, counters = play(wire(*sent), Flags(), [65536])
    assert_same(out, outcome(under(DEFAULT, sent), out).frames)
    assert len(out) <= len(wire(*sent))
    if name.endswith(".wav") and 1024 <= size <= MAX:
        least = 0.96 if size == 1024 else 0.95  # it rests where a chunk is as noise to it
        assert counters.wire_bytes < least * counters.wire_original_bytes
    if size in (1, 1023):
        assert out == wire(*sent)


class Sized:
    """Stands for more bytes than there are."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


@examples(100)
@given(st.integers(0, 1 << 63), st.integers(0, (1 << 63) - 1))
def test_a_pairs_head_is_all_but_its_data(original: int, encoded: int) -> None:
    head = build_pair_head("gzip", original, Encoded(Sized(encoded)))
    text = b'{"type":"audio_chunk_compressed","algorithm":"gzip",'
    text += b'"original_size":%d,"compressed_size":%d}' % (original, encoded)
    start = wire_of([Frame(Opcode.TEXT, text)])
    assert head.startswith(start)
    size = head[len(start) :]
    assert size[0] == 0x82
    assert encoded == (size[1] if size[1] < 126 else int.from_bytes(size[2:], "big"))
    assert len(size) == (2 if encoded < 126 else 4 if encoded < 65536 else 10)


def test_a_pair_leaves_in_one_write() -> None:
    player = Player()
    buffers, job = player.filter.feed(PING.wire + CHUNK.wire + PING.wire)
    assert b"".join(buffers) == PING.wire
    assert job is not None
    buffers, job = player.filter.complete(job, job.run())
    assert b"".join(buffers) == PAIR + PING.wire
    assert job is None


def test_a_job_gives_what_its_codecs_made_and_changes_no_counter() -> None:
    player = Player()
    _, job = player.filter.feed(fragmented(Opcode.BINARY, [PCM[:50], PCM[50:4096]]).wire)
    assert job is not None
    assert job.run() == [Encoded(GZIP.encode(PCM[:4096], 1))]
    assert player.counters == Counters()


def test_while_a_job_is_out_everything_waits_behind_it() -> None:
    player = Player()
    sent = [CHUNK, PING, message(Opcode.TEXT, b"after"), CHUNK, CLOSE]
    for read in cut(wire(*sent), [1500]):
        player.feed(read, lag=10**9)
    assert player.out == b""
    assert_same(player.eof(), outcome(under(DEFAULT, sent), player.out).frames)


def test_what_does_not_pay_is_counted_and_sent_as_it_came() -> None:
    noise = binary(speech("speech-24k.ogg")[1000:5096])
    out, counters = play(noise.wire)
    assert out == noise.wire
    assert counters.no_gain == 1


@pytest.mark.parametrize(
    ("accepted", "allowed", "pairs"),
    [
        (("gzip",), ("gzip", "flac", "opus"), True),
        (("lzma", "gzip"), ("gzip",), True),
        (("flac", "gzip"), ("gzip",), True),
        (("gzip",), ("flac", "opus"), False),
        (("opus",), ("gzip", "flac"), False),
        (("lzma",), ("gzip",), False),
        ((), ("gzip",), False),
    ],
)
def test_what_the_client_accepts_and_the_operator_allows(
    accepted: tuple[str, ...], allowed: tuple[str, ...], pairs: bool
) -> None:
    player = Player(Flags(algorithms=allowed), accepted)
    player.feed(CHUNK.wire)
    assert same(player.eof(), PAIR if pairs else CHUNK.wire)


# The backend's own pairs.


@examples(60)
@given(
    st.binary(max_size=60),
    st.binary(max_size=60),
    st.lists(st.integers(0, 140), max_size=5).map(sorted),
    read_sizes,
)
def test_the_backends_own_pair_is_left_alone(
    before: bytes, after: bytes, cuts: list[int], sizes: list[int]
) -> None:
    """However the text is fragmented and read; and only the one message after it."""
    text = before + MARKER + after
    edges = [0, *cuts, max(len(text), *cuts, 0)]
    own = fragmented(
        Opcode.TEXT,
        [text[a:b] for a, b in pairwise(edges)],
        between=PING.frames,
    )
    out, counters = play(wire(own, PING, CHUNK, CHUNK), None, sizes)
    assert out == wire(own, PING, CHUNK) + PAIR
    assert counters.algorithm("gzip").chunks == 1


# The operator's record.


@examples(60)
@given(st.lists(st.tuples(items, policies, policies), max_size=6), read_sizes)
def test_a_flip_takes_effect_at_the_next_chunk(
    script: list[tuple[Item, Flags, Flags]], sizes: list[int]
) -> None:
    """The record in force at a message's first header decides, whatever follows."""
    player = Player()
    for item, flags, flipped in script:
        stream = item.wire
        header = 2 if stream[1] < 126 else 4 if stream[1] < 127 else 10
        player.flags.current = flags
        player.feed(stream[:header], lag=1)
        player.flags.current = flipped
        for read in cut(stream[header:], sizes):
            player.feed(read, lag=1)
    out = player.eof()
    assert_same(out, outcome(((item, flags) for item, flags, _ in script), out).frames)


@examples(60)
@given(streams, read_sizes)
def test_off_means_identical(sent: list[Item], sizes: list[int]) -> None:
    stream = wire(*sent)
    out, counters = play(stream, Flags(enabled=False), sizes)
    assert out == stream
    assert counters.wire_original_bytes == counters.wire_bytes == len(stream)


def test_the_record_is_read_once_per_chunk_and_for_nothing_else() -> None:
    class Counting:
        reads = 0

        @property
        def current(self) -> Flags:
            self.reads += 1
            return Flags()

    live = Counting()
    player = Player(live=live)
    live.reads = 0
    chunks = [CHUNK, fragmented(Opcode.BINARY, [PCM[:2000], PCM[2000:3000]], PING.frames)]
    for read in cut(wire(message(Opcode.TEXT, b"a"), PING, *chunks, *chunks), [100]):
        player.feed(read)
    assert live.reads == 4


# What ends the filtering, and what is never held.


@pytest.mark.parametrize("sizes", [[1], [1000], [10**6]])
def test_a_frame_that_no_server_may_send_ends_the_filtering(sizes: list[int]) -> None:
    """What was held leaves first, then every byte as it comes; see test_splitter.py for others."""
    begun = fragmented(Opcode.BINARY, [PCM[:2000], PCM[2000:2500], b"never sent"]).frames[:2]
    verbatim = wire_of(begun) + b"\x82\x85maskhello" + CHUNK.wire + b"\xff" * 100 + CHUNK.wire
    player = Player()
    assert not player.filter.warnings
    for read in cut(CHUNK.wire + verbatim, sizes):
        player.feed(read)
    assert player.filter.warnings == ["filtering stopped: the backend sent a masked frame"]
    assert player.out == PAIR + verbatim
    assert player.eof() == PAIR + verbatim


def test_an_endless_message_is_let_go_and_what_follows_is_filtered() -> None:
    first = Frame(Opcode.BINARY, b"", fin=False).serialize(mask=False)
    more = Frame(Opcode.CONT, PCM[:1000], fin=False).serialize(mask=False)
    last = Frame(Opcode.CONT, b"end").serialize(mask=False)
    endless = first + more * (2 * MAX // len(more))
    player = Player()
    for read in cut(endless, [999]):
        player.feed(read)
    assert player.held < 14
    player.feed(last + CHUNK.wire)
    assert player.eof() == endless + last + PAIR


@pytest.mark.parametrize(("size", "enabled"), [(MAX + 1, True), (1023, True), (4096, False)])
def test_what_is_not_to_be_encoded_streams_through(size: int, enabled: bool) -> None:
    player = Player(Flags(enabled=enabled))
    for read in cut(binary(bytes(size)).wire, [100]):
        player.feed(read)
        assert player.held == 0
