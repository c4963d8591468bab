"""A handshake relayed to the backend, and the tunnel that comes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import h11
from aiohttp import hdrs, web

from proxy.audio.algorithms import INSTALLED
from proxy.audio.counters import Counters, count
from proxy.audio.settings import AudioSettings
from proxy.errors import BackendTimeoutError
from proxy.http.front import Sent, flush, raw_target, relay_response, take_over
from proxy.http.headers import ForwardingRules, Hop, end_to_end, hop_of
from proxy.http.sockets import spread_probes
from proxy.http.upstream import Backend, Exchange
from proxy.tunnel.encoder import Encoder
from proxy.tunnel.filtered_leg import FilteredLeg
from proxy.tunnel.handshake import check_switch, request_headers, split_target, switch_head
from proxy.tunnel.identity import identity_of
from proxy.tunnel.leg import BackendLeg
from proxy.tunnel.registry import Tunnels
from proxy.tunnel.tunnel import Switch
from proxy.tunnel.walked_leg import PassingLeg, WalkedLeg
from proxy.values import RolloutKey
from proxy.websocket.audio_filter import AudioFilter

_LATE = ("the backend did not answer in time",)
"""With what a handler is cancelled whose time is up."""
_SENT = Sent(keep_alive=False)
_LONGEST_PATH = 512
"""Characters of a path that are kept as long as the connection lasts: it may have 64 KiB."""


@dataclass(frozen=True, slots=True)
class Upgrades:
    """Relays handshakes to one backend and makes tunnels of those that it accepts."""

    backend: Backend
    rules: ForwardingRules
    admit: Callable[[str, bytes], Switch]
    """The flags of a connection that opted in, by its path and what its client always has."""
    rollout_by: RolloutKey
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
        hop = hop_of(request)
        headers = self.rules.apply(end_to_end(request.raw_headers), hop)
        head = self.backend.handshake(
            request.method, target, request_headers(headers, opted_in=bool(algorithms))
        )
        exchange: Exchange | None = None
        # What `asyncio.timeout` does, which takes 11 us of a handshake's 220 more.
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        alarm = loop.call_later(self.handshake_timeout, task.cancel, *_LATE)
        try:
            try:
                exchange = await self.backend.connect()
                await exchange.send_handshake(head)
                response = await exchange.response()
            except asyncio.CancelledError as error:
                if error.args != _LATE or task.uncancel():  # the client has left as well
                    raise
                raise BackendTimeoutError(*_LATE) from error
            finally:
                alarm.cancel()
            if isinstance(response, h11.Response):
                sent = await relay_response(request, response, exchange, self.stall_timeout)
                count(self.counters.handshakes, "declined")
                return sent
            named = request.headers.get(hdrs.SEC_WEBSOCKET_KEY)
            key = named.encode("utf-8", "surrogateescape") if named is not None else None
            check_switch(response.headers, key, opted_in=bool(algorithms))
            await flush(request, self.stall_timeout)
            self._open(
                request, hop, target, exchange, switch_head(*response, algorithms), algorithms
            )
            exchange = None
            count(self.counters.handshakes, "opted_in" if algorithms else "switched")
        finally:
            if exchange is not None:
                exchange.abort()
        return _SENT

    def _open(
        self,
        request: web.BaseRequest,
        hop: Hop,
        target: bytes,
        exchange: Exchange,
        head: bytes,
        algorithms: Sequence[str],
    ) -> None:
        """Put the two legs in place. Raises BackendError where the backend is gone."""
        to_backend, trailing = exchange.hand_over()
        to_client, early = take_over(request)
        if hop.peer is not None:
            with contextlib.suppress(OSError):  # gone already, which its leg will see
                spread_probes(to_client)
        address = self.rules.client_of(request.raw_headers, hop)
        switch: Switch | None = None
        if algorithms:
            path = request.path[:_LONGEST_PATH]
            switch = self.admit(path, identity_of(request, address, self.rollout_by))
        shown = target.partition(b"?")[0].decode("latin-1")  # one line, as it came
        tunnel = self.tunnels.enter(shown[:_LONGEST_PATH], address, algorithms, switch)
        client = WalkedLeg(to_client, tunnel.leg_lost)
        if switch is not None:
            settings = self.audio_settings(path)
            audio_filter = AudioFilter(algorithms, switch, self.counters, settings)
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
