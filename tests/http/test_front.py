"""aiohttp's server, as far as more of it is used than it documents; and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol

from proxy.http.front import Front, Sent, _Base, _Connection, flush, take_over
from tests.conftest import Proxy
from tests.support import until
from tests.support.raw import Peer, raw_backend, raw_client


async def test_a_connection_is_taken_over_whole() -> None:
    """Early bytes come along, nothing is closed, and aiohttp lets go of everything."""
    received = bytearray()
    lost = asyncio.Event()

    class Ours(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.extend(data)

        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await flush(request)
        assert front.serving == 1
        transport, early = take_over(request)
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # see `_Base`
        assert front.serving == 0  # at once: it would count twice, here and as a tunnel
        received.extend(early)
        transport.set_protocol(Ours())
        transport.write(b"taken over")
        transport.resume_reading()
        return Sent(keep_alive=False)

    loop = asyncio.get_running_loop()
    front = Front(handle, close_timeout=1)
    before = asyncio.all_tasks()
    server = await loop.create_server(front, "127.0.0.1", 0)
    try:
        async with raw_client(server.sockets[0].getsockname()[1]) as client:
            head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            await client.send(head + b"early")
            assert await client.read(10) == b"taken over"
            await client.send(b" and late")
            await until(lambda: bytes(received) == b"early and late")
            assert front.connections == []
            assert asyncio.all_tasks() - before == set()
            assert not lost.is_set()
        await lost.wait()
    finally:
        server.close()
        await server.wait_closed()


def state_of(protocol: BaseProtocol) -> dict[str, object]:
    return {name: getattr(protocol, name, None) for name in BaseProtocol.__slots__}


async def test_a_connection_begins_as_aiohttp_has_it() -> None:
    """Of its base class' `connection_made` we do all but one thing; see `_Base`."""
    loop = asyncio.get_running_loop()
    theirs, ours = BaseProtocol(loop), _Base(loop)
    transport = asyncio.Transport()
    before = state_of(theirs)
    for protocol in (theirs, ours):
        protocol.connection_made(transport)
    assert state_of(ours) == state_of(theirs) != before
    assert _Connection.__mro__.index(_Base) + 1 == _Connection.__mro__.index(BaseProtocol)


async def test_a_handler_that_takes_over_is_not_cancelled() -> None:
    """It goes to its end, and what aiohttp does behind it meets no error."""
    ended = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await flush(request)
        transport, _ = take_over(request)
        await asyncio.sleep(0)  # here it would be
        transport.set_protocol(asyncio.Protocol())
        transport.close()
        ended.set()
        return Sent(keep_alive=False)

    loop = asyncio.get_running_loop()
    errors: list[object] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    front = Front(handle, close_timeout=1)
    before = asyncio.all_tasks()
    server = await loop.create_server(front, "127.0.0.1", 0)
    try:
        async with raw_client(server.sockets[0].getsockname()[1]) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await client.rest() == b""
        async with asyncio.timeout(10):
            await ended.wait()
        await until(lambda: asyncio.all_tasks() == before)
        assert front.connections == []
        assert errors == []
    finally:
        server.close()
        await server.wait_closed()


async def test_a_faulty_handler_is_a_500_without_secrets() -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        raise KeyError("s3cret")

    loop = asyncio.get_running_loop()
    front = Front(handle, close_timeout=1)
    server = await loop.create_server(front, "127.0.0.1", 0)
    try:
        async with raw_client(server.sockets[0].getsockname()[1]) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert answer.endswith(b"\r\n\r\nthe proxy failed; its log says why\n")
    finally:
        server.close()
        await server.wait_closed()


async def test_stopping_does_not_wait_for_idle_connections(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with raw_backend(script) as port, contextlib.AsyncExitStack() as outlives:
        async with asyncio.timeout(5):  # close_timeout is 10
            async with proxy(port) as app:
                idle = await outlives.enter_async_context(raw_client(app.listen))
                used = await outlives.enter_async_context(raw_client(app.listen))
                await used.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await used.head()
                await until(lambda: app.connections() == 2)
            assert await idle.ended() == b""
            assert await used.ended() == b""
