"""Machines that tell one another of themselves through a real Redis, and ask one another."""

from __future__ import annotations

import asyncio
import json
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.control import redis_fleet, redis_link
from proxy.control.redis_fleet import ANSWER, ASK, MACHINE, MAX_MESSAGE, RUNS, Record, RedisFleet
from tests.support import until
from tests.support.redis_server import (
    RedisServer,
    calls,
    redis_client,
    redis_server,
    relay,
    subscribed,
    unreachable_port,
)

PATIENCE = 20.0
"""Seconds within which what must not take for ever has to end, on a machine that is busy."""


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as server:
        yield server


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are written at once, and read each time anew."""
    monkeypatch.setattr(redis_fleet, "WRITE_INTERVAL", 0.05)
    monkeypatch.setattr(redis_fleet, "FRESH", 0.0)
    monkeypatch.setattr(redis_link, "LONGEST_PAUSE", redis_link.FIRST_PAUSE)


async def nothing(_question: Record) -> None:
    """An answer that there is none."""


def says(word: str) -> Callable[[Record], Awaitable[Record]]:
    """An answer that shows who was asked, and what."""

    async def answer(question: Record) -> Record:
        return {"who": word, "asked": question}

    return answer


@asynccontextmanager
async def worker(
    url: str, run: str, answer: Callable[[Record], Awaitable[Record | None]] = nothing
) -> AsyncIterator[RedisFleet]:
    """A worker of a run that follows; nothing may end that but its own end, which is clean."""
    fleet = RedisFleet(url, run, f"host of {run}")
    task = asyncio.create_task(fleet.watch(answer))
    try:
        yield fleet
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(PATIENCE):
            await fleet.retire()
            await fleet.close()


@asynccontextmanager
async def workers(
    server: RedisServer, *answering: tuple[str, Callable[[Record], Awaitable[Record | None]]]
) -> AsyncIterator[list[RedisFleet]]:
    """Several that hear questions: a run's name and how it answers, of each."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_client(server.url))
        fleets = [
            await stack.enter_async_context(worker(server.url, run, answer))
            for run, answer in answering
        ]
        await subscribed(redis, ASK, len(fleets))
        yield fleets


async def machines(fleet: RedisFleet, *runs: str) -> list[Record]:
    """The records that it sees, once they are of these runs."""
    async with asyncio.timeout(PATIENCE):
        while True:
            records = await fleet.machines()
            if [record["run"] for record in records] == list(runs):
                return records


def who(answers: list[Record]) -> list[str]:
    return sorted(answer["who"] for answer in answers)


def events(log: list[Any], word: str) -> list[Any]:
    return [entry for entry in log if word in entry["event"]]


# Records.


async def test_the_others_see_a_record_until_a_clean_end(server: RedisServer) -> None:
    async with redis_client(server.url) as redis, worker(server.url, "one") as one:
        async with worker(server.url, "two") as two, worker(server.url, "three") as three:
            for number, fleet in enumerate((one, two, three)):
                fleet.publish({"tunnels": number, "run": "?"})
            assert [record["tunnels"] for record in await machines(one, "three", "two")] == [2, 1]
            assert [record["tunnels"] for record in await machines(two, "one", "three")] == [0, 2]
            (record, _) = await machines(three, "one", "two")
            assert record["machine"] == "host of one"
            assert 0 <= record["age_seconds"] <= redis_fleet.LIFETIME
            assert 0 < await redis.pttl(MACHINE + "one") <= 10_000
            assert 0 < await redis.pttl(RUNS) <= 10_000
        await machines(one)
        assert sorted(await redis.keys("*")) == [f"{MACHINE}one".encode(), RUNS.encode()]
    async with redis_client(server.url) as redis:
        assert await redis.keys("*") == []


async def test_the_newest_record_counts(server: RedisServer) -> None:
    async with worker(server.url, "one") as one, worker(server.url, "two") as two:
        for number in range(100):
            one.publish({"tunnels": number})
        assert (await machines(two, "one"))[0]["tunnels"] == 99
        one.publish({"tunnels": 100})
        async with asyncio.timeout(PATIENCE):
            while (await machines(two, "one"))[0]["tunnels"] != 100:
                pass


async def test_a_record_that_nobody_renews_grows_old_and_goes(server: RedisServer) -> None:
    """As that of a machine that was switched off."""
    async with (
        redis_client(server.url) as redis,
        worker(server.url, "two") as two,
        worker(server.url, "one") as one,
    ):
        one.publish({})
        await machines(two, "one")
        await redis.pexpire(MACHINE + "one", 4000)
        looks = await calls(redis, "ping")
        async with asyncio.timeout(PATIENCE):
            while await calls(redis, "ping") < looks + 10:
                pass
        assert (await machines(two, "one"))[0]["age_seconds"] >= 6
        await redis.pexpire(MACHINE + "one", 1)
        await machines(two)
        assert await redis.smembers(RUNS) == set()
        one.publish({})  # it was only slow
        await machines(two, "one")


async def test_many_who_look_cost_one_reading(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_fleet, "FRESH", 3600.0)
    async with redis_client(server.url) as redis, worker(server.url, "two") as two:
        one = RedisFleet(server.url, "one", "host")
        two.publish({})
        async with asyncio.timeout(PATIENCE):
            while not await redis.exists(MACHINE + "two"):
                pass
        seen = await asyncio.gather(*(one.machines() for _ in range(50)))
        assert [record["run"] for records in seen for record in records] == 50 * ["two"]
        assert await calls(redis, "smembers") == 1
        assert await calls(redis, "keys") == 0
        await one.close()


async def test_malformed_records_are_left_out(server: RedisServer) -> None:
    broken = {"a": b"{", "b": b"[]", "c": b"\xff", "d": b"[" * 100_000, "e": b"7"}
    async with redis_client(server.url) as redis, worker(server.url, "two") as two:
        two.publish({})
        one = RedisFleet(server.url, "one", "host")
        for run, data in broken.items():
            await redis.set(MACHINE + run, data)
            await redis.sadd(RUNS, run)
        await redis.lpush(MACHINE + "f", "a list")
        await redis.sadd(RUNS, b"\xff", "f")
        with capture_logs() as log:
            await machines(one, "two")
            await machines(one, "two")
        assert len(events(log, "cannot be read")) == 1
        await redis.delete(RUNS)
        await redis.set(RUNS, "a text")
        with capture_logs() as log:
            assert await one.machines() == []
            assert await one.machines() == []
        assert len(events(log, "cannot be read")) == 1
        await redis.delete(RUNS)
        two.publish({})
        await machines(one, "two")
        await one.close()


async def test_a_record_too_large_is_not_sent(server: RedisServer) -> None:
    async with worker(server.url, "one") as one, worker(server.url, "two") as two:
        one.publish({"tunnels": 1})
        with capture_logs() as log:
            one.publish({"tunnels": "x" * MAX_MESSAGE})
        assert [entry["log_level"] for entry in events(log, "too large")] == ["warning"]
        assert (await machines(two, "one"))[0]["tunnels"] == 1


async def test_redis_that_refuses_to_write_is_told_of_once(server: RedisServer) -> None:
    async with redis_client(server.url) as redis:
        with capture_logs() as log:
            async with worker(server.url, "one") as one, worker(server.url, "two") as two:
                await redis.config_set("maxmemory", "1")
                for number in range(3):
                    one.publish({"tunnels": number})
                    refused = (await redis.info("stats"))["total_error_replies"]
                    async with asyncio.timeout(PATIENCE):
                        while (await redis.info("stats"))["total_error_replies"] < refused + 2:
                            pass
                await redis.config_set("maxmemory", "0")
                assert (await machines(two, "one"))[0]["tunnels"] == 2
        assert len(events(log, "statistics are not shared")) == 1


# Questions.


async def test_every_worker_of_every_other_run_is_asked(server: RedisServer) -> None:
    async with workers(
        server,
        *(("one", says("a")), ("one", says("b"))),
        *(("two", says("c")), ("two", says("d")), ("three", says("e")), ("four", nothing)),
    ) as (first, second, third, *_):
        question = {"method": "GET", "offset": 3}
        # With all the time there is: they are back as soon as all have answered.
        async with asyncio.timeout(PATIENCE):
            answers = await first.ask(question, 3600)
            assert who(answers) == ["c", "d", "e"]
            assert all(answer["asked"] == question for answer in answers)
            assert who(await second.ask({}, 3600)) == ["c", "d", "e"]
            assert who(await third.ask({}, 3600)) == ["a", "b", "e"]


async def test_many_questions_at_once_are_not_mixed_up(server: RedisServer) -> None:
    async with (
        workers(server, ("one", nothing), ("two", says("c")), ("three", says("e"))) as (first, *_),
        asyncio.timeout(PATIENCE),
    ):
        asked = await asyncio.gather(*(first.ask({"n": n}, 3600) for n in range(20)))
        for n, answers in enumerate(asked):
            assert [answer["asked"] for answer in answers] == 2 * [{"n": n}]


async def test_a_slow_one_does_not_keep_the_answers_of_the_others(server: RedisServer) -> None:
    at_last = asyncio.Event()

    async def slow(_question: Record) -> Record:
        await at_last.wait()
        return {"who": "slow"}

    async with workers(server, ("one", nothing), ("two", slow), ("three", says("e"))) as fleets:
        asker = fleets[0]
        async with asyncio.timeout(PATIENCE):
            assert who(await asker.ask({}, 0.5)) == ["e"]
            at_last.set()  # its answer comes when nobody waits any more
            assert who(await asker.ask({}, 3600)) == ["e", "slow"]


async def test_one_that_fails_to_answer_has_none(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_fleet, "ANSWER_LIMIT", 0.1)

    async def fail(_question: Record) -> Record:
        raise ZeroDivisionError("no way")

    async def strange(_question: Record) -> Record:
        return {"a set": {1, 2}}  # not JSON

    async def hang(_question: Record) -> Record:
        await asyncio.Event().wait()
        raise AssertionError

    async with (
        workers(
            server,
            *(("one", nothing), ("two", fail), ("three", strange), ("four", hang)),
            ("five", says("e")),
        ) as (asker, *_),
        asyncio.timeout(PATIENCE),
    ):
        for _ in range(2):
            with capture_logs() as log:
                assert who(await asker.ask({}, 3600)) == ["e"]
            assert len(events(log, "could not be answered")) == 3


async def test_more_questions_than_one_can_take_are_dropped(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_fleet, "MOST_ANSWERS", 3)
    asked, at_last = [], asyncio.Event()

    async def slow(question: Record) -> Record:
        asked.append(question["n"])
        await at_last.wait()
        return {"who": question["n"]}

    async with workers(server, ("one", nothing), ("two", slow)) as (asker, _):
        with capture_logs() as log:
            questions = []
            for n in range(3):
                questions.append(asyncio.create_task(asker.ask({"n": n}, 3600)))
                await until(lambda: n in asked)  # noqa: B023
            assert await asker.ask({"n": 3}, 0.5) == []
        assert len(events(log, "too many questions")) == 1
        at_last.set()
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*questions) == [[{"who": n}] for n in range(3)]


async def test_what_is_too_large_is_dropped(server: RedisServer) -> None:
    async def large(question: Record) -> Record:
        return {"who": "x" * question["size"]}

    async with (
        workers(server, ("one", nothing), ("two", large), ("three", says("e"))) as (asker, *_),
        asyncio.timeout(PATIENCE),
    ):
        with capture_logs() as log:
            assert await asker.ask({"text": "x" * MAX_MESSAGE}, 3600) == []
            assert who(await asker.ask({"size": MAX_MESSAGE}, 3600)) == ["e"]
        assert [entry["event"].split()[0] for entry in events(log, "large")] == [
            "question",
            "answer",
        ]
        nearly = MAX_MESSAGE - 1000
        assert who(await asker.ask({"size": nearly}, 3600)) == ["e", "x" * nearly]


async def test_malformed_messages_do_no_harm(server: RedisServer) -> None:
    inbox = "audio-proxy:answer:"
    asked = []

    async def answer(question: Record) -> Record:
        asked.append(question)
        return {"who": "c"}

    texts = [
        *(b"", b"{", b"[]", b"7", b"null", b"\xff\xfe", b"[" * 100_000, b"{}"),
        b"x" * (MAX_MESSAGE + 1),
        *(json.dumps(record).encode() for record in (
            {"id": [], "run": 7, "to": 7, "question": {}},
            {"id": 0, "run": "two", "to": "audio-proxy:flags", "question": {}},
            {"id": 0, "run": "two", "to": inbox, "question": []},
            {"id": {}, "run": None, "to": inbox, "question": {}},
            {"id": 0, "run": "else", "to": inbox, "question": {"large": "x" * MAX_MESSAGE}},
            {"id": [], "answer": {}}, {"id": 10**30, "answer": 7}, {"id": True, "answer": {}},
        )),
    ]  # fmt: skip
    async with (
        redis_client(server.url) as redis,
        workers(server, ("one", nothing), ("two", answer)) as (asker, _),
        asyncio.timeout(PATIENCE),
    ):
        channels = [name for name in await redis.pubsub_channels() if name != b"audio-proxy:ask"]
        assert all(name.startswith(ANSWER.encode()) for name in channels)
        heard = redis.pubsub()
        await heard.subscribe("audio-proxy:flags")
        await subscribed(redis, "audio-proxy:flags")
        for channel in (ASK.encode(), *channels):
            for text in texts:
                await redis.publish(channel, text)
        assert who(await asker.ask({}, 3600)) == ["c"]
        assert {} in asked
        assert not any("large" in question for question in asked)
        await redis.publish("audio-proxy:flags", "the end")
        message = None
        while message is None or message["type"] != "message":
            message = await heard.get_message(timeout=1)
        assert message["data"] == b"the end"  # a question does not choose where its answer goes
        await heard.aclose()


async def test_databases_of_one_server_are_fleets_of_their_own(server: RedisServer) -> None:
    async with (
        redis_client(server.url) as redis,
        worker(server.url, "one") as one,
        worker(f"{server.url}/3", "two", says("c")),
        worker(f"{server.url}/3", "three") as three,
    ):
        await subscribed(redis, ASK, 1)
        await subscribed(redis, f"{ASK}:3", 2)
        async with asyncio.timeout(PATIENCE):
            assert await one.ask({}, 3600) == []
            assert who(await three.ask({}, 3600)) == ["c"]


# Redis away.


async def test_while_redis_is_away_there_is_nobody(server: RedisServer) -> None:
    async with workers(server, ("one", nothing), ("two", says("c"))) as (one, two):
        two.publish({"tunnels": 1})
        await machines(one, "two")
        await server.kill()
        async with asyncio.timeout(PATIENCE):
            assert await one.machines() == []
            assert await one.ask({}) == []
            two.publish({"tunnels": 2})
            await server.start()
            assert (await machines(one, "two"))[0]["tunnels"] == 2
            while who(await one.ask({})) != ["c"]:
                pass


async def test_where_redis_hangs_nobody_waits_for_it(server: RedisServer) -> None:
    async with workers(server, ("one", nothing), ("two", says("c"))) as (one, two):
        server.stop()
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(one.machines(), two.machines(), one.ask({})) == [[], [], []]
            server.cont()
            while who(await one.ask({})) != ["c"]:
                pass


async def test_where_packets_are_lost_nobody_waits_for_them() -> None:
    async with unreachable_port() as port:
        fleet = RedisFleet(f"redis://127.0.0.1:{port}", "one", "host")
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(
                fleet.machines(), fleet.machines(), fleet.ask({}), fleet.retire()
            ) == [[], [], [], None]
            await fleet.close()


async def test_a_subscription_that_is_dead_without_a_sign_is_made_anew(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "SILENCE", 0.3)
    async with (
        redis_client(server.url) as redis,
        relay(server.port) as line,
        worker(line.url, "one", says("a")),
        worker(server.url, "two") as two,
    ):
        await subscribed(redis, ASK, 2)
        line.stall_at(b"PING")  # by which it looks after its connection; nothing comes back
        await until(lambda: line.is_stalled)
        made = line.accepted
        await until(lambda: line.accepted > made)
        line.resume()
        async with asyncio.timeout(PATIENCE):
            while who(await two.ask({})) != ["a"]:
                pass


async def test_while_redis_is_away_nothing_grows(server: RedisServer) -> None:
    async with (
        relay(server.port) as line,
        worker(line.url, "one") as one,
        worker(server.url, "two") as two,
    ):
        one.publish({"tunnels": -1})
        await machines(two, "one")
        line.drop()
        await until(lambda: line.accepted > 20)
        tasks, files = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
        tracemalloc.start()
        try:
            for number in range(20_000):
                one.publish({"tunnels": number, "more": "x" * 500})
                if number % 1000 == 0:
                    assert await one.ask({"n": number}) == []
                    assert await one.machines() == []
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert grown < 500_000
        assert len(asyncio.all_tasks()) <= tasks + 4  # as many as one attempt has
        assert len(os.listdir("/proc/self/fd")) <= files + 4
        line.resume()
        async with asyncio.timeout(PATIENCE):
            while (await machines(two, "one"))[0]["tunnels"] != 19_999:
                pass
