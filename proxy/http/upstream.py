"""Requests to the backend: one connection each, HTTP/1.1 by h11, every header's bytes as given."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import string
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import h11

from proxy.errors import BackendError, BackendTimeoutError, ClientError
from proxy.http.headers import RawHeaders
from proxy.http.sockets import tune_transport
from proxy.values import UNIX

MAX_HEAD = 64 * 1024
"""The largest response head that is accepted, in bytes."""

# As h11 has them (RFC 9110 section 5, RFC 9112 section 3). Looked for with `translate`: between
# handshakes, patterns took ten times as long as in a row, 9 us of a request's head.
_TOKEN = b"-!#$%&'*+.^_`|~" + (string.digits + string.ascii_letters).encode()
_VISIBLE = bytes(range(0x21, 0x7F))
_BLANKS = b" \t"
_FRAMING = (b"content-length", b"transfer-encoding")
"""No 101 has them; h11 looks at what they say."""
_NOT_IN_VALUES = b"\0\n\r\v\f"

_ASKED = {
    is_head: h11.Request(
        method="HEAD" if is_head else "GET",
        target="/",
        headers=[("Host", "backend"), ("Upgrade", "websocket")],
    )
    for is_head in (False, True)
}
"""What h11 is told of a handshake: all that the reading of its answer depends on."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Where the backend is and how to reach it."""

    host: str
    port: int
    path: str | None = None
    """Path of a Unix socket, instead of host and port."""
    base_path: bytes = b""
    """Stands before every request target."""
    tls: ssl.SSLContext | None = None
    stall_timeout: float = 60.0
    """Seconds after which the kernel gives up on bytes that the backend does not take."""

    @classmethod
    def parse(cls, url: str, tls: ssl.SSLContext | None, stall_timeout: float) -> Backend:
        """Read the setting `backend`, which has been checked."""
        if url.startswith(UNIX):
            return cls("", 0, url.removeprefix(UNIX), stall_timeout=stall_timeout)
        parts = urlsplit(url)
        assert parts.hostname is not None
        port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
        base_path = parts.path.rstrip("/").encode()
        return cls(parts.hostname, port, None, base_path, tls, stall_timeout)

    def request(self, method: str, target: bytes, headers: RawHeaders) -> h11.Request:
        """The head of a request to it. Raises ClientError where that is no valid HTTP."""
        target, headers = self._addressed(target, headers)
        try:
            return h11.Request(method=method, target=target, headers=headers)
        except h11.LocalProtocolError as error:
            raise ClientError(f"the request cannot be relayed: {error}") from error

    def handshake(self, method: str, target: bytes, headers: RawHeaders) -> bytes:
        """The head of a request that has no body, as it is sent. Raises ClientError like `request`.

        h11 takes 15 us to check and write it, this 4.
        """
        target, headers = self._addressed(target, headers)
        verb = method.encode()
        is_visible = target and not target.translate(None, _VISIBLE)
        if not (is_visible and _is_token(verb) and _are_fields(headers)):
            raise ClientError("the request cannot be relayed: it is not valid HTTP")
        names = [name.lower() for name, _ in headers]
        if names.count(b"host") > 1 or names.count(b"content-length") > 1:
            raise ClientError("the request cannot be relayed: a header is there twice")
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (verb, target, b"".join(lines))

    def _addressed(self, target: bytes, headers: RawHeaders) -> tuple[bytes, RawHeaders]:
        """Target and headers as the backend expects them."""
        if target.startswith(b"/"):
            target = self.base_path + target
        if b"host" not in [name.lower() for name, _ in headers]:
            headers = [(b"Host", b"%b:%d" % (self.host.encode("idna"), self.port)), *headers]
        return target, headers

    async def connect(self) -> Exchange:
        """Open a connection. Raises BackendError."""
        loop = asyncio.get_running_loop()
        try:
            if self.path is not None:
                _, exchange = await loop.create_unix_connection(Exchange, self.path)
            else:
                transport, exchange = await loop.create_connection(
                    Exchange,
                    self.host,
                    self.port,
                    ssl=self.tls,
                    server_hostname=self.host if self.tls else None,
                )
                tune_transport(transport, self.stall_timeout)
        except (OSError, ssl.SSLError) as error:
            raise BackendError("the backend is not reachable") from error
        return exchange


@contextlib.asynccontextmanager
async def time_limit(seconds: float, message: str) -> AsyncIterator[None]:
    """Raises BackendTimeoutError with `message` where the body takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise BackendTimeoutError(message) from error


class Switch(NamedTuple):
    """The head of a 101."""

    reason: bytes
    headers: RawHeaders


def read_switch(data: bytes) -> tuple[Switch, bytes] | None:
    """A 101 that has come whole, and what came behind its head. None: it is h11's to judge.

    Only what h11 reads in the same way, 2 us instead of 9.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    status, blank, reason = first[:12], first[12:13], first[13:]
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or name.lower() in _FRAMING:
            return None
        headers.append((name, value.strip(_BLANKS)))
    is_plain = end and status == b"HTTP/1.1 101" and blank in (b"", b" ") and _is_text(reason)
    return (Switch(reason, headers), rest) if is_plain and _are_fields(headers) else None


def _are_fields(headers: RawHeaders) -> bool:
    """Whether all are valid."""
    values = [value for _, value in headers]
    return (
        all(name for name, _ in headers)
        and not b"".join([name for name, _ in headers]).translate(None, _TOKEN)
        and _is_text(b"".join(values))
        and values == [value.strip(_BLANKS) for value in values]
    )


def _is_token(word: bytes) -> bool:
    return word != b"" and not word.translate(None, _TOKEN)


def _is_text(value: bytes) -> bool:
    return len(value.translate(None, _NOT_IN_VALUES)) == len(value)


class Exchange(asyncio.Protocol):
    """One request and its answer, on a connection of its own.

    Reading is paused whenever nobody waits for more, so what the backend sends early stays in
    the kernel, and a slow client slows the backend.
    """

    def __init__(self) -> None:
        self._http: h11.Connection | None = None
        self._held = b""  # received, and not given to it
        self._asked: h11.Request | None = None
        self._transport: asyncio.Transport
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._unread = False  # something was received that has not been looked at
        self._lost = False
        self._ended = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called once; nothing is read until somebody waits for it."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes from the backend."""
        self._receive(data)
        self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The backend has ended its side; ours is closed when the exchange is over."""
        self._end()
        return self._transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._lost = True
        self._end()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def pause_writing(self) -> None:
        """Too much waits to be sent."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """It has been sent."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # What we call.

    async def send_request(self, request: h11.Request) -> None:
        """Send the head of the request."""
        await self._write(self._begin(request))

    async def send_handshake(self, head: bytes) -> None:
        """Send a handshake: the bytes of a whole request that asks to switch protocols."""
        self._asked = _ASKED[head.startswith(b"HEAD ")]
        await self._write(head)

    async def send_body(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        await self._send(h11.Data(data=data))

    async def end_request(self) -> None:
        """The request is complete."""
        await self._send(h11.EndOfMessage())

    async def response(self) -> h11.Response | Switch:
        """The answer's head: a final one, or 101. Raises BackendError."""
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response | Switch):
                return event
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return Switch(event.reason, event.headers.raw_items())
                continue  # 100, 103: for this hop, or of no use to the client by now
            raise BackendError("the backend closed the connection without an answer")

    async def body(self, silence: float) -> AsyncIterator[bytes]:
        """The answer's body, piece by piece.

        Raises BackendError where it is cut short, BackendTimeoutError after `silence` seconds.
        """
        while True:
            async with time_limit(silence, "the backend fell silent in mid-answer"):
                event = await self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise BackendError("the backend closed the connection in mid-answer")

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """After a 101: the connection, reading paused, and what came behind the answer's head.

        It may be closing already; what it said before counts. Raises BackendError where that is
        nothing.
        """
        data = self._http.trailing_data[0] if self._http is not None else self._held
        if self._transport.is_closing() and not data:
            raise BackendError("the backend closed the connection during the handshake")
        return self._transport, data

    @property
    def ended(self) -> bool:
        """Whether the backend has ended its side."""
        return self._ended

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # Inside.

    def _begin(self, request: h11.Request) -> bytes:
        """Leave it to h11, from the request on, whose head is returned."""
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        head = self._http.send(request)
        if self._held:
            self._http.receive_data(self._held)
        if self._ended:
            self._http.receive_data(b"")
        return head

    async def _send(self, event: h11.Data | h11.EndOfMessage) -> None:
        assert self._http is not None
        await self._write(self._http.send(event))

    async def _write(self, data: bytes) -> None:
        if self._lost:
            raise BackendError("the backend closed the connection")
        if data:
            self._transport.write(data)
        if self._writable is not None:
            await self._writable

    async def _next_event(self) -> h11.Event | Switch | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            if self._unread:
                try:
                    event = self._read()
                except h11.RemoteProtocolError as error:
                    if self._ended:
                        raise BackendError("the backend closed the connection too early") from error
                    raise BackendError("the backend's answer is not valid HTTP") from error
                if event is not h11.NEED_DATA:
                    return event
                self._unread = False
            if self._transport.is_closing():
                raise BackendError("the backend closed the connection too early")
            self._readable = asyncio.get_running_loop().create_future()
            self._transport.resume_reading()
            await self._readable

    def _read(self) -> h11.Event | Switch | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self._http is None:
            if (found := read_switch(self._held)) is not None:
                switch, self._held = found
                return switch
            assert self._asked is not None
            self._begin(self._asked)
        assert self._http is not None
        return self._http.next_event()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._receive(b"")

    def _receive(self, data: bytes) -> None:
        if self._http is None:
            self._held += data
        else:
            self._http.receive_data(data)
        self._unread = True
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)
