"""The hot path in C beside the one in Python: each does what the other does."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import subprocess
import sys
import weakref
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tunnel import base_leg, speedups
from proxy.tunnel.base_leg import OPEN, READ, READ_SIZE, PythonBaseLeg, State
from proxy.tunnel.leg import Leg
from proxy.websocket.walker import FrameWalker
from tests.support import until
from tests.tunnel.test_leg import tcp_pair
from tests.websocket.strategies import cut, examples, read_sizes

BASES = [PythonBaseLeg, speedups.BaseLeg]
WALKERS = {PythonBaseLeg: FrameWalker, speedups.BaseLeg: speedups.FrameWalker}

ROOT = Path(__file__).parents[2]


def test_they_are_used() -> None:
    assert base_leg.HAS_SPEEDUPS
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
    leg.walker = FrameWalker()
    with pytest.raises(TypeError, match="not a FrameWalker"):
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
