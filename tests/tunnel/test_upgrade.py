"""Handshakes that fail: refused, slow, lying, unreachable, too many. Each with its status."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from proxy.app import App
from tests.conftest import Proxy
from tests.support import until
from tests.support.raw import Peer, accept, raw_backend, raw_client, request, switch

OPTED_IN = b"/?audio_compression=gzip&token=s3cret"


async def answer_to(app: App, head: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers (names lower-case) and body of what a client gets, its connection closed."""
    async with raw_client(app.listen) as client, asyncio.timeout(10):
        await client.send(head)
        status_line, *lines = (await client.head()).split(b"\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        body = await client.ended() if headers.get(b"connection") == b"close" else b""
        if not body:
            body = await client.read(int(headers.get(b"content-length", b"0")))
        return int(status_line.split()[1]), headers, body


async def nothing_left(app: App) -> None:
    """Wait until the proxy holds no connection."""
    await until(lambda: not app.connections())


def assert_plain_line(headers: dict[bytes, bytes], body: bytes, *words: bytes) -> None:
    """An error of ours: one line of text that says what happened and nothing secret."""
    assert headers[b"content-type"].startswith(b"text/plain")
    assert body.endswith(b"\n")
    assert body.count(b"\n") == 1
    assert b"s3cret" not in body
    for word in words:
        assert word in body


@pytest.mark.parametrize("target", [b"/", OPTED_IN])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nwho??",
        b"HTTP/1.1 403 Go Away\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nX-Odd:  spaced \r\nContent-Length: 4\r\n\r\nnone",
        b"HTTP/1.1 302 Found\r\nLocation: /else?a=%2F\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 1\r\n\r\n!",
    ],
)
async def test_a_refusal_is_relayed_as_it_is(proxy: Proxy, target: bytes, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)

    async with raw_backend(script) as port, proxy(port) as app, raw_client(app.listen) as client:
        await client.send(request(target))
        head = await client.head()
        expected, _, body = answer.partition(b"\r\n\r\n")
        assert head == expected.replace(b":  spaced ", b": spaced")
        assert await client.read(len(body)) == body
        assert not app.tunnels
        # The connection is an HTTP one still.
        await client.send(request(target))
        assert (await client.head())[:12] == answer[:12]


async def test_a_chunked_refusal_keeps_its_body(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.send(b"4\r\nnone\r\n5\r\n here\r\n0\r\n\r\n")

    async with raw_backend(script) as port, proxy(port) as app, raw_client(app.listen) as client:
        await client.send(request())
        assert b"Transfer-Encoding: chunked" in await client.head()
        body = await client.reader.readuntil(b"0\r\n\r\n")
    assert b"none" in body
    assert b" here" in body


def lies() -> dict[str, bytes]:
    """101s that do not hold."""
    good = switch(request())
    key = b"Sec-WebSocket-Accept: " + accept(request())
    return {
        "no upgrade": good.replace(b"Upgrade: websocket\r\n", b""),
        "other upgrade": good.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        "no connection": good.replace(b"Connection: Upgrade\r\n", b""),
        "no accept": good.replace(key + b"\r\n", b""),
        "wrong accept": good.replace(key, b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        "two accepts": good.replace(key, key + b"\r\n" + key),
        "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
        "huge head": b"HTTP/1.1 101 x\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        "nothing": b"",
        "half a head": good[:40],
    }


@pytest.mark.parametrize("lie", lies())
async def test_a_lying_backend_is_a_502(proxy: Proxy, lie: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(lies()[lie])

    async with raw_backend(script) as port, proxy(port) as app:
        status, headers, body = await answer_to(app, request(OPTED_IN))
        await nothing_left(app)
    assert status == 502
    assert_plain_line(headers, body, b"the backend")


async def test_an_extension_that_was_not_offered_is_a_502(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        head = await peer.head()
        await peer.send(switch(head, b"Sec-WebSocket-Extensions: permessage-deflate"))
        await peer.ended()

    async with raw_backend(script) as port, proxy(port) as app:
        status, headers, body = await answer_to(app, request(OPTED_IN))
        assert status == 502
        assert_plain_line(headers, body, b"extension")
        async with raw_client(app.listen) as client:
            await client.send(request(b"/"))
            assert b" 101 " in await client.head()


async def test_an_unreachable_backend_is_a_502(proxy: Proxy, tmp_path: object) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        for backend in (port, f"unix:{tmp_path}/none"):
            async with proxy(backend) as app:
                status, headers, body = await answer_to(app, request(OPTED_IN))
                await nothing_left(app)
            assert status == 502
            assert_plain_line(headers, body, b"not reachable")


async def test_a_slow_backend_is_a_504(proxy: Proxy) -> None:
    async def silent(peer: Peer) -> None:
        await peer.head()
        assert await peer.ended() == b""

    async with raw_backend(silent) as port, proxy(port, handshake_timeout="0.2") as app:
        status, headers, body = await answer_to(app, request(OPTED_IN))
        await nothing_left(app)
    assert status == 504
    assert_plain_line(headers, body, b"in time")


async def test_a_backend_that_does_not_accept_is_a_504(proxy: Proxy) -> None:
    """Its queue is full: the kernel does not answer, and the connection is not made."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        address = full.getsockname()
        for _ in range(3):  # one more than there is room for, and those that wait for it
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
        async with proxy(address[1], handshake_timeout="0.2") as app:
            status, headers, body = await answer_to(app, request(OPTED_IN))
            await nothing_left(app)
            assert app.counters.handshakes == {"timeout": 1}
    assert status == 504
    assert_plain_line(headers, body, b"in time")


async def test_too_many_connections_are_a_503(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await peer.ended()

    async with raw_backend(script) as port, proxy(port, max_connections="1") as app:
        async with raw_client(app.listen) as first:
            await first.send(request())
            assert b" 101 " in await first.head()
            status, headers, body = await answer_to(app, request(OPTED_IN))
            assert status == 503
            assert int(headers[b"retry-after"]) > 0
            assert_plain_line(headers, body)
        await nothing_left(app)
        async with raw_client(app.listen) as again:
            await again.send(request())
            assert b" 101 " in await again.head()


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /?token=s3cret\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost tutor\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # RFC 9112 section 3.2: without Host
        request(b"/?token=s3cret&" + b"x" * 70_000),
        request(b"/\x01s3cret"),
        request(b"/caf\xc3\xa9?token=s3cret"),
    ],
)
async def test_what_is_no_http_is_a_400(
    proxy: Proxy, head: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def script(peer: Peer) -> None:
        raise AssertionError("the backend was asked")

    async with raw_backend(script) as port, proxy(port) as app:
        status, headers, body = await answer_to(app, head)
        await nothing_left(app)
    assert status == 400
    assert_plain_line(headers, body)
    captured = capfd.readouterr()
    assert "s3cret" not in caplog.text + captured.out + captured.err


@pytest.mark.parametrize(
    "head",
    [
        request().replace(b"Sec-WebSocket-Key", b"X-No-Key"),
        request().replace(b"Version: 13", b"Version: 8"),
        request().replace(b"GET", b"POST"),
    ],
)
async def test_an_odd_handshake_is_the_backends_to_refuse(proxy: Proxy, head: bytes) -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.head())
        await peer.send(b"HTTP/1.1 426 No\r\nContent-Length: 0\r\n\r\n")

    async with raw_backend(script) as port, proxy(port) as app:
        status, _, _ = await answer_to(app, head)
    assert status == 426
    assert seen[0].split(b"\r\n")[:2] == head.split(b"\r\n")[:2]
    assert b"upgrade: websocket" in seen[0].lower()


async def test_a_client_that_leaves_during_the_handshake_frees_the_backend(proxy: Proxy) -> None:
    asked, freed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        asked.set()
        await peer.ended()
        freed.set()

    async with raw_backend(script) as port, proxy(port) as app, asyncio.timeout(5):
        async with raw_client(app.listen) as client:
            await client.send(request(OPTED_IN))
            await asked.wait()
            client.reset()
        await freed.wait()
        await nothing_left(app)


async def test_a_backend_that_dies_between_handshake_and_tunnel_ends_the_client(
    proxy: Proxy,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        peer.reset()

    async with raw_backend(script) as port, proxy(port) as app, asyncio.timeout(5):
        async with raw_client(app.listen) as client:
            await client.send(request(OPTED_IN))
            status = (await client.ended())[:12]
        assert status in (b"HTTP/1.1 101", b"HTTP/1.1 502")
        await nothing_left(app)
