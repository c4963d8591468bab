"""How much one worker carries: a crowd of which some speak, and the most that may speak at once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.bench.accounting import family, resident_bytes, waiting_seconds
from tests.bench.load import Block, FullError, Load, LoadError, Pair
from tests.bench.measure import (
    REAL_TIME,
    Ceiling,
    Crowd,
    Watched,
    cpu_of,
    latencies_us,
    opened,
    speaking,
)
from tests.bench.peers import MODES, Mode, Peer
from tests.bench.results import DIRECT

_SETTLED = 30.0
"""Seconds."""
_DIRECT = 10.0
"""Seconds that the direct way is measured for, at most."""

FULL = 0.95
"""Share of its core from which on a proxy has no room left."""
MOST_US = 20_000.0
"""Latency that speech may have at the 99th percentile."""
LOAD_FULL = 0.8
"""Share of its core from which on the load is no judge of the proxy."""
_FEWEST = 5
"""Speaking connections that are tried first."""
_FINENESS = 16
"""The most that hold are known to one part in as many."""


async def crowd(
    load: Load,
    peer: Peer,
    mode: Mode,
    block: Block,
    seconds: float,
    connections: int,
    speakers: int,
) -> Crowd:
    """Raises LoadError where anything is lost or anybody let go, TimeoutError if it is too late."""
    interval = min(1.0, seconds / 8)
    settled = round(min(_SETTLED, seconds / 4) / interval)
    direct = Peer(DIRECT, load.port, 0)
    async with opened(load, peer, mode, connections) as pairs:
        async with (
            opened(load, direct, MODES[0], speakers) as beside,
            speaking(beside, block, min(seconds, _DIRECT)) as heard,
        ):
            straight = latencies_us(heard)
        sampling = asyncio.create_task(_sample(peer, interval, round(seconds / interval)))
        before = _clocks(peer)
        async with speaking(pairs[:speakers], block, seconds) as heard:
            took = [now - then for now, then in zip(_clocks(peer), before, strict=True)]
        memory = await sampling
        for pair in pairs[speakers:]:
            check_silent(pair)
        chunks = sum(speaker.sent for speaker in heard)
        through = latencies_us(heard)
    elapsed, cpu, own, waited, own_waited = took
    return Crowd(
        connections,
        speakers,
        chunks,
        *through,
        *straight,
        cpu / chunks * 1e6,
        cpu / elapsed,
        own / elapsed,
        waited / elapsed,
        own_waited / elapsed,
        interval,
        memory,
        settled,
    )


async def watched(
    peer: Peer, pairs: list[Pair], block: Block, seconds: float, speakers: int, core: int | None
) -> Watched:
    """While its admin port is read by a process on `core`; None: it is not.

    Raises LoadError where anything is lost or the reader fails.
    """
    command = (sys.executable, "-m", "tests.bench.watcher", str(peer.admin))
    reader: asyncio.subprocess.Process | None = None
    if core is not None:
        reader = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        assert reader.stdout is not None
        await reader.stdout.readline()  # it is warm
    try:
        cpu, start = cpu_of(peer), time.perf_counter()
        async with speaking(pairs[:speakers], block, seconds) as heard:
            elapsed, cpu = time.perf_counter() - start, cpu_of(peer) - cpu
        through = latencies_us(heard)
    finally:
        readings = await _end(reader) if reader is not None else 0
    return Watched(len(pairs), speakers, readings / elapsed, *through, cpu / elapsed)


async def _end(reader: asyncio.subprocess.Process) -> int:
    """How often it has read everything. Raises LoadError where it has failed."""
    if reader.returncode is not None:
        raise LoadError("the admin port could not be read")
    reader.terminate()
    output, _ = await reader.communicate()
    return len(output.splitlines())


def _clocks(peer: Peer) -> tuple[float, ...]:
    """Seconds: the wall's, CPU of the peer and of the load, what they waited for their cores."""
    own = os.getpid()
    return (
        time.perf_counter(),
        cpu_of(peer),
        time.process_time(),
        waiting_seconds(peer.pid),
        waiting_seconds(own) - waiting_seconds(peer.pid),
    )


async def _sample(peer: Peer, interval: float, count: int) -> tuple[int, ...]:
    """Resident bytes of its worker, the first now."""
    worker = family(peer.pid)[-1]
    loop = asyncio.get_running_loop()
    start, found = loop.time(), []
    for number in range(count):
        await asyncio.sleep(start + interval * number - loop.time())
        found.append(resident_bytes(worker))
    return tuple(found)


def check_silent(pair: Pair) -> None:
    """Raises LoadError unless it is open, and nothing has come."""
    try:
        data = pair.client.recv(1024)
    except BlockingIOError:
        return
    raise LoadError("more was heard than said" if data else "the peer closed who was silent")


@dataclass(frozen=True)
class Attempt:
    """So many connections that spoke at once, and what that took."""

    speaking: int
    p99_us: float
    """Latency, the load's own in it; infinite where speech was not taken in time."""
    cpu_us: float
    busy: float
    load_busy: float

    @property
    def fails_by(self) -> str | None:
        """What there was too little of: see `Ceiling.ended_by`."""
        if self.busy >= FULL:
            return "core"
        if self.load_busy >= LOAD_FULL:
            return "load"
        return "latency" if self.p99_us > MOST_US else None


async def attempt(
    load: Load, peer: Peer, mode: Mode, block: Block, seconds: float, speakers: int
) -> Attempt:
    """Raises LoadError where anything is lost."""
    async with opened(load, peer, mode, speakers) as pairs:
        cpu, own, start = cpu_of(peer), time.process_time(), time.perf_counter()
        p99, chunks = math.inf, 0
        with contextlib.suppress(FullError, TimeoutError):
            async with speaking(pairs, block, seconds) as heard:
                p99 = latencies_us(heard)[1]
                chunks = sum(speaker.sent for speaker in heard)
        elapsed = time.perf_counter() - start
        cpu, own = cpu_of(peer) - cpu, time.process_time() - own
    cpu_us = cpu / chunks * 1e6 if chunks else math.nan
    return Attempt(speakers, p99, cpu_us, cpu / elapsed, own / elapsed)


async def ceiling(attempt: Callable[[int], Awaitable[Attempt]], most: int, size: int) -> Ceiling:
    """The highest number that holds, up to `most`; chunks are of `size` bytes.

    What fails is tried again: that may have been somebody else's doing.
    """

    best = Attempt(0, math.nan, math.nan, math.nan, math.nan)

    async def failure(speakers: int) -> str | None:
        nonlocal best
        for _ in range(2):
            found = await attempt(speakers)
            if found.fails_by is None:
                best = found
                return None
        return found.fails_by

    fails = min(_FEWEST, most)
    while (ended_by := await failure(fails)) is None:
        if fails == most:
            ended_by = "untried"
            break
        fails = min(2 * fails, most)
    while fails - best.speaking > max(1, best.speaking // _FINENESS):
        between = (best.speaking + fails) // 2
        problem = await failure(between)
        if problem is not None:
            fails, ended_by = between, problem
    each_us = best.cpu_us * REAL_TIME / size  # per connection and second
    return Ceiling(
        best.speaking,
        ended_by,
        best.p99_us,
        best.cpu_us,
        best.busy,
        best.load_busy,
        FULL * 1e6 / each_us,
    )
