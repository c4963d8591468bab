from __future__ import annotations

import re
import tracemalloc
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from proxy.websocket.openings import Openings
from proxy.websocket.segments import BOUNDARY, Message, Verdict
from proxy.websocket.splitter import HEAD_SIZE, Splitter
from tests.websocket.splits import BREAK, HOLD, PASS, Splits, Step, script_of
from tests.websocket.strategies import (
    MARKER,
    MAX,
    PCM,
    Item,
    binary,
    cut,
    examples,
    fragmented,
    is_control,
    items,
    message,
    read_sizes,
    streams,
    wire_of,
)

PING = message(Opcode.PING, b"12345")


@st.composite
def runs(draw: st.DrawFn) -> list[Item]:
    """Messages of one size, and of another."""
    sent = []
    for size in draw(st.lists(st.sampled_from((1, 2, 125, 126, 200)), max_size=4)):
        firsts = draw(st.binary(max_size=30))
        sent += [binary(bytes([first]) * size) for first in firsts]
    return sent


verdicts = st.lists(st.sampled_from(Verdict), min_size=1, max_size=5)


def wire(*sent: Item) -> bytes:
    return b"".join(item.wire for item in sent)


@examples(50)
@given(
    st.lists(items, max_size=6),
    read_sizes,
    verdicts,
    st.integers(0, 30),
)
def test_nothing_is_lost_doubled_or_changed(
    sent: list[Item], sizes: list[int], answers: list[Verdict], cut_off: int
) -> None:
    splits = Splits(answers)
    stream = b"".join(item.wire for item in sent)[: -cut_off or None]
    for read in cut(stream, sizes):
        splits.feed(read)
    rest = splits.splitter.feed_eof()
    out = splits.joined + rest
    assert len(out) == len(stream)
    if not any(is_control(frame) for item in sent for frame in item.frames[1:]):
        assert out == stream
    whole = {(item.payload, item.data_wire) for item in sent if item.opcode is Opcode.BINARY}
    for lifted in splits.messages:
        assert (bytes(lifted.payload), bytes(lifted.frames)) in whole
    assert len(splits.messages) <= splits.held


# Any stream, in any reads.


@examples(80)
@given(streams, read_sizes, verdicts)
def test_each_verdict_is_carried_out_however_the_stream_is_cut(
    sent: list[Item], sizes: list[int], answers: list[Verdict]
) -> None:
    """And a boundary stands where one belongs: once, and never within a frame."""
    splits = Splits(answers)
    for read in cut(wire(*sent), sizes):
        splits.feed(read)
    answered = cycle(answers)
    assert same(splits.steps, script_of(sent, lambda _: next(answered)))


@examples(80)
@given(streams | runs(), read_sizes, st.frozensets(st.integers(0, 255)), st.integers(1, 40))
def test_what_is_allowed_passes_as_if_it_had_been_asked_about(
    sent: list[Item], sizes: list[int], stops: frozenset[int], count: int
) -> None:
    def verdict_of(item: Item) -> Verdict:
        if len(item.frames) > 1:
            return HOLD
        return (HOLD, BREAK)[len(item.payload) % 2] if stops & {*item.payload[:1]} else PASS

    expected: list[Item] = []
    script = script_of(sent, lambda item: (expected.append(item), verdict_of(item))[1])
    left, met, total = 0, 0, 0
    marks = re.compile(b"[%b]" % re.escape(bytes(stops)), re.DOTALL) if stops else re.compile(b"a^")

    def settle() -> None:
        nonlocal left, met, total
        rest, size = splitter.allow(0)
        met, left = met + left - rest, 0
        total += size

    def wants(size: int | None, head: bytes) -> Verdict:
        nonlocal left, met, total
        settle()
        item = expected[met]
        assert size == (len(item.payload) if len(item.frames) == 1 else None)
        met += 1
        total += len(item.payload)
        answer = verdict_of(item)
        if answer is PASS:
            left = count
            splitter.allow(count, Openings(bytes({*range(256)} - stops), marks))
        return answer

    splits = Splits()
    splits.splitter = splitter = Splitter(wants, MAX)
    for read in cut(wire(*sent), sizes):
        splits.feed(read)
    settle()
    assert same(splits.steps, script)
    assert met == len(expected)
    assert total == sum(len(item.payload) for item in expected)


@examples(40)
@given(streams | runs(), read_sizes, st.frozensets(st.integers(0, 255)), st.integers(1, 40))
def test_what_is_lifted_together_is_what_would_have_been_one_by_one(
    sent: list[Item], sizes: list[int], stops: frozenset[int], most: int
) -> None:
    marks = re.compile(b"[%b]" % re.escape(bytes(stops)), re.DOTALL) if stops else re.compile(b"a^")
    openings = Openings(bytes({*range(256)} - stops), marks)

    def wants(size: int | None, head: bytes) -> Verdict:
        splitter.join(most, openings)
        return HOLD

    splits = Splits()
    splits.splitter = splitter = Splitter(wants, MAX)
    for read in cut(wire(*sent), sizes):
        splits.feed(read)
    for run in splits.runs:
        assert 1 <= run.count <= most
        assert {len(payload) for payload in run.payloads()} == {run.size}
        assert all(not stops & {*payload[:1]} for payload in run.payloads())
    assert same(splits.steps, script_of(sent, lambda _: HOLD))


def test_messages_of_one_read_are_lifted_together() -> None:
    alike = [binary(bytes([number]) * 200) for number in range(12)]
    sent = [*alike, binary(b"\x05" * 100), *alike[:3]]
    asked = []

    def wants(size: int | None, head: bytes) -> Verdict:
        asked.append(size)
        splitter.join(5, Openings(bytes({*range(256)} - {7}), re.compile(b"\x07")))
        return HOLD

    splits = Splits()
    splits.splitter = splitter = Splitter(wants, MAX)
    splits.feed(wire(*sent))
    assert [run.count for run in splits.runs] == [5, 2, 4, 1, 3]
    assert asked == [200, 200, 200, 200, 100, 200]
    assert same(splits.steps, script_of(sent, lambda _: HOLD))


@examples(80)
@given(st.lists(items, max_size=6), read_sizes, st.lists(st.sampled_from((HOLD, PASS))))
def test_where_a_message_of_ours_may_stand(
    sent: list[Item], sizes: list[int], answers: list[Verdict]
) -> None:
    """Not within a frame, a message or the backend's own pair, of what has passed."""
    splits = Splits(answers or (PASS,), max_size=1 << 30)
    answered = cycle(answers or (PASS,))
    places, passed = {0}, 0
    marked = False
    for item in sent:
        is_binary = item.opcode is Opcode.BINARY
        if is_binary and not marked and next(answered) is HOLD:
            for frame in filter(is_control, item.frames):
                passed += len(wire_of([frame]))
                places.add(passed)
            continue
        passed += len(item.wire)
        marked = (marked and not is_binary) or (
            item.opcode is Opcode.TEXT and MARKER in item.payload
        )
        if not marked:
            places.add(passed)
    passed = 0
    for read in cut(wire(*sent), sizes):
        seen = len(splits.segments)
        splits.feed(read)
        passed += splits.passed_since(seen)
        assert splits.splitter.is_between == (passed in places)


def same(one: list[Step], other: list[Step]) -> bool:
    """For an `assert` that shows neither: they are long."""
    return one == other


def test_each_binary_message_is_asked_about_once() -> None:
    stream = b"".join(
        item.wire
        for item in (
            binary(b"four"),
            message(Opcode.TEXT, b"not this"),
            PING,
            binary(b""),
            fragmented(Opcode.BINARY, [b"size", b"not", b"known"], PING.frames),
            fragmented(Opcode.TEXT, [b"a", b"b"]),
            binary(bytes(MAX)),
            binary(bytes(MAX + 1)),  # cannot be held, so is not offered
            message(Opcode.TEXT, MARKER),
            binary(b"of the backend's own pair"),
            binary(b"again"),
        )
    )
    for sizes in ([1], [10**6]):
        splits = Splits()
        for read in cut(stream, sizes):
            splits.feed(read)
        assert splits.asked == [4, 0, None, MAX, 5]
        assert len(splits.messages) == 5
        assert splits.splitter.fault is None


@pytest.mark.parametrize("size", [0, 1, HEAD_SIZE - 1, HEAD_SIZE, HEAD_SIZE + 1, 200, 66_000])
def test_the_verdict_may_be_based_on_the_first_bytes(size: int) -> None:
    """Of the first fragment, and as many as are there."""
    payload, next_one = PCM[1000:][:size], binary(b"next").wire
    splits = Splits((PASS,)).feed(binary(payload).wire + next_one)
    assert splits.heads == [payload[:HEAD_SIZE], b"next"]
    whole = fragmented(Opcode.BINARY, [payload, b"more" * 20])
    assert Splits((PASS,)).feed(whole.wire + next_one).heads == [payload[:HEAD_SIZE], b"next"]
    for there in range(0, size, 7):
        header = binary(payload).wire[: -size or None]
        (head,) = Splits((PASS,)).feed(header + payload[:there]).heads
        assert head == payload[: min(there, HEAD_SIZE)]


def test_half_a_marker_at_a_texts_end_and_half_at_the_nexts_start_are_none() -> None:
    halves = [message(Opcode.TEXT, half) for half in (MARKER[:11], MARKER[11:])]
    assert Splits().feed(b"".join(text.wire for text in halves) + binary(b"a").wire).asked == [1]


@examples(50)
@given(st.lists(items, max_size=6), read_sizes)
def test_what_is_not_wanted_passes_at_once(sent: list[Item], sizes: list[int]) -> None:
    splits = Splits((PASS,))
    stream = b"".join(item.wire for item in sent)
    kept_back = seen = 0
    for read in cut(stream, sizes):
        splits.feed(read)
        kept_back += len(read) - splits.passed_since(seen)
        seen = len(splits.segments)
        assert kept_back < 10, "more is kept back than an incomplete header"
    assert splits.joined == stream


def test_control_frames_within_a_held_message_pass_at_once() -> None:
    splits = Splits()
    item = fragmented(Opcode.BINARY, [b"a" * 200, b"b" * 300], PING.frames * 2)
    first, *pings, last = item.frames
    splits.feed(wire_of([first])).feed(wire_of(pings))
    assert splits.segments == [wire_of(pings)]
    splits.feed(wire_of([last]))
    assert splits.segments[1:] == [Message(b"a" * 200 + b"b" * 300, wire_of([first, last]))]


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("sizes", [[1], [10**6]])
def test_a_fragmented_message_is_held_up_to_the_limit(sizes: list[int], over: int) -> None:
    """Frame headers count: 2 + 100, and 2 + 96 + `over`."""
    item = fragmented(Opcode.BINARY, [b"a" * 100, b"b" * (96 + over)], PING.frames)
    splits = Splits(max_size=200)
    for read in cut(item.wire + binary(b"next").wire, sizes):
        splits.feed(read)
    lifted = [bytes(one.payload) for one in splits.messages]
    assert lifted == [item.payload, b"next"][over:]
    if over:
        first, ping, last = item.frames
        assert splits.steps == [
            ("passes", wire_of([ping])),
            ("boundary",),
            ("passes", wire_of([first, last])),
            ("message", b"next", binary(b"next").wire),
        ]
    assert splits.splitter.feed_eof() == b""


def test_a_message_let_go_is_not_asked_about_again() -> None:
    splits = Splits(max_size=200)
    splits.feed(fragmented(Opcode.BINARY, [b"a" * 150] * 5).wire)
    assert splits.asked == [None]
    assert splits.messages == []


def test_an_unfragmented_message_is_held_up_to_the_limit() -> None:
    splits = Splits(max_size=200).feed(binary(bytes(200)).wire + binary(bytes(201)).wire)
    assert splits.asked == [200]
    assert splits.joined == binary(bytes(200)).wire + binary(bytes(201)).wire


def test_of_what_is_too_large_its_size_is_told_where_it_is_known() -> None:
    told: list[int | None] = []
    sent = (
        binary(bytes(200)),
        binary(bytes(201)),
        fragmented(Opcode.BINARY, [bytes(100), bytes(99)]),
        fragmented(Opcode.BINARY, [bytes(201), bytes(99)]),
        message(Opcode.TEXT, MARKER),
        binary(bytes(300)),
    )
    Splits((HOLD,), 200, skips=told.append).feed(wire(*sent))
    assert told == [201, None, None]


def test_the_end_gives_back_what_is_held_and_what_is_not_read_yet() -> None:
    first = Frame(Opcode.BINARY, b"a" * 200, fin=False).serialize(mask=False)
    splits = Splits().feed(first + b"\x00")
    assert splits.segments == []
    assert splits.splitter.feed_eof() == first + b"\x00"
    assert splits.splitter.feed_eof() == b""


# What no server may send.

FAULTS = {
    "masked": b"\x82\x85maskhello",
    "rsv1": b"\xc2\x05hello",
    "rsv2": b"\xa2\x05hello",
    "rsv3": b"\x92\x05hello",
    **{f"opcode {op}": bytes((0x80 | op, 0)) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "long ping": b"\x89\x7e\x00\x7e" + bytes(126),
    "very long close": b"\x88\x7f" + bytes(6) + b"\x01\x00",
    "fragmented ping": b"\x09\x00",
    "negative size": b"\x82\x7f\x80" + bytes(7),
}
BETWEEN = {**FAULTS, "continuation of nothing": b"\x80\x00"}
WITHIN = {**FAULTS, "text within": b"\x81\x02hi", "binary within": b"\x82\x02hi"}


def check_fault(before: bytes, faulty: bytes, sizes: list[int]) -> Splits:
    splits = Splits()
    stream = before + faulty + binary(b"no more").wire + b"\xff" * 100
    for read in cut(before, sizes):
        splits.feed(read)
    assert splits.splitter.fault is None
    for read in cut(stream[len(before) :], sizes):
        splits.feed(read)
    assert splits.splitter.fault is not None
    assert splits.joined == stream, "something is held, or changed"
    assert splits.splitter.feed_eof() == b""
    return splits


@pytest.mark.parametrize("sizes", [[1], [2, 3], [1000]])
@pytest.mark.parametrize("name", BETWEEN)
def test_a_fault_between_messages(name: str, sizes: list[int]) -> None:
    good = binary(b"good").wire
    splits = check_fault(good, BETWEEN[name], sizes)
    assert splits.steps[:2] == [("message", b"good", good), ("boundary",)]
    assert splits.segments.count(BOUNDARY) == 1


@pytest.mark.parametrize("sizes", [[1], [2, 3], [1000]])
@pytest.mark.parametrize("opcode", [Opcode.BINARY, Opcode.TEXT])
@pytest.mark.parametrize("name", WITHIN)
def test_a_fault_within_a_message(name: str, opcode: Opcode, sizes: list[int]) -> None:
    """What was held leaves first."""
    begun = fragmented(opcode, [b"a" * 200, b"b" * 300, b"never sent"]).frames[:2]
    assert check_fault(wire_of(begun), WITHIN[name], sizes).messages == []


# Memory.


@pytest.mark.parametrize("fragment", [b"", b"a", b"a" * 1000], ids=["empty", "tiny", "large"])
def test_an_endless_message_takes_no_memory(fragment: bytes) -> None:
    batch = Frame(Opcode.CONT, fragment, fin=False).serialize(mask=False) * 100
    splitter = Splitter(lambda size, head: HOLD, MAX)
    tracemalloc.start()
    try:
        splitter.feed(Frame(Opcode.BINARY, b"", fin=False).serialize(mask=False))
        for _ in range(4 * MAX // len(batch)):
            splitter.feed(batch)
            while splitter.next_segment() is not None:
                pass
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # While held: the frames, the fragments joined, and the room a growing bytearray leaves itself.
    assert peak < 3 * MAX + 4 * len(batch)
    assert held < 4 * len(batch)


# Judged by `websockets`.

loose_frames = st.builds(
    lambda first, masked, payload: bytes((first, masked << 7 | len(payload))) + payload,
    st.integers(0, 255).filter(lambda first: first & 0x0F != 0x08)
    | st.sampled_from((0x82, 0x02, 0x00, 0x80, 0x81, 0x01, 0x89)),
    st.sampled_from((False,) * 9 + (True,)),
    st.binary(max_size=20),
)


@examples(300)
@given(st.lists(loose_frames, max_size=6), read_sizes)
def test_a_fault_is_what_websockets_finds_faulty(frames: list[bytes], sizes: list[int]) -> None:
    """Any frames but close frames, behind which nothing is read any more."""
    stream = b"".join(frames)
    protocol = ClientProtocol(parse_uri("ws://test/"), state=State.OPEN)
    protocol.receive_data(stream)
    splits = Splits()
    for read in cut(stream, sizes):
        splits.feed(read)
    assert (splits.splitter.fault is None) == (protocol.parser_exc is None)
    assert len(splits.joined + splits.splitter.feed_eof()) == len(stream)
