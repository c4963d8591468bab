"""The tunnels of a worker: entered, watched for time limits, ended together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog

from proxy.audio.counters import Counters, count
from proxy.tunnel.lull import lull_after
from proxy.tunnel.tunnel import Switch, Tunnel

log = structlog.get_logger(__name__)


GOODBYE = 1.0
"""Seconds that a client has to answer a close frame of ours."""
DRAIN_INTERVAL = 0.1
"""Seconds between two looks at who may be closed."""
_IN_A_ROW = 64
"""Tunnels that are looked at before others get their turn: to watch one takes 0.4 µs and more, with
cold caches ten times as much, to drain or to list it 2 to 7, which made stalls of 20 to 50 ms of
8,000."""
_TOLD_AFTER = 0.01
"""Seconds after which those that have ended are told of in the log, all together: one after the
other a line takes 6 us, between handshakes 37 with what it pushes out of the processor's caches."""
_DIGITS = 15
"""Of a tunnel's number, at most."""
_STANDARD_CODES = range(1000, 1016)


class Tunnels:
    """All open tunnels."""

    def __init__(
        self, stall_timeout: float, close_timeout: float, counters: Counters, place: str = ""
    ) -> None:
        """`place`: what the ids of its tunnels begin with, which no other worker's do."""
        self._stall_timeout = stall_timeout
        self._close_timeout = close_timeout
        self._counters = counters
        self._place = place
        self._open: dict[int, Tunnel] = {}
        self._entered = 0
        self._log = log.bind()  # put together once, not for each line
        self._ended: list[dict[str, Any]] = []  # not told of yet
        self._none_left = asyncio.Event()
        self._none_left.set()
        self.by_algorithm: dict[str, int] = {}
        """How many are open, by the client's first algorithm; "none": it did not opt in."""
        self.backlog = 0
        """Bytes that waited in all of them to be sent, when they were looked at last."""

    def __len__(self) -> int:
        return len(self._open)

    def id_of(self, tunnel: Tunnel) -> str:
        """The name of a tunnel in the whole fleet."""
        return f"{self._place}{tunnel.number}"

    def find(self, name: str) -> Tunnel | None:
        """The open one of an id."""
        number = name.removeprefix(self._place)
        if not name.startswith(self._place) or not number.isdecimal() or len(number) > _DIGITS:
            return None
        return self._open.get(int(number))

    def enter(
        self,
        path: str = "",
        address: str | None = None,
        algorithms: Sequence[str] = (),
        switch: Switch | None = None,
    ) -> Tunnel:
        """A new tunnel; it leaves by itself when both of its legs are closed. See `Tunnel`."""
        self._entered += 1
        tunnel = Tunnel(self._leave, self._entered, path, address, algorithms, switch)
        self._open[tunnel.number] = tunnel
        self._none_left.clear()
        count(self.by_algorithm, _first(algorithms))
        return tunnel

    def _leave(self, tunnel: Tunnel) -> None:
        del self._open[tunnel.number]
        self.by_algorithm[_first(tunnel.algorithms)] -= 1
        if not self._open:
            self._none_left.set()
        counters, (code, by) = self._counters, tunnel.ending
        counters.pauses += tunnel.take_pauses()
        count(counters.closed_by, by)
        count(counters.close_codes, _label(code))
        tally = tunnel.tally
        about = {} if tally is None else {"chunks": tally.chunks, "compressed": tally.compressed}
        if not self._ended:
            asyncio.get_running_loop().call_later(_TOLD_AFTER, self.tell_ended)
        self._ended.append(
            {
                "id": self.id_of(tunnel),
                "path": tunnel.path,
                "seconds": round(time.time() - tunnel.since, 3),
                "algorithms": ",".join(tunnel.algorithms) or "none",
                **about,
                "bytes_in": tunnel.backend.written,
                "bytes_out": tunnel.client.written,
                "code": code,
                "by": by,
            }
        )

    def tell_ended(self) -> None:
        """Write the lines in the log that are not written yet."""
        ended, self._ended = self._ended, []
        for about in ended:
            with contextlib.suppress(OSError):  # there is nowhere to tell of it
                self._log.info("tunnel ended", **about)

    async def each(self, seconds: float = 0.0) -> AsyncIterator[Tunnel]:
        """All that are open now, and still are when it is their turn, in `seconds` or longer."""
        tunnels = list(self._open.values())
        pause = lull_after if seconds else asyncio.sleep
        for number, tunnel in enumerate(tunnels, 1):
            if tunnel.number in self._open:
                yield tunnel
            if not number % _IN_A_ROW:
                await pause(seconds * _IN_A_ROW / len(tunnels))

    async def watch(self) -> None:
        """Abort tunnels whose time limits have passed, for ever."""
        # A limit is noticed up to two intervals late, later by a worker that reads all the time.
        # One half of each is spent on looking: others would wait for 8,000 in a row.
        interval = min(2.0, self._stall_timeout / 4, self._close_timeout / 4)
        while True:
            await lull_after(interval / 2)
            self.backlog = await self._look(interval / 2)

    async def _look(self, seconds: float) -> int:
        """Abort those that are overdue, in `seconds` or longer. Returns what waits in all, in
        bytes; nothing that it knows outlives it, as the last tunnel would in a loop for ever."""
        backlog = 0
        async for tunnel in self.each(seconds):
            try:
                now = time.monotonic()
                overdue = tunnel.overdue(now, self._stall_timeout, self._close_timeout)
            except Exception:  # a fault in one tunnel leaves the limits of the others in force
                log.exception("a tunnel could not be watched")
                overdue = True
            if overdue:
                log.info("tunnel aborted: a side did not take or close in time")
                tunnel.abort()
            backlog += tunnel.backlog
            self._counters.pauses += tunnel.take_pauses()
        return backlog

    async def drain(self, end: float, idle: float) -> None:
        """Close all tunnels with 1001, each when its talk is over; returns when none is left.

        A talk is over when neither side has said anything for `idle` seconds, the backend had the
        last word and the client has got it; and at `end`, a time of the event loop's clock, in any
        case. Who does not answer the 1001 within `GOODBYE` seconds is aborted, and all are by
        `end` + `GOODBYE`.
        """
        loop = asyncio.get_running_loop()
        interval = min(DRAIN_INTERVAL, idle / 4)
        silent: dict[Tunnel, tuple[int, float]] = {}  # what it had heard, and for how long no more
        closing: dict[Tunnel, float] = {}  # when to abort it
        looked = loop.time()
        while self._open:
            # Where this process had to wait, what was said meanwhile has not been read yet.
            before, looked = looked, loop.time()
            passed = min(looked - before, 2 * interval)
            async for tunnel in self.each():
                now = loop.time()
                if tunnel in closing or now >= end + GOODBYE:
                    if now >= min(closing.get(tunnel, now), end + GOODBYE):
                        tunnel.abort()
                    continue
                heard, backend_spoke = tunnel.heard
                known, silence = silent.get(tunnel, (None, 0.0))
                silence = 0.0 if heard != known or tunnel.is_delivering else silence + passed
                silent[tunnel] = heard, silence
                is_over = backend_spoke and silence >= idle
                if (is_over or now >= end) and tunnel.close(at_once=now >= end):
                    closing[tunnel] = now + GOODBYE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._none_left.wait()

    async def finish(self) -> None:
        """End all tunnels, what they hold written out; abort after `close_timeout`."""
        for tunnel in list(self._open.values()):
            tunnel.finish()
        try:
            async with asyncio.timeout(self._close_timeout):
                await self._none_left.wait()
        except TimeoutError:
            for tunnel in list(self._open.values()):
                tunnel.abort()
            await self._none_left.wait()


def _label(code: int) -> str:
    """A close code, as one of few words: who closes may say any."""
    if code in _STANDARD_CODES:
        return str(code)
    return f"{code // 1000}xxx" if 3000 <= code < 5000 else "other"


def _first(algorithms: Sequence[str]) -> str:
    return algorithms[0] if algorithms else "none"
