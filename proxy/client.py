"""A Python client: a `websockets` connection that asks for compressed audio and decodes it.

async with connect("wss://tutor.example/ws") as tutor:
    async for message in tutor:
        ...  # str and bytes, as the backend sent them
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, overload
from urllib.parse import quote, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Data

from proxy.audio import gzip
from proxy.errors import AudioFrameError, CodecError
from proxy.websocket.metadata import Metadata, parse

DECODERS = {"gzip": gzip.decode}
"""(data, size limit in bytes) -> decoded data, by algorithm name."""


class AudioConnection(ClientConnection):
    """A `websockets` connection whose compressed pairs arrive as the audio that they stand for.

    Everything else is as `websockets` documents it. `recv_streaming` gives each message in one
    piece. A pair whose audio is larger than `max_size` is refused like any message of that size.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._messages = 0  # received so far
        self._metadata: Metadata | None = None  # the binary message that it announces comes next
        self._kept: str | None = None  # a message that came where a binary one was due

    @overload
    async def recv(self, decode: Literal[True]) -> str: ...
    @overload
    async def recv(self, decode: Literal[False]) -> bytes: ...
    @overload
    async def recv(self, decode: bool | None = None) -> Data: ...

    async def recv(self, decode: bool | None = None) -> Data:
        """Receive the next message, audio decoded. May be cancelled without loss.

        Raises what `websockets` raises, and AudioFrameError where a pair is broken; the
        connection stays usable, and the next call goes on behind the broken pair.
        """
        message = await self._next_message()
        if decode is False and isinstance(message, str):
            return message.encode()
        if decode is True and isinstance(message, bytes):
            return message.decode()
        return message

    @overload
    def recv_streaming(self, decode: Literal[True]) -> AsyncIterator[str]: ...
    @overload
    def recv_streaming(self, decode: Literal[False]) -> AsyncIterator[bytes]: ...
    @overload
    def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]: ...

    async def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]:
        """Receive the next message as an iterator of one piece: a pair is decoded whole."""
        yield await self.recv(decode)

    async def _next_message(self) -> Data:
        if self._kept is not None:
            message, self._kept = self._kept, None
            return message
        while True:
            try:
                received = await super().recv()
            except ConnectionClosed as error:
                if self._metadata is None:
                    raise
                self._metadata = None
                raise AudioFrameError(
                    f"message {self._messages} is metadata, and the connection closed before the "
                    "audio that it announces"
                ) from error
            self._messages += 1
            metadata, self._metadata = self._metadata, None
            if metadata is not None:
                return self._decode_pair(metadata, received)
            if not isinstance(received, str):
                return received
            try:
                metadata = parse(received)
            except AudioFrameError as error:
                raise AudioFrameError(f"message {self._messages}: {error}") from error
            if metadata is None:
                return received
            self._metadata = metadata

    def _decode_pair(self, metadata: Metadata, received: Data) -> bytes:
        frame = f"message {self._messages}"
        if isinstance(received, str):
            self._kept = received
            raise AudioFrameError(
                f"{frame} is text; message {self._messages - 1}, metadata, announced "
                f"{metadata.compressed_size} binary bytes"
            )
        if len(received) != metadata.compressed_size:
            raise AudioFrameError(
                f"{frame} has {len(received)} bytes; its metadata says {metadata.compressed_size}"
            )
        decoder = DECODERS.get(metadata.algorithm)
        if decoder is None:
            raise AudioFrameError(f"{frame}: no decoder for {metadata.algorithm!r}")
        limit = self.protocol.max_message_size
        if limit is not None and metadata.original_size > limit:
            raise AudioFrameError(
                f"{frame} stands for {metadata.original_size} bytes; max_size is {limit}"
            )
        try:
            audio = decoder(received, metadata.original_size)
        except CodecError as error:
            raise AudioFrameError(f"{frame}: {error}") from error
        if len(audio) != metadata.original_size:
            raise AudioFrameError(
                f"{frame} decodes to {len(audio)} bytes; its metadata says {metadata.original_size}"
            )
        return audio


def opt_in(url: str, algorithms: Sequence[str], parameter: str = "audio_compression") -> str:
    """`url` with the query parameter that asks for `algorithms`, in order of preference."""
    parts = urlsplit(url)
    query = f"{parameter}={quote(','.join(algorithms), safe=',')}"
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))


class connect(websockets_connect):  # noqa: N801  # mirrors websockets
    """`websockets.connect`, asking for compressed audio; every keyword of it works here too.

    `algorithms` are in order of preference. To be used as `async with`, `await` or `async for`.
    """

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str] = ("gzip",),
        *,
        parameter: str = "audio_compression",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("create_connection", AudioConnection)
        super().__init__(opt_in(url, algorithms, parameter), **kwargs)
