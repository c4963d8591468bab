"""What is measured of the tutor's answers, and the two ways to run the demo."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import typer
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

from proxy.client import PcmAudio
from proxy.client import connect as connect_to_proxy
from proxy.demo import backend, run
from proxy.demo.measure import DEFLATE_LEVEL, Answer, AnswerError, MeteredConnection, ask
from proxy.errors import AudioProxyError
from tests.demo.conftest import FAST, FORMATS, Staging, nothing, question, tutor
from tests.support import pcm

# What is measured.


@asynccontextmanager
async def scripted(*messages: str | bytes) -> AsyncIterator[ClientConnection]:
    """A connection, by permessage-deflate, to a server that answers anything with `messages`."""

    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        for message in messages:
            await socket.send(message)
        await socket.wait_closed()

    server_deflate = ServerPerMessageDeflateFactory(
        compress_settings={"level": DEFLATE_LEVEL, "memLevel": 8}
    )
    async with (
        serve(handle, "127.0.0.1", 0, compression=None, extensions=[server_deflate]) as server,
        connect(
            f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}",
            create_connection=MeteredConnection,
            compression=None,
            extensions=[ClientPerMessageDeflateFactory()],
        ) as connection,
    ):
        yield connection


@pytest.mark.parametrize("audio_format", FORMATS)
async def test_the_bytes_of_permessage_deflate_are_what_a_socket_gives(audio_format: str) -> None:
    async with tutor() as connection:
        plain = await ask(connection, audio_format, nothing)
    async with scripted(*plain.messages) as connection:
        deflated = await ask(connection, audio_format, nothing)

    assert plain.wire_bytes == plain.backend_bytes
    assert deflated.messages == plain.messages
    assert deflated.wire_bytes == plain.deflated_bytes


@pytest.mark.parametrize(
    "messages", [('{"type":"answer_start"}', b"audio"), ('{"type":"error","message":"no"}',)]
)
async def test_an_answer_that_is_none_is_an_error(messages: tuple[str | bytes, ...]) -> None:
    async with scripted(*messages) as connection:
        with pytest.raises(AnswerError):
            await ask(connection, "pcm", nothing)


async def test_through_the_proxy_the_bytes_are_those_that_it_counts(stage: Staging) -> None:
    async with stage() as running:
        url = running.url.replace("http", "ws", 1) + "/ws/tutor"
        async with connect_to_proxy(url, create_connection=MeteredConnection) as connection:
            answer = await ask(connection, "pcm", nothing)
            counters = running.app.counters
            assert answer.wire_bytes == counters.wire_bytes < answer.backend_bytes
            assert answer.backend_bytes == counters.wire_original_bytes
    assert answer.audio == pcm()


# The demo.


def answer_of(data: bytes) -> Answer:
    messages: list[str | bytes] = ["{}", data]
    return Answer(messages, delays=[0.001], wire_bytes=len(data) + 8)


def test_a_comparison_names_what_is_wrong() -> None:
    good = answer_of(pcm())
    counted = (good.backend_bytes, good.wire_bytes)
    comparison = run.Comparison("pcm", "flac", good, good, counted)
    other = answer_of(bytes(len(pcm())))

    assert comparison.problems == []
    (problem,) = replace(comparison, direct=other).problems
    assert "directly" in problem
    (problem,) = replace(comparison, proxied=other).problems
    assert "through the proxy" in problem
    (problem,) = replace(comparison, counted=(counted[0], counted[1] + 1)).problems
    assert "the client counts" in problem


@pytest.mark.parametrize("rate", [24_000, 48_000])
@pytest.mark.parametrize(("milliseconds", "is_wrong"), [(0, False), (39, False), (41, True)])
def test_speech_by_opus_is_as_long_as_it_was(rate: int, milliseconds: int, is_wrong: bool) -> None:
    seconds = backend.recordings()["pcm"].seconds
    for sign in (1, -1):
        size = 2 * round((seconds + sign * milliseconds / 1000) * rate)
        spoken = PcmAudio(bytes(size), rate, 1)
        answer = Answer(["{}", spoken], delays=[0.001], wire_bytes=5000)
        comparison = run.Comparison("pcm", "opus", answer_of(pcm()), answer, (530_000, 5000))
        assert [f"of {seconds:.3f} s" in problem for problem in comparison.problems] == (
            [True] * is_wrong
        )
    (problem,) = replace(comparison, proxied=answer_of(pcm()), counted=(1, 529_208)).problems
    assert "0.000 s of speech came" in problem


async def test_audio_that_differs_ends_the_demo_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true = backend.recordings()
    wrong = replace(true["wav"], data=true["wav"].data[:-1] + b"\xff")
    monkeypatch.setattr(run, "recordings", lambda: {**true, "wav": wrong})

    with pytest.raises(typer.Exit) as raised:
        await run.main(False, pace=FAST)

    assert raised.value.exit_code == 1
    output = capsys.readouterr().out
    for algorithm in ("gzip", "flac"):
        wrong_one = f"wrong: WAV by {algorithm}: the audio that came through the proxy"
        assert wrong_one in " ".join(output.split())
    assert "wrong: PCM" not in output


async def test_a_proxy_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(AudioProxyError, match="did not start"):
        await run.main(False)


async def no_group(group: int) -> None:
    """Wait until no process of a group is left: a worker whose parent was killed ends by itself."""
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(0.01)


@asynccontextmanager
async def demo(*options: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`audio-proxy demo`, in a session of its own. When it has ended, nothing of it may be left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "demo", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(60):  # that a fault shows as a failure, not as a hang
            yield process
            await process.wait()
            await no_group(process.pid)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


async def test_the_demo_prints_its_table(tmp_path: Path) -> None:
    # Settings of another proxy do not reach the demo's.
    async with demo(TMPDIR=str(tmp_path), AUDIO_PROXY_MAX_CONNECTIONS="none") as process:
        output, errors = (data.decode() for data in await process.communicate())

    assert process.returncode == 0, errors
    rows = {
        (cells[0], cells[1]): [float(re.sub(r"[,%]| ms", "", cell)) for cell in cells[2:]]
        for line in output.splitlines()
        if len(cells := re.split(r" {2,}", line.strip())) == 7 and cells[0].isupper()
    }
    assert list(rows) == [
        *(("PCM", "gzip"), ("PCM", "flac")),
        *(("WAV", "gzip"), ("WAV", "flac"), ("WAV", "opus")),
        *(("MP3", "gzip"), ("MP3", "opus")),
    ]
    for (name, _), (sent, wire, saved, deflate, latency) in rows.items():
        data = FORMATS[name.lower()]
        assert wire <= sent
        assert len(data) < sent < 1.03 * len(data)
        assert saved == pytest.approx(100 * (1 - wire / sent), abs=0.06)
        assert latency < 1000
        assert 0 < deflate < 25
    least = {"gzip": 10, "flac": 40, "opus": 70}
    for (name, algorithm), (_, _, saved, _, _) in rows.items():
        if (name, algorithm) == ("MP3", "gzip"):
            assert saved < 1
        else:
            assert saved > least[algorithm]
    assert "All audio is what the backend sent" in output
    assert "is compressed already" in output
    assert is_empty(tmp_path)


async def read_until(stream: asyncio.StreamReader, mark: str) -> str:
    text = ""
    while mark not in text:
        line = await stream.readline()
        assert line, text
        text += line.decode()
    return text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve_stays_up_and_its_addresses_and_commands_hold(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with demo("--serve", TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        text = await read_until(process.stdout, "Ctrl-C")
        public, direct, dashboard, statistics = re.findall(r"http://\S+", text)
        commands = re.findall(r"^  (.+)$", text, re.MULTILINE)
        async with aiohttp.ClientSession() as session:
            for url in (public, direct):
                async with session.get(url) as response:
                    assert "Sample tutor" in await response.text()
            url = public.replace("http", "ws", 1) + "ws/tutor"
            async with connect_to_proxy(url, create_connection=MeteredConnection) as connection:
                await connection.send(question())
                chunks = 0
                while chunks < 20:
                    chunks += isinstance(await connection.recv(), bytes)
            async with session.get(dashboard) as response:
                assert "<title>" in await response.text()
            async with session.get(statistics) as response:
                assert (await response.json())["total_compressed"] > 0
        for command in (*commands, commands[0]):  # off, on, status, off
            await succeed(command)
        await read_until(process.stderr, "flag=enabled")
        os.kill(process.pid, number)
        _, errors = await process.communicate()

    assert process.returncode == 0, errors
    assert is_empty(tmp_path)


async def succeed(command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *shlex.split(command), stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0, command


async def test_a_signal_ends_the_demo_in_the_middle(tmp_path: Path) -> None:
    async with demo(TMPDIR=str(tmp_path)) as process:
        assert process.stderr is not None
        await read_until(process.stderr, "Asking the tutor")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C: the proxy gets it too
        output, errors = await process.communicate()

    assert process.returncode == 130, errors
    assert output == b""
    assert b"Traceback" not in errors
    assert is_empty(tmp_path)


async def test_a_proxy_that_dies_ends_the_demo(tmp_path: Path) -> None:
    async with demo("--serve", TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        await read_until(process.stdout, "Ctrl-C")
        os.kill(child_of(process.pid), signal.SIGKILL)
        _, errors = await process.communicate()

    assert process.returncode == 2
    assert b"the proxy has ended" in errors
