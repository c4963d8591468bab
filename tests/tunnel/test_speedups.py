"""The hot path in C beside the one in Python: each does what the other does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import socket
import struct
import subprocess
import sys
import weakref
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audio.counters import Counters, Tally
from proxy.audio.gzip import Gzip
from proxy.audio.pcm import PcmLayout
from proxy.audio.settings import AudioSettings
from proxy.control.flags import Flags, LiveFlags
from proxy.tunnel import base_leg, speedups
from proxy.tunnel.base_leg import OPEN, READ, READ_SIZE, PythonBaseLeg, State
from proxy.tunnel.encoder import Encoder
from proxy.tunnel.filtered_leg import FilteredLeg
from proxy.tunnel.leg import Leg
from proxy.tunnel.walked_leg import WalkedLeg
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.walker import FrameWalker
from tests.support import until
from tests.tunnel.test_leg import tcp_pair
from tests.websocket.strategies import PCM, Item, binary, cut, examples, read_sizes
from tests.websocket.test_runs import talks

BASES = [PythonBaseLeg, speedups.BaseLeg]
WALKERS = {PythonBaseLeg: FrameWalker, speedups.BaseLeg: speedups.FrameWalker}

ROOT = Path(__file__).parents[2]


def test_they_are_used() -> None:
    assert base_leg.speedups is speedups
    assert issubclass(Leg, speedups.BaseLeg)
    assert not issubclass(Leg, PythonBaseLeg)


def test_the_tunnel_in_python_alone() -> None:
    """Its own tests, where C was not built."""
    code = (
        "import sys, pytest\n"
        "sys.modules['proxy.tunnel.speedups'] = None\n"
        "from proxy.tunnel.leg import Leg\n"
        "from proxy.tunnel.base_leg import PythonBaseLeg\n"
        "assert issubclass(Leg, PythonBaseLeg)\n"
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    tests = ("tests/tunnel/test_leg.py", "tests/tunnel/test_tunnel.py")
    options = ("-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", "uvloop")
    run = subprocess.run(
        [sys.executable, "-c", code, *options, *tests], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


# Headers of every size, whole and cut off, and what no peer should send.
pieces = st.one_of(
    st.binary(max_size=20),
    st.builds(
        lambda first, mask, size: bytes((first, mask << 7 | size)) + bytes(4 * mask + size),
        st.integers(0, 255),
        st.integers(0, 1),
        st.integers(0, 125),
    ),
    st.builds(
        lambda first, mask, size, short: (
            bytes((first, mask << 7 | 126)) + size.to_bytes(2, "big") + bytes(size - short)
        ),
        st.sampled_from((0x01, 0x82, 0xC2, 0x89, 0x88)),
        st.integers(0, 1),
        st.integers(3, 700),
        st.integers(-4, 3),
    ),
    st.builds(
        lambda size: b"\x82\x7f" + size.to_bytes(8, "big") + bytes(size % 1000),
        st.integers(0, 2000) | st.integers((1 << 63) - 5, (1 << 64) - 1),
    ),
)


@examples(200)
@given(st.lists(pieces, max_size=8), read_sizes)
def test_both_walkers_see_the_same(sent: list[bytes], reads: list[int]) -> None:
    ours, other = speedups.FrameWalker(), FrameWalker()
    for read in cut(b"".join(sent), reads):
        for walker in (ours, other):
            walker.feed(read + b"\x88\xff stale", len(read))
        assert (ours.is_between, ours.closed, ours.close_code) == (
            other.is_between,
            other.closed,
            other.close_code,
        )


def test_the_walker_takes_no_more_than_there_is() -> None:
    for end in (-1, 4):
        with pytest.raises(ValueError, match="end is not within the data"):
            speedups.FrameWalker().feed(b"abc", end)


def leg_of(base: Any, transport: asyncio.Transport, *, direct: bool = True) -> Any:
    """A leg with nothing but the hot path."""

    class HotLeg(base, asyncio.BufferedProtocol):  # type: ignore[misc]
        def pause_writing(self) -> None:
            pass

        def resume_writing(self) -> None:
            pass

        def connection_lost(self, exc: Exception | None) -> None:
            self.state = State.LOST

    leg = HotLeg()
    leg.transport, leg.state, leg.walker = transport, OPEN, None
    leg.heard, leg.written, leg.waits = 0, 0, True
    leg.file = transport.get_extra_info("socket").fileno() if direct else -1
    transport.set_protocol(leg)
    transport.set_write_buffer_limits(high=1 << 30)
    return leg


async def taken(other: socket.socket, size: int) -> bytes:
    """So many bytes of a socket."""
    data = bytearray()
    loop = asyncio.get_running_loop()
    other.setblocking(False)
    async with asyncio.timeout(10):
        while len(data) < size:
            data += await loop.sock_recv(other, size - len(data))
    return bytes(data)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("direct", [True, False])
async def test_what_is_read_is_walked_over_and_goes_to_the_peer(base: Any, direct: bool) -> None:
    (near, client), (far, backend) = await tcp_pair(), await tcp_pair()
    frames = [b"\x82\x04abcd"] * 3 + [b"\x82\x7e\x01\x00" + bytes(256), b"\x88\x02\x03\xe8"]
    with client, backend:
        one, two = leg_of(base, near, direct=direct), leg_of(base, far, direct=direct)
        one.peer, two.peer = two, one
        two.walker = WALKERS[base]()
        backend.sendall(b"".join(frames[:3]) + frames[3][:9])
        assert await taken(client, 27) == b"".join(frames[:3]) + frames[3][:9]
        assert not two.walker.is_between
        first = two.heard
        backend.sendall(frames[3][9:])
        await taken(client, 251)
        assert two.walker.is_between
        assert two.heard > first
        backend.sendall(frames[4])
        assert await taken(client, 4) == frames[4]
        assert two.walker.close_code == 1000
        assert one.heard == 0
        assert (one.written, two.written) == (sum(map(len, frames)), 0)
        one.state = State.CLOSING
        said = two.heard
        backend.sendall(b"dropped")
        await until(lambda: two.heard > said)
        assert one.written == sum(map(len, frames))
        near.abort()
        far.abort()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_order_is_kept_when_the_system_takes_only_a_part(base: Any, kind: Any) -> None:
    """Behind what waits in the transport, nothing is written past it."""
    transport, other = await tcp_pair()
    with other:
        leg = leg_of(base, transport)
        parts = [bytes([number]) * size for number, size in enumerate((100, 16 << 20, 100, 5000))]
        for part in parts:
            leg.write(kind(part))
        assert transport.get_write_buffer_size() > 0
        ends = list(accumulate(map(len, parts)))
        assert leg.written == ends[-1]
        assert await taken(other, ends[-1]) == b"".join(parts)
        await until(lambda: not transport.get_write_buffer_size())
        leg.write(kind(b"again"))
        assert not transport.get_write_buffer_size()
        assert await taken(other, 5) == b"again"
        transport.abort()


@pytest.mark.parametrize("base", BASES)
async def test_a_broken_socket_is_for_the_transport_to_find(base: Any) -> None:
    transport, other = await tcp_pair()
    leg = leg_of(base, transport)
    transport.pause_reading()  # so that it is `write` that meets it
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    async with asyncio.timeout(10):
        while leg.state is OPEN:
            leg.write(bytes(100))
            await asyncio.sleep(0)
    assert transport.is_closing()


@pytest.mark.parametrize("base", BASES)
async def test_what_the_transport_raises_comes_through(base: Any) -> None:
    transport, other = await tcp_pair()
    with other:
        leg = leg_of(base, transport)
        with pytest.raises(TypeError):
            leg.write("text")
        transport.abort()


def test_c_refuses_what_python_would_stumble_over() -> None:
    leg: Any = speedups.BaseLeg()
    with pytest.raises(AttributeError):
        leg.write(b"no transport")
    leg.walker, leg.state, leg.file = None, OPEN, -1
    with pytest.raises(ValueError, match="more bytes than were asked for"):
        leg.buffer_updated(READ_SIZE + 1)
    with pytest.raises(TypeError, match="its peer is no leg"):
        leg.buffer_updated(1)
    leg.peer = object()
    with pytest.raises(TypeError, match="its peer is no leg"):
        leg.buffer_updated(1)
    leg.peer = speedups.BaseLeg()
    leg.walker = FrameWalker()
    with pytest.raises(TypeError, match="not a FrameWalker"):
        leg.buffer_updated(1)
    leg.repeater = object()
    with pytest.raises(TypeError, match="not a Repeater"):
        leg.buffer_updated(1)
    assert leg.get_buffer(-1) is READ


def test_legs_that_name_each_other_are_collected() -> None:
    class Weak(speedups.BaseLeg):
        pass

    one, two = Weak(), Weak()
    one.peer, two.peer = two, one
    gone = weakref.ref(one)
    del one, two
    gc.collect()
    assert gone() is None


class Patient(Encoder):
    """Has time however slow the machine is: what is left to Python is to be the same."""

    unnoticed = math.inf

    def spend(self, seconds: float, chunks: int) -> None:
        super().spend(seconds, chunks)
        self.has_time = True


class Asked(FilteredLeg):
    """Counts what is left to Python."""

    asked = 0

    def filter(self, nbytes: int) -> None:
        self.asked += 1
        super().filter(nbytes)


async def told(
    sent: Sequence[Item], flags: Sequence[Flags], pcm_layout: PcmLayout | None, *, in_c: bool
) -> tuple[bytes, Counters, Tally, int]:
    """What comes of messages, each in a read of its own, with `flags` in force in turn."""
    near, other = await tcp_pair()
    counters, live = Counters(), LiveFlags(flags[0])
    encoder = Patient(1, counters.encode_seconds)
    audio_filter = AudioFilter(("gzip",), live, counters, AudioSettings(pcm_layout=pcm_layout))
    leg = Asked(near, lambda: None, audio_filter, encoder, 3600.0)
    client = WalkedLeg(near, lambda: None)
    leg.peer, client.peer = client, leg
    client.attach(1 << 20)
    if not in_c:
        del leg.repeater
    got = bytearray()
    other.setblocking(False)
    for number, item in enumerate(sent):
        live.current = flags[number * len(flags) // len(sent)]
        READ[: len(item.wire)] = item.wire
        leg.buffer_updated(len(item.wire))
        await until(lambda: not (leg.is_paused or client.backlog))
        with contextlib.suppress(BlockingIOError):
            while True:
                got += other.recv(1 << 20)
    assert encoder.spent <= counters.encode_seconds.sum * 1.001  # the rest was spent in threads
    assert (encoder.spent > 0) >= bool(counters.algorithm("gzip").chunks)
    tally = leg.tally
    leg.eof_received()
    await until(lambda: client.state is not OPEN)
    with other:
        got += await asyncio.get_running_loop().sock_recv(other, 1 << 20)
    near.abort()
    encoder.close()
    client.leave()
    leg.leave()
    assert sum(counters.encode_seconds.counts) >= counters.algorithm("gzip").chunks
    assert counters.encode_seconds.sum < 60
    for timing in (counters.encode_seconds, counters.first_audio_seconds, counters.gap_seconds):
        timing.sum = 0.0
        timing.counts = [sum(timing.counts)]
    return bytes(got), counters, tally, leg.asked


LAYOUT = PcmLayout("s16le", 22_050, 1)
FLAGS = st.sampled_from(
    (
        Flags(),
        Flags(),
        Flags(min_gain=0.2),
        Flags(shadow=True),
        Flags(enabled=False),
        Flags(level=3),
    )
)


@examples(25)
@given(talks(), st.lists(FLAGS, min_size=1, max_size=4), st.sampled_from((None, LAYOUT)))
async def test_what_is_repeated_in_c_is_what_python_makes(
    sent: list[Item], flags: list[Flags], layout: PcmLayout | None
) -> None:
    in_c = await told(sent, flags, layout, in_c=True)
    in_python = await told(sent, flags, layout, in_c=False)
    assert in_c[0] == in_python[0]
    assert in_c[1] == in_python[1]
    assert in_c[2] == in_python[2]
    assert in_python[3] == len(sent)


async def test_most_of_speech_is_repeated_in_c() -> None:
    sent = [binary(PCM[at : at + 4096]) for at in range(0, 100 * 4096, 4096)]
    wire, counters, tally, asked = await told(sent, [Flags()], LAYOUT, in_c=True)
    assert asked <= 2  # the first two
    assert tally.compressed == counters.algorithm("gzip").chunks > 60
    assert counters.no_gain + tally.compressed == tally.chunks == 100
    assert tally.wire_bytes == len(wire)


async def test_a_fault_in_c_costs_no_lesson() -> None:
    """Of what Python gives it to go by: it is told of, and Python deals with the message."""
    sent = [binary(PCM[at : at + 4096]) for at in range(0, 20 * 4096, 4096)]
    usual = await told(sent, [Flags()], LAYOUT, in_c=True)
    faults: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", faults.append)
        patch.setattr(Gzip, "plain", lambda *_: 1 / 0)
        faulty = await told(sent, [Flags()], LAYOUT, in_c=True)
    assert {fault.exc_type for fault in faults} == {ZeroDivisionError}
    assert len(faults) < 5  # once for each `Steady`
    assert faulty[:3] == usual[:3]
    assert faulty[3] == len(sent)
