"""A handshake relayed to the backend, and the tunnel that comes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import h11
from aiohttp import web

from proxy.audio.algorithms import INSTALLED
from proxy.audio.counters import Counters
from proxy.audio.settings import AudioSettings
from proxy.errors import BackendTimeoutError
from proxy.http.front import Sent, flush, raw_target, relay_response, take_over
from proxy.http.headers import ForwardingRules, end_to_end, hop_of
from proxy.http.sockets import spread_probes
from proxy.http.upstream import Backend, Exchange
from proxy.tunnel.encoder import Encoder
from proxy.tunnel.filtered_leg import FilteredLeg
from proxy.tunnel.handshake import check_switch, request_headers, split_target, switch_head
from proxy.tunnel.leg import BackendLeg, Leg, PassingLeg
from proxy.tunnel.registry import Tunnels
from proxy.websocket.audio_filter import AudioFilter, LivePolicy


@dataclass(frozen=True, slots=True)
class Upgrades:
    """Relays handshakes to one backend and makes tunnels of those that it accepts."""

    backend: Backend
    rules: ForwardingRules
    flags: LivePolicy
    counters: Counters
    tunnels: Tunnels
    encoder: Encoder
    query_parameter: bytes
    audio_settings: Callable[[str], AudioSettings]
    """By the request's path."""
    opus_flush: float
    """Seconds."""
    handshake_timeout: float
    stall_timeout: float
    write_buffer: int
    """Bytes; see `Leg.attach`."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Relay one handshake. Raises ClientError or BackendError while nothing is answered yet."""
        target, algorithms = split_target(raw_target(request), self.query_parameter, INSTALLED)
        headers = self.rules.apply(end_to_end(request.raw_headers), hop_of(request))
        head = self.backend.handshake(
            request.method, target, request_headers(headers, opted_in=bool(algorithms))
        )
        exchange: Exchange | None = None
        try:
            try:
                async with asyncio.timeout(self.handshake_timeout):
                    exchange = await self.backend.connect()
                    await exchange.send_handshake(head)
                    response = await exchange.response()
            except TimeoutError as error:
                raise BackendTimeoutError("the backend did not answer in time") from error
            if isinstance(response, h11.Response):
                return await relay_response(request, response, exchange, self.stall_timeout)
            check_switch(response.headers, _key_of(request), opted_in=bool(algorithms))
            await flush(request, self.stall_timeout)
            self._open(request, exchange, switch_head(*response, algorithms), algorithms)
            exchange = None
        finally:
            if exchange is not None:
                exchange.abort()
        return Sent(keep_alive=False)

    def _open(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        head: bytes,
        algorithms: Sequence[str],
    ) -> None:
        """Put the two legs in place. Raises BackendError where the backend is gone."""
        to_backend, trailing = exchange.hand_over()
        to_client, early = take_over(request)
        with contextlib.suppress(OSError):  # gone already, which its leg will see
            spread_probes(to_client)
        tunnel = self.tunnels.enter()
        client = Leg(to_client, tunnel.leg_lost)
        if algorithms:
            settings = self.audio_settings(request.path)
            audio_filter = AudioFilter(algorithms, self.flags, self.counters, settings)
            backend: BackendLeg = FilteredLeg(
                to_backend, tunnel.leg_lost, audio_filter, self.encoder, self.opus_flush
            )
        else:
            backend = PassingLeg(to_backend, tunnel.leg_lost)
        tunnel.join(client, backend)
        client.attach(self.write_buffer)
        client.write(head)
        if to_backend.is_closing():
            backend.replay(trailing)
        else:
            backend.attach(self.write_buffer)
            backend.start(trailing, ended=exchange.ended)
        client.start(early)


def _key_of(request: web.BaseRequest) -> bytes | None:
    for name, value in request.raw_headers:
        if name.lower() == b"sec-websocket-key":
            return value
    return None
