"""What the machines of a fleet tell one another by way of Redis: statistics, questions, answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from proxy.control.redis_link import LIMIT, Link, RefusedError, Trouble
from proxy.errors import StoreError

log = structlog.get_logger(__name__)

RUNS = "audio-proxy:machines"
"""The set of runs that have told of themselves."""
MACHINE = "audio-proxy:machine:"
"""With a run's name: what it tells."""
ASK = "audio-proxy:ask"
"""The channel of questions."""
ANSWER = "audio-proxy:answer:"
"""With a worker's own name: the channel on which it is answered."""

LIFETIME = 10
"""Seconds that a record outlives its run, where that did not take it back."""
WRITE_INTERVAL = 1.0
"""Seconds between two writings of a record, and between two looks after the connection."""
READ_LIMIT = 0.9
"""Seconds for reading all records."""
FRESH = 0.5
"""Seconds that what was read is good for others who ask."""
ANSWER_LIMIT = 5.0
"""Seconds for an answer to be made."""
MOST_ANSWERS = 32
"""As many are made at once; further questions are not taken."""
MAX_MESSAGE = 1024 * 1024
"""Bytes of a record, a question or an answer."""

Record = dict[str, Any]
Answer = Callable[[Record], Awaitable[Record | None]]
"""Answers a question of another run; None: nothing to say."""


@dataclass
class _Inquiry:
    """A question on its way."""

    answers: list[Record] = field(default_factory=list)
    heard: int = 0
    expected: int | None = None
    """How many workers got it, once that is known."""
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self) -> None:
        if self.expected is not None and self.heard >= self.expected:
            self.is_over.set()


class RedisFleet:
    """One worker's way to the machines beside its own."""

    def __init__(self, url: str, run: str, machine: str) -> None:
        """`run`: the name that all workers of this machine share, and no other machine has.

        `machine`: the host's name. Raises ConfigError.
        """
        self._link = Link(url)
        self._run = run
        self._machine = machine
        self._ask = self._link.channel(ASK)
        self._inbox = ANSWER + secrets.token_hex(8)
        self._newest: bytes | None = None
        self._inquiries: dict[int, _Inquiry] = {}
        self._numbers = itertools.count()
        self._reading = asyncio.Lock()
        self._machines: list[Record] = []
        self._stale_at = 0.0
        self._answering: set[asyncio.Task[None]] = set()
        # That Redis is away is told of by who keeps the flags there.
        self._unwritten = Trouble("statistics are not shared with other machines")
        self._unread = Trouble("statistics of another machine cannot be read")

    def publish(self, record: Record) -> None:
        """What this run has to say of itself, for `machines` elsewhere; `run` and `machine` are
        added. The newest record is written while `watch` runs, once a second at most."""
        data = _pack({**record, "run": self._run, "machine": self._machine}, "record")
        if data is not None:
            self._newest = data

    async def retire(self) -> None:
        """Take back what was published: this run ends. `watch` is to be cancelled before."""
        self._newest = None
        with contextlib.suppress(StoreError):  # then it is gone after its lifetime
            async with self._link.limit(LIMIT) as redis:
                await redis.delete(MACHINE + self._run)
                await redis.srem(RUNS, self._run)

    async def close(self) -> None:
        """Let go of Redis. Whoever watches is to be cancelled before."""
        await self._link.close()

    async def machines(self) -> list[Record]:
        """The records of all other runs, each with its `age_seconds`; none while Redis is away.

        Within a second. Not to be changed: others may get the same.
        """
        loop = asyncio.get_running_loop()
        async with self._reading:
            if loop.time() >= self._stale_at:
                self._machines = await self._read()
                self._stale_at = loop.time() + FRESH
        return list(self._machines)

    async def ask(self, question: Record, limit: float = 1.0) -> list[Record]:
        """Ask every worker of every other run. Returns the answers that came within `limit`
        seconds, or as soon as all have come. None while Redis is away, or `watch` does not run."""
        number = next(self._numbers)
        message = {"id": number, "run": self._run, "to": self._inbox, "question": question}
        data = _pack(message, "question")
        if data is None:
            return []
        inquiry = self._inquiries[number] = _Inquiry()
        try:
            async with self._link.limit(limit) as redis:
                inquiry.expected = await redis.publish(self._ask, data)
                inquiry.check()
                await inquiry.is_over.wait()
        except StoreError:
            pass  # those that came count
        finally:
            del self._inquiries[number]
        return inquiry.answers

    async def watch(self, answer: Answer) -> None:
        """Write what is published, and answer what others ask, for ever.

        What is answered to others is all that they get to see: an address of a client must not be
        in it.
        """
        async with asyncio.TaskGroup() as answers:

            async def hear(channel: str, data: bytes) -> None:
                message = _unpack(data)
                if message is None:
                    log.warning("message not understood", channel=channel, size=len(data))
                elif channel == self._inbox:
                    self._collect(message)
                elif len(self._answering) >= MOST_ANSWERS:
                    log.warning("too many questions; one is not answered", run=message.get("run"))
                else:
                    task = answers.create_task(self._reply(message, answer))
                    self._answering.add(task)
                    task.add_done_callback(self._answering.discard)

            channels = (self._ask, self._inbox)
            await self._link.follow(channels, hear, self._write, beat=WRITE_INTERVAL)

    async def _write(self) -> None:
        """Write the newest record, unless it is there already."""
        data = self._newest
        if data is None:
            return
        try:
            async with self._link.limit(LIMIT) as redis:
                await redis.set(MACHINE + self._run, data, ex=LIFETIME)
                await redis.sadd(RUNS, self._run)
                await redis.expire(RUNS, LIFETIME)
        except RefusedError as error:
            self._unwritten.set(str(error))
        except StoreError:
            pass
        else:
            self._unwritten.set(None)
            if self._newest is data:
                self._newest = None

    async def _read(self) -> list[Record]:
        try:
            async with self._link.limit(READ_LIMIT) as redis:
                runs = {name.decode(errors="replace") for name in await redis.smembers(RUNS)}
                others = sorted(runs - {self._run})
                reading = redis.pipeline(transaction=False)
                for run in others:
                    reading.get(MACHINE + run).pttl(MACHINE + run)
                found = await reading.execute(raise_on_error=False)
                gone = [run for run, data in zip(others, found[::2], strict=True) if data is None]
                if gone:  # who is here all the same adds itself again within a second
                    await redis.srem(RUNS, *gone)
        except StoreError as error:
            if isinstance(error, RefusedError):
                self._unread.set(str(error))
            return []
        records, broken = [], None
        for run, data, left in zip(others, found[::2], found[1::2], strict=True):
            record = _unpack(data) if isinstance(data, bytes) else None
            if record is not None and isinstance(left, int):
                age = max(LIFETIME - left / 1000, 0.0)
                records.append({**record, "age_seconds": round(age, 3)})
            elif data is not None:
                broken = f"{run}: no record of a machine"
        self._unread.set(broken)
        return records

    def _collect(self, message: Record) -> None:
        """An answer, or word that there is none, to a question of ours; or to one that is over."""
        number, answer = message.get("id"), message.get("answer")
        inquiry = self._inquiries.get(number) if isinstance(number, int) else None
        if inquiry is not None:
            if isinstance(answer, dict):
                inquiry.answers.append(answer)
            inquiry.heard += 1
            inquiry.check()

    async def _reply(self, message: Record, answer: Answer) -> None:
        """Answer a question; whoever asks is told also where there is nothing to say."""
        to, question = message.get("to"), message.get("question")
        if not (isinstance(to, str) and to.startswith(ANSWER) and isinstance(question, dict)):
            log.warning("question not understood", run=message.get("run"))
            return
        found, data = None, None
        try:
            if message.get("run") != self._run:
                async with asyncio.timeout(ANSWER_LIMIT):
                    found = await answer(question)
            data = _pack({"id": message.get("id"), "answer": found}, "answer")
        except Exception as error:  # noqa: BLE001  # the caller's, and none may end `watch`
            log.error("a question could not be answered", error=repr(error))
        with contextlib.suppress(StoreError):
            async with self._link.limit(LIMIT) as redis:
                nothing = json.dumps({"id": message.get("id"), "answer": None})
                await redis.publish(to, data if data is not None else nothing)


def _pack(message: Record, what: str) -> bytes | None:
    """As JSON; None, and a word in the log, where it is too large."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE:
        log.warning(f"{what} not sent: too large", size=len(data), limit=MAX_MESSAGE)
        return None
    return data


def _unpack(data: bytes) -> Record | None:
    """A JSON object; None where it is something else, or too large."""
    if len(data) > MAX_MESSAGE:
        return None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
