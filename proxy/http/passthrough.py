"""Plain HTTP: a request to the backend and its answer, streamed both ways."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import h11
from aiohttp import web

from proxy.errors import BackendError, BackendTimeoutError, ClientError
from proxy.http.front import raw_target, relay_response
from proxy.http.headers import ForwardingRules, RawHeaders, end_to_end, hop_of
from proxy.http.upstream import Backend, Exchange, time_limit


@dataclass(frozen=True, slots=True)
class Passthrough:
    """Relays plain requests to one backend."""

    backend: Backend
    rules: ForwardingRules
    handshake_timeout: float
    stall_timeout: float

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Relay one request. Raises ClientError or BackendError while nothing is answered yet."""
        if request.method == "CONNECT":
            raise ClientError("CONNECT is not offered here")
        head = self.backend.request(
            request.method, raw_target(request), self._request_headers(request)
        )
        async with time_limit(self.handshake_timeout, "the backend did not accept in time"):
            exchange = await self.backend.connect()
        upload: asyncio.Task[None] | None = None
        try:
            await exchange.send_request(head)
            upload = asyncio.create_task(self._upload(request, exchange))
            response = await self._response(exchange, upload)
            return await relay_response(request, response, exchange, self.stall_timeout)
        finally:
            exchange.abort()
            if upload is not None:
                upload.cancel()
                with suppress(asyncio.CancelledError):
                    await upload

    def _request_headers(self, request: web.BaseRequest) -> RawHeaders:
        headers = [
            (name, value)
            for name, value in self.rules.apply(end_to_end(request.raw_headers), hop_of(request))
            if name.lower() != b"expect"
        ]
        if request.body_exists and request.content_length is None:
            headers.append((b"Transfer-Encoding", b"chunked"))
        headers.append((b"Connection", b"close"))
        return headers

    async def _upload(self, request: web.BaseRequest, exchange: Exchange) -> None:
        """Send the request's body. Where the backend takes it no more, its answer says why."""
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        with suppress(BackendError):
            async for piece in request.content.iter_any():
                await exchange.send_body(piece)
            await exchange.end_request()

    async def _response(self, exchange: Exchange, upload: asyncio.Task[None]) -> h11.Response:
        """The answer's head. The clock runs while the backend has the whole request."""
        while True:
            uploaded = upload.done()
            try:
                async with asyncio.timeout(self.stall_timeout):
                    response = await exchange.response()
            except TimeoutError as error:
                if uploaded:
                    raise BackendTimeoutError("the backend did not answer in time") from error
                continue
            if not isinstance(response, h11.Response):
                raise BackendError("the backend switched protocols without being asked to")
            return response
