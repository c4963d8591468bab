"""Where jobs run: small ones on the spot, a millisecond a turn; large ones in threads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import structlog

from proxy.audio.counters import Histogram
from proxy.audio.opus import Spoken
from proxy.websocket.jobs import Attempts, Job

log = structlog.get_logger(__name__)

TURN = 0.001
"""Seconds of encoding in one turn of the event loop, after which others get theirs."""

_SHARE = TURN / 4
"""Of a turn, for one of several tunnels that wait: several chunks leave in one write."""

Result = Attempts | Spoken | None
Done = Callable[[Job, Result], None]


def _run(job: Job) -> tuple[Result, float]:
    """A job's result, or None where it failed beyond what a codec may; and seconds."""
    start = perf_counter()
    try:
        result: Result = job.run()
    except Exception:  # a lesson goes on without compression, whatever the fault
        log.exception("a chunk could not be encoded")
        result = None
    return result, perf_counter() - start


class Encoder:
    """Runs the jobs of all tunnels of a worker."""

    __slots__ = (
        "_limit",
        "_loop",
        "_pool",
        "_seconds",
        "_turn_ends",
        "_waiting",
        "has_time",
        "spent",
    )

    unnoticed = TURN / 2
    """Seconds up to which what is spent in a turn only adds up."""

    def __init__(self, threads: int, seconds: Histogram) -> None:
        """`seconds`: where it is counted how long each chunk took."""
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encoder")
        self._seconds = seconds
        self.spent = 0.0
        """Seconds, in this turn."""
        self._limit = TURN  # up to which who asks now may spend
        self.has_time = True
        """Whether this turn has time left."""
        self._turn_ends = False  # the end of this turn is scheduled
        self._waiting: deque[tuple[Job, Done]] = deque()

    def run_now(self, job: Job) -> bool:
        """Whether `run` may be called: the job is small, and this turn has time left."""
        return self.has_time and job.small

    def run(self, job: Job) -> Result:
        """Run a small job; None where it failed beyond what a codec may."""
        result, seconds = _run(job)
        self.spend(seconds, job.chunks)
        return result

    def spend(self, seconds: float, chunks: int) -> None:
        """Chunks have been encoded in this turn, in so many seconds in all."""
        self.spent += seconds
        # A turn that spends little counts with the next: at the pace of speech, each with an end of
        # its own took 5 % of gzip's CPU.
        if self.spent >= self.unnoticed:
            self._let_turn_end()
        self.has_time = self.spent < self._limit
        self._seconds.add(seconds / chunks, chunks)

    def submit(self, job: Job, done: Done) -> None:
        """Run a job later, in a thread or in a turn with time left; then call `done`."""
        if job.small:
            self._waiting.append((job, done))
            self._let_turn_end()
            return

        def finish(future: asyncio.Future[tuple[Result, float]]) -> None:
            result, seconds = future.result()
            self._seconds.add(seconds / job.chunks, job.chunks)
            done(job, result)

        self._loop.run_in_executor(self._pool, _run, job).add_done_callback(finish)

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown()

    def _let_turn_end(self) -> None:
        if not self._turn_ends:
            self._turn_ends = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """A new turn: first come those who had to wait."""
        self._turn_ends = False
        self.spent = 0.0
        while self._waiting and self.spent < TURN:
            job, done = self._waiting.popleft()
            self._limit = min(TURN, self.spent + _SHARE)
            done(job, self.run(job))
        self._limit = 0.0 if self._waiting else TURN  # who comes now is behind those who wait
        self.has_time = self.spent < self._limit
