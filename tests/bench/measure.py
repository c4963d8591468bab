"""What is measured of one mode in one round."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.audio.gzip import GZIP
from proxy.control.flags import Flags
from tests.bench.accounting import cpu_seconds, family, resident_bytes
from tests.bench.load import CLOSE, Block, Flood, Load, LoadError, Pair, Speaker
from tests.bench.peers import Mode, Peer

REAL_TIME = 24_000 * 2
"""Bytes a second of speech in 16 bits at 24 kHz."""
_PATIENCE = 60
"""Seconds."""
_LEAST_CHUNKS = 2
"""Of each speaker, however short the time is."""


@dataclass(frozen=True)
class Bulk:
    """Messages as fast as they are taken."""

    messages: int
    per_second: float
    megabytes_per_second: float
    cpu_us: float
    """Of the peer, per message."""
    busy: float
    """Share of its core that the peer took."""


@dataclass(frozen=True)
class Speech:
    """A part of `Paced`."""

    latencies: list[float]
    """Seconds, of each chunk."""
    cpu: float
    """Seconds, of the peer."""
    own: float
    """Seconds of CPU, of the load itself."""
    elapsed: float


@dataclass(frozen=True)
class Paced:
    """Connections that speak at real-time rate, their phases spread."""

    chunks: int
    p50_us: float
    """Latency from the backend's write to the client's read."""
    p99_us: float
    p999_us: float
    cpu_us: float
    """Of the peer, per chunk."""
    load_busy: float
    """Share of its core that the load itself took."""


@dataclass(frozen=True)
class Memory:
    """What a peer has grown by, per connection."""

    idle: float
    """Bytes, while nothing is said."""
    speaking: float
    """Bytes, while speech comes at real-time rate."""
    speakers: int
    """How many spoke."""


@dataclass(frozen=True)
class Handshakes:
    """Connections opened and closed, 20 at a time."""

    count: int
    per_second: float
    cpu_us: float
    """Of the peer, per connection."""


@dataclass(frozen=True)
class Codec:
    """A codec without a proxy around it."""

    chunks: int
    cpu_us: float
    """Per chunk."""


@dataclass(frozen=True)
class Workers:
    """Messages as fast as they are taken, by workers that may run on any core."""

    messages: int
    per_second: float
    cpu_us: float
    """Of all processes of the peer, per message."""
    busy: float
    """Cores that they took together."""
    least: float
    """Of the workers' CPU, the share of the one that took least."""


@dataclass(frozen=True)
class Crowd:
    """Many connections, some of which speak at real-time rate."""

    connections: int
    speaking: int
    chunks: int
    p50_us: float
    """Latency from the backend's write to the client's read, through the proxy."""
    p99_us: float
    p999_us: float
    direct_p50_us: float
    """The same of as many that speak with nothing in between, while the crowd is silent."""
    direct_p99_us: float
    direct_p999_us: float
    cpu_us: float
    """Of the proxy, per chunk."""
    busy: float
    """Share of its core that the proxy took."""
    load_busy: float
    """Share of its core that the load itself took."""
    waited: float
    """Share of the time for which the proxy could have run, and somebody else had its core."""
    load_waited: float
    """The same of the load."""
    interval: float
    """Seconds between two samples of `memory`."""
    memory: tuple[int, ...]
    """Resident bytes of the worker, the first when speech starts, the last while all speak."""
    settled: int
    """The sample from which on memory should be flat: that of the 30th second, or a quarter."""

    @property
    def growth_bytes(self) -> int:
        """By how much the most of later samples is above the settled one."""
        return max(self.memory[self.settled :]) - self.memory[self.settled]

    @property
    def growth(self) -> float:
        """The same, as a share of the settled one."""
        return self.growth_bytes / self.memory[self.settled]


@dataclass(frozen=True)
class Ceiling:
    """The most connections that one core carries, of those that were tried."""

    speaking: int
    """Connections; 0 where not even the fewest were carried."""
    ended_by: str
    """What more of them fail at: "core", "latency", or "load" or "untried": not its end."""
    p99_us: float
    """Latency at that number, and the following figures too; the load's own is in it."""
    cpu_us: float
    """Of the proxy, per chunk."""
    busy: float
    load_busy: float
    by_cpu: float
    """Connections that fill the core, if each chunk costs what it costs at that number."""


@dataclass(frozen=True)
class Watched:
    """Speech in a crowd, while its admin port is read or is not."""

    connections: int
    speaking: int
    readings: float
    """Of all that the admin port shows, each second."""
    p50_us: float
    p99_us: float
    p999_us: float
    busy: float
    """Share of its core that the proxy took."""


Result = Bulk | Paced | Memory | Handshakes | Codec | Workers | Watched


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))]


def cpu_of(peer: Peer) -> float:
    """Seconds so far; none where there is no process."""
    return cpu_seconds(peer.pid) if peer.pid else 0.0


@asynccontextmanager
async def opened(load: Load, peer: Peer, mode: Mode, count: int) -> AsyncIterator[list[Pair]]:
    pairs = await load.open_many(count, peer.port, mode.query)
    try:
        yield pairs
    finally:
        for pair in pairs:
            pair.close()


async def bulk(
    load: Load, peer: Peer, mode: Mode, block: Block, seconds: float, connections: int
) -> Bulk:
    """Raises LoadError where something is lost, TimeoutError where the end does not come."""
    async with opened(load, peer, mode, connections) as pairs:
        start, cpu = time.perf_counter(), cpu_of(peer)
        most = mode.pace * 1e6 * seconds / connections
        floods = [Flood(load, pair, block, most) for pair in pairs]
        await asyncio.wait([flood.done for flood in floods], timeout=seconds)
        for flood in floods:
            flood.finish()
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(flood.done for flood in floods))
        elapsed, cpu = time.perf_counter() - start, cpu_of(peer) - cpu
    messages = sum(flood.sent for flood in floods)
    size = len(block.wire) // len(block.ends)
    sent = messages * size + len(CLOSE) * len(floods)
    received = sum(flood.received for flood in floods)
    if not mode.query and received != sent:
        raise LoadError(f"{sent} bytes were sent, {received} received")
    return Bulk(
        messages,
        messages / elapsed,
        messages * block.size / elapsed / 1e6,
        cpu / messages * 1e6,
        cpu / elapsed,
    )


async def workers(
    load: Load, peer: Peer, mode: Mode, block: Block, seconds: float, connections: int
) -> Workers:
    """As `bulk`; the peer's processes but the first are its workers."""
    _, *pids = family(peer.pid)
    before = [cpu_seconds(pid) for pid in pids]
    found = await bulk(load, peer, mode, block, seconds, connections)
    took = [cpu_seconds(pid) - cpu for pid, cpu in zip(pids, before, strict=True)]
    least = min(took) / sum(took)
    return Workers(found.messages, found.per_second, found.cpu_us, found.busy, least)


async def speech(peer: Peer, pairs: Sequence[Pair], block: Block, seconds: float) -> Speech:
    """Raises LoadError where anything is lost, TimeoutError where it does not come."""
    cpu, own, start = cpu_of(peer), time.process_time(), time.perf_counter()
    async with speaking(pairs, block, seconds) as speakers:
        elapsed = time.perf_counter() - start
        cpu, own = cpu_of(peer) - cpu, time.process_time() - own
    return Speech([each for speaker in speakers for each in speaker.latencies], cpu, own, elapsed)


def paced(parts: Sequence[Speech]) -> Paced:
    """Of all parts together."""
    found = [each for part in parts for each in part.latencies]
    cpu, own = sum(part.cpu for part in parts), sum(part.own for part in parts)
    elapsed = sum(part.elapsed for part in parts)
    return Paced(len(found), *quantiles_us(found), cpu / len(found) * 1e6, own / elapsed)


def latencies_us(speakers: Sequence[Speaker]) -> tuple[float, float, float]:
    """Median, 99th and 99.9th percentile of what they saw, in microseconds."""
    return quantiles_us([each for speaker in speakers for each in speaker.latencies])


def quantiles_us(latencies: Sequence[float]) -> tuple[float, float, float]:
    """Median, 99th and 99.9th percentile of seconds, in microseconds."""
    found = sorted(each * 1e6 for each in latencies)
    return statistics.median(found), quantile(found, 0.99), quantile(found, 0.999)


@asynccontextmanager
async def speaking(
    pairs: Sequence[Pair], block: Block, seconds: float
) -> AsyncIterator[list[Speaker]]:
    """Speakers that have spoken for `seconds` and were heard."""
    loop = asyncio.get_running_loop()
    interval = block.size / REAL_TIME
    speakers = [Speaker(pair, block, interval) for pair in pairs]
    first = loop.time() + 0.01
    for number, speaker in enumerate(speakers):
        speaker.start(first + interval * number / len(speakers))
    try:
        await asyncio.sleep(max(seconds, _LEAST_CHUNKS * interval))
        for speaker in speakers:
            speaker.stop()
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(speaker.done for speaker in speakers))
        yield speakers
    finally:
        for speaker in speakers:
            speaker.leave()


async def idle_memory(load: Load, peer: Peer, mode: Mode, connections: int) -> float:
    """Bytes per connection of a fresh peer."""
    await _warm_up(load, peer, mode)
    before = resident_bytes(peer.pid)
    async with opened(load, peer, mode, connections):
        return (resident_bytes(peer.pid) - before) / connections


async def speaking_memory(
    load: Load, peer: Peer, mode: Mode, block: Block, seconds: float, connections: int
) -> float:
    """Bytes per connection of a fresh peer."""
    await _warm_up(load, peer, mode, block)
    before = resident_bytes(peer.pid)
    async with (
        opened(load, peer, mode, connections) as pairs,
        speaking(pairs, block, seconds),
    ):
        return (resident_bytes(peer.pid) - before) / connections


async def _warm_up(load: Load, peer: Peer, mode: Mode, block: Block | None = None) -> None:
    """One connection, which speaks `block`: a library that is loaded once is not its price."""
    async with opened(load, peer, mode, 1) as pairs:
        if block is not None:
            async with speaking(pairs, block, 0):
                pass


async def handshakes(load: Load, peer: Peer, mode: Mode, count: int) -> Handshakes:
    """Connections opened and closed at once."""
    gate = asyncio.Semaphore(20)

    async def one() -> None:
        async with gate:
            (await load.open(peer.port, mode.query)).close()

    start, cpu = time.perf_counter(), cpu_of(peer)
    await asyncio.gather(*(one() for _ in range(count)))
    elapsed = time.perf_counter() - start
    return Handshakes(count, count / elapsed, (cpu_of(peer) - cpu) / count * 1e6)


def bare_gzip(block: Block, seconds: float) -> Codec:
    """The proxy's gzip at its default level, over and over on the chunks of `block`."""
    level = Flags().level
    payloads = [message[-block.size :] for message in block.messages()]
    chunks, start, cpu = 0, time.process_time(), 0.0
    while cpu < seconds:
        for payload in payloads:
            GZIP.encode(payload, level)
        chunks += len(payloads)
        cpu = time.process_time() - start
    return Codec(chunks, cpu / chunks * 1e6)
