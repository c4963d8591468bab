"""A Python client: a `websockets` connection that asks for compressed audio and decodes it.

async with connect("wss://tutor.example/ws") as tutor:
    async for message in tutor:
        ...  # str and bytes, as the backend sent them

Speech that came as Opus is PcmAudio, a kind of bytes: not what the backend sent, but its samples.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, overload
from urllib.parse import quote, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import Event
from websockets.typing import Data

from proxy.audio.decoding import PairDecoder, PcmAudio, reason_against
from proxy.errors import AudioFrameError, CodecError, ConfigError
from proxy.websocket.metadata import Metadata, parse

OPUS_MAX_SIZE = 16 * 1024 * 1024
"""Default of `max_size` where Opus is asked for, in bytes: 87 s of mono. One message of a backend,
such as a sentence in MP3, grows that long when it is decoded."""

__all__ = ["AudioConnection", "PcmAudio", "connect", "opt_in"]


class AudioConnection(ClientConnection):
    """A `websockets` connection whose compressed pairs arrive as the audio that they stand for.

    Everything else is as `websockets` documents it. `recv_streaming` gives each message in one
    piece. A pair whose audio, decoded, is larger than `max_size` is not decoded: AudioFrameError.
    A second of Opus is 96,000 bytes decoded, twice that in stereo.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._opcodes: deque[Opcode] = deque()  # of the messages that wait to be received
        self._messages = 0  # received so far
        self._announced: Metadata | AudioFrameError | None = None  # by the message before
        self._kept: bytes | None = None  # a text that came where a binary message was due
        self._decoder = PairDecoder()

    def process_event(self, event: Event) -> None:
        """Called by `websockets` for each frame: notes what each message is."""
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._opcodes.append(event.opcode)
        super().process_event(event)

    @overload
    async def recv(self, decode: Literal[True]) -> str: ...
    @overload
    async def recv(self, decode: Literal[False]) -> bytes: ...
    @overload
    async def recv(self, decode: bool | None = None) -> Data: ...

    async def recv(self, decode: bool | None = None) -> Data:
        """Receive the next message, audio decoded. May be cancelled without loss.

        Raises what `websockets` raises, and AudioFrameError where a pair is broken; the
        connection stays usable, and the next call goes on behind the broken pair. Of Opus, what
        goes on where the broken pair ended is lost too, up to the speaker's next pause.

        An Opus pair without samples is no message: at the start of speech its encoder may owe
        them to the next one. An empty message is one that the backend sent.
        """
        try:
            return await self._receive_audio(decode)
        except AudioFrameError:
            self._decoder.forget()
            raise

    async def _receive_audio(self, decode: bool | None) -> Data:
        while True:
            announced, self._announced = self._announced, None
            try:
                # A pair's binary is no text, whatever the caller takes the audio for.
                data, is_text = await self._receive(False if announced else decode)
            except ConnectionClosed as error:
                if announced is None:
                    raise
                raise AudioFrameError(
                    f"message {self._messages} is metadata, and the connection closed before the "
                    "audio that it announces"
                ) from error
            except asyncio.CancelledError:
                self._announced = announced
                raise
            if announced is not None and is_text:
                self._kept = data if isinstance(data, bytes) else data.encode()
                if isinstance(announced, Metadata):
                    raise AudioFrameError(
                        f"message {self._messages} is text; message {self._messages - 1}, "
                        f"metadata, announced {announced.compressed_size} binary bytes"
                    )
            elif isinstance(announced, Metadata):
                audio = self._decode_pair(announced, data)
                if audio or not isinstance(audio, PcmAudio):
                    return audio.decode() if decode else audio
            elif announced is None and not (is_text and self._announces(data)):
                return data

    @overload
    def recv_streaming(self, decode: Literal[True]) -> AsyncIterator[str]: ...
    @overload
    def recv_streaming(self, decode: Literal[False]) -> AsyncIterator[bytes]: ...
    @overload
    def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]: ...

    async def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]:
        """Receive the next message as an iterator of one piece: a pair is decoded whole."""
        yield await self.recv(decode)

    async def _receive(self, decode: bool | None) -> tuple[Data, bool]:
        """The next message, and whether it is text."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept if decode is False else kept.decode(), True
        data = await super().recv(decode)
        self._messages += 1
        return data, self._opcodes.popleft() is Opcode.TEXT

    def _announces(self, data: Data) -> bool:
        """Whether a text is metadata. Raises AudioFrameError where it is malformed."""
        text = data if isinstance(data, str) else data.decode(errors="replace")
        try:
            self._announced = parse(text)
        except AudioFrameError as error:
            # What it announced is not to be taken for plain audio.
            self._announced = AudioFrameError(f"message {self._messages}: {error}")
            raise self._announced from error
        return self._announced is not None

    def _decode_pair(self, metadata: Metadata, received: Data) -> bytes:
        frame = f"message {self._messages}"
        assert isinstance(received, bytes)
        if len(received) != metadata.compressed_size:
            raise AudioFrameError(
                f"{frame} has {len(received)} bytes; its metadata says {metadata.compressed_size}"
            )
        try:
            return self._decoder.decode(metadata, received, self.protocol.max_message_size)
        except CodecError as error:
            raise AudioFrameError(f"{frame}: {error}") from error


def opt_in(url: str, algorithms: Sequence[str], parameter: str = "audio_compression") -> str:
    """`url` with the query parameter that asks for `algorithms`, in order of preference."""
    parts = urlsplit(url)
    query = f"{parameter}={quote(','.join(algorithms), safe=',')}"
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))


class connect(websockets_connect):  # noqa: N801  # mirrors websockets
    """`websockets.connect`, asking for compressed audio; every keyword of it works here too.

    `algorithms`, names or a text of them with commas, are in order of preference. gzip alone is
    the default: it needs nothing installed, and all audio is what the backend sent. flac gives
    that back too, and saves more of PCM, but needs an extra; opus gives other samples than were
    sent. So both are to be named. Raises ConfigError where one of them cannot be decoded here.

    To be used as `async with`, `await` or `async for`.
    """

    def __init__(
        self,
        url: str,
        algorithms: str | Sequence[str] = ("gzip",),
        *,
        parameter: str = "audio_compression",
        **kwargs: Any,
    ) -> None:
        if isinstance(algorithms, str):
            algorithms = [name.strip() for name in algorithms.split(",")] if algorithms else ()
        for name in algorithms:
            reason = reason_against(name.lower())
            if reason is not None:
                raise ConfigError(f"algorithms: {reason}")
        kwargs.setdefault("create_connection", AudioConnection)
        if "opus" in algorithms:
            kwargs.setdefault("max_size", OPUS_MAX_SIZE)
        self._algorithms, self._parameter = algorithms, parameter
        super().__init__(opt_in(url, algorithms, parameter), **kwargs)

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Ask again where the backend, which knows nothing of the parameter, sends us."""
        target = super().process_redirect(exc)
        if isinstance(target, Exception):
            return target
        return opt_in(target, self._algorithms, self._parameter)
