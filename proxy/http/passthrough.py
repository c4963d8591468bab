"""Plain HTTP: a request to the backend and its answer, streamed both ways."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import h11
from aiohttp import web

from proxy.errors import BackendError, BackendTimeoutError, ClientError, ClientTimeoutError
from proxy.http.front import raw_target, relay_response
from proxy.http.headers import ForwardingRules, RawHeaders, end_to_end, hop_of, tokens
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
            try:
                response = await self._response(exchange, upload)
            except BackendError:
                if upload.done() and (fault := upload.exception()) is not None:
                    raise fault from None  # it is why the backend did not answer
                raise
            return await relay_response(request, response, exchange, self.stall_timeout)
        finally:
            exchange.abort()
            if upload is not None:
                upload.cancel()
                # What went wrong with it has been answered, or the client is gone.
                await asyncio.gather(upload, return_exceptions=True)

    def _request_headers(self, request: web.BaseRequest) -> RawHeaders:
        if tokens(request.raw_headers, b"transfer-encoding") not in ([], [b"chunked"]):
            raise ClientError("of transfer codings, only chunked is relayed")
        headers = self.rules.apply(end_to_end(request.raw_headers), hop_of(request))
        if request.body_exists and request.content_length is None:
            headers.append((b"Transfer-Encoding", b"chunked"))
        headers.append((b"Connection", b"close"))
        return headers

    async def _upload(self, request: web.BaseRequest, exchange: Exchange) -> None:
        """Send the request's body. Where the backend takes it no more, its answer says why."""
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            while piece := await self._next_piece(request):
                async with time_limit(self.stall_timeout, "the backend does not take the request"):
                    await exchange.send_body(piece)
            await exchange.end_request()
        except (ClientError, BackendTimeoutError):
            exchange.abort()
            raise
        except BackendError:
            return

    async def _next_piece(self, request: web.BaseRequest) -> bytes:
        try:
            async with asyncio.timeout(self.stall_timeout):
                return await request.content.readany()
        except TimeoutError as error:
            raise ClientTimeoutError("the rest of the request did not come in time") from error

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
