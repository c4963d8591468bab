"""One answer, as a client gets it: its messages, its bytes on the wire, its delays."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from websockets.asyncio.client import ClientConnection

from proxy.client import AudioConnection, PcmAudio
from proxy.errors import AudioProxyError
from proxy.websocket.frames import BINARY, TEXT, build_header

DEFLATE_LEVEL = 6  # zlib's default


class AnswerError(AudioProxyError):
    """The answer is not what the tutor sends."""


class MeteredConnection(AudioConnection):
    """A connection that counts the bytes that its socket gives."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bytes_received = 0

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self.bytes_received += len(data)
        super().data_received(data)


@dataclass(slots=True)
class Answer:
    """What came between a question and its answer's end."""

    messages: list[str | bytes] = field(default_factory=list)
    """As the backend sent them: audio decoded, no metadata."""
    delays: list[float] = field(default_factory=list)
    """Of each chunk, from the backend's hand to ours, decoded; in seconds."""
    wire_bytes: int = 0
    """What the socket gave for it, frame headers and metadata included."""
    wire_start: int = 0
    """What it had given before."""

    @property
    def audio(self) -> bytes:
        """The speech."""
        return b"".join(message for message in self.messages if isinstance(message, bytes))

    @property
    def seconds(self) -> float:
        """How long the speech is that came as Opus."""
        return sum(
            len(message) / (2 * message.channels * message.sample_rate)
            for message in self.messages
            if isinstance(message, PcmAudio)
        )

    @property
    def chunks(self) -> int:
        """Binary messages that the backend announced."""
        return len(self.delays)

    @property
    def delay(self) -> float:
        """The median, in seconds."""
        return median(self.delays)

    @property
    def backend_bytes(self) -> int:
        """What the backend sent for it, frame headers included."""
        return sum(_framed(message, _payload_size(message)) for message in self.messages)

    @property
    def deflated_bytes(self) -> int:
        """What permessage-deflate would make of it (RFC 7692 section 7.2.1, context kept)."""
        deflater = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        total = 0
        for message in self.messages:
            payload = message.encode() if isinstance(message, str) else message
            size = len(deflater.compress(payload)) + len(deflater.flush(zlib.Z_SYNC_FLUSH))
            total += _framed(message, size - 4)  # the flush's 00 00 ff ff is not sent
        return total


def _payload_size(message: str | bytes) -> int:
    return len(message.encode()) if isinstance(message, str) else len(message)


def _framed(message: str | bytes, size: int) -> int:
    return len(build_header(TEXT if isinstance(message, str) else BINARY, size)) + size


async def ask(
    connection: ClientConnection, audio_format: str, on_message: Callable[[], None]
) -> Answer:
    """Ask for an answer and receive it. Raises AnswerError, and what `recv` raises."""
    assert isinstance(connection, MeteredConnection)
    answer = Answer(wire_start=connection.bytes_received)
    sent_at: float | None = None
    question = {"type": "question", "text": "What is photosynthesis?", "format": audio_format}
    await connection.send(json.dumps(question))
    while True:
        message = await connection.recv()
        now = time.monotonic()
        on_message()
        answer.messages.append(message)
        if isinstance(message, bytes):
            if sent_at is not None:
                answer.delays.append(now - sent_at)
            elif not isinstance(message, PcmAudio):  # the end of what was said comes by itself
                raise AnswerError("a chunk came without the text that announces it")
            sent_at = None
            continue
        text = json.loads(message)
        if text["type"] == "error":
            raise AnswerError(f"the tutor says: {text['message']}")
        if text["type"] == "answer_end":
            break
        sent_at = text.get("sent_at")
    answer.wire_bytes = connection.bytes_received - answer.wire_start
    return answer


async def receive_end(connection: ClientConnection, answer: Answer) -> None:
    """Receive one message more, that came behind the answer: the end of what was said."""
    assert isinstance(connection, MeteredConnection)
    answer.messages.append(await connection.recv())
    answer.wire_bytes = connection.bytes_received - answer.wire_start
