"""Wiring: the only place that knows everyone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from typing import Any

import structlog
from aiohttp import web

from proxy import __version__
from proxy.audio.algorithms import MISSING
from proxy.audio.counters import Counters
from proxy.config import Address, Settings
from proxy.control.admin import Admin
from proxy.control.flags import Flags
from proxy.control.stats import report
from proxy.control.store import FileStore
from proxy.errors import BackendError, ClientError, ConfigError, RelayError, TooManyConnectionsError
from proxy.http.front import Front, Sent, error_response, is_upgrade
from proxy.http.headers import ForwardingRules
from proxy.http.passthrough import Passthrough
from proxy.http.sockets import listen
from proxy.http.upstream import Backend, time_limit
from proxy.tunnel.encoder import Encoder
from proxy.tunnel.registry import Tunnels
from proxy.tunnel.upgrade import Upgrades

log = structlog.get_logger(__name__)

READY_TIMEOUT = 2.0
"""Seconds that `/readyz` waits for the backend to accept a connection."""


class App:
    """One worker. Use as an async context manager; it serves while it is entered."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.store = FileStore(settings.flags_file, Flags(enabled=settings.enable_ws_compression))
        self._backend = Backend.parse(
            settings.backend, settings.backend_tls(), settings.stall_timeout
        )
        self._server_tls = settings.server_tls()
        self.counters = Counters()
        self._started = time.monotonic()
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
        settings = self._settings
        self.store.create()
        self.store.refresh()
        encoder = Encoder(threads=os.cpu_count() or 1)
        stack.callback(encoder.close)
        self.tunnels = Tunnels(settings.stall_timeout, settings.close_timeout)
        rules = ForwardingRules(
            settings.trusted_networks,
            "unix" in settings.trusted_proxies,
            settings.host_header.encode() if settings.host_header is not None else None,
        )
        self._upgrades = Upgrades(
            backend=self._backend,
            rules=rules,
            flags=self.store.live,
            counters=self.counters,
            tunnels=self.tunnels,
            encoder=encoder,
            query_parameter=settings.query_parameter.encode(),
            audio_settings=settings.audio_settings,
            opus_flush=settings.opus_flush_ms / 1000,
            handshake_timeout=settings.handshake_timeout,
            stall_timeout=settings.stall_timeout,
        )
        self._passthrough = Passthrough(
            self._backend, rules, settings.handshake_timeout, settings.stall_timeout
        )
        for task in (self.tunnels.watch(), self.store.watch()):
            stack.push_async_callback(_cancel, asyncio.create_task(task))
        await self._serve_admin(stack)
        await self._serve_front(stack)

    async def _serve_front(self, stack: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        self._front = Front(self._handle, self._settings.close_timeout)
        sockets = _listen("listen", self._settings.listen, self._settings.stall_timeout)
        self.listen = _bound(sockets[0], self._settings.listen)
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
            stack.callback(server.close)
        stack.callback(self._begin_to_stop)

    async def _serve_admin(self, stack: contextlib.AsyncExitStack) -> None:
        token = self._settings.admin_token
        admin = Admin(
            self.store,
            self._statistics,
            self._not_ready,
            token.get_secret_value() if token is not None else None,
        )
        runner = web.AppRunner(admin.application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        sockets = _listen("admin", self._settings.admin, self._settings.stall_timeout)
        self.admin = _bound(sockets[0], self._settings.admin)
        for sock in sockets:
            await web.SockSite(runner, sock).start()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request on the public port."""
        try:
            if self.connections() > self._settings.max_connections:
                raise TooManyConnectionsError("the proxy serves as many connections as it may")
            if request.version not in ((1, 0), (1, 1)):
                raise ClientError("HTTP/1.1 and 1.0 are spoken here, no other version")
            if is_upgrade(request):
                return await self._upgrades.handle(request)
            return await self._passthrough.handle(request)
        except RelayError as error:
            log.info("request not relayed", status=error.status, reason=str(error))
            return error_response(error)
        except (ConnectionResetError, TimeoutError):
            return Sent(keep_alive=False)  # nobody is left to answer

    def connections(self) -> int:
        """Client connections open: tunnels, handshakes and plain ones."""
        return len(self.tunnels) + len(self._front.connections)

    def _statistics(self) -> dict[str, Any]:
        return {
            **report(self.counters, self.store.live.current.min_size),
            "tunnels": len(self.tunnels),
            "connections": self.connections(),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "version": __version__,
            "flags_error": self.store.error,
        }

    def _begin_to_stop(self) -> None:
        self._stopping = True

    async def _not_ready(self) -> str | None:
        if self._stopping:
            return "the proxy is stopping"
        try:
            async with time_limit(READY_TIMEOUT, "the backend did not accept in time"):
                exchange = await self._backend.connect()
        except BackendError as error:
            return str(error)
        exchange.abort()
        return None


def _listen(setting: str, address: Address, stall_timeout: float) -> list[socket.socket]:
    try:
        return listen(address, stall_timeout)
    except OSError as error:
        raise ConfigError(f"{setting}: cannot listen on {address}: {error}") from error


def _bound(sock: socket.socket, address: Address) -> Address:
    if address.path is not None:
        return address
    return Address(address.host, sock.getsockname()[1])


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError where it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    for name, remedy in MISSING.items():
        log.warning(f"{name} is not offered: it is not installed", remedy=remedy)
    async with App(settings) as app:
        # What lives as long as the worker is not looked through at every collection: 12 ms.
        gc.collect()
        gc.freeze()
        log.info(
            "serving",
            listen=str(app.listen),
            backend=settings.backend,
            admin=str(app.admin),
            flags=str(settings.flags_file),
            version=__version__,
        )
        await stop.wait()
        log.info("stopping")
