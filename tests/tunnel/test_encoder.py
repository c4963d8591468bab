"""Where and when jobs run: a millisecond a turn, the rest later and in order."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest

from proxy.control.flags import Flags
from proxy.errors import CodecError
from proxy.tunnel import encoder as encoder_module
from proxy.tunnel.encoder import TURN, Encoder
from proxy.websocket.audio_filter import Job
from proxy.websocket.splitter import Message


@dataclass
class SlowCodec:
    """Takes 0.4 ms a job by the clock that the encoder reads; large jobs begin at 10 bytes."""

    now: float = 0.0
    threads: list[str] = field(default_factory=list)
    name: str = "slow"
    inline_size: int = 9

    def clock(self) -> float:
        return self.now

    def encode(self, data: bytes | bytearray | memoryview, level: int) -> bytes:
        self.threads.append(threading.current_thread().name)
        self.now += 0.4 * TURN
        if bytes(data) == b"bad":
            raise CodecError("bad")
        return bytes(data) + b"!"

    def job(self, data: bytes) -> Job:
        return Job(Message(data, data), self, Flags())


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> SlowCodec:
    codec = SlowCodec()
    monkeypatch.setattr(encoder_module, "perf_counter", codec.clock)
    return codec


async def test_small_jobs_run_at_once_until_the_turn_is_spent(codec: SlowCodec) -> None:
    encoder = Encoder(threads=1)
    done: list[bytes | None] = []
    for n in range(3):  # the third begins within the millisecond
        job = codec.job(b"%d" % n)
        assert encoder.run_now(job)
        done.append(encoder.run(job))
    assert done == [b"0!", b"1!", b"2!"]
    assert not encoder.run_now(codec.job(b"3"))
    await asyncio.sleep(0)
    assert encoder.run_now(codec.job(b"3"))  # a new turn
    assert set(codec.threads) == {threading.current_thread().name}
    encoder.close()


async def test_those_who_wait_go_first_and_let_others_have_their_turn(codec: SlowCodec) -> None:
    encoder = Encoder(threads=1)
    loop = asyncio.get_running_loop()
    order: list[str] = []
    over = asyncio.Event()

    def other(n: int) -> None:
        order.append("other")
        if not over.is_set():
            loop.call_soon(other, n + 1)

    def done(job: Job, encoded: bytes | None) -> None:
        order.append(bytes(encoded or b"failed").decode())
        if encoded == b"7!":
            over.set()

    while encoder.run_now(codec.job(b"x")):
        encoder.run(codec.job(b"x"))
    for n in range(8):
        encoder.submit(codec.job(b"%d" % n), done)
    assert not encoder.run_now(codec.job(b"late"))
    loop.call_soon(other, 0)
    await over.wait()
    assert [step for step in order if step != "other"] == [f"{n}!" for n in range(8)]
    turns = "".join("." if step == "other" else "j" for step in order).split(".")
    assert max(map(len, turns)) <= 3  # of 0.4 ms each
    encoder.close()


async def test_large_jobs_run_in_threads_and_failures_are_told(codec: SlowCodec) -> None:
    encoder = Encoder(threads=1)
    results: asyncio.Queue[bytes | None] = asyncio.Queue()
    encoder.submit(codec.job(b"0123456789"), lambda job, encoded: results.put_nowait(encoded))
    assert await results.get() == b"0123456789!"
    assert codec.threads == ["encoder_0"]
    assert encoder.run(codec.job(b"bad")) is None
    encoder.close()
