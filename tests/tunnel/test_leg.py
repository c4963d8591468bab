"""One leg: its clocks, with time as an argument, and its ways to end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import socket
import struct
import termios
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from proxy.tunnel.base_leg import State
from proxy.tunnel.filtered_leg import ENCODING
from proxy.tunnel.leg import Leg
from proxy.tunnel.tunnel import Tunnel
from proxy.tunnel.walked_leg import PassingLeg, WalkedLeg
from tests.support import until

STALL, CLOSE = 60.0, 10.0


async def tcp_pair() -> tuple[asyncio.Transport, socket.socket]:
    """A transport and the blocking socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, *server.getsockname()
        )
        other, _ = server.accept()
    return transport, other


@asynccontextmanager
async def open_tunnel() -> AsyncIterator[tuple[Tunnel, socket.socket, socket.socket]]:
    """A tunnel on real sockets: (tunnel, the client's socket, the backend's)."""
    ended = asyncio.Event()
    tunnel = Tunnel(lambda _: ended.set())
    to_client, client = await tcp_pair()
    to_backend, backend = await tcp_pair()
    tunnel.join(WalkedLeg(to_client, tunnel.leg_lost), PassingLeg(to_backend, tunnel.leg_lost))
    for leg in (tunnel.client, tunnel.backend):
        leg.attach(64 * 1024)
        leg.start(b"")
    with client, backend:
        try:
            yield tunnel, client, backend
        finally:
            tunnel.abort()
            async with asyncio.timeout(5):
                await ended.wait()


def overdue(leg: Leg, now: float) -> bool:
    return leg.overdue(now, STALL, CLOSE)


async def begins_to_end(leg: Leg) -> None:
    """Wait until a leg is ending, and its FIN acknowledged: that counts as a byte under way."""
    await until(lambda: leg.state is State.ENDING)
    number = leg.transport.get_extra_info("socket").fileno()
    await until(lambda: fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)) == bytes(4))


async def test_an_idle_leg_is_never_overdue() -> None:
    async with open_tunnel() as (tunnel, _, _):
        for now in (0, 1e6, 2e6):
            assert not tunnel.overdue(now, STALL, CLOSE)


async def test_the_close_clock_starts_when_the_leg_begins_to_end() -> None:
    async with open_tunnel() as (tunnel, client, _):
        client.shutdown(socket.SHUT_WR)
        await begins_to_end(tunnel.backend)
        now = asyncio.get_running_loop().time()
        assert not overdue(tunnel.backend, now + CLOSE - 1)
        assert overdue(tunnel.backend, now + CLOSE + 1)


class Whole:
    """A transport that ends both directions at once, as asyncio's TLS does."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def can_write_eof(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_a_leg_that_ends_before_its_first_check_has_its_time() -> None:
    """TLS ends both directions at once, and nothing may have been written yet."""
    async with open_tunnel() as (tunnel, _, _):
        leg: Any = tunnel.backend
        leg.transport = Whole(leg.transport)
        now = asyncio.get_running_loop().time()
        assert not leg.eof_received()
        assert not overdue(leg, now + CLOSE - 1)
        assert overdue(leg, now + CLOSE + 1)


async def test_the_close_clock_stands_while_we_keep_the_leg_from_reading() -> None:
    async with open_tunnel() as (tunnel, client, _):
        client.shutdown(socket.SHUT_WR)
        await begins_to_end(tunnel.backend)
        now = asyncio.get_running_loop().time()
        tunnel.backend.pause(ENCODING)
        assert not overdue(tunnel.backend, now + 5 * CLOSE)
        tunnel.backend.resume(ENCODING)
        assert not overdue(tunnel.backend, now + 5.5 * CLOSE)
        assert overdue(tunnel.backend, now + 6.5 * CLOSE)


async def test_a_reader_that_takes_nothing_is_overdue_and_one_that_takes_little_is_not() -> None:
    async with open_tunnel() as (tunnel, client, _):
        leg = tunnel.client
        leg.write(bytes(32 << 20))  # more than every buffer between holds
        now = asyncio.get_running_loop().time()
        assert not overdue(leg, now)
        assert not overdue(leg, now + STALL - 1)
        client.setblocking(False)
        for minute in range(1, 4):
            waiting = leg.transport.get_write_buffer_size()
            taken = 0
            while leg.transport.get_write_buffer_size() == waiting:
                try:
                    taken += len(client.recv(1 << 20))
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert taken
            assert not overdue(leg, now + minute * (STALL - 1))
        assert overdue(leg, now + 10 * STALL)


async def test_what_was_taken_long_ago_says_nothing_of_a_stall_that_begins() -> None:
    async with open_tunnel() as (tunnel, client, _):
        leg = tunnel.client
        size = 32 << 20
        now = asyncio.get_running_loop().time()
        for _ in range(2):  # the second time, long after all of the first was taken
            leg.write(bytes(size))
            assert tunnel.backlog
            assert not overdue(leg, now)
            assert not overdue(leg, now + STALL - 1)
            client.setblocking(False)
            left = size
            while left:
                try:
                    data = client.recv(1 << 20)
                except BlockingIOError:
                    await asyncio.sleep(0)
                else:
                    assert data
                    left -= len(data)
            now += 10 * STALL
            assert not overdue(leg, now)
            assert not tunnel.backlog
            now += 10 * STALL


async def test_speech_that_the_kernel_still_holds_counts_as_waiting() -> None:
    """All is written, and the leg is ending: the client's slow network has its time."""
    async with open_tunnel() as (tunnel, client, backend):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        tunnel.client.write(bytes(200_000))
        await until(lambda: not tunnel.client.transport.get_write_buffer_size())
        backend.shutdown(socket.SHUT_WR)
        await until(lambda: tunnel.client.state is State.ENDING)
        now = asyncio.get_running_loop().time()
        assert not overdue(tunnel.client, now + 1)
        assert not overdue(tunnel.client, now + STALL - 1)
        assert overdue(tunnel.client, now + 1 + STALL + 1)


async def test_ending_a_leg_that_was_reset_unnoticed() -> None:
    """A paused leg does not see a reset; both sockets are closed all the same."""
    async with open_tunnel() as (tunnel, client, backend):
        tunnel.client.pause(ENCODING)
        client.shutdown(socket.SHUT_WR)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        backend.shutdown(socket.SHUT_WR)
        await until(lambda: tunnel.client.state is not State.OPEN)
        tunnel.client.resume(ENCODING)
        await until(lambda: tunnel.client.state is State.LOST)


async def test_what_is_written_in_pieces_arrives_in_order() -> None:
    """At once where the system takes it, and behind what waits where it does not."""
    async with open_tunnel() as (tunnel, client, _):
        leg = tunnel.client
        sent = bytearray()
        for number in range(400):
            piece = number.to_bytes(2, "big") * (1 + 997 * (number % 40))
            if number % 2:
                leg.write(piece)
            else:
                leg.writelines([piece[:number], memoryview(piece)[number:], b""])
            sent += piece
        leg.writelines([bytes([n % 256]) for n in range(3000)])  # more than one call takes
        sent += bytes(n % 256 for n in range(3000))
        assert leg.transport.get_write_buffer_size(), "the kernel has taken it all"
        client.setblocking(False)
        received = bytearray()
        while len(received) < len(sent):
            try:
                received += client.recv(1 << 16)
            except BlockingIOError:
                await asyncio.sleep(0)
        assert received == sent


async def test_a_leg_that_is_lost_writes_to_nobody() -> None:
    """Its descriptor's number may be another connection's by then."""
    async with open_tunnel() as (tunnel, _, _):
        leg = tunnel.client
        number = leg.transport.get_extra_info("socket").fileno()
        leg.abort()
        await until(lambda: leg.state is State.LOST)
        others = [socket.socketpair() for _ in range(20)]
        try:
            ((_, heir),) = [pair for pair in others if pair[0].fileno() == number] or [
                (pair[1], pair[0]) for pair in others if pair[1].fileno() == number
            ]
            for write in (partial(leg.write, b"lesson"), partial(leg.writelines, [b"les", b"son"])):
                with contextlib.suppress(RuntimeError):  # uvloop's transport refuses
                    write()
            heir.setblocking(False)
            with pytest.raises(BlockingIOError):
                heir.recv(100)
        finally:
            for pair in others:
                for sock in pair:
                    sock.close()


async def test_who_had_the_connection_before_is_let_go() -> None:
    """uvloop keeps a method of the last plain protocol: of aiohttp's, 2.4 KiB a tunnel."""

    class Before(asyncio.Protocol):
        pass

    transport, other = await tcp_pair()
    before = Before()
    seen = weakref.ref(before)
    transport.set_protocol(before)
    Leg(transport, lambda: None).attach(64 * 1024)
    del before
    gc.collect()
    is_gone = seen() is None
    transport.abort()
    other.close()
    assert is_gone


@pytest.mark.parametrize("how", ["reset", "eof", "close", "abort"])
async def test_a_socket_keeps_its_number_until_its_protocol_is_told(how: str) -> None:
    """A leg writes past its transport until then: earlier, the number could be somebody else's."""
    told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    class Told(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            told.set_result(os.path.samestat(os.fstat(number), before))

    transport, other = await tcp_pair()
    number = transport.get_extra_info("socket").fileno()
    before = os.fstat(number)
    transport.set_protocol(Told())
    if how == "reset":
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how in ("reset", "eof"):
        other.close()
    elif how == "close":
        transport.close()
    else:
        transport.abort()
    async with asyncio.timeout(10):
        assert await told
    other.close()
    await until(lambda: not is_open(number, before))


def is_open(number: int, before: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(number), before)
    except OSError:
        return False


async def test_a_leg_that_is_lost_is_written_to_no_more() -> None:
    async with open_tunnel() as (tunnel, client, _):
        assert tunnel.client.file >= 0
        client.close()
        tunnel.client.abort()
        await until(lambda: tunnel.client.state is State.LOST)
        assert tunnel.client.file == -1
