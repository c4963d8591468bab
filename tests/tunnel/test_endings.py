"""How a tunnel has ended, and who did it: a line in the log, a count in the statistics."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.frames import Opcode

from proxy.app import App
from proxy.tunnel import upgrade
from proxy.tunnel.leg import _GONE, Leg
from proxy.tunnel.tunnel import Tunnel
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.splitter import Splitter
from tests.conftest import Proxy
from tests.support import pcm, speech, until
from tests.support.raw import Peer, masked, raw_backend, raw_client, request, switch
from tests.websocket.strategies import binary, message

CLOSE = b"\x03\xe8"  # 1000
CHUNKS = b"".join(binary(pcm()[at : at + 4096]).wire for at in range(40_000, 80_000, 4096))
Talk = Callable[[Peer, Peer], Awaitable[None]]


def close(code: int, reason: bytes = b"") -> bytes:
    """A server's close frame."""
    payload = code.to_bytes(2, "big") + reason
    return bytes((0x88, len(payload))) + payload


async def client_closes(client: Peer, backend: Peer) -> None:
    await client.send(masked(8, (4001).to_bytes(2, "big")))
    await backend.read(8)
    await backend.send(close(4001))
    await client.read(4)


async def client_closes_in_pieces(client: Peer, backend: Peer) -> None:
    await client.send(masked(1, b"bye") + masked(8, CLOSE)[:3])
    await backend.read(9 + 3)
    await client.send(masked(8, CLOSE)[3:])
    await backend.read(5)
    await backend.send(close(1000))
    await client.read(4)


async def backend_closes(client: Peer, backend: Peer) -> None:
    await backend.send(close(1011, b"out of words"))
    await client.read(16)
    await client.send(masked(8, (1011).to_bytes(2, "big")))
    await backend.read(8)


async def backend_closes_and_hears_more(client: Peer, backend: Peer) -> None:
    """What the client sent in the meantime is no close."""
    await backend.send(close(1000))
    await client.send(masked(1, b"and"))
    await backend.read(9)
    await client.read(4)
    await client.send(masked(8, CLOSE))
    await backend.read(8)


async def without_a_code(client: Peer, backend: Peer) -> None:
    await backend.send(b"\x88\x00")
    await client.read(2)
    await client.send(masked(8, b""))
    await backend.read(6)


async def client_resets(client: Peer, backend: Peer) -> None:
    client.reset()
    await backend.ended()


async def backend_resets(client: Peer, backend: Peer) -> None:
    backend.reset()
    await client.ended()


CASES: dict[Talk, tuple[int, str, str]] = {
    client_closes: (4001, "4xxx", "client"),
    client_closes_in_pieces: (1005, "1005", "client"),
    backend_closes: (1011, "1011", "backend"),
    backend_closes_and_hears_more: (1000, "1000", "backend"),
    without_a_code: (1005, "1005", "backend"),
    client_resets: (1006, "1006", "client"),
    backend_resets: (1006, "1006", "backend"),
}


async def talk(app: App, target: bytes, ending: Talk, meeting: asyncio.Queue[Peer]) -> None:
    async with raw_client(app.listen) as client:
        await client.send(request(target))
        await client.head()
        backend = await meeting.get()
        await ending(client, backend)
        await backend.close()


@pytest.mark.parametrize("ending", CASES, ids=lambda ending: ending.__name__)
@pytest.mark.parametrize("target", [b"/ws?token=s3cret", b"/ws?token=s3cret&audio_compression=1"])
async def test_how_and_by_whom(ending: Talk, target: bytes, proxy: Proxy) -> None:
    code, label, by = CASES[ending]
    meeting: asyncio.Queue[Peer] = asyncio.Queue()
    left = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await meeting.put(peer)
        await left.wait()

    with capture_logs() as logs:
        async with raw_backend(serve) as port, proxy(port) as app:
            await talk(app, target, ending, meeting)
            await until(lambda: len(app.tunnels) == 0)
            left.set()
            assert app.counters.close_codes == {label: 1}
            assert app.counters.closed_by == {by: 1}
            await until(lambda: any(line["event"] == "tunnel ended" for line in logs))
    (line,) = [line for line in logs if line["event"] == "tunnel ended"]
    assert (line["code"], line["by"]) == (code, by)
    assert line["path"] == "/ws"
    assert "s3cret" not in str(logs)


def tunnels() -> list[object]:
    """What there is of tunnels in memory."""
    kinds = (Tunnel, Leg, AudioFilter, Splitter)
    return [each for each in gc.get_objects() if isinstance(each, kinds) and each is not _GONE]


@pytest.mark.parametrize(
    ("ending", "algorithm"),
    [
        *((ending, "gzip") for ending in CASES),
        *((client_closes, algorithm) for algorithm in ("none", "flac", "opus")),
    ],
)
async def test_it_is_gone_without_a_garbage_collection(
    ending: Talk, algorithm: str, proxy: Proxy
) -> None:
    """One over all tunnels would stop every lesson of the worker."""
    meeting: asyncio.Queue[Peer] = asyncio.Queue()
    left = asyncio.Event()
    opus = {"pcm_layout": "s16le/24000/1", "opus_raw": True}

    async def serve(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + CHUNKS + message(Opcode.TEXT, b"bye").wire)
        await meeting.put(peer)
        await left.wait()

    async def listen(client: Peer, backend: Peer) -> None:
        await client.reader.readuntil(b"\x81\x03bye")
        await ending(client, backend)

    async with raw_backend(serve) as port, proxy(port, **opus) as app:
        gc.collect()
        gc.disable()
        try:
            await talk(app, b"/?audio_compression=" + algorithm.encode(), listen, meeting)
            await until(lambda: len(app.tunnels) == 0)
            left.set()
            await until(lambda: not tunnels())
        finally:
            gc.enable()


async def test_who_was_watched_is_gone_too(proxy: Proxy) -> None:
    """The last that was looked at was kept until others came."""
    left = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await left.wait()

    async with raw_backend(serve) as port, proxy(port, close_timeout=1) as app:
        gc.collect()
        async with raw_client(app.listen) as client:
            await client.send(request(b"/?audio_compression=1"))
            await client.head()
            app.tunnels.backlog = -1
            await until(lambda: app.tunnels.backlog == 0)
            assert len(app.tunnels) == 1
        left.set()
        await until(lambda: not tunnels())


async def test_the_line_has_what_a_lesson_was(proxy: Proxy) -> None:
    async def serve(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + CHUNKS + close(1000))
        await peer.read(len(masked(1, b"thanks") + masked(8, CLOSE)))

    with capture_logs() as logs:
        async with raw_backend(serve) as port, proxy(port) as app:
            async with raw_client(app.listen) as client:
                await client.send(request(b"/ws?audio_compression=gzip"))
                head = await client.head()
                await client.send(masked(1, b"thanks") + masked(8, CLOSE))
                heard = await client.rest()
            await until(lambda: len(app.tunnels) == 0)
    (line,) = [line for line in logs if line["event"] == "tunnel ended"]
    expected: dict[str, Any] = {
        "algorithms": "gzip",
        "chunks": 10,
        "bytes_in": len(masked(1, b"thanks") + masked(8, CLOSE)),
        "bytes_out": len(head) + 4 + len(heard),
    }
    assert {name: line[name] for name in expected} == expected
    assert 0 < line["compressed"] <= 10
    assert 0 <= line["seconds"] < 60
    assert line["id"].rpartition("-")[2] == "1"


async def test_the_proxy_itself(proxy: Proxy) -> None:
    async def serve(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + binary(b"speech").wire)
        await peer.rest()

    with capture_logs() as logs:
        async with raw_backend(serve) as port, proxy(port, drain_timeout=0.01) as app:
            async with raw_client(app.listen) as client:
                await client.send(request())
                await client.head()
                await client.read(8)
                draining = asyncio.create_task(app.drain())
                assert await client.read(4) == close(1001)
                await client.send(masked(8, b"\x03\xe9"))
                await draining
            assert app.counters.closed_by == {"proxy": 1}
    (line,) = [line for line in logs if line["event"] == "tunnel ended"]
    assert (line["code"], line["by"]) == (1001, "proxy")


async def test_handshakes_are_counted_by_what_came_of_them(proxy: Proxy) -> None:
    async def serve(peer: Peer) -> None:
        head = await peer.head()
        if b"/declined" in head:
            await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        elif b"/nonsense" in head:
            await peer.send(b"nonsense\r\n\r\n")
        elif b"/silent" in head:
            await peer.rest()
        else:
            await peer.send(switch(head) + close(1000))
            await peer.rest()

    targets = {
        b"/": "switched",
        b"/?audio_compression=gzip": "opted_in",
        b"/declined": "declined",
        b"/nonsense": "bad_gateway",
        b"/silent": "timeout",
    }
    async with raw_backend(serve) as port, proxy(port, handshake_timeout=0.2) as app:
        for target in targets:
            async with raw_client(app.listen) as client:
                await client.send(request(target, b"Connection: close"))
                await client.head()
        await until(lambda: sum(app.counters.handshakes.values()) == len(targets))
        assert app.counters.handshakes == dict.fromkeys(targets.values(), 1)


def silent(asked: asyncio.Event) -> Callable[[Peer], Awaitable[None]]:
    """A backend that never answers a handshake; `asked`: it has come."""

    async def script(peer: Peer) -> None:
        await peer.head()
        asked.set()
        await peer.ended()

    return script


async def test_who_leaves_before_the_answer_is_counted(proxy: Proxy) -> None:
    asked = asyncio.Event()
    async with raw_backend(silent(asked)) as port, proxy(port) as app:
        async with raw_client(app.listen) as client:
            await client.send(request())
            await asked.wait()
        await until(lambda: app.counters.handshakes == {"client_gone": 1})


async def test_who_leaves_when_the_time_is_up_is_gone(proxy: Proxy) -> None:
    """Both in one turn of the event loop: nobody is left who could be told."""
    asked = asyncio.Event()
    before = asyncio.all_tasks()
    with capture_logs() as logs:
        async with (
            raw_backend(silent(asked)) as port,
            proxy(port) as app,
            raw_client(app.listen) as client,
        ):
            await client.send(request())
            await asked.wait()
            (handler,) = [
                task
                for task in asyncio.all_tasks() - before
                if "_handle_request" in repr(task.get_coro())
            ]
            handler.cancel(*upgrade._LATE)
            handler.cancel()
            await until(lambda: app.counters.handshakes == {"client_gone": 1})
    assert "request not relayed" not in str(logs)


@pytest.mark.parametrize("how", ["reset", "abort", "goodbye"])
async def test_what_passed_is_counted_however_it_ends(how: str, proxy: Proxy) -> None:
    """Chunks pass unasked while compression is off, and are counted later."""
    sent = len(CHUNKS) // (4 + 4096)

    async def serve(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + CHUNKS)
        await peer.ended()

    with capture_logs() as logs:
        async with raw_backend(serve) as port, proxy(port, drain_timeout=0.01) as app:
            app.store.set({"enabled": False})
            async with raw_client(app.listen) as client:
                await client.send(request(b"/?audio_compression=gzip"))
                await client.head()
                await client.read(len(CHUNKS))
                (tunnel,) = [each async for each in app.tunnels.each()]
                if how == "reset":
                    client.reset()
                elif how == "abort":
                    tunnel.abort()
                else:
                    await app.drain()
            await until(lambda: len(app.tunnels) == 0)
            assert app.counters.passed == {"disabled": sent}
    (line,) = [line for line in logs if line["event"] == "tunnel ended"]
    assert line["chunks"] == sent


async def test_who_had_closed_is_not_ended_by_our_abort(proxy: Proxy) -> None:
    """Both have said goodbye, and one keeps its socket."""

    async def serve(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await peer.read(8)
        await peer.send(close(1000))
        await peer.ended()

    with capture_logs() as logs:
        async with raw_backend(serve) as port, proxy(port) as app, raw_client(app.listen) as client:
            await client.send(request())
            await client.head()
            await client.send(masked(8, CLOSE))
            await client.read(4)
            for tunnel in [each async for each in app.tunnels.each()]:
                tunnel.abort()
            await until(lambda: len(app.tunnels) == 0)
    (line,) = [line for line in logs if line["event"] == "tunnel ended"]
    assert (line["code"], line["by"]) == (1000, "client")


@pytest.mark.parametrize("algorithm", ["gzip", "opus"])
async def test_the_first_audio_takes_the_time_that_it_takes(algorithm: str, proxy: Proxy) -> None:
    """Once for each that opted in; a text before it, and a chunk too short for a packet of Opus."""
    wav = speech("speech-22050-s16.wav")
    go_on: asyncio.Queue[None] = asyncio.Queue()

    async def serve(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + message(Opcode.TEXT, b"hello").wire)
        for part in (binary(wav[:800]).wire, binary(wav[800:20_000]).wire + close(1000)):
            await go_on.get()
            await peer.send(part)

    async with raw_backend(serve) as port, proxy(port) as app, raw_client(app.listen) as client:
        began = time.perf_counter()
        await client.send(request(b"/?audio_compression=%b" % algorithm.encode()))
        await client.head()
        await client.read(7)
        (tunnel,) = [each async for each in app.tunnels.each()]
        go_on.put_nowait(None)
        await until(lambda: tunnel.tally is not None and tunnel.tally.chunks == 1)
        go_on.put_nowait(None)
        await client.ended()
        seconds = app.counters.first_audio_seconds
        assert sum(seconds.counts) == 1
        assert 0 <= seconds.sum <= time.perf_counter() - began
