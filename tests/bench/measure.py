"""What is measured of one mode in one round."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tests.bench.accounting import cpu_seconds, resident_bytes
from tests.bench.load import Block, Flood, Load, LoadError, Speaker
from tests.bench.peers import Mode, Peer

REAL_TIME = 24_000 * 2
"""Bytes a second of speech in 16 bits at 24 kHz."""


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
class Paced:
    """Connections that speak at real-time rate."""

    chunks: int
    p50_us: float
    p99_us: float
    p999_us: float
    cpu_us: float
    """Of the peer, per chunk."""
    load_busy: float
    """Share of its core that the load itself took."""
    memory: float
    """Bytes of the peer per connection."""


@dataclass(frozen=True)
class Handshakes:
    """Connections opened and closed, 20 at a time."""

    per_second: float
    cpu_us: float


Result = Bulk | Paced | Handshakes


def as_record(result: Result) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(result).items()}


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))]


def cpu_of(peer: Peer) -> float:
    return cpu_seconds(peer.pid) if peer.pid else 0.0


async def bulk(
    load: Load, peer: Peer, mode: Mode, block: Block, seconds: float, connections: int = 10
) -> Bulk:
    """Raises LoadError where the end does not come."""
    pairs = await load.open_many(connections, peer.port, mode.query)
    try:
        start, cpu = time.perf_counter(), cpu_of(peer)
        floods = [Flood(load, pair, block) for pair in pairs]
        await asyncio.sleep(seconds)
        for flood in floods:
            flood.finish()
        async with asyncio.timeout(60):
            await asyncio.gather(*(flood.done for flood in floods))
        elapsed, cpu = time.perf_counter() - start, cpu_of(peer) - cpu
    finally:
        for pair in pairs:
            pair.close()
    messages = sum(flood.sent for flood in floods)
    size = len(block.wire) / len(block.ends)
    if not mode.query and sum(flood.received for flood in floods) != messages * size + 4 * len(
        pairs
    ):
        raise LoadError(f"{mode.name}: not what was sent")
    return Bulk(
        messages,
        messages / elapsed,
        messages * size / elapsed / 1e6,
        cpu / messages * 1e6,
        cpu / elapsed,
    )


async def paced(
    load: Load,
    peer: Peer,
    mode: Mode,
    block: Block,
    seconds: float,
    connections: int,
    speaking: int | None = None,
) -> Paced:
    """`connections`, of which `speaking` (all unless told) speak, their phases spread.

    Raises LoadError where anything is lost.
    """
    before = resident_bytes(peer.pid) if peer.pid else 0
    pairs = await load.open_many(connections, peer.port, mode.query)
    messages = block.messages()
    interval = len(messages[0]) / REAL_TIME
    speakers = [Speaker(pair, messages, interval) for pair in pairs[:speaking]]
    loop = asyncio.get_running_loop()
    try:
        cpu, own, start = cpu_of(peer), time.process_time(), time.perf_counter()
        first = loop.time() + 0.01
        for number, speaker in enumerate(speakers):
            speaker.start(first + interval * number / len(speakers))
        await asyncio.sleep(seconds)
        for speaker in speakers:
            speaker.stop()
        async with asyncio.timeout(10):
            while any(speaker.heard < speaker.sent for speaker in speakers) and not mode.is_lossy:
                await asyncio.sleep(0.001)
        elapsed = time.perf_counter() - start
        cpu, own = cpu_of(peer) - cpu, time.process_time() - own
        after = resident_bytes(peer.pid) if peer.pid else 0
    finally:
        for speaker in speakers:
            speaker.leave()
        for pair in pairs:
            pair.close()
    chunks = sum(speaker.sent for speaker in speakers)
    if not mode.is_lossy:
        sent, heard = (
            sum(each)
            for each in zip(*((s.sent_bytes, s.heard_bytes) for s in speakers), strict=True)
        )
        if sent != heard:
            raise LoadError(f"{mode.name}: {sent} bytes were said, {heard} heard")
    latencies = sorted(each * 1e6 for speaker in speakers for each in speaker.latencies) or [0.0]
    return Paced(
        chunks,
        statistics.median(latencies),
        quantile(latencies, 0.99),
        quantile(latencies, 0.999),
        cpu / chunks * 1e6,
        own / elapsed,
        (after - before) / connections,
    )


async def idle_memory(load: Load, peer: Peer, mode: Mode, connections: int) -> float:
    """Bytes of the peer per connection on which nothing is said."""
    before = resident_bytes(peer.pid)
    pairs = await load.open_many(connections, peer.port, mode.query)
    after = resident_bytes(peer.pid)
    for pair in pairs:
        pair.close()
    return (after - before) / connections


async def handshakes(load: Load, peer: Peer, mode: Mode, count: int) -> Handshakes:
    """Connections opened and closed at once."""
    gate = asyncio.Semaphore(20)

    async def one() -> None:
        async with gate:
            (await load.open(peer.port, mode.query)).close()

    start, cpu = time.perf_counter(), cpu_of(peer)
    await asyncio.gather(*(one() for _ in range(count)))
    elapsed = time.perf_counter() - start
    return Handshakes(count / elapsed, (cpu_of(peer) - cpu) / count * 1e6)
