"""Wiring: the only place that knows everyone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from proxy import __version__
from proxy.audio.counters import Counters, count
from proxy.config import Settings
from proxy.control.admin import Admin, Sources
from proxy.control.flags import Flags
from proxy.control.guard import Guard
from proxy.control.reporting import Reporting
from proxy.control.rollout import Rollout
from proxy.control.roster import Roster
from proxy.errors import BackendError, ClientError, ConfigError, RelayError, TooManyConnectionsError
from proxy.fleet import Fleet, open_store
from proxy.http.front import Front, Sent, error_response, is_upgrade
from proxy.http.headers import ForwardingRules
from proxy.http.passthrough import Passthrough
from proxy.http.sockets import bound, listen
from proxy.http.upstream import Backend, time_limit
from proxy.tunnel.encoder import Encoder
from proxy.tunnel.lull import lull_after
from proxy.tunnel.registry import DRAIN_INTERVAL, Tunnels
from proxy.tunnel.upgrade import Upgrades
from proxy.values import Address

log = structlog.get_logger(__name__)

GRACE = 1.0
"""Seconds that a client has to send its request once it has been accepted by a worker that ends."""
PUBLISH_INTERVAL = 1.0
"""Seconds after which the other workers know what this one has counted, at most."""
_GC_THRESHOLDS = (700, 10, 100)
"""Python's own, but for the last: of the young, as before; of all, once in 700,000 objects."""
_RESULTS = {502: "bad_gateway", 503: "refused", 504: "timeout"}
"""Of handshakes that are not relayed, by what they are answered."""
READY_TIMEOUT = 2.0
"""Seconds that `/readyz` waits for the backend to accept a connection."""


@dataclass(frozen=True)
class Place:
    """What a worker has from its parent."""

    listen: list[socket.socket]
    admin: list[socket.socket]
    roster: Roster
    tell_ready: Callable[[], object]
    drain_all: Callable[[], object]
    """Ask the parent to stop all workers."""
    life: int
    """A pipe that ends when the parent does."""
    number: int
    started: float
    """When the parent was, on the monotonic clock."""


class App:
    """One worker. Use as an async context manager; it serves while it is entered."""

    def __init__(self, settings: Settings, place: Place | None = None) -> None:
        """`place`: where it serves beside others; alone, it opens its sockets itself."""
        self._settings = settings
        self._place = place
        number = place.number if place is not None else 0
        self.store = open_store(
            settings, Flags(enabled=settings.enable_ws_compression), tells=number == 0
        )
        self._backend = Backend.parse(
            settings.backend, settings.backend_tls(), settings.stall_timeout
        )
        self._server_tls = settings.server_tls()
        self.counters = Counters()
        self._is_full = False  # the log says so
        self._servers: list[asyncio.Server] = []
        self._admin_sites: list[web.SockSite] = []
        self.stop = asyncio.Event()
        """Set when it has been asked to end."""
        self._stopping = False
        self._stack = contextlib.AsyncExitStack()
        self.tunnels: Tunnels
        """The open ones."""
        self._front: Front
        self.listen: Address = settings.listen
        """Where it listens; the port is known once it does."""
        self.admin: Address = settings.admin
        """Where its admin port is."""

    async def __aenter__(self) -> App:
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start everything; what `stack` undoes at the end, last first."""
        settings, place = self._settings, self._place
        stack.push_async_callback(self.store.close)
        await self.store.start()
        encoder = Encoder(os.cpu_count() or 1, self.counters.encode_seconds)
        stack.callback(encoder.close)
        run = place.roster.run if place is not None else secrets.token_hex(3)
        self.tunnels = Tunnels(
            settings.stall_timeout, settings.close_timeout, self.counters, f"{run}-{os.getpid()}-"
        )
        stack.callback(self.tunnels.tell_ended)
        self.reporting = Reporting(
            self.counters,
            self.store,
            self._gauges,
            number=place.number if place is not None else 0,
            started=place.started if place is not None else time.monotonic(),
            roster=place.roster if place is not None else None,
            run=run,
            version=__version__,
            price_per_gb=settings.price_per_gb,
            currency=settings.currency,
        )
        self._fleet = Fleet(settings, self.tunnels, self.reporting)
        rules = ForwardingRules(
            settings.trusted_networks,
            "unix" in settings.trusted_proxies,
            settings.host_header.encode() if settings.host_header is not None else None,
        )
        self._upgrades = Upgrades(
            backend=self._backend,
            rules=rules,
            admit=Rollout(self.store.live).enter,
            rollout_by=settings.rollout_by,
            counters=self.counters,
            tunnels=self.tunnels,
            encoder=encoder,
            query_parameter=settings.query_parameter.encode(),
            audio_settings=settings.audio_settings,
            opus_flush=settings.opus_flush_ms / 1000,
            handshake_timeout=settings.handshake_timeout,
            stall_timeout=settings.stall_timeout,
            write_buffer=settings.write_buffer,
        )
        self._passthrough = Passthrough(
            self._backend, rules, settings.handshake_timeout, settings.stall_timeout
        )
        stack.callback(self.reporting.publish)
        tasks = [self.tunnels.watch(), self.store.watch(), self._publish_always()]
        for task in tasks:
            stack.push_async_callback(_cancel, asyncio.create_task(task))
        await self._fleet.start(stack)
        await self._serve_admin(stack)
        await self._serve_front(stack)

    async def _serve_front(self, stack: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        self._front = Front(self._handle, self._settings.close_timeout)
        sockets = self._place.listen if self._place is not None else self._open("listen")
        self.listen = bound(sockets[0], self._settings.listen)
        tls: dict[str, Any] = {}
        if self._server_tls is not None:
            tls = {
                "ssl": self._server_tls,
                "ssl_handshake_timeout": self._settings.handshake_timeout,
                "ssl_shutdown_timeout": self._settings.close_timeout,
            }
        stack.push_async_callback(self._front.shutdown, self._settings.close_timeout)
        stack.callback(self._front.pre_shutdown)  # ends those that wait for another request
        stack.push_async_callback(self.tunnels.finish)
        for sock in sockets:
            server = await loop.create_server(self._front, sock=sock, backlog=4096, **tls)
            self._servers.append(server)
            stack.callback(server.close)
        stack.callback(self._begin_to_stop)

    async def _serve_admin(self, stack: contextlib.AsyncExitStack) -> None:
        token = self._settings.admin_token
        sources = Sources(
            fleet=self.reporting.fleet,
            local=self.reporting.local,
            ready=self._not_ready,
            drain=self._drain_all,
            connections=self._fleet.connections,
            switch=self._fleet.switch,
        )
        secret = token.get_secret_value() if token is not None else None
        admin = Admin(self.store, sources, Guard(secret, self._settings.admin_hosts))
        runner = web.AppRunner(admin.application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        sockets = self._place.admin if self._place is not None else self._open("admin")
        self.admin = bound(sockets[0], self._settings.admin)
        for sock in sockets:
            self._admin_sites.append(web.SockSite(runner, sock))
            await self._admin_sites[-1].start()

    def _open(self, setting: str) -> list[socket.socket]:
        address: Address = getattr(self._settings, setting)
        try:
            return listen(address, self._settings.stall_timeout)
        except OSError as error:
            raise ConfigError(f"{setting}: cannot listen on {address}: {error}") from error

    async def drain(self) -> None:
        """Take no new connections, and let lessons and requests end, for `drain_timeout` seconds.

        Where this worker alone is to end, its admin port is left to the others.
        """
        self._begin_to_stop()
        place, limit = self._place, self._settings.drain_timeout
        self.store.tells = False  # who takes its place does
        if place is not None and not place.roster.is_draining:
            for site in self._admin_sites:
                await site.stop()
        for server in self._servers:
            server.close()
        end = asyncio.get_running_loop().time() + limit
        closing = asyncio.create_task(self._close_front(limit))
        while not closing.done():  # a handshake that was under way may still open a tunnel
            await self.tunnels.drain(end, self._settings.drain_idle)
            await asyncio.wait((closing,), timeout=DRAIN_INTERVAL)
        await closing
        await self.tunnels.drain(end, self._settings.drain_idle)

    async def _close_front(self, limit: float) -> None:
        """Let requests be answered, for `limit` seconds, that are under way or about to come."""
        if self._front.connections:
            await asyncio.sleep(min(GRACE, limit))
        self._front.pre_shutdown()
        await self._front.shutdown(limit)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request on the public port."""
        upgrades = is_upgrade(request)
        try:
            if self.connections() > self._settings.max_connections:
                self._refuse()
            self._is_full = False
            if request.version not in ((1, 0), (1, 1)):
                raise ClientError("HTTP/1.1 and 1.0 are spoken here, no other version")
            if upgrades:
                if self._stopping and self._all_stop():  # the latter asks the file system
                    raise TooManyConnectionsError("the proxy is stopping")
                return await self._upgrades.handle(request)
            return await self._passthrough.handle(request)
        except RelayError as error:
            if upgrades:
                count(self.counters.handshakes, _RESULTS.get(error.status, "bad_request"))
            log.info("request not relayed", status=error.status, reason=str(error))
            return error_response(error)
        except (ConnectionResetError, TimeoutError):
            if upgrades:
                count(self.counters.handshakes, "client_gone")
            return Sent(keep_alive=False)  # nobody is left to answer
        except asyncio.CancelledError:
            if upgrades:
                count(self.counters.handshakes, "client_gone")
            raise

    def connections(self) -> int:
        """Client connections open: tunnels, handshakes and plain ones."""
        return len(self.tunnels) + self._front.serving

    def _refuse(self) -> None:
        """Say no to a client; in the log once, until there is room again."""
        if not self._is_full:
            self._is_full = True
            log.warning("max_connections reached", max_connections=self._settings.max_connections)
        self.counters.refused += 1
        raise TooManyConnectionsError("the proxy serves as many connections as it may")

    def _gauges(self) -> dict[str, Any]:
        """What is so now."""
        return {
            "tunnels": len(self.tunnels),
            "connections": self.connections(),
            "open": dict(self.tunnels.by_algorithm),
            "backlog_bytes": self.tunnels.backlog,
            "draining": self._stopping,
        }

    async def _publish_always(self) -> None:
        while True:
            self.reporting.publish()
            with contextlib.suppress(OSError):  # which the line before has told of
                self._fleet.publish()
            await lull_after(PUBLISH_INTERVAL)

    def _drain_all(self) -> None:
        """Somebody asks for the end of all workers."""
        self._begin_to_stop()
        if self._place is None:
            self.stop.set()
        else:
            self._place.roster.drain()
            self._place.drain_all()

    def _begin_to_stop(self) -> None:
        self._stopping = True

    def _all_stop(self) -> bool:
        """Whether not only this worker is to end, with others in its place."""
        if self._place is None:
            return self._stopping
        return self._place.roster.is_draining

    async def _not_ready(self) -> str | None:
        if self._all_stop():
            return "the proxy is stopping"
        try:
            async with time_limit(READY_TIMEOUT, "the backend did not accept in time"):
                exchange = await self._backend.connect()
        except BackendError as error:
            return str(error)
        exchange.abort()
        return None


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def serve(settings: Settings, place: Place) -> None:
    """Be a worker until SIGTERM, or until the parent ends. Raises ConfigError.

    The lessons that are under way may end; a second SIGTERM ends them.
    """
    loop = asyncio.get_running_loop()
    app = App(settings, place)
    at_once = asyncio.Event()

    def end() -> None:
        (at_once if app.stop.is_set() else app.stop).set()

    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_reader(place.life, app.stop.set)
    async with app:
        # What lives as long as the worker is not looked through at every collection: 12 ms.
        gc.collect()
        gc.freeze()
        # Nor are tunnels, which leave nothing to collect (`Leg.leave`): 280 ms of 8,000.
        gc.set_threshold(*_GC_THRESHOLDS)
        place.tell_ready()
        await app.stop.wait()
        loop.remove_reader(place.life)
        draining = asyncio.create_task(app.drain())
        hurry = asyncio.create_task(at_once.wait())
        await asyncio.wait((draining, hurry), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurry):
            await _cancel(task)
