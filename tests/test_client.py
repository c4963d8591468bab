from __future__ import annotations

import asyncio
import gzip
import json
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.client import connect as websockets_connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.http11 import Request, Response

from proxy.client import AudioConnection, connect, opt_in
from proxy.errors import AudioFrameError
from proxy.tunnel.handshake import split_target
from tests.conftest import Proxy
from tests.support import pcm

Message = str | bytes
MEGABYTE = 1 << 20


def metadata(**changes: Any) -> str:
    """Metadata of a pair; a key given as None is left out."""
    keys = {"type": "audio_chunk_compressed", "algorithm": "gzip", **changes}
    return json.dumps({name: value for name, value in keys.items() if value is not None})


def pair(audio: bytes) -> list[Message]:
    """The two messages that stand for `audio`."""
    encoded = gzip.compress(audio)
    return [metadata(original_size=len(audio), compressed_size=len(encoded)), encoded]


@asynccontextmanager
async def backend(
    handler: Callable[[ServerConnection], Awaitable[None]], **options: Any
) -> AsyncIterator[int]:
    """A `websockets` server that knows nothing of compression. Yields its port."""
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        yield next(iter(server.sockets)).getsockname()[1]


def sends(*messages: Message) -> Callable[[ServerConnection], Awaitable[None]]:
    """Sends messages and closes."""

    async def handle(socket: ServerConnection) -> None:
        for message in messages:
            await socket.send(message)

    return handle


def client(port: int, target: str = "/", **options: Any) -> connect:
    """Our client, on its way straight to a port."""
    return connect(f"ws://127.0.0.1:{port}{target}", proxy=None, **options)


AUDIO = pcm()[:4096]
DECODED = ["question", AUDIO, "between", b"short", AUDIO[::-1], "end"]
SENT = ["question", *pair(AUDIO), "between", b"short", *pair(AUDIO[::-1]), "end"]


# As a `websockets` connection.


async def by_async_with(port: int) -> list[Message]:
    async with client(port) as socket:
        return [message async for message in socket]


async def by_await(port: int) -> list[Message]:
    socket = await client(port)
    try:
        return [await socket.recv() for _ in DECODED]
    finally:
        await socket.close()


async def by_reconnecting(port: int) -> list[Message]:
    received: list[Message] = []
    async for socket in client(port):
        received += [message async for message in socket]
        if len(received) >= 2 * len(DECODED):
            break
    assert received[len(DECODED) :] == DECODED
    return received[: len(DECODED)]


@pytest.mark.parametrize("use", [by_async_with, by_await, by_reconnecting])
async def test_it_is_used_as_websockets_is(use: Callable[[int], Awaitable[list[Message]]]) -> None:
    targets: list[str] = []

    async def handle(socket: ServerConnection) -> None:
        assert socket.request is not None
        targets.append(socket.request.path)
        await sends(*SENT)(socket)

    async with backend(handle) as port:
        assert await use(port) == DECODED
    assert set(targets) == {"/?audio_compression=gzip"}
    assert len(targets) == (2 if use is by_reconnecting else 1)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("decode", [None, True, False])
async def test_recv_gives_what_websockets_gives_of_the_plain_messages(
    decode: bool | None, streaming: bool
) -> None:
    text = "Grüß dich, " * 200

    async def read(socket: Any) -> list[Message]:
        if streaming:
            return [part for _ in range(3) async for part in socket.recv_streaming(decode)]
        return [await socket.recv(decode=decode) for _ in range(3)]

    async with (
        backend(sends("Grüße", *pair(text.encode()), b"plain")) as compressing,
        backend(sends("Grüße", text.encode(), b"plain")) as plain,
        client(compressing) as ours,
        websockets_connect(f"ws://127.0.0.1:{plain}/", proxy=None) as theirs,
    ):
        assert await read(ours) == await read(theirs)


@pytest.mark.parametrize("decode", [None, True, False])
@pytest.mark.parametrize("as_text", [True, False])
async def test_bytes_that_are_no_text_have_the_consequence_that_they_have_in_websockets(
    decode: bool | None, as_text: bool
) -> None:
    async def handle(socket: ServerConnection) -> None:
        await socket.send(b"\xff\xfe", text=as_text)
        await socket.wait_closed()

    async def outcome(socket: Any) -> object:
        try:
            return await socket.recv(decode=decode)
        except ConnectionClosedError as error:
            return error.sent

    async with (
        backend(handle) as port,
        client(port) as ours,
        websockets_connect(f"ws://127.0.0.1:{port}/", proxy=None) as theirs,
    ):
        assert await outcome(ours) == await outcome(theirs)


async def test_the_handshake_carries_what_it_was_given() -> None:
    seen: list[Request] = []

    async def handle(socket: ServerConnection) -> None:
        assert socket.request is not None
        seen.append(socket.request)
        await sends(*SENT)(socket)

    async with (
        backend(handle, subprotocols=["lesson.v2"]) as port,
        client(
            port,
            "/ws?voice=joe",
            algorithms=("gzip", "flac"),
            parameter="squeeze",
            subprotocols=["lesson.v3", "lesson.v2"],
            additional_headers={"Authorization": "Bearer 1234"},
        ) as socket,
    ):
        assert isinstance(socket, AudioConnection)
        assert socket.subprotocol == "lesson.v2"
        assert [message async for message in socket] == DECODED
    (request,) = seen
    assert request.path == "/ws?voice=joe&squeeze=gzip,flac"
    assert request.headers["Authorization"] == "Bearer 1234"


async def test_a_redirect_is_followed_with_the_wish_for_compression() -> None:
    """The backend never saw the parameter, so it cannot be in the `Location` that it names."""
    targets: list[str] = []

    def redirect(socket: ServerConnection, request: Request) -> Response | None:
        targets.append(request.path)
        if len(targets) > 1:
            return None
        response = socket.respond(HTTPStatus.FOUND, "")
        response.headers["Location"] = "/lessons/1?voice=joe"
        return response

    async with backend(sends("hello"), process_request=redirect) as port, client(port) as socket:
        assert await socket.recv() == "hello"
    assert targets == ["/?audio_compression=gzip", "/lessons/1?voice=joe&audio_compression=gzip"]


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("", ""),
        ("/ws?", "/ws"),
        ("/a%2Fb?q=%2F+%C3%BC&&x=", "/a%2Fb?q=%2F+%C3%BC&&x="),
        ("/ws?a=b&audio_compression=0", "/ws?a=b"),
    ],
)
def test_the_proxy_finds_the_parameter_and_leaves_the_query_as_it_was(
    target: str, kept: str
) -> None:
    host, sent = opt_in(f"wss://a.b{target}", ("flac", "gzip")).encode().split(b"a.b", 1)
    found = split_target(sent, b"audio_compression", ("gzip", "flac", "opus"))
    assert host == b"wss://"
    assert found == (kept.encode(), ("flac", "gzip"))


# Through the proxy, and without one.


async def test_through_the_proxy_audio_text_and_plain_chunks_keep_their_order(proxy: Proxy) -> None:
    sent = ["question", AUDIO, "between", b"short", os.urandom(5000), pcm()[4096:20_000], AUDIO]
    sent += ["", b"", "end"]
    async with (
        backend(sends(*sent)) as port,
        proxy(port) as app,
        connect(f"ws://{app.listen}/", proxy=None) as socket,
    ):
        assert [message async for message in socket] == sent
        assert app.counters.algorithm("gzip").chunks == 3


async def test_a_backend_without_a_proxy_is_understood_too() -> None:
    plain = ["question", AUDIO, b"short", '{"type":"audio"}', "[]", "end"]
    async with backend(sends(*plain)) as port, client(port) as socket:
        assert [message async for message in socket] == plain
        assert socket.response is not None
        assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]


# Broken pairs: the frame is named, and the connection goes on behind them.


Z = gzip.compress(AUDIO)
RIGHT = {"original_size": len(AUDIO), "compressed_size": len(Z)}


def broken(data: bytes, **changes: Any) -> list[Message]:
    """A pair whose metadata fits `data` but for `changes`."""
    return [metadata(**{**RIGHT, "compressed_size": len(data), **changes}), data]


SIZE = len(Z)
BROKEN_BINARY = {
    "less announced": (broken(Z, compressed_size=SIZE - 1), f"{SIZE} bytes; .* {SIZE - 1}"),
    "more announced": (broken(Z, compressed_size=SIZE + 1), f"{SIZE} bytes; .* {SIZE + 1}"),
    "inflates to more": (broken(Z, original_size=4095), "more than 4095 bytes"),
    "inflates to less": (broken(Z, original_size=4097), "4096 bytes; .* 4097"),
    "no gzip": (broken(AUDIO), "not gzip"),
    "cut short": (broken(Z[:-1]), "cut short"),
    "more behind it": (broken(Z + b"\0"), "1 bytes stand after"),
    "wrong checksum": (broken(Z[:-8] + bytes(4) + Z[-4:]), "gzip"),
    "unknown algorithm": (broken(Z, algorithm="lzma"), "no decoder for 'lzma'"),
}


@pytest.mark.parametrize("name", BROKEN_BINARY)
async def test_a_broken_binary_is_named_and_the_next_message_arrives(name: str) -> None:
    messages, says = BROKEN_BINARY[name]
    async with (
        backend(sends("first", *pair(AUDIO), *messages, *pair(AUDIO), "last")) as port,
        client(port) as socket,
    ):
        assert [await socket.recv(), await socket.recv()] == ["first", AUDIO]
        with pytest.raises(AudioFrameError, match=f"^message 5.*{says}"):
            await socket.recv()
        assert [message async for message in socket] == [AUDIO, "last"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"algorithm": None}, "'algorithm'"),
        ({"original_size": None}, "'original_size'"),
        ({"original_size": -1}, "'original_size'"),
        ({"compressed_size": "9"}, "'compressed_size'"),
    ],
)
async def test_malformed_metadata_is_named_and_the_next_message_arrives(
    changes: dict[str, Any], says: str
) -> None:
    messages = ["first", metadata(**{**RIGHT, **changes}), "next", *pair(AUDIO)]
    async with backend(sends(*messages)) as port, client(port) as socket:
        assert await socket.recv() == "first"
        with pytest.raises(AudioFrameError, match=f"^message 2: .*{says}"):
            await socket.recv()
        assert [message async for message in socket] == ["next", AUDIO]


async def test_the_binary_behind_malformed_metadata_is_not_taken_for_plain_audio() -> None:
    """It is the second half of the broken pair: compressed bytes, played, are noise."""
    messages = [metadata(original_size=len(AUDIO)), Z, "next"]
    async with backend(sends(*messages)) as port, client(port) as socket:
        with pytest.raises(AudioFrameError, match=r"^message 1: .*'compressed_size'"):
            await socket.recv()
        assert await socket.recv() == "next"


@pytest.mark.parametrize(
    ("instead", "arrives"), [(["text"], ["text"]), (pair(AUDIO[::-1]), [AUDIO[::-1]])]
)
async def test_text_in_the_place_of_a_binary_is_named_and_arrives_itself(
    instead: list[Message], arrives: list[Message]
) -> None:
    """Where it is metadata, its own pair is decoded."""
    async with (
        backend(sends(metadata(**RIGHT), *instead, *pair(AUDIO))) as port,
        client(port) as socket,
    ):
        with pytest.raises(AudioFrameError, match=r"^message 2 is text; message 1, metadata"):
            await socket.recv()
        assert [message async for message in socket] == [*arrives, AUDIO]


@pytest.mark.parametrize("ending", [ConnectionClosedOK, ConnectionClosedError])
async def test_a_connection_that_ends_behind_metadata_is_an_error_and_then_closed(
    ending: type[Exception],
) -> None:
    async def handle(socket: ServerConnection) -> None:
        await sends("first", metadata(**RIGHT))(socket)
        if ending is ConnectionClosedError:
            await (await socket.ping())  # all is there
            socket.transport.abort()

    async with backend(handle) as port, client(port) as socket:
        assert await socket.recv() == "first"
        with pytest.raises(AudioFrameError, match=r"^message 2 is metadata.* closed") as caught:
            await socket.recv()
        assert isinstance(caught.value.__cause__, ending)
        with pytest.raises(ending):
            await socket.recv()


async def test_cancelling_between_metadata_and_binary_loses_nothing() -> None:
    metadata_is_there = asyncio.Event()
    text, binary = pair(AUDIO)

    async def handle(socket: ServerConnection) -> None:
        await socket.send(text)
        await (await socket.ping())  # a pong says that the client has read what came before
        metadata_is_there.set()
        await socket.recv()
        await sends(binary, "last")(socket)

    async with backend(handle) as port, client(port) as socket:
        waiting = asyncio.create_task(socket.recv())
        await metadata_is_there.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await socket.recv()
        await socket.send("go on")
        assert [message async for message in socket] == [AUDIO, "last"]


# Sizes.


@pytest.mark.parametrize("max_size", [5000, (5000, None)])
async def test_max_size_holds_for_what_a_pair_stands_for(max_size: Any) -> None:
    messages = [*pair(bytes(5001)), *pair(bytes(5000)), "last"]
    async with backend(sends(*messages)) as port, client(port, max_size=max_size) as socket:
        with pytest.raises(AudioFrameError, match=r"^message 2 stands for 5001 bytes.* 5000"):
            await socket.recv()
        assert [message async for message in socket] == [bytes(5000), "last"]


async def test_without_max_size_any_size_is_taken() -> None:
    messages = pair(bytes(2 * MEGABYTE))
    async with backend(sends(*messages)) as port, client(port, max_size=None) as socket:
        assert len(await socket.recv()) == 2 * MEGABYTE


@pytest.mark.parametrize("announced", [64 * MEGABYTE, 1000])
async def test_a_gzip_bomb_is_refused_without_inflating_it(announced: int) -> None:
    """One that says how large it is, and one that lies. It comes as some 64 KiB."""
    bomb = gzip.compress(bytes(64 * MEGABYTE), 9)
    messages = [metadata(original_size=announced, compressed_size=len(bomb)), bomb, "last"]
    async with backend(sends(*messages)) as port, client(port) as socket:
        tracemalloc.start()
        try:
            with pytest.raises(AudioFrameError, match=r"^message 2.* (1048576|1000 bytes)$"):
                await socket.recv()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2 * MEGABYTE
        assert await socket.recv() == "last"
