"""Flags in a real Redis: followed, raced for, lost, broken, and out of reach."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.control import redis_link, redis_store
from proxy.control.flags import Flags, Revision
from proxy.control.redis_store import KEY, RedisStore
from proxy.errors import ConfigError, ConflictError, FlagsError, StoreError
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
from tests.support.tls import Certificates

BROKEN = {
    "empty": "",
    "cut short": '{"enabled": fal',
    "no object": "[]",
    "wrong value": '{"level": 9}',
    "unknown flag": '{"enabeld": false}',
    "no revision": '{"revision": -1}',
    "no text": b"\xff\xfe\x00",
    "no end to it": "[" * 100_000,
}

PATIENCE = 20.0
"""Seconds within which what must not take for ever has to end, on a machine that is busy."""


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "state" / "flags.json"


@pytest.fixture
def only_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at but for a message or a new connection."""
    monkeypatch.setattr(redis_store, "LOOK_INTERVAL", 3600)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts do not become rarer: there are many in little time."""
    monkeypatch.setattr(redis_link, "LONGEST_PAUSE", redis_link.FIRST_PAUSE)


@asynccontextmanager
async def started(url: str, cache: Path, first: Flags | None = None) -> AsyncIterator[RedisStore]:
    """A store that does not watch."""
    store = RedisStore(url, cache, first if first is not None else Flags())
    try:
        async with asyncio.timeout(PATIENCE):
            await store.start()
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def watching(url: str, cache: Path, first: Flags | None = None) -> AsyncIterator[RedisStore]:
    """A store that follows; nothing may end that."""
    async with started(url, cache, first) as store:
        task = asyncio.create_task(store.watch())
        try:
            yield store
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def write(cache: Path, data: bytes) -> None:
    cache.parent.mkdir()
    cache.write_bytes(data)


def content(cache: Path) -> bytes | None:
    """Of the cache; nothing else may be in its folder."""
    assert {file.name for file in cache.parent.glob("*")} <= {cache.name}
    return cache.read_bytes() if cache.exists() else None


def written(cache: Path) -> tuple[int, int]:
    """Another one each time that the cache is written."""
    return cache.stat().st_ino, cache.stat().st_mtime_ns


def events(log: list[Any], word: str) -> list[Any]:
    return [entry for entry in log if word in entry["event"]]


# What is stored, and followed.


async def test_the_first_flags_are_stored_where_nothing_is(
    server: RedisServer, cache: Path, tmp_path: Path
) -> None:
    async with started(server.url, cache, Flags(level=3)) as store:
        assert store.is_connected
        assert store.error is None
        assert await store.read() == Revision(Flags(level=3))
    async with started(server.url, tmp_path / "other", Flags(level=2)) as second:
        assert second.live.current == Flags(level=3)
    async with redis_client(server.url) as redis:
        assert await redis.get(KEY) == Revision(Flags(level=3)).to_json()


async def test_reading_where_nothing_is_stored(server: RedisServer, cache: Path) -> None:
    store = RedisStore(server.url, cache, Flags())
    with pytest.raises(StoreError, match="no flags are stored"):
        await store.read()
    assert (await store.change({"level": 2}, "command line")).flags == Flags(level=2)
    assert (await store.read()) == Revision(Flags(level=2), 1, "command line")
    await store.close()


async def test_a_change_is_told_to_the_others(
    server: RedisServer, tmp_path: Path, only_messages: None
) -> None:
    async with (
        redis_client(server.url) as redis,
        started(server.url, tmp_path / "a") as one,
        watching(server.url, tmp_path / "b") as other,
    ):
        await subscribed(redis, KEY)
        for level in (0, 2, 3, 1):
            with capture_logs() as log:
                after = await one.change({"level": level}, "dashboard")
                assert one.live.current == after.flags == Flags(level=level)
                await until(lambda: other.live.revision == after.number)  # noqa: B023
            assert other.live.current == Flags(level=level)
            told = [(line["flag"], line["after"], line["by"]) for line in events(log, "flag ch")]
            assert told == [("level", level, "dashboard")], "by who made it, and nobody else"


async def test_a_change_that_nobody_told_of_is_seen_all_the_same(
    server: RedisServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "LOOK_INTERVAL", 0.2)
    async with redis_client(server.url) as redis, watching(server.url, cache) as store:
        await subscribed(redis, KEY)
        await redis.set(KEY, '{"level": 3}')
        await until(lambda: store.live.current == Flags(level=3))


async def test_what_changed_while_the_line_was_down_is_seen_when_it_is_back(
    server: RedisServer, tmp_path: Path, only_messages: None
) -> None:
    async with (
        relay(server.port) as line,
        redis_client(server.url) as redis,
        watching(line.url, tmp_path / "a") as store,
        started(server.url, tmp_path / "b") as other,
    ):
        await subscribed(redis, KEY)
        line.drop()
        await until(lambda: not store.is_connected)
        await other.change({"enabled": False}, "admin port")
        line.resume()
        await until(lambda: not store.live.current.enabled)
        assert store.is_connected
        assert store.error is None


async def test_a_slow_line_is_good_enough(server: RedisServer, cache: Path) -> None:
    async with relay(server.port) as line:
        line.delay = 0.05
        async with watching(line.url, cache) as store:
            await store.change({"level": 3}, "dashboard")
            assert store.is_connected


async def test_an_older_revision_is_taken_all_the_same(server: RedisServer, cache: Path) -> None:
    """Somebody has put an old backup in place."""
    async with redis_client(server.url) as redis, watching(server.url, cache) as store:
        await subscribed(redis, KEY)
        for level in (2, 3):
            await store.change({"level": level}, "dashboard")
        await redis.set(KEY, Revision(Flags(level=0), 1).to_json())
        await redis.publish(KEY, "")
        await until(lambda: store.live.current == Flags(level=0))
        assert store.live.revision == 1


async def test_what_the_command_line_changed_is_told_of_by_one_worker(
    server: RedisServer, tmp_path: Path
) -> None:
    """It has no log of its own. And a start is no change, whatever was stored before."""
    async with started(server.url, tmp_path / "a") as other:
        with capture_logs() as log:
            stores = [
                RedisStore(server.url, tmp_path / str(n), Flags(), tells=n == 0) for n in range(3)
            ]
            for store in stores:
                await store.start()
            with capture_logs():  # as those of the command line, which nobody reads
                await other.change({"level": 3}, "command line")
            for store in stores:
                await store._look(2)
        assert [line["by"] for line in events(log, "flag changed")] == ["command line"]
        with capture_logs() as log:
            late = RedisStore(server.url, tmp_path / "late", Flags())
            await late.start()
        assert not events(log, "flag changed")
        for store in (*stores, late):
            await store.close()


# Changing.


async def test_two_who_change_at_once_lose_nothing(server: RedisServer, tmp_path: Path) -> None:
    async with (
        watching(server.url, tmp_path / "a") as one,
        watching(server.url, tmp_path / "b") as other,
    ):
        for n in range(2, 22):
            await asyncio.gather(
                one.change({"min_size": n}, "dashboard"),
                other.change({"level": n % 4}, "admin port"),
            )
            stored = await one.read()
            assert stored == Revision(Flags(min_size=n, level=n % 4), 2 * (n - 1), stored.by)
        await until(lambda: one.live.current == other.live.current == stored.flags)


async def test_of_two_who_saw_the_same_one_is_told(server: RedisServer, tmp_path: Path) -> None:
    async with (
        started(server.url, tmp_path / "a") as one,
        started(server.url, tmp_path / "b") as other,
    ):
        for seen in range(20):
            results = await asyncio.gather(
                one.change({"min_size": 1 + seen}, "dashboard", expected=seen),
                other.change({"min_size": 1000 + seen}, "admin port", expected=seen),
                return_exceptions=True,
            )
            (won,) = [result for result in results if isinstance(result, Revision)]
            (lost,) = [result for result in results if isinstance(result, ConflictError)]
            assert await one.read() == won
            assert won.number == seen + 1
            assert str(won.by) in str(lost)


async def test_a_wrong_value_changes_nothing(server: RedisServer, cache: Path) -> None:
    async with started(server.url, cache) as store:
        with pytest.raises(FlagsError, match=r"^level: "):
            await store.change({"enabled": False, "level": 9}, "dashboard")
        assert await store.read() == Revision(Flags())
        assert store.live.current == Flags()


async def test_a_change_while_redis_refuses_to_write(server: RedisServer, cache: Path) -> None:
    async with redis_client(server.url) as redis, started(server.url, cache) as store:
        await redis.config_set("maxmemory", "1")
        with pytest.raises(StoreError, match="maxmemory"):
            await store.change({"level": 3}, "dashboard")
        assert store.live.current == Flags()
        await redis.config_set("maxmemory", "0")
        assert await store.read() == Revision(Flags())


async def test_a_change_that_comes_to_redis_too_late_is_not_made(
    server: RedisServer, cache: Path
) -> None:
    """The line hangs when the change is on its way, and brings it when nobody waits any more."""
    async with relay(server.port) as line, started(line.url, cache) as store:
        line.stall_at(b"EVAL")
        with pytest.raises(StoreError, match="no answer in time"):
            await store.change({"level": 3}, "dashboard")
        assert line.is_stalled
        async with redis_client(server.url) as redis:
            assert await calls(redis, "eval") == 0
            line.resume()
            async with asyncio.timeout(PATIENCE):
                while await calls(redis, "eval") == 0:
                    pass
        assert await store.read() == Revision(Flags())


# Redis away.


async def test_killed_and_back_empty_it_gets_the_flags_in_force(
    server: RedisServer, tmp_path: Path
) -> None:
    async with (
        watching(server.url, tmp_path / "a", Flags(level=0)) as one,
        watching(server.url, tmp_path / "b", Flags(level=0)) as other,
    ):
        await one.change({"enabled": False}, "dashboard")
        await until(lambda: other.live.revision == 1)
        with capture_logs() as log:
            await server.kill()
            await until(lambda: not one.is_connected and not other.is_connected)
            assert one.error is not None
            assert str(server.port) in one.error
            with pytest.raises(StoreError):
                await one.change({"level": 3}, "dashboard")
            await server.start()
            await until(lambda: one.is_connected and other.is_connected)
        assert len(events(log, "no flags were stored")) == 1
        stored = Revision(Flags(level=0, enabled=False), 1, "dashboard")
        assert await one.read() == stored
        for store in (one, other):
            assert store.error is None
            assert (store.live.current, store.live.revision) == (stored.flags, stored.number)


async def test_back_empty_it_gets_what_is_in_force_also_from_one_that_starts(
    server: RedisServer, cache: Path
) -> None:
    async with started(server.url, cache) as store:
        await store.change({"enabled": False}, "dashboard")
    await server.kill()
    await server.start()
    async with started(server.url, cache) as store:
        assert await store.read() == Revision(Flags(enabled=False), 1, "dashboard")
        assert not store.live.current.enabled


async def test_halted_it_changes_nothing_and_is_followed_again_when_it_goes_on(
    server: RedisServer, tmp_path: Path
) -> None:
    async with (
        watching(server.url, tmp_path / "a") as store,
        started(server.url, tmp_path / "b") as other,
    ):
        await other.change({"level": 3}, "dashboard")
        await until(lambda: store.live.current.level == 3)
        server.stop()
        async with asyncio.timeout(PATIENCE):
            _, refusal = await asyncio.gather(
                until(lambda: not store.is_connected, PATIENCE),
                other.change({"level": 1}, "dashboard"),
                return_exceptions=True,
            )
        assert isinstance(refusal, StoreError)
        assert not store.is_connected
        assert store.live.current.level == other.live.current.level == 3
        server.cont()
        await until(lambda: store.is_connected)
        assert (await other.read()).number == 1
        await other.change({"level": 2}, "dashboard")
        await until(lambda: store.live.current.level == 2)


async def test_each_change_of_state_is_told_once(
    server: RedisServer, cache: Path, impatient: None
) -> None:
    with capture_logs() as log:
        async with (
            redis_client(server.url) as redis,
            relay(server.port) as line,
            watching(line.url, cache) as store,
        ):
            for _ in range(12):  # more often than there are connections in the pool
                await subscribed(redis, KEY)
                line.drop()
                tried = line.accepted
                await until(lambda: line.accepted > tried + 4)  # noqa: B023
                line.resume()
                await until(lambda: store.is_connected)
    states = [entry["event"].split()[1].rstrip(";") for entry in events(log, "store ")]
    assert states == ["connected", *12 * ["disconnected", "connected"]]


async def test_it_starts_with_the_flags_it_had_where_redis_hangs(
    server: RedisServer, cache: Path
) -> None:
    async with started(server.url, cache) as store:
        await store.change({"level": 3}, "dashboard")
    async with relay(server.port) as line:
        line.stall()
        began = time.monotonic()
        async with watching(line.url, cache, Flags(enabled=False)) as store:
            assert time.monotonic() - began < 8  # 2 s, on a machine that is not busy
            assert not store.is_connected
            assert store.error is not None
            assert (store.live.current, store.live.revision) == (Flags(level=3), 1)
            line.resume()
            await until(lambda: store.is_connected)


async def test_it_starts_with_the_flags_it_had_where_packets_are_lost(cache: Path) -> None:
    write(cache, Revision(Flags(level=2), 7).to_json())
    async with unreachable_port() as port:
        store = RedisStore(f"redis://127.0.0.1:{port}", cache, Flags())
        began = time.monotonic()
        _, refusal = await asyncio.gather(
            store.start(), store.change({"level": 3}, "dashboard"), return_exceptions=True
        )
        assert time.monotonic() - began < 8
        assert isinstance(refusal, StoreError)
        assert (store.live.current, store.live.revision) == (Flags(level=2), 7)
        await store.close()


async def test_it_starts_with_the_first_flags_where_it_never_had_any(
    server: RedisServer, cache: Path
) -> None:
    await server.kill()
    async with watching(server.url, cache, Flags(level=2)) as store:
        assert not store.is_connected
        assert store.live.current == Flags(level=2)
        assert content(cache) is None
        await server.start()
        await until(lambda: store.is_connected)
        assert await store.read() == Revision(Flags(level=2))


async def test_while_redis_is_away_nothing_grows(
    server: RedisServer, cache: Path, impatient: None
) -> None:
    async with relay(server.port) as line, watching(line.url, cache) as store:
        await until(lambda: store.is_connected)
        line.drop()
        await until(lambda: line.accepted > 20)
        tasks, files = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
        more = line.accepted + 40
        await until(lambda: line.accepted > more, PATIENCE)
        assert len(asyncio.all_tasks()) <= tasks + 4  # as many as one attempt has
        assert len(os.listdir("/proc/self/fd")) <= files + 4
        line.resume()
        await until(lambda: store.is_connected)


async def test_what_is_no_redis_does_no_harm(cache: Path) -> None:
    """A web server, and one that says what no Redis would."""
    for nonsense in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$x\r\n", b"*1\r\n*1\r\n:\r\n", b"\xff"):

        async def handle(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, says: bytes = nonsense
        ) -> None:
            await reader.read(1)
            writer.write(says)
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as other:
            url = f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}"
            async with watching(url, cache, Flags(level=3)) as store:
                await until(lambda: not store.is_connected)
                assert store.live.current == Flags(level=3)
                with pytest.raises(StoreError):
                    await store.change({"level": 2}, "dashboard")


def test_attempts_become_rarer_and_never_cease() -> None:
    pauses = redis_link.back_off()
    taken = [next(pauses) for _ in range(50)]
    bounds = [min(0.1 * 2**n, 2.0) for n in range(50)]
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(taken, bounds, strict=True))
    assert len(set(taken)) == 50


# Broken content.


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_flags_change_nothing_and_say_why(
    server: RedisServer, cache: Path, name: str
) -> None:
    async with redis_client(server.url) as redis, watching(server.url, cache) as store:
        await subscribed(redis, KEY)
        await store.change({"level": 3}, "dashboard")
        good = await redis.get(KEY)
        with capture_logs() as log:
            await redis.set(KEY, BROKEN[name])
            for _ in range(3):
                await redis.publish(KEY, "")
            await until(lambda: store.error is not None)
            await store.start()  # it looks once more
        assert len(events(log, "flags not taken")) == 1
        assert KEY in str(store.error)
        assert store.is_connected
        assert store.live.current == Flags(level=3)
        with pytest.raises(FlagsError):
            await store.read()
        await redis.set(KEY, good)
        await redis.publish(KEY, "")
        await until(lambda: store.error is None)
        assert store.live.current == Flags(level=3)


async def test_broken_flags_are_replaced_by_those_in_force_and_the_change(
    server: RedisServer, cache: Path
) -> None:
    async with redis_client(server.url) as redis, started(server.url, cache) as store:
        await store.change({"level": 3}, "dashboard")
        await redis.set(KEY, "{")
        after = await store.change({"enabled": False}, "dashboard")
        assert after == await store.read()
        assert after == Revision(Flags(level=3, enabled=False), 2, "dashboard")


async def test_a_key_of_another_kind(server: RedisServer, cache: Path) -> None:
    """Redis is there, and says no."""
    async with redis_client(server.url) as redis:
        await redis.lpush(KEY, "flags")
        async with watching(server.url, cache, Flags(level=2)) as store:
            assert store.is_connected
            assert "WRONGTYPE" in str(store.error)
            assert store.live.current == Flags(level=2)
            with pytest.raises(StoreError, match="WRONGTYPE"):
                await store.change({"level": 3}, "dashboard")
            await redis.delete(KEY)
            await store.change({"level": 3}, "dashboard")
            assert (await store.read()).flags == Flags(level=3)


async def test_broken_at_the_start_it_has_the_flags_it_had(
    server: RedisServer, cache: Path
) -> None:
    async with redis_client(server.url) as redis:
        async with started(server.url, cache) as store:
            await store.change({"level": 3}, "dashboard")
        await redis.set(KEY, "{")
        async with started(server.url, cache) as store:
            assert store.live.current == Flags(level=3)
            assert KEY in str(store.error)


# The cache.


async def test_the_cache_has_the_last_good_flags_and_is_written_only_for_others(
    server: RedisServer, cache: Path
) -> None:
    async with redis_client(server.url) as redis, watching(server.url, cache) as store:
        await subscribed(redis, KEY)
        for level in (2, 3):
            await store.change({"level": level}, "dashboard")
            assert content(cache) == await redis.get(KEY)
        before = written(cache)
        await redis.publish(KEY, "")
        await store.start()
        async with started(server.url, cache):  # another worker
            pass
        await redis.set(KEY, "{")
        await store.start()
        assert written(cache) == before
        assert content(cache) == Revision(Flags(level=3), 2, "dashboard").to_json()


async def test_a_broken_cache_is_no_cache(server: RedisServer, cache: Path) -> None:
    write(cache, b"{")
    await server.kill()
    async with started(server.url, cache, Flags(level=2)) as store:
        assert store.live.current == Flags(level=2)


async def test_a_cache_that_cannot_be_written_is_told_of_once(
    server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file, no folder")
    with capture_logs() as log:
        async with started(server.url, tmp_path / "state" / "flags.json") as store:
            for level in (2, 3):
                assert (await store.change({"level": level}, "dashboard")).flags.level == level
    assert len(events(log, "cannot be kept")) == 1


# The URL.


async def test_a_password(cache: Path) -> None:
    async with redis_server("--requirepass", "s3cr/t@#") as server:
        url = f"redis://:s3cr%2Ft%40%23@127.0.0.1:{server.port}/2"
        async with watching(url, cache) as store:
            await store.change({"level": 3}, "dashboard")
            assert store.is_connected
        async with redis_client(url) as redis:
            assert json.loads(await redis.get(KEY))["level"] == 3


@pytest.mark.parametrize("user", ["", "operator"])
async def test_a_wrong_password_is_told_of_but_not_told(
    cache: Path, user: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_server("--requirepass", "right") as server:
        url = f"redis://{user}:s3cret@127.0.0.1:{server.port}"
        async with watching(url, cache) as store:
            assert not store.is_connected
            with pytest.raises(StoreError, match="password") as raised:
                await store.change({"level": 3}, "dashboard")
            with pytest.raises(StoreError, match="password"):
                await store.read()
        captured = capfd.readouterr()
        assert "store disconnected" in captured.out
        shown = captured.out + captured.err + caplog.text
        assert "s3cret" not in f"{shown} {store.error} {raised.value} {raised.value.__cause__}"


async def test_a_password_is_left_out_also_where_a_server_repeats_it(cache: Path) -> None:
    """As servers do that do not know a command: its arguments are in their message."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = b" ".join((await reader.read(65536)).split())
        writer.write(b"-ERR unknown command: " + said + b"\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        async with started(f"redis://:s3cret@127.0.0.1:{port}", cache) as store:
            assert "***" in str(store.error)
            assert "s3cret" not in str(store.error)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret/and@127.0.0.1:6379",
        "redis://:s3cret@127.0.0.1:port",
        "redis://:s3cret@[::1",
        "redis://127.0.0.1?s3cret=1",
        "redis://127.0.0.1?db=s3cret",
        "rediss://127.0.0.1?ssl_cert_reqs=s3cret",
        "http://:s3cret@127.0.0.1",
    ],
)
def test_a_wrong_url_is_a_wrong_setting(url: str, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"^store: ") as raised:
        RedisStore(url, cache, Flags())
    assert "s3cret" not in str(raised.value)
    assert raised.value.__suppress_context__


async def test_tls(cache: Path, tmp_path: Path) -> None:
    hosts = ("--bind", "127.0.0.1", "127.0.0.2")  # the certificate is the first one's
    async with redis_server(*hosts, tls=Certificates(tmp_path)) as server:
        async with watching(server.url, cache) as store:
            await store.change({"level": 3}, "dashboard")
            assert store.is_connected
            await server.kill()
            await until(lambda: not store.is_connected)
            await server.start()
            await until(lambda: store.is_connected)
            assert (await store.read()).flags == Flags(level=3)
        for url in (server.url.partition("?")[0], server.url.replace("127.0.0.1", "127.0.0.2")):
            async with started(url, cache) as stranger:
                assert not stranger.is_connected
                assert "CERTIFICATE_VERIFY_FAILED" in str(stranger.error)


async def test_a_unix_socket(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    async with (
        redis_server("--unixsocket", str(path), "--requirepass", "s3cret"),
        watching(f"unix://{path}?password=s3cret", cache) as store,
    ):
        await store.change({"level": 3}, "dashboard")
        assert (await store.read()).flags == Flags(level=3)


def test_without_redis_py_the_setting_is_named_and_what_to_install() -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from proxy.errors import ConfigError\n"
        "try:\n"
        "    import proxy.control.redis_store\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("store: ")
    assert "pip install 'audio-compression-proxy[redis]'" in said.stdout
