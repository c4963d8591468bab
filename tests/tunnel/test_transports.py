"""The same tunnel over TLS, on either side, and over Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from proxy.client import connect as audio_connect
from proxy.tunnel.leg import Leg
from tests.conftest import Proxy
from tests.support import pcm, until
from tests.support.process import proxy_process
from tests.support.raw import Peer, raw_backend, raw_client, request, switch
from tests.support.tls import Certificates
from tests.tunnel.test_tunnel import CHUNK, frame
from tests.tunnel.test_upgrade import nothing_left

LESSON = [pcm()[at : at + 4096] for at in range(0, 200_000, 4096)] + [pcm() * 2]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


async def tutor(socket: ServerConnection) -> None:
    """Answer each message with a lesson, then close."""
    heads.append({name.lower(): value for name, value in socket.request.headers.raw_items()})  # type: ignore[union-attr]
    async for message in socket:
        await socket.send(message)
        for chunk in LESSON:
            await socket.send(chunk)
        await socket.close(4000, "over")


heads: list[dict[str, str]] = []


async def take_lesson(url: str, tls: ssl.SSLContext | None, algorithms: tuple[str, ...]) -> None:
    """Ask, and check that everything comes, and the close code behind it."""
    async with audio_connect(url, algorithms, ssl=tls, proxy=None, max_size=None) as socket:
        question = "?" * 300_000  # more than the socket buffers hold
        await socket.send(question)
        assert await socket.recv() == question
        for chunk in LESSON:
            assert (await socket.recv()) == chunk
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (4000, "over")


@asynccontextmanager
async def tutor_at(tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    async with serve(tutor, "127.0.0.1", 0, ssl=tls, max_size=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@pytest.mark.parametrize("algorithms", [("gzip",), ()])
async def test_tls_towards_clients(
    proxy: Proxy, certificates: Certificates, algorithms: tuple[str, ...]
) -> None:
    options = {"tls_cert": certificates.cert, "tls_key": certificates.key}
    async with tutor_at(None) as port, proxy(port, **options) as app:
        await take_lesson(f"wss://{app.listen}/", certificates.client(), algorithms)
        assert heads[-1]["x-forwarded-proto"] == "https"
        await nothing_left(app)


@pytest.mark.parametrize("scheme", ["https", "wss"])
async def test_tls_towards_the_backend(
    proxy: Proxy, certificates: Certificates, scheme: str
) -> None:
    async with tutor_at(certificates.server()) as port:
        url = f"{scheme}://localhost:{port}/base"
        async with proxy(url, backend_ca=certificates.ca) as app:
            await take_lesson(f"ws://{app.listen}/", None, ("gzip",))
            await nothing_left(app)
        async with proxy(url) as app:  # a certificate that nobody vouches for
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{app.listen}/", proxy=None)
            assert refused.value.response.status_code == 502


async def test_unix_sockets_on_both_sides(proxy: Proxy, tmp_path: Path) -> None:
    inner, outer = tmp_path / "tutor", tmp_path / "public"
    async with (
        unix_serve(tutor, str(inner), max_size=None),
        proxy(f"unix:{inner}", listen=f"unix:{outer}", trusted_proxies="unix") as app,
    ):
        for algorithms in (("gzip",), ()):
            async with audio_connect(
                "ws://tutor.example/",
                algorithms,
                unix=True,
                path=str(outer),
                max_size=None,
                additional_headers={"X-Forwarded-For": "203.0.113.7"},
            ) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
                assert [await socket.recv() for _ in LESSON] == LESSON
            assert heads[-1]["x-forwarded-for"] == "203.0.113.7, unknown"
        await nothing_left(app)


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_unix_socket_left_by_a_killed_proxy_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "public"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))  # bound, and nobody listens
    async with proxy_process(9, tmp_path, "--listen", f"unix:{path}"):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 502 ")
        writer.close()


async def test_a_tls_client_that_vanishes_or_half_closes(
    proxy: Proxy, certificates: Certificates
) -> None:
    freed = asyncio.Queue[None]()

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await peer.send(frame(2, CHUNK) * 100)
        await peer.ended()
        freed.put_nowait(None)

    options = {"tls_cert": certificates.cert, "tls_key": certificates.key, "close_timeout": "0.3"}
    async with raw_backend(script) as port, proxy(port, **options) as app, asyncio.timeout(10):
        for abort in (True, False):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", app.listen.port, ssl=certificates.client()
            )
            writer.write(request())
            await reader.readuntil(b"\r\n\r\n")
            if abort:
                writer.transport.abort()
            else:
                writer.close()
                with contextlib.suppress(ssl.SSLError):  # data came after its own close
                    await writer.wait_closed()
            await freed.get()
            await nothing_left(app)


async def test_a_tls_client_hears_all_that_a_backend_sent_before_it_closed(
    proxy: Proxy, certificates: Certificates
) -> None:
    speech = frame(2, CHUNK) * 500
    sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        peer.writer.write(speech)
        peer.writer.write_eof()
        sent.set()
        await peer.ended()

    options = {"tls_cert": certificates.cert, "tls_key": certificates.key}
    async with raw_backend(script) as port, proxy(port, **options) as app, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", app.listen.port, ssl=certificates.client(), limit=1000
        )
        writer.write(request())
        await sent.wait()
        await reader.readuntil(b"\r\n\r\n")
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
        await nothing_left(app)
    assert received == speech


@pytest.mark.parametrize("target", [b"/", b"/?audio_compression=gzip"])
async def test_a_backend_that_accepts_speaks_and_closes_at_once(
    proxy: Proxy, certificates: Certificates, target: bytes
) -> None:
    """All that it said arrives, over TLS too, where the connection is closed by then."""
    said = frame(1, b"sorry") + frame(8, b"\x11\x31no lesson")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(switch(head) + said)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificates.server())
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with server, proxy(url, backend_ca=certificates.ca) as app, asyncio.timeout(10):
        async with raw_client(app.listen) as client:
            await client.send(request(target))
            assert b" 101 " in await client.head()
            assert await client.rest() == said
        await nothing_left(app)


async def test_a_tls_client_that_closes_while_it_is_behind_stops_no_clock(
    proxy: Proxy, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says close_notify, takes a little more, and stalls: it is let go all the same."""
    sent, seen, times = 0, 0, 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.send(switch(await peer.head()))
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.send(frame(2, CHUNK))
                sent += 1
        await peer.ended()

    def is_behind() -> bool:
        """Whether nothing more was taken, the last hundred times that this was asked."""
        nonlocal seen, times
        seen, times = sent, times + 1 if sent and sent == seen else 0
        return times >= 100

    limits = {"stall_timeout": "1", "close_timeout": "0.5"}
    options = {"tls_cert": certificates.cert, "tls_key": certificates.key, **limits}
    async with raw_backend(script) as port, proxy(port, **options) as app:
        with socket.create_connection(("127.0.0.1", app.listen.port)) as plain:
            say_goodbye = await asyncio.to_thread(_ask, plain, certificates.client())
            await until(is_behind)
            plain.sendall(say_goodbye())
            await asyncio.to_thread(_take, plain, 150_000)
            await nothing_left(app)
    assert "could not be watched" not in capsys.readouterr().out


def _ask(plain: socket.socket, context: ssl.SSLContext) -> Callable[[], bytes]:
    """Open a tunnel by TLS, reading no more than that; returns what makes a close_notify."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            incoming.write(plain.recv(1 << 16))
    tls.write(request())
    plain.sendall(outgoing.read())

    def say_goodbye() -> bytes:
        with contextlib.suppress(ssl.SSLError):  # speech comes behind it
            tls.unwrap()
        return outgoing.read()

    return say_goodbye


def _take(plain: socket.socket, size: int) -> None:
    while size > 0 and (data := plain.recv(1 << 14)):
        size -= len(data)


async def test_a_tls_leg_is_closed_once(certificates: Certificates) -> None:
    """asyncio's TLS transport can be asked nothing more after a second close()."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=certificates.server())
    async with server:
        port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_connection(
            asyncio.Protocol, "127.0.0.1", port, ssl=certificates.client()
        )
        lost = asyncio.Event()
        leg = Leg(transport, lost.set)
        leg.peer = leg
        leg.attach(64 * 1024)
        leg.finish()  # nothing waits to be written: this closes
        leg.resume_writing()
        assert not leg.overdue(loop.time(), 60, 10)
        leg.abort()
        await lost.wait()
