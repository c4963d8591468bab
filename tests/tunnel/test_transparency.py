"""Who did not opt in cannot tell that the proxy is there; what the backend sees of who did."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from proxy.values import Address
from proxy.websocket.frames import BINARY, CLOSE, PING, PONG, TEXT
from tests.conftest import Proxy
from tests.support import SPEECH
from tests.support.backends import BACKENDS
from tests.support.raw import Oracle, Peer, masked, raw_backend, raw_client, request, switch

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


async def lesson(address: Address | int, *, deflate: bool) -> tuple[list[bytes], bytes]:
    """Go through a whole connection. Returns the answer's head lines and every byte behind."""
    script = {"path": str(SPEECH["speech-22050-s16.wav"]), "size": 4096, "limit": 100_000}
    async with raw_client(address) as client:
        oracle = Oracle(client, "/", deflate=deflate)
        await oracle.handshake()
        await client.send(masked(PING, b"are you there?"))
        await oracle.until(PONG, b"are you there?")
        await client.send(masked(TEXT, json.dumps(script).encode()))
        await oracle.until(TEXT, b"end")
        await client.send(masked(BINARY, bytes(5000)))
        await oracle.until(BINARY, bytes(5000))
        await client.send(masked(CLOSE, b"\x03\xe8bye"))
        head, _, rest = (bytes(oracle.received) + await client.rest()).partition(b"\r\n\r\n")
        assert bool(oracle.protocol.extensions) == deflate
        return [line for line in head.split(b"\r\n") if not line.startswith(b"Date:")], rest


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "permessage-deflate"])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_backend_to_client_is_the_direct_connections_bytes(
    backend: str, deflate: bool, proxy: Proxy
) -> None:
    async with BACKENDS[backend]() as port, proxy(port) as app:
        direct = await lesson(port, deflate=deflate)
        through = await lesson(app.listen, deflate=deflate)
    assert through == direct
    assert len(direct[1]) > 70_000


@pytest.mark.parametrize("target", [b"/", b"/?audio_compression=gzip"])
async def test_client_to_backend_is_verbatim(target: bytes, proxy: Proxy) -> None:
    """Nothing is parsed: even bytes that are no frames arrive as they were sent."""
    blob = os.urandom(1_000_000)
    received = b""

    async def script(peer: Peer) -> None:
        nonlocal received
        await peer.send(switch(await peer.head()))
        received = await peer.read(len(blob))

    async with raw_backend(script) as port, proxy(port) as app, raw_client(app.listen) as client:
        await client.send(request(target) + blob[:1000])  # early bytes, before the answer
        await client.head()
        await client.send(blob[1000:])
        assert await client.rest() == b""
    assert received == blob


FORWARDED = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"}
SENT = (
    b"Origin: https://school.example",
    b"Cookie: session=abc%20def; theme=dark",
    b"aUTHORIZATION: Bearer s3cret",
    b"Sec-WebSocket-Protocol: tutor.v2, tutor.v1",
    b"X-Twice: 1",
    b"X-Twice: 2",
    b"X-Latin: caf\xe9",
    b"X-Empty:",
)


async def seen_by_the_backend(proxy: Proxy, head: bytes, **settings: object) -> list[bytes]:
    """The lines of the handshake that arrives at the backend."""
    lines: list[bytes] = []

    async def script(peer: Peer) -> None:
        lines.extend((await peer.head()).split(b"\r\n"))
        await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async with raw_backend(script) as port:
        path = str(settings.pop("base_path", ""))
        url = f"http://127.0.0.1:{port}{path}"
        async with proxy(url, **settings) as app, raw_client(app.listen) as client:
            await client.send(head)
            assert (await client.head()).startswith(b"HTTP/1.1 403 ")
    return lines


@pytest.mark.parametrize("opted_in", [False, True])
async def test_the_backend_sees_the_handshake_as_it_was_sent(proxy: Proxy, opted_in: bool) -> None:
    query = b"?a=1&audio_compression=gzip&b=2" if opted_in else b"?a=1&b=2"
    head = request(b"/ws" + query, *SENT, DEFLATE)
    lines = await seen_by_the_backend(proxy, head)
    kept = [line for line in lines if line.split(b":")[0].lower() not in FORWARDED]
    expected = [
        line.replace(b"X-Empty:", b"X-Empty: ")
        for line in head[:-4].replace(query, b"?a=1&b=2").split(b"\r\n")
        if not (opted_in and line.startswith(b"Sec-WebSocket-Extensions"))
    ]
    assert kept[0] == expected[0]
    assert sorted(kept) == sorted(expected)
    # In their order too, but for the two that belong to this hop.
    hop = (b"Connection", b"Upgrade")
    assert [k for k in kept if not k.startswith(hop)] == [
        e for e in expected if not e.startswith(hop)
    ]
    forwarding = [line for line in lines if line not in kept]
    assert forwarding == [
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: tutor.example",
        b'Forwarded: for=127.0.0.1;host="tutor.example";proto=http',
    ]


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (b"/a%2Fb?audio_compression=gzip&x=%2F", b"/a%2Fb?x=%2F"),
        (b"/?x=a+b&audio_compression=gzip,flac", b"/?x=a+b"),
        (b"/?k=1&k=2&audio_compression=on&k=3", b"/?k=1&k=2&k=3"),
        (b"/?empty=&audio_compression=&flag", b"/?empty=&flag"),
        (b"/?audio_compression", b"/"),
        (b"/?caf%C3%A9=%E2%82%AC&audio_compression=1", b"/?caf%C3%A9=%E2%82%AC"),
        (b"/?audio_compression=0&a=b&audio_compression=gzip", b"/?a=b"),
        (b"/?&&a=b&", b"/?&&a=b&"),
        (b"/?", b"/?"),
        (b"//double//slash?a=%zz", b"//double//slash?a=%zz"),
        (b"/?audio_compressions=gzip&xaudio_compression=1", None),
    ],
)
async def test_the_target_without_the_parameter(
    proxy: Proxy, sent: bytes, seen: bytes | None
) -> None:
    lines = await seen_by_the_backend(proxy, request(sent))
    assert lines[0] == b"GET %b HTTP/1.1" % (sent if seen is None else seen)
    lines = await seen_by_the_backend(proxy, request(sent), base_path="/base/")
    assert lines[0] == b"GET /base%b HTTP/1.1" % (sent if seen is None else seen)


async def test_forwarding_headers_of_a_trusted_peer_are_appended_to(proxy: Proxy) -> None:
    came = (
        b"X-Forwarded-For: 203.0.113.7",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: school.example",
        b"Forwarded: for=203.0.113.7",
    )
    distrusted = await seen_by_the_backend(proxy, request(b"/", *came))
    assert b"X-Forwarded-For: 127.0.0.1" in distrusted
    assert not any(b"203.0.113.7" in line or b"school" in line for line in distrusted)
    trusted = await seen_by_the_backend(
        proxy, request(b"/", *came), trusted_proxies="127.0.0.0/8", host_header="inner.example"
    )
    assert b"X-Forwarded-For: 203.0.113.7, 127.0.0.1" in trusted
    assert b"X-Forwarded-Proto: https" in trusted
    assert b"X-Forwarded-Host: school.example" in trusted
    assert any(line.startswith(b"Forwarded: for=203.0.113.7, for=127.0.0.1;") for line in trusted)
    assert b"Host: inner.example" in trusted


async def test_an_upgrade_as_second_request_of_a_connection(proxy: Proxy) -> None:
    async def script(peer: Peer) -> None:
        head = await peer.head()
        if b"Upgrade" in head:
            await peer.send(switch(head) + b"tunnel")
            assert await peer.rest() == b"client"
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")

    async with raw_backend(script) as port, proxy(port) as app, raw_client(app.listen) as client:
        plain = b"GET /page HTTP/1.1\r\nHost: tutor.example\r\n\r\n"
        await client.send(plain + request(b"/ws") + b"cli")  # pipelined
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK")
        assert await client.read(5) == b"plain"
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        assert await client.read(6) == b"tunnel"
        await client.send(b"ent")
        client.writer.write_eof()
        async with asyncio.timeout(5):
            assert await client.rest() == b""


async def test_opting_in_is_answered_by_a_header(proxy: Proxy) -> None:
    async with BACKENDS["websockets"]() as port, proxy(port) as app:
        for query, answer in (
            (b"?audio_compression=GZIP,speex", [b"X-Audio-Compression: gzip"]),
            (b"?audio_compression=opus,FLAC,gzip", [b"X-Audio-Compression: opus,flac,gzip"]),
            (b"?audio_compression=speex", []),
            (b"?audio_compression=off", []),
        ):
            async with raw_client(app.listen) as client:
                await client.send(request(b"/" + query, DEFLATE))
                lines = (await client.head()).split(b"\r\n")
            assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
            assert [line for line in lines if line.startswith(b"X-Audio")] == answer
            extended = any(line.startswith(b"Sec-WebSocket-Extensions") for line in lines)
            assert extended == (not answer)
