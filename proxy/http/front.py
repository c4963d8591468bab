"""The public port: aiohttp's server, our answers and the backend's, connections taken over.

What is used of aiohttp beyond its documented API stands in `_Base` and `take_over`, nowhere else:
`BaseProtocol`, `RequestHandler.set_parser`, `.transport`, `.connection_lost`, `._task_handler`,
`._current_request`; tests/http/test_front.py guards it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

import h11
import structlog
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import LineTooLong

from proxy.errors import RelayError, TooManyConnectionsError
from proxy.http.headers import authority_of, end_to_end, tokens
from proxy.http.upstream import Exchange

log = structlog.get_logger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

RETRY_AFTER = 5
"""Seconds that a client is asked to wait when there are too many connections."""


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer has been written already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keeps_alive = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether another request may follow on the connection."""
        return self._keeps_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing is left to write."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def _plain_line(status: int, text: str) -> web.Response:
    response = web.Response(status=status, text=f"{text}\n", headers={"Server": "audio-proxy"})
    response.force_close()
    return response


def error_response(error: RelayError) -> web.Response:
    """One line of plain text."""
    response = _plain_line(error.status, str(error))
    if isinstance(error, TooManyConnectionsError):
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


class _Base(BaseProtocol):
    """Leaves TCP_NODELAY to the event loop: aiohttp sets it again, in five system calls."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The rest of what aiohttp does."""
        self.transport = cast(asyncio.Transport, transport)


class _Connection(web.RequestHandler, _Base):
    """aiohttp's side of a client connection, with error pages and logs that show no secrets."""

    __slots__ = ()

    sockname = None
    """aiohttp would ask the system for it at each connection, for the sake of requests that have
    no `Host`: what makes it out, `BaseRequest.host`, is not asked here."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse, or a fault of ours."""
        if isinstance(exc, LineTooLong):
            text = "the request is not relayed: a line of its head is too long"
        elif status == HTTPStatus.BAD_REQUEST:
            text = "the request is not valid HTTP"
        else:
            # As text: a renderer that shows local variables would show headers and audio.
            log.error("request failed", traceback="".join(traceback.format_exception(exc)))
            text = "the proxy failed; its log says why"
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        return _plain_line(status, text)


class Front(web.Server):
    """Makes the protocol of each accepted connection; `handler` answers its requests.

    A handler is cancelled when its client leaves. Of a request that was answered before it had
    come whole, the rest is read for up to `close_timeout` seconds.
    """

    def __init__(self, handler: Handler, close_timeout: float) -> None:
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "max_line_size": 64 * 1024,
            "max_field_size": 64 * 1024,
            "max_headers": 256,
            "keepalive_timeout": 75.0,
            "tcp_keepalive": False,  # inherited from the listener
            "lingering_time": close_timeout,
        }
        super().__init__(handler, handler_cancellation=True)
        self.serving = 0
        """How many connections it has. `connections` keeps those that were lost until their handler
        has returned."""

    def __call__(self) -> _Connection:
        """The protocol for one more connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """See `serving`."""
        super().connection_made(handler, transport)
        self.serving += 1

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """See `serving`."""
        super().connection_lost(handler, exc)
        self.serving -= 1


def raw_target(request: web.BaseRequest) -> bytes:
    """The request target, byte for byte, in origin form (RFC 9112 section 3.2)."""
    target = request.raw_path.encode("utf-8", "surrogateescape")
    authority = authority_of(request)
    if authority is None:
        return target
    rest = target.partition(b"://")[2][len(authority) :]
    return rest if rest.startswith(b"/") else b"/" + rest


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether the request asks to become a WebSocket. aiohttp has stopped reading behind it."""
    return (
        request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
        and b"upgrade" in tokens(request.raw_headers, b"connection")
        and request.version >= (1, 1)
        and request.method != "CONNECT"
        and not request.body_exists
    )


async def relay_response(
    request: web.BaseRequest, response: h11.Response, exchange: Exchange, stall_timeout: float
) -> Sent:
    """Write the backend's answer to the client, its header lines byte for byte.

    A client that takes nothing for `stall_timeout` seconds, or a body that breaks off, ends the
    connection: there is no other way to say that an answer is incomplete.
    """
    writer, transport = request.writer, request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    status = response.status_code
    headers = response.headers.raw_items()
    if tokens(headers, b"transfer-encoding"):
        # It overrides Content-Length (RFC 9112 section 6.3), and h11 has read by it.
        headers = [header for header in headers if header[0].lower() != b"content-length"]
    headers = end_to_end(headers)
    keep_alive = request.keep_alive
    chunked = False
    has_body = request.method != "HEAD" and status not in (204, 304)
    if has_body and not any(name.lower() == b"content-length" for name, _ in headers):
        if request.version >= (1, 1):
            chunked = True
            headers.append((b"Transfer-Encoding", b"chunked"))
        else:
            keep_alive = False  # its end is the connection's
    if not keep_alive:
        headers.append((b"Connection", b"close"))
    elif request.version < (1, 1):
        headers.append((b"Connection", b"keep-alive"))
    head = b"HTTP/1.1 %d %b\r\n" % (status, response.reason)
    head += b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"
    try:
        async with asyncio.timeout(stall_timeout):
            await writer.write(head)
        if chunked:
            writer.enable_chunking()
        async for piece in exchange.body(stall_timeout):
            async with asyncio.timeout(stall_timeout):
                await writer.write(piece)
        async with asyncio.timeout(stall_timeout):
            await writer.write_eof()
            await writer.drain()
    except (RelayError, TimeoutError):
        transport.abort()
        return Sent(keep_alive=False)
    return Sent(keep_alive=keep_alive)


class _EarlyBytes:
    """Takes what the client sent behind its handshake."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        pass


async def flush(request: web.BaseRequest, stall_timeout: float | None = None) -> None:
    """Wait until aiohttp is not holding its writing back, for `stall_timeout` seconds.

    An earlier answer on the same connection may still be on its way; what is left of it then is
    little, and the transport's. Raises ConnectionResetError where the client is gone.
    """
    if request.protocol.writing_paused:
        async with asyncio.timeout(stall_timeout):
            await request.writer.drain()
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the client is gone")


def take_over(request: web.BaseRequest) -> tuple[asyncio.Transport, bytes]:
    """Take the client's connection from aiohttp, which is left believing that it is closed.

    To be called after `flush`, nothing awaited between. Returns the transport, reading paused,
    and the bytes that came behind the request. The caller sets its own protocol at once, and
    its handler returns `Sent`.
    """
    connection = request.protocol
    transport = connection.transport
    assert transport is not None
    early = _EarlyBytes()
    connection.set_parser(early)  # type: ignore[arg-type]  # duck-typed: feed_data, feed_eof
    transport.pause_reading()
    connection.transport = None
    # Neither the request nor its handler, who is the caller, is to be told.
    connection._current_request = connection._task_handler = None
    connection.connection_lost(None)
    return transport, bytes(early.data)
