"""Plain HTTP through the proxy, by the same header rules, streamed both ways."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.conftest import Proxy
from tests.support.backends import aiohttp_server
from tests.support.raw import Peer, raw_backend, raw_client
from tests.tunnel.test_upgrade import answer_to, assert_plain_line, nothing_left

PLAIN = b"GET /a%2Fb?x=1&x=2 HTTP/1.1\r\nHost: tutor.example\r\n"


async def test_heads_travel_byte_for_byte(proxy: Proxy) -> None:
    sent = (
        PLAIN + b"Cookie: a=b\r\nX-Latin: caf\xe9\r\nx-CASE: Kept\r\nConnection: close, X-Hop\r\n"
        b"X-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n"
    )
    answer = (
        b"HTTP/1.1 299 Quite Fine\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Latin: \xe9\r\n"
        b"Connection: X-Gone\r\nX-Gone: 1\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: 4\r\n\r\nbody"
    )
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.head())
        await peer.send(answer)

    async with (
        raw_backend(script) as port,
        proxy(port) as app,
        raw_client(app.listen) as client,
    ):
        await client.send(sent)
        received = await client.ended()
    assert seen[0].split(b"\r\n") == [
        b"GET /a%2Fb?x=1&x=2 HTTP/1.1",
        b"Host: tutor.example",
        b"Cookie: a=b",
        b"X-Latin: caf\xe9",
        b"x-CASE: Kept",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: tutor.example",
        b'Forwarded: for=127.0.0.1;host="tutor.example";proto=http',
        b"Connection: close",
    ]
    assert received == (
        b"HTTP/1.1 299 Quite Fine\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Latin: \xe9\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    )


async def test_bodies_stream_both_ways(proxy: Proxy) -> None:
    """A body is passed on while it comes, not when it is complete."""

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for piece in request.content.iter_any():
            await response.write(piece.upper())
        return response

    app = web.Application()
    app.router.add_post("/echo", echo)
    heard = asyncio.Event()

    async def talk() -> AsyncIterator[bytes]:
        yield b"question"
        await heard.wait()  # the answer to the first piece comes before the second is sent
        yield b"thanks"

    async with (
        aiohttp_server(app) as port,
        proxy(port) as proxy_app,
        aiohttp.ClientSession() as session,
        session.post(f"http://{proxy_app.listen}/echo", data=talk()) as response,
        asyncio.timeout(5),
    ):
        assert await response.content.readexactly(8) == b"QUESTION"
        heard.set()
        assert await response.content.read() == b"THANKS"


@pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
async def test_bodies_of_any_size_arrive_whole(proxy: Proxy, size: int) -> None:
    async def digest(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(body=body, headers={"X-Digest": hashlib.sha256(body).hexdigest()})

    app = web.Application(client_max_size=1 << 30)
    app.router.add_put("/{path:.*}", digest)
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with (
        aiohttp_server(app) as port,
        proxy(port) as proxy_app,
        aiohttp.ClientSession() as session,
    ):
        for expect in (False, True):
            url = f"http://{proxy_app.listen}/file"
            async with session.put(url, data=io.BytesIO(body), expect100=expect) as response:
                assert response.status == 200
                assert response.headers["X-Digest"] == hashlib.sha256(body).hexdigest()
                received = await response.read()
                assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()


async def test_keep_alive_head_and_empty_answers(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        head = await peer.head()
        if head.startswith(b"HEAD"):
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        elif b"/none" in head:
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif b"/same" in head:
            await peer.send(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nto the end")  # ends with the connection

    async with raw_backend(script) as port, proxy(port) as app, raw_client(app.listen) as client:
        for start in (b"HEAD /x", b"GET /none", b"GET /same", b"GET /rest"):
            await client.send(start + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await client.head()
            assert b"Connection" not in head
            if start == b"GET /rest":
                assert b"Transfer-Encoding: chunked" in head
                assert await client.read(20) == b"a\r\nto the end\r\n0\r\n\r\n"


async def test_http_1_0_without_host(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        head = await peer.head()
        assert f"Host: 127.0.0.1:{port}".encode() in head
        await peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        )

    async with raw_backend(script) as port, proxy(port) as app, raw_client(app.listen) as client:
        await client.send(b"GET /health HTTP/1.0\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"chunked" not in head
    assert body == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_an_answer_cut_short_does_not_look_complete(proxy: Proxy, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)

    async with raw_backend(script) as port, proxy(port) as app:
        async with aiohttp.ClientSession() as session:
            with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
                async with session.get(f"http://{app.listen}/") as response:
                    await response.read()
        await nothing_left(app)


async def test_an_early_answer_ends_the_upload(proxy: Proxy) -> None:
    """The backend refuses a large body without reading it."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")

    async with raw_backend(script) as port, proxy(port) as app, raw_client(app.listen) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nbegin")
        assert (await client.head()).startswith(b"HTTP/1.1 413 Too Large")
        assert await client.read(3) == b"big"
        client.reset()
        await nothing_left(app)


async def test_a_client_that_leaves_frees_the_backend(proxy: Proxy) -> None:
    asked, freed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        asked.set()
        await peer.ended()
        freed.set()

    async with raw_backend(script) as port, proxy(port) as app, asyncio.timeout(5):
        async with raw_client(app.listen) as client:
            await client.send(PLAIN + b"\r\n")
            await asked.wait()
        await freed.wait()
        await nothing_left(app)


async def test_a_backend_that_falls_silent_is_a_504(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.ended()

    async with raw_backend(script) as port, proxy(port, stall_timeout="0.3") as app:
        status, headers, body = await answer_to(app, PLAIN + b"\r\n")
    assert status == 504
    assert_plain_line(headers, body, b"in time")


async def test_connect_is_refused(proxy: Proxy) -> None:
    async with proxy(9) as app:
        status, headers, body = await answer_to(app, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")
    assert status == 400
    assert_plain_line(headers, body, b"CONNECT")


async def test_an_answer_framed_in_two_ways_is_framed_in_one(proxy: Proxy) -> None:
    """Transfer-Encoding overrides Content-Length: nothing of a body is a second answer."""
    hidden = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"%x\r\nabc%b\r\n0\r\n\r\n" % (len(hidden) + 3, hidden)
        )

    async with raw_backend(script) as port, proxy(port) as app, raw_client(app.listen) as client:
        await client.send(PLAIN + b"Connection: close\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert b"Content-Length" not in head
    assert b"Transfer-Encoding: chunked" in head
    assert body.startswith(b"%x\r\nabc" % (len(hidden) + 3))


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 10\r\n\r\n1",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_a_request_that_does_not_come_whole_is_a_408(proxy: Proxy, sent: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.ended()

    limits = {"stall_timeout": "0.3", "close_timeout": "0.3"}
    async with raw_backend(script) as port, proxy(port, **limits) as app:
        head = PLAIN.replace(b"GET", b"POST") + sent
        status, headers, body = await answer_to(app, head)
        await nothing_left(app)
    assert status == 408
    assert_plain_line(headers, body, b"in time")


async def test_a_backend_that_does_not_take_the_request_is_a_504(
    proxy: Proxy, tmp_path: Path
) -> None:
    """Over a Unix socket, where no TCP clock helps."""
    path = str(tmp_path / "backend")
    over = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()  # reads nothing
        writer.close()

    async with (
        await asyncio.start_unix_server(accept, path, limit=1),
        proxy(f"unix:{path}", stall_timeout="0.3") as app,
        raw_client(app.listen) as client,
    ):
        length = b"Content-Length: 10000000\r\n\r\n"
        client.writer.write(PLAIN.replace(b"GET", b"POST") + length + bytes(10_000_000))
        try:
            assert (await client.head()).split(b" ")[1] == b"504"
            client.reset()
            await nothing_left(app)
        finally:
            over.set()


@pytest.mark.parametrize("size", [1000, 260_000, 2_000_000])
async def test_a_client_that_does_not_take_its_answer_is_let_go(
    proxy: Proxy, tmp_path: Path, size: int
) -> None:
    """Over a Unix socket, where no TCP clock helps."""
    sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        sent.set()
        await peer.ended()

    path = str(tmp_path / "public")
    async with (
        raw_backend(script) as port,
        proxy(port, listen=f"unix:{path}", stall_timeout="0.3") as app,
    ):
        client = Peer(*await asyncio.open_unix_connection(path, limit=1))
        try:
            await client.send(PLAIN + b"Connection: close\r\n\r\n")
            await sent.wait()
            await nothing_left(app)
        finally:
            client.reset()
            await client.close()


async def test_an_absolute_target_names_the_host(proxy: Proxy) -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with raw_backend(script) as port, proxy(port) as app, raw_client(app.listen) as client:
        for target in (b"http://other.example:80/a?b=http://c/", b"http://me:pw@other.example?b"):
            await client.send(b"GET " + target + b" HTTP/1.1\r\nHost: tutor.example\r\n\r\n")
            await client.head()
    assert [head.split(b"\r\n")[:2] for head in heads] == [
        [b"GET /a?b=http://c/ HTTP/1.1", b"Host: other.example:80"],
        [b"GET /?b HTTP/1.1", b"Host: other.example"],
    ]


@pytest.mark.parametrize(
    "head",
    [
        PLAIN.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n",
        PLAIN.replace(b"GET", b"POST") + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_cannot_be_relayed_is_a_400(proxy: Proxy, head: bytes) -> None:
    async with proxy(9) as app:
        status, headers, body = await answer_to(app, head)
    assert status == 400
    assert_plain_line(headers, body)
    assert headers[b"server"] == b"audio-proxy"
