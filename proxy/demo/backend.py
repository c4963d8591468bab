"""A sample tutor backend: questions in, recorded speech out. It knows nothing of the proxy."""

from __future__ import annotations

import asyncio
import json
import time
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

PAGE = Path(__file__).parent / "page"
SPEECH = Path(__file__).parent / "speech"

PACE = 4.0
"""Seconds of speech sent in a second: text-to-speech services are faster than the ear."""

CHUNK_SIZE = 4096
"""Bytes of audio in a message; a recording's last one is smaller."""

MAX_QUESTION = 64 * 1024
MAX_WAITING = 16

# What the recording says. It ends within the last word.
TEXT = (
    "Photosynthesis is the process by which green plants use sunlight to make their own food from "
    "carbon dioxide and water. Let us look at the equation together, and then I will ask you a "
    "short question. Do not worry if you get it wrong…"
)


@dataclass(frozen=True, slots=True)
class Speech:
    """A recording in one of the formats that services stream."""

    data: bytes
    sample_rate: int
    channels: int
    seconds: float


@cache
def recordings() -> dict[str, Speech]:
    """The answer, by format: `pcm` (s16le), `wav` and `mp3`."""
    data = (SPEECH / "speech-22050-s16.wav").read_bytes()
    with wave.open(BytesIO(data)) as file:
        rate, channels = file.getframerate(), file.getnchannels()
        seconds = file.getnframes() / rate
        pcm = file.readframes(file.getnframes())
    mp3 = (SPEECH / "speech-44100-128k.mp3").read_bytes()
    return {
        "pcm": Speech(pcm, rate, channels, seconds),
        "wav": Speech(data, rate, channels, seconds),
        "mp3": Speech(mp3, 44_100, 1, seconds),
    }


class QuestionError(Exception):
    """A message is not a question. The text says why."""


def parse_question(message: WSMessage) -> str:
    """The format that a question asks for. Raises QuestionError."""
    if message.type is not WSMsgType.TEXT:
        raise QuestionError("a question is a text message")
    try:
        question = json.loads(message.data)
    except (ValueError, RecursionError) as error:
        raise QuestionError(f"not JSON: {error}") from error
    if not isinstance(question, dict) or question.get("type") != "question":
        raise QuestionError('a question is an object with "type": "question"')
    text = question.get("text")
    if not isinstance(text, str) or not text.strip():
        raise QuestionError('"text" is missing or empty')
    audio_format = question.get("format")
    if not isinstance(audio_format, str) or audio_format not in recordings():
        raise QuestionError(f'"format" is none of {", ".join(recordings())}')
    return audio_format


class Tutor:
    """Answers every question with the same recording, as a text-to-speech service streams it."""

    def __init__(self, pace: float = PACE) -> None:
        self._pace = pace

    def application(self) -> web.Application:
        """`/ws/tutor`, and the page that talks to it."""
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_static("/static", PAGE)
        app.router.add_get("/ws/tutor", self._listen)
        return app

    async def _page(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(PAGE / "index.html")

    async def _listen(self, request: web.Request) -> web.WebSocketResponse:
        # aiohttp's default: permessage-deflate for clients that offer it.
        socket = web.WebSocketResponse(max_msg_size=MAX_QUESTION)
        await socket.prepare(request)
        waiting: asyncio.Queue[WSMessage] = asyncio.Queue(MAX_WAITING)
        try:
            async with asyncio.TaskGroup() as tasks:
                answers = tasks.create_task(self._answer_all(socket, waiting))
                await self._hear(socket, waiting)
                answers.cancel()
        except* ConnectionResetError:
            pass  # the client left in mid-answer
        return socket

    async def _hear(self, socket: web.WebSocketResponse, waiting: asyncio.Queue[WSMessage]) -> None:
        """Until the client leaves: also while an answer is given."""
        async for message in socket:
            try:
                waiting.put_nowait(message)
            except asyncio.QueueFull:
                await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too many questions")

    async def _answer_all(
        self, socket: web.WebSocketResponse, waiting: asyncio.Queue[WSMessage]
    ) -> None:
        """One after the other: nothing comes between a chunk and the text that announces it."""
        while True:
            try:
                audio_format = parse_question(await waiting.get())
            except QuestionError as error:
                await _send(socket, "error", message=str(error))
            else:
                await self._answer(socket, audio_format)

    async def _answer(self, socket: web.WebSocketResponse, audio_format: str) -> None:
        speech = recordings()[audio_format]
        await _send(
            socket,
            "answer_start",
            format=audio_format,
            sample_rate=speech.sample_rate,
            channels=speech.channels,
            text=TEXT,
        )
        seconds_per_byte = speech.seconds / len(speech.data) / self._pace
        start = time.monotonic()
        chunks = 0
        for at in range(0, len(speech.data), CHUNK_SIZE):
            await asyncio.sleep(max(0.0, start + at * seconds_per_byte - time.monotonic()))
            await _send(socket, "audio", sequence=chunks, sent_at=round(time.monotonic(), 6))
            await socket.send_bytes(speech.data[at : at + CHUNK_SIZE])
            chunks += 1
        await _send(
            socket, "answer_end", chunks=chunks, bytes=len(speech.data), seconds=speech.seconds
        )


async def _send(socket: web.WebSocketResponse, kind: str, **fields: Any) -> None:
    await socket.send_str(json.dumps({"type": kind, **fields}, separators=(",", ":")))


@asynccontextmanager
async def serve(pace: float = PACE, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Run the tutor; gives its URL. Raises OSError where it cannot listen."""
    runner = web.AppRunner(Tutor(pace).application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
