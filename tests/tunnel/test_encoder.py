"""Where and when jobs run: a millisecond a turn, the rest later and in order."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from proxy.audio.codec import Encoded
from proxy.audio.counters import Histogram
from proxy.errors import CodecError
from proxy.tunnel import encoder as encoder_module
from proxy.tunnel.encoder import TURN, Encoder, Result
from proxy.websocket.jobs import Attempts, Job


@dataclass
class Work:
    """Takes 0.4 ms a job by the clock that the encoder reads; large jobs begin at 10 bytes."""

    now: float = 0.0
    threads: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def job(self, data: bytes) -> Job:
        return ScriptedJob(self, data)


@dataclass
class ScriptedJob:
    """`bad` is a codec's failure, `worse` one that nobody foresaw."""

    work: Work
    data: bytes
    chunks = 1

    @property
    def small(self) -> bool:
        return len(self.data) < 10

    def run(self) -> Attempts:
        self.work.threads.append(threading.current_thread().name)
        self.work.now += 0.4 * TURN
        if self.data.startswith(b"worse"):
            raise ZeroDivisionError
        if self.data.startswith(b"bad"):
            return [CodecError("bad")]
        return [Encoded(self.data + b"!")]


def said(result: Result) -> bytes | None:
    """What a job made of its data."""
    if result is None:
        return None
    assert isinstance(result, list)
    (attempt,) = result
    return attempt.data if isinstance(attempt, Encoded) else str(attempt).encode()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    monkeypatch.setattr(encoder_module, "perf_counter", work.clock)
    return work


async def test_small_jobs_run_at_once_until_the_turn_is_spent(work: Work) -> None:
    encoder = Encoder(1, Histogram())
    done: list[bytes | None] = []
    for n in range(3):  # the third begins within the millisecond
        job = work.job(b"%d" % n)
        assert encoder.run_now(job)
        done.append(said(encoder.run(job)))
    assert done == [b"0!", b"1!", b"2!"]
    assert not encoder.run_now(work.job(b"3"))
    await asyncio.sleep(0)
    assert encoder.run_now(work.job(b"3"))  # a new turn
    assert set(work.threads) == {threading.current_thread().name}
    encoder.close()


async def test_what_a_turn_spends_counts_in_the_next_where_it_is_little(work: Work) -> None:
    encoder = Encoder(1, Histogram())

    def fill() -> int:
        """How many jobs the turn has time for."""
        jobs = 0
        while encoder.run_now(work.job(b"x")):
            encoder.run(work.job(b"x"))
            jobs += 1
        return jobs

    encoder.run(work.job(b"x"))  # less than half of a turn
    for jobs in (2, 3):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fill() == jobs
    encoder.close()


async def test_those_who_wait_go_first_and_let_others_have_their_turn(work: Work) -> None:
    encoder = Encoder(1, Histogram())
    loop = asyncio.get_running_loop()
    order: list[str] = []
    over = asyncio.Event()

    def other(n: int) -> None:
        order.append("other")
        if not over.is_set():
            loop.call_soon(other, n + 1)

    def done(job: Job, result: Result) -> None:
        order.append((said(result) or b"failed").decode())
        if said(result) == b"7!":
            over.set()

    while encoder.run_now(work.job(b"x")):
        encoder.run(work.job(b"x"))
    for n in range(8):
        encoder.submit(work.job(b"%d" % n), done)
    assert not encoder.run_now(work.job(b"late"))
    loop.call_soon(other, 0)
    await over.wait()
    assert [step for step in order if step != "other"] == [f"{n}!" for n in range(8)]
    turns = "".join("." if step == "other" else "j" for step in order).split(".")
    assert max(map(len, turns)) <= 3  # of 0.4 ms each
    encoder.close()


async def test_large_jobs_run_in_threads_and_failures_are_told(work: Work) -> None:
    encoder = Encoder(1, Histogram())
    results: asyncio.Queue[Result] = asyncio.Queue()
    for data, made in ((b"0123456789", b"0123456789!"), (b"bad, large", b"bad")):
        encoder.submit(work.job(data), lambda job, result: results.put_nowait(result))
        assert said(await results.get()) == made
    assert work.threads == ["encoder_0"] * 2
    assert said(encoder.run(work.job(b"bad"))) == b"bad"
    encoder.close()


@pytest.mark.parametrize("data", [b"worse", b"worse, and large"])
async def test_what_nobody_foresaw_is_logged_and_ends_nothing(work: Work, data: bytes) -> None:
    """At once, in a later turn, or in a thread: who comes next is served."""
    encoder = Encoder(1, Histogram())
    results: asyncio.Queue[Result] = asyncio.Queue()
    with capture_logs() as log:
        assert encoder.run(work.job(data)) is None
        for job in (work.job(data), work.job(b"next")):
            encoder.submit(job, lambda job, result: results.put_nowait(result))
        answers = [await results.get() for _ in range(2)]
    assert answers.count(None) == 1
    assert [Encoded(b"next!")] in answers
    assert [(entry["log_level"], entry["exc_info"]) for entry in log] == [("error", True)] * 2
    encoder.close()
