"""The tunnels of a worker: entered, watched for time limits, ended together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from proxy.tunnel.tunnel import Tunnel

log = structlog.get_logger(__name__)


GOODBYE = 1.0
"""Seconds that a client has to answer a close frame of ours."""
DRAIN_INTERVAL = 0.1
"""Seconds between two looks at who may be closed."""
_IN_A_ROW = 64
"""Tunnels that are looked at before others get their turn: a look takes 2 to 7 µs, which made
stalls of 20 to 50 ms of 8,000."""


class Tunnels:
    """All open tunnels."""

    def __init__(self, stall_timeout: float, close_timeout: float) -> None:
        self._stall_timeout = stall_timeout
        self._close_timeout = close_timeout
        self._open: set[Tunnel] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self) -> Tunnel:
        """A new tunnel; it leaves by itself when both of its legs are closed."""
        tunnel = Tunnel(self._leave)
        self._open.add(tunnel)
        self._none_left.clear()
        return tunnel

    def _leave(self, tunnel: Tunnel) -> None:
        self._open.discard(tunnel)
        if not self._open:
            self._none_left.set()

    async def _each(self) -> AsyncIterator[Tunnel]:
        """All that are open now, and still are when it is their turn."""
        for number, tunnel in enumerate(list(self._open), 1):
            if tunnel in self._open:
                yield tunnel
            if not number % _IN_A_ROW:
                await asyncio.sleep(0)

    async def watch(self) -> None:
        """Abort tunnels whose time limits have passed, for ever."""
        loop = asyncio.get_running_loop()
        # A limit is noticed up to two intervals late.
        interval = min(2.0, self._stall_timeout / 4, self._close_timeout / 4)
        while True:
            await asyncio.sleep(interval)
            async for tunnel in self._each():
                try:
                    overdue = tunnel.overdue(loop.time(), self._stall_timeout, self._close_timeout)
                except Exception:  # a fault in one tunnel leaves the limits of the others in force
                    log.exception("a tunnel could not be watched")
                    overdue = True
                if overdue:
                    log.info("tunnel aborted: a side did not take or close in time")
                    tunnel.abort()

    async def drain(self, end: float, idle: float) -> None:
        """Close all tunnels with 1001, each when its talk is over; returns when none is left.

        A talk is over when neither side has said anything for `idle` seconds, the backend had the
        last word and the client has got it; and at `end`, a time of the event loop's clock, in any
        case. Who does not answer the 1001 within `GOODBYE` seconds is aborted, and all are by
        `end` + `GOODBYE`.
        """
        loop = asyncio.get_running_loop()
        since: dict[Tunnel, tuple[int, float]] = {}  # what it had heard, and when that was seen
        closing: dict[Tunnel, float] = {}  # when to abort it
        while self._open:
            async for tunnel in self._each():
                now = loop.time()
                if tunnel in closing or now >= end + GOODBYE:
                    if now >= min(closing.get(tunnel, now), end + GOODBYE):
                        tunnel.abort()
                    continue
                heard, backend_spoke = tunnel.heard
                seen = since.setdefault(tunnel, (heard, now))
                if heard != seen[0] or tunnel.is_delivering:
                    since[tunnel] = heard, now
                    seen = since[tunnel]
                is_over = backend_spoke and now - seen[1] >= idle
                if (is_over or now >= end) and tunnel.close(at_once=now >= end):
                    closing[tunnel] = now + GOODBYE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(DRAIN_INTERVAL, idle / 4)):
                    await self._none_left.wait()

    async def finish(self) -> None:
        """End all tunnels, what they hold written out; abort after `close_timeout`."""
        for tunnel in list(self._open):
            tunnel.finish()
        try:
            async with asyncio.timeout(self._close_timeout):
                await self._none_left.wait()
        except TimeoutError:
            for tunnel in list(self._open):
                tunnel.abort()
            await self._none_left.wait()
