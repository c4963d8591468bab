from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect as websockets_connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.http11 import Request, Response

from proxy.client import AudioConnection, PcmAudio, connect, opt_in
from proxy.errors import AudioFrameError, ConfigError
from proxy.tunnel.handshake import split_target
from tests.audio.test_decoding import START, WHOLE, ZIPPED, Pair, decode, nearly_right, spoken
from tests.conftest import Proxy
from tests.support import SPEECH, pcm, speech

Message = str | bytes
MEGABYTE = 1 << 20


def metadata(**changes: Any) -> str:
    """Metadata of a pair; a key given as None is left out."""
    keys = {"type": "audio_chunk_compressed", "algorithm": "gzip", **changes}
    return json.dumps({name: value for name, value in keys.items() if value is not None})


def pair(audio: bytes) -> list[Message]:
    """The two messages that stand for `audio`."""
    return messages_of(Pair("gzip", len(audio), gzip.compress(audio)))


def messages_of(pair: Pair) -> list[Message]:
    """The two messages of a pair."""
    sizes = {"original_size": pair.original_size, "compressed_size": len(pair.data)}
    return [metadata(algorithm=pair.algorithm, **sizes, **pair.extra), pair.data]


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


@pytest.mark.parametrize(
    ("algorithms", "value"),
    [
        ("flac,gzip", "flac,gzip"),
        ("opus, FLAC", "opus,FLAC"),
        (["opus", "gzip"], "opus,gzip"),
        ("", ""),
        ((), ""),
    ],
)
async def test_algorithms_are_names_or_a_text_of_them(algorithms: Any, value: str) -> None:
    async with backend(sends()) as port, client(port, algorithms=algorithms) as socket:
        assert socket.request is not None
        assert socket.request.path == f"/?audio_compression={value}"


@pytest.mark.parametrize("algorithms", ["lzma", "gzip,lzma", ["flac", "lzma"]])
def test_an_algorithm_that_cannot_be_decoded_is_refused_at_once(algorithms: Any) -> None:
    with pytest.raises(ConfigError, match=r"^algorithms: no decoder for 'lzma'; .* flac, opus$"):
        connect("ws://127.0.0.1:9/", algorithms)


def test_without_an_extra_its_algorithm_is_refused_at_once_and_gzip_is_not() -> None:
    script = """
import sys
sys.modules["av"] = None  # as where it is not installed
from proxy.client import connect
from proxy.errors import ConfigError
connect("ws://127.0.0.1:9/")
for name in ("Flac", "opus"):
    try:
        connect("ws://127.0.0.1:9/", ("gzip", name))
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [
        "algorithms: no decoder for 'flac' is installed: "
        "pip install 'audio-compression-proxy[flac]'",
        "algorithms: no decoder for 'opus' is installed: "
        "pip install 'audio-compression-proxy[opus]'",
    ]


# Through the proxy, and without one.


async def test_through_the_proxy_audio_text_and_plain_chunks_keep_their_order(proxy: Proxy) -> None:
    sent: list[Message] = [
        "question",
        AUDIO,
        "between",
        b"short",
        os.urandom(5000),
        pcm()[4096:20_000],
        AUDIO,
    ]
    sent += ["", b"", "end"]
    async with (
        backend(sends(*sent)) as port,
        proxy(port) as app,
        connect(f"ws://{app.listen}/", proxy=None) as socket,
    ):
        assert [message async for message in socket] == sent
        assert app.counters.algorithm("gzip").chunks == 3


async def test_a_backend_without_a_proxy_is_understood_too() -> None:
    plain: list[Message] = ["question", AUDIO, b"short", '{"type":"audio"}', "[]", "end"]
    async with backend(sends(*plain)) as port, client(port) as socket:
        assert [message async for message in socket] == plain
        assert socket.response is not None
        assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]


PIECE = 4096
LAYOUTS = {"speech-22050-s16.pcm": "s16le/22050/1", "speech-8000.ulaw": "mulaw/8000/1"}
"""Of the recordings that do not announce theirs."""
RECORDINGS = sorted({*SPEECH, *LAYOUTS})
COMPRESSED = {
    "gzip": {*LAYOUTS, "speech-22050-s16.wav"},
    "flac": {"speech-22050-s16.pcm", "speech-22050-s16.wav"},
    "opus": {*RECORDINGS} - {"speech-24k.ogg"},
}
"""Where an algorithm has something to gain."""


def recording(name: str) -> bytes:
    return pcm() if name.endswith(".pcm") else speech(name)


def lesson(name: str) -> list[Message]:
    """A recording, twice: a text before each chunk, and a page of Ogg between the two."""
    audio = recording(name)
    starts = range(0, len(audio), PIECE)
    once: list[Message] = []
    for at in starts:
        once += [f"before byte {at}", audio[at : at + PIECE]]
    between = [] if name in LAYOUTS else [speech("speech-24k.ogg")[:2000]]
    return [*once, *between, *once, "end"]


async def heard(proxy: Proxy, name: str, algorithms: Any) -> tuple[list[Message], Any]:
    """What a client receives of a lesson, and the proxy's counters."""
    settings = {"pcm_layout": LAYOUTS[name], "opus_raw": True} if name in LAYOUTS else {}
    async with (
        backend(sends(*lesson(name))) as port,
        proxy(port, **settings) as app,
        connect(f"ws://{app.listen}/", algorithms, proxy=None) as socket,
    ):
        return [message async for message in socket], app.counters


@pytest.mark.parametrize("algorithms", ["gzip", "flac", "flac,gzip"])
@pytest.mark.parametrize("name", RECORDINGS)
async def test_without_loss_all_that_the_backend_sent_arrives(
    proxy: Proxy, name: str, algorithms: str
) -> None:
    received, counters = await heard(proxy, name, algorithms)
    same = received == lesson(name)
    assert same
    assert {type(message) for message in received} == {str, bytes}
    best = algorithms.split(",")[0]
    if name in COMPRESSED[best]:
        assert counters.algorithm(best).chunks > 10


def seconds_in(message: bytes) -> float:
    """How long a message speaks."""
    if not isinstance(message, PcmAudio):
        return 0
    assert message
    assert message.channels == 1
    return len(message) / 2 / message.sample_rate


def places(
    messages: list[Message], seconds: Callable[[bytes], float]
) -> list[tuple[Message, float]]:
    """What is no speech, and when it comes, in seconds."""
    found, now = [], 0.0
    for message in messages:
        length = seconds(message) if isinstance(message, bytes) else 0
        now += length
        if not length:
            found.append((message, now))
    return found


def seconds_of(name: str) -> float:
    """How long a recording is, by FFmpeg's own reading of it."""
    if name in LAYOUTS:
        encoding, rate, _ = LAYOUTS[name].split("/")
        return len(recording(name)) / (2 if encoding == "s16le" else 1) / int(rate)
    with av.open(str(SPEECH[name])) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


@pytest.mark.parametrize("name", RECORDINGS)
async def test_speech_with_loss_is_as_long_as_it_was_and_its_texts_stand_where_they_stood(
    proxy: Proxy, name: str
) -> None:
    sent = lesson(name)
    received, counters = await heard(proxy, name, "opus")
    assert (counters.algorithm("opus").chunks > 10) is (name in COMPRESSED["opus"])
    if name not in COMPRESSED["opus"]:
        assert (received == sent) is True
        return
    duration = seconds_of(name)
    length = duration / len(recording(name))
    asked = places(sent, lambda audio: 0 if audio.startswith(b"OggS") else len(audio) * length)
    found = places(received, seconds_in)
    assert [what for what, _ in found] == [what for what, _ in asked]
    # A chunk that came on the wrong side of a text would be more.
    off = [abs(came - due) for (_, came), (_, due) in zip(found, asked, strict=True)]
    assert max(off) < min(0.1, PIECE * length)
    assert found[-1][1] == pytest.approx(2 * duration, abs=0.08)


# Broken pairs: the frame is named, and the connection goes on behind them.


Z = gzip.compress(AUDIO)
RIGHT = {"original_size": len(AUDIO), "compressed_size": len(Z)}


def broken(data: bytes, **changes: Any) -> list[Message]:
    """A pair whose metadata fits `data` but for `changes`."""
    return [metadata(**{**RIGHT, "compressed_size": len(data), **changes}), data]


SIZE = len(Z)
BROKEN_START = messages_of(START.saying(samples=-1))
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
    "broken flac": (messages_of(replace(WHOLE, data=WHOLE.data[:-1])), "cut short or broken"),
    "broken opus": (BROKEN_START, "'samples' is missing"),
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
    messages: list[Message] = [metadata(original_size=len(AUDIO)), Z, "next"]
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


BROKEN_STARTS: dict[str, tuple[list[Message], list[Message]]] = {
    "its data": (BROKEN_START, []),
    "its size": ([messages_of(START)[0], START.data[:-1]], []),
    "its metadata": ([metadata(algorithm="opus"), START.data], []),
    "text for its data": ([messages_of(START)[0], "text"], ["text"]),
}


@pytest.mark.parametrize("name", BROKEN_STARTS)
async def test_speech_whose_start_was_missed_is_not_taken_for_that_before(name: str) -> None:
    """Each pair of it is named, and the next segment is heard."""
    broken_start, arrives = BROKEN_STARTS[name]
    start, then = messages_of(START), messages_of(spoken().pair(5, 10))
    messages = [*start, *then, *broken_start, *then, *then, *pair(AUDIO), *start, "last"]
    async with backend(sends(*messages)) as port, client(port) as socket:
        before = [await socket.recv(), await socket.recv()]
        with pytest.raises(AudioFrameError, match=r"^message (5|6)"):
            await socket.recv()
        assert [await socket.recv() for _ in arrives] == arrives
        for number in (8, 10):
            with pytest.raises(AudioFrameError, match=f"^message {number}: opus: the start of its"):
                await socket.recv()
        assert await socket.recv() == AUDIO
        assert (await socket.recv() == before[0]) is True
        assert await socket.recv() == "last"


async def test_speech_without_samples_yet_is_no_message() -> None:
    """Where the backend sent an empty message, that is one."""
    segment = replace(spoken(), pre_skip=1000)
    empty = Pair("gzip", 0, gzip.compress(b""))
    pairs = [segment.pair(0, 1), segment.pair(1, 2), empty, segment.pair(2, 3)]
    async with (
        backend(sends(*(message for pair in pairs for message in messages_of(pair)))) as port,
        client(port) as socket,
    ):
        received = [message async for message in socket]
    assert [len(message) for message in received] == [2 * 920, 0, 2 * 960]
    assert [isinstance(message, PcmAudio) for message in received] == [True, False, True]


@settings(deadline=None, max_examples=40)
@given(st.lists(nearly_right(), max_size=6))
def test_whatever_comes_is_given_or_refused_and_the_next_message_arrives(pairs: list[Pair]) -> None:
    right = [ZIPPED, WHOLE, START]
    sent = [message for pair in (START, *pairs, *right) for message in messages_of(pair)]

    async def receive() -> list[Message | AudioFrameError]:
        received: list[Message | AudioFrameError] = []
        async with backend(sends(*sent, "last")) as port, client(port) as socket:
            while not received or received[-1] != "last":
                try:
                    received.append(await socket.recv())
                except AudioFrameError as error:
                    received.append(error)
        return received

    received = asyncio.run(receive())
    errors = [str(error) for error in received if isinstance(error, AudioFrameError)]
    assert all(error.startswith("message ") for error in errors)
    assert len(received) <= len(sent) // 2 + 1
    assert (received[-4:-1] == [decode(pair) for pair in right]) is True


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
        with pytest.raises(AudioFrameError, match=r"^message 2: stands for 5001 bytes.* 5000"):
            await socket.recv()
        assert [message async for message in socket] == [bytes(5000), "last"]


@pytest.mark.parametrize("channels", [1, 2])
async def test_max_size_holds_for_what_speech_decodes_to(channels: int) -> None:
    """Not for the bytes that it was made of, of which there are more or less."""
    pair = replace(spoken(channels).pair(), original_size=1 << 30)
    size = 2 * channels * spoken(channels).samples
    for max_size, fits in ((size, True), (size - 1, False)):
        messages = [*messages_of(pair), "last"]
        async with backend(sends(*messages)) as port, client(port, max_size=max_size) as socket:
            if fits:
                assert len(await socket.recv()) == size
            else:
                with pytest.raises(AudioFrameError, match=f"^message 2: stands for {size} bytes"):
                    await socket.recv()
            assert await socket.recv() == "last"


async def test_without_max_size_any_size_is_taken() -> None:
    messages = pair(bytes(2 * MEGABYTE))
    async with backend(sends(*messages)) as port, client(port, max_size=None) as socket:
        assert len(await socket.recv()) == 2 * MEGABYTE


@pytest.mark.parametrize("announced", [64 * MEGABYTE, 1000])
async def test_a_gzip_bomb_is_refused_without_inflating_it(announced: int) -> None:
    """One that says how large it is, and one that lies. It comes as some 64 KiB."""
    bomb = gzip.compress(bytes(64 * MEGABYTE), 9)
    messages: list[Message] = [
        metadata(original_size=announced, compressed_size=len(bomb)),
        bomb,
        "last",
    ]
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
