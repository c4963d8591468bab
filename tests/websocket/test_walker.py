from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from proxy.tunnel import speedups
from proxy.websocket.walker import FrameWalker
from tests.websocket.strategies import Item, binary, cut, examples, read_sizes, streams, wire_of

sizes = st.sampled_from((0, 1, 2, 125, 126, 127, 300, 65_535, 65_536))
frames = st.builds(
    Frame,
    st.sampled_from((Opcode.TEXT, Opcode.BINARY, Opcode.CONT)),
    sizes.map(bytes),
    fin=st.booleans(),
) | st.builds(Frame, st.sampled_from((Opcode.PING, Opcode.PONG)), st.binary(max_size=125))
runs = st.lists(st.tuples(frames, st.integers(1, 60)), max_size=5).map(
    lambda pairs: [frame for frame, count in pairs for _ in range(count)]
)


EITHER = (FrameWalker, speedups.FrameWalker)
makers = st.sampled_from(EITHER)


def ends_of(sent: list[bytes]) -> set[int]:
    """Where frames end."""
    ends, at = {0}, 0
    for wire in sent:
        at += len(wire)
        ends.add(at)
    return ends


@examples(50)
@given(makers, runs, read_sizes, st.booleans(), st.sampled_from((0, 0x40)))
def test_it_knows_where_frames_end(
    make: type[FrameWalker], sent: list[Frame], reads: list[int], masked: bool, reserved: int
) -> None:
    """Of any size, fragmented or compressed by an extension, in any reads."""
    wires = [frame.serialize(mask=masked) for frame in sent]
    wires = [bytes([wire[0] | reserved]) + wire[1:] for wire in wires]
    ends = ends_of(wires)
    walker, passed = make(), 0
    for read in cut(b"".join(wires), reads):
        walker.feed(read + b"\x88\xff stale", len(read))
        passed += len(read)
        assert walker.is_between == (passed in ends)
        assert not walker.closed


@examples(60)
@given(makers, streams, read_sizes)
def test_behind_a_close_frame_nothing_may_be_put(
    make: type[FrameWalker], sent: list[Item], reads: list[int]
) -> None:
    before = b"".join(item.wire for item in sent if item.opcode is not Opcode.CLOSE)
    wire = before + wire_of([Frame(Opcode.CLOSE, b"\x03\xe8bye")]) + binary(b"never").wire
    walker, passed = make(), 0
    for read in cut(wire, reads):
        walker.feed(read + b"\x88\xff stale", len(read))
        passed += len(read)
        assert walker.closed <= (passed > len(before))
        if passed > len(before) + 1:
            assert walker.closed
            assert not walker.is_between


@pytest.mark.parametrize("make", EITHER)
def test_a_size_that_cannot_be_is_waited_for(make: type[FrameWalker]) -> None:
    walker = make()
    walker.feed(b"\x82\x7f" + b"\xff" * 8 + b"abc", 13)
    assert not walker.is_between
    walker.feed(b"d" * 1000, 1000)
    assert not walker.is_between


@given(
    makers, st.integers(0, 65_535), st.binary(max_size=100), st.booleans(), st.binary(max_size=300)
)
def test_a_close_frame_says_its_code_and_nothing_behind_it_counts(
    make: type[FrameWalker], code: int, reason: bytes, masked: bool, behind: bytes
) -> None:
    frame = Frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason).serialize(mask=masked)
    walker = make()
    before = Frame(Opcode.BINARY, bytes(200)).serialize(mask=masked)
    for read in (
        before,
        before,
        frame,
        behind,
        Frame(Opcode.CLOSE, b"\x03\xe9").serialize(mask=False),
    ):
        walker.feed(read, len(read))
    assert walker.close_code == code
    assert walker.closed
    assert not walker.is_between
