"""All measurements, in rounds: A B C, A B C, so that what changes on the machine meets them all."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.bench import crowd, measure
from tests.bench.accounting import cores
from tests.bench.load import Block, Load, LoadError, Pair, raise_file_limit
from tests.bench.measure import Codec, Memory, Speech
from tests.bench.peers import MODES, Mode, Peer, run_peer
from tests.bench.results import (
    DIRECT,
    GZIP,
    ONE_WORKER,
    PROXY,
    TWO_WORKERS,
    UNWATCHED,
    WATCHED,
    Results,
)
from tests.support import pcm, speech

USUAL = ("bulk", "paced", "memory", "handshakes", "workers")
KINDS = (*USUAL, "crowd", "watched", "ceiling")
"""The last three take minutes, and are measured where they are asked for."""
CHUNK = 4096
"""Bytes of a chunk at speech pace."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    sizes: tuple[int, ...] = (1024, 4096, 16384, 65536)
    """Bytes of a message, in bulk."""
    connections: int = 10
    """In bulk."""
    paced: tuple[int, ...] = (20, 200)
    """Connections that speak."""
    paced_chunks: int = 2000
    """Of all of them in a round, at least. Drawn again and again from what was measured of 20
    connections, the ratio at p99 (nine rounds) varies by 0.20 with 1,000, by 0.09 with 2,000."""
    modes: tuple[str, ...] = tuple(mode.name for mode in MODES)
    kinds: tuple[str, ...] = USUAL
    rounds: int = 9
    memory_rounds: int = 9
    """Of memory: each starts every peer twice."""
    seconds: float = 2.0
    """Each measurement in bulk, and each turn at speech pace."""
    idle: int = 1000
    """Connections that are silent while memory is looked at."""
    speaking: int = 200
    """Connections that speak while memory is looked at."""
    handshakes: int = 1000
    crowd: int = 8000
    """Connections, of which `crowd_speaking` speak for `crowd_seconds`."""
    crowd_speaking: int = 400
    crowd_seconds: float = 120.0
    watched: int = 5000
    """Connections, of which `watched_speaking` speak while the admin port is read."""
    watched_speaking: int = 250
    ceiling: int = 9000
    """Speaking connections that are tried at most: two open files each must be allowed."""

    def selected(self, kind: str) -> list[Mode]:
        """The modes of a kind. Latency needs the direct way to compare with; memory has none."""
        modes = [mode for mode in MODES if mode.name in self.modes]
        match kind:
            case "paced":
                return modes if DIRECT in self.modes else [MODES[0], *modes]
            case "memory":
                return [mode for mode in modes if mode.name != DIRECT]
            case "workers" | "crowd" | "watched":
                return [mode for mode in modes if mode.name == GZIP]
            case "ceiling":
                return [mode for mode in modes if mode.peer == PROXY]
        return modes

    def turns(self, connections: int) -> int:
        """How often that many speak in a round, `seconds` each time, for enough chunks."""
        speech = self.paced_chunks * CHUNK / measure.REAL_TIME
        return math.ceil(speech / connections / self.seconds)

    @property
    def needed(self) -> list[Mode]:
        """The modes of all kinds that are measured."""
        return [mode for kind in self.kinds for mode in self.selected(kind)]

    @property
    def steps(self) -> int:
        """How often something is measured."""
        modes = {kind: len(self.selected(kind)) for kind in KINDS}
        steps = {
            "bulk": self.rounds * len(self.sizes) * (modes["bulk"] + 1),
            "paced": self.rounds * (sum(map(self.turns, self.paced)) * modes["paced"] + 1),
            "memory": self.memory_rounds * modes["memory"],
            "handshakes": self.rounds * modes["handshakes"],
            "workers": self.rounds * 2 * modes["workers"],
            "crowd": modes["crowd"],
            "watched": self.rounds * 2 * modes["watched"],
            "ceiling": modes["ceiling"],
        }
        return sum(steps[kind] for kind in self.kinds)


QUICK = Plan(
    sizes=(4096,),
    connections=4,
    paced=(20,),
    paced_chunks=50,
    rounds=2,
    memory_rounds=1,
    seconds=0.15,
    idle=100,
    speaking=20,
    handshakes=60,
    crowd=60,
    crowd_speaking=20,
    crowd_seconds=0.8,
    watched=60,
    watched_speaking=20,
    ceiling=5,
)
"""For correctness, not for figures."""

T = TypeVar("T")
Step = Callable[[str], None]
"""Told before each measurement what it is."""


async def run(plan: Plan, step: Step) -> Results:
    """Measure it all, the peers on the first core, the load, which is this process, on the last.

    Where something is lost, or a peer does not start, the rest is measured: see `Results.failed`.
    """
    peers_core, load_core = cores()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {load_core})
    raise_file_limit()
    async with Load() as load:
        with _codec_process(peers_core) as codec:
            return await _Run(plan, step, load, peers_core, allowed, codec).all()


@contextmanager
def _codec_process(core: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, os.sched_setaffinity, (0, {core})) as pool:
        yield pool


class _Run:
    def __init__(
        self,
        plan: Plan,
        step: Step,
        load: Load,
        core: int,
        allowed: set[int],
        codec: ProcessPoolExecutor,
    ) -> None:
        self._plan = plan
        self._step = step
        self._load = load
        self._core = core
        self._allowed = allowed
        self._codec = codec
        self._audio = {"pcm": pcm(), "mp3": speech("speech-24000-48k.mp3")}
        self._results = Results()

    async def all(self) -> Results:
        measured = {
            "bulk": self._bulk,
            "paced": self._paced,
            "memory": self._memory,
            "handshakes": self._handshakes,
            "workers": self._workers,
            "crowd": self._crowd,
            "watched": self._watched,
            "ceiling": self._ceiling,
        }
        for kind in KINDS:
            if kind in self._plan.kinds:
                try:
                    await measured[kind](self._plan.selected(kind))
                except (LoadError, RuntimeError) as error:
                    self._results.fail(kind, str(error))
        return self._results

    @contextmanager
    def _proxy(self, *options: str) -> Iterator[Peer]:
        """Our proxy on its core, with more options."""
        with run_peer(PROXY, self._load.port, {self._core}, options) as peer:
            yield peer

    @asynccontextmanager
    async def _running(self, modes: list[Mode]) -> AsyncIterator[dict[str, Peer]]:
        with ExitStack() as stack:
            names = dict.fromkeys(mode.peer for mode in modes)
            yield {
                name: stack.enter_context(run_peer(name, self._load.port, {self._core}))
                for name in names
            }

    def _blocks(self, size: int) -> dict[str, Block]:
        return {name: Block.of(audio, size) for name, audio in self._audio.items()}

    async def _measure(
        self, into: dict[str, list[T]], what: str, mode: Mode, result: Coroutine[Any, Any, T]
    ) -> None:
        """Add one to its rounds. A mode that fails has no rounds from then on; the direct way,
        which the others are compared with, may not fail: raises LoadError."""
        what = f"{what}: {mode.name}"
        failed = self._results.failed
        if what in failed:
            result.close()
            self._step(what)
            return
        try:
            into.setdefault(mode.name, []).append(await self._told(what, result))
        except LoadError as error:
            if mode.name == DIRECT:
                raise
            failed[what] = str(error)
            del into[mode.name]

    async def _told(self, what: str, result: Awaitable[T]) -> T:
        self._step(what)
        try:
            return await result
        except (LoadError, TimeoutError, OSError) as error:
            raise LoadError(f"{what}: {str(error) or 'too late'}") from error

    async def _bare_gzip(self, block: Block) -> Codec:
        self._step("bare gzip")
        loop = asyncio.get_running_loop()
        seconds = self._plan.seconds / 2
        return await loop.run_in_executor(self._codec, measure.bare_gzip, block, seconds)

    async def _bulk(self, modes: list[Mode]) -> None:
        plan, load = self._plan, self._load
        async with self._running(modes) as peers:
            for size in plan.sizes:
                blocks = self._blocks(size)
                rounds = self._results.bulk[size] = {}
                codec = self._results.codec[size] = []
                for _ in range(plan.rounds):
                    for mode in modes:
                        found = measure.bulk(
                            load,
                            peers[mode.peer],
                            mode,
                            blocks[mode.sends],
                            plan.seconds,
                            plan.connections,
                        )
                        await self._measure(rounds, f"bulk, {size:,} bytes", mode, found)
                    codec.append(await self._bare_gzip(blocks["pcm"]))

    async def _paced(self, modes: list[Mode]) -> None:
        plan, blocks = self._plan, self._blocks(CHUNK)
        async with self._running(modes) as peers:
            for _ in range(plan.rounds):
                for count in plan.paced:
                    await self._paced_round(count, modes, peers, blocks)
                self._results.paced_codec.append(await self._bare_gzip(blocks["pcm"]))

    async def _paced_round(
        self, count: int, modes: list[Mode], peers: dict[str, Peer], blocks: dict[str, Block]
    ) -> None:
        """They take turns: what slows the machine down for a while meets them all."""
        plan = self._plan
        parts: dict[str, list[Speech]] = {}
        pairs: dict[str, list[Pair]] = {}
        async with AsyncExitStack() as stack:

            async def speak(mode: Mode) -> Speech:
                peer, block = peers[mode.peer], blocks[mode.sends]
                if mode.name not in pairs:
                    opening = measure.opened(self._load, peer, mode, count)
                    pairs[mode.name] = await stack.enter_async_context(opening)
                return await measure.speech(peer, pairs[mode.name], block, plan.seconds)

            for _ in range(plan.turns(count)):
                for mode in modes:
                    await self._measure(parts, f"paced, {count} connections", mode, speak(mode))
        rounds = self._results.paced.setdefault(count, {})
        for mode in modes:
            if mode.name in parts:
                rounds.setdefault(mode.name, []).append(measure.paced(parts[mode.name]))
            else:
                rounds.pop(mode.name, None)

    async def _memory(self, modes: list[Mode]) -> None:
        blocks = self._blocks(CHUNK)
        for _ in range(self._plan.memory_rounds):
            for mode in modes:
                found = self._memory_of(mode, blocks[mode.sends])
                await self._measure(self._results.memory, "memory", mode, found)

    async def _memory_of(self, mode: Mode, block: Block) -> Memory:
        plan, load = self._plan, self._load
        async with self._running([mode]) as peers:
            idle = await measure.idle_memory(load, peers[mode.peer], mode, plan.idle)
        async with self._running([mode]) as peers:
            peer = peers[mode.peer]
            speakers = min(plan.speaking, mode.speakers or plan.speaking)
            speaking = await measure.speaking_memory(
                load, peer, mode, block, plan.seconds, speakers
            )
        return Memory(idle, speaking, speakers)

    async def _handshakes(self, modes: list[Mode]) -> None:
        async with self._running(modes) as peers:
            for _ in range(self._plan.rounds):
                for mode in modes:
                    peer = peers[mode.peer]
                    found = measure.handshakes(self._load, peer, mode, self._plan.handshakes)
                    await self._measure(self._results.handshakes, "handshakes", mode, found)

    async def _workers(self, modes: list[Mode]) -> None:
        """Both may use any core. The load stays on its own, which a second worker has to share."""
        plan, block = self._plan, self._blocks(CHUNK)["pcm"]
        for mode in modes:
            with ExitStack() as stack:
                peers = {
                    name: stack.enter_context(
                        run_peer(mode.peer, self._load.port, self._allowed, ("--workers", count))
                    )
                    for name, count in ((ONE_WORKER, "1"), (TWO_WORKERS, "2"))
                }
                for _ in range(plan.rounds):
                    for name, peer in peers.items():
                        found = measure.workers(
                            self._load, peer, mode, block, plan.seconds, 2 * plan.connections
                        )
                        rounds = self._results.workers.setdefault(name, [])
                        rounds.append(await self._told(f"workers: {name}", found))

    async def _crowd(self, modes: list[Mode]) -> None:
        plan, block = self._plan, self._blocks(CHUNK)["pcm"]
        for mode in modes:
            with self._proxy("--max-connections", str(plan.crowd)) as peer:
                found = crowd.crowd(
                    self._load,
                    peer,
                    mode,
                    block,
                    plan.crowd_seconds,
                    plan.crowd,
                    plan.crowd_speaking,
                )
                self._results.crowd = await self._told(f"crowd: {mode.name}", found)

    async def _watched(self, modes: list[Mode]) -> None:
        """The reader shares the load's core: were it on the proxy's, it would be measured too."""
        plan, block = self._plan, self._blocks(CHUNK)["pcm"]
        (load_core,) = os.sched_getaffinity(0)
        for mode in modes:
            with self._proxy("--max-connections", str(plan.watched)) as peer:
                async with measure.opened(self._load, peer, mode, plan.watched) as pairs:
                    for _ in range(plan.rounds):
                        for name, core in ((UNWATCHED, None), (WATCHED, load_core)):
                            found = crowd.watched(
                                peer, pairs, block, plan.seconds, plan.watched_speaking, core
                            )
                            rounds = self._results.watched.setdefault(name, [])
                            rounds.append(await self._told(f"watched: {name}", found))

    async def _ceiling(self, modes: list[Mode]) -> None:
        plan, blocks = self._plan, self._blocks(CHUNK)
        # Longer than the time between two chunks, as the README says: else each is a segment.
        options = ("--opus-flush-ms", "200", "--max-connections", str(plan.ceiling))
        for mode in modes:

            async def attempt(speakers: int, mode: Mode = mode) -> crowd.Attempt:
                with self._proxy(*options) as peer:
                    block = blocks[mode.sends]
                    return await crowd.attempt(
                        self._load, peer, mode, block, plan.seconds, speakers
                    )

            found = crowd.ceiling(attempt, plan.ceiling, CHUNK)
            what = f"ceiling: {mode.name}"
            try:
                self._results.ceiling[mode.name] = await self._told(what, found)
            except LoadError as error:
                self._results.failed[what] = str(error)
