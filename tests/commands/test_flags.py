"""`audio-proxy flags`, at a file, at a real Redis, by way of a running proxy."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.command import NOBODY, Ended, ask, ask_until, audio_proxy
from tests.support.process import proxy_process
from tests.support.redis_server import redis_client, redis_server

FIRST = (
    "enabled=true\nmin_size=1024\nmin_gain=0.03\nlevel=1\nalgorithms=gzip,flac,opus\n"
    "rollout_percent=100.0\nshadow=false\npaths={}\n"
)


def done(revision: int, flags: str = FIRST, by: str | None = "command line") -> Ended:
    """The flags on standard output, as `set` takes them, and their revision beside."""
    return Ended(0, flags, f"revision {revision}{f', by {by}' if by else ''}\n")


# At a file.


async def test_flags_are_kept_and_shown_as_they_are_set(tmp_path: Path) -> None:
    folder = ("--state-dir", tmp_path / "state")
    changed = FIRST.replace("enabled=true", "enabled=false").replace("level=1", "level=2")
    at_first = await audio_proxy("flags", "set", "enabled=false", "level=2", *folder)
    assert at_first == done(1, changed)
    kept = json.loads((tmp_path / "state" / "flags.json").read_bytes())
    assert (kept["enabled"], kept["level"]) == (False, 2)
    assert (kept["revision"], kept["changed_by"]) == (1, "command line")
    other, first = ("--state-dir", tmp_path / "other"), ("--state-dir", tmp_path / "first")
    shown, set_again, by_environment = await asyncio.gather(
        audio_proxy("flags", "get", *folder),
        audio_proxy("flags", "set", *changed.split(), *other),
        audio_proxy("flags", "set", "level=2", *first, ENABLE_WS_COMPRESSION="no"),
    )
    assert shown == set_again == by_environment == at_first


async def test_rules_for_paths_are_shown_as_they_are_set(tmp_path: Path) -> None:
    rules = 'paths={"/ws/*":{"enabled":false},"*":{"algorithms":["gzip"]}}'
    folder = ("--state-dir", tmp_path)
    ended = await audio_proxy("flags", "set", rules, "rollout_percent=12.5", *folder)
    assert ended == done(1, FIRST.replace("paths={}", rules).replace("100.0", "12.5"))


async def test_a_wrong_flag_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    wrong = {
        "level=9": "level",
        "algorithms=gzip,lzma": "lzma",
        "colour=red": "colour",
        'paths={"/ws":{"level":9}}': "paths./ws.level",
        "revision=3": "--if-revision",
        "enabled": "'enabled' is not NAME=VALUE",
    }
    common = ("flags", "set", "--state-dir", tmp_path, "min_size=1")
    ends = await asyncio.gather(*(audio_proxy(*common, change) for change in wrong))
    for name, ended in zip(wrong.values(), ends, strict=True):
        ended.refused(name)
    assert not (tmp_path / "flags.json").exists()


async def test_flags_that_are_not_there_or_broken(tmp_path: Path) -> None:
    folder = ("--state-dir", tmp_path)
    path = tmp_path / "flags.json"
    (await audio_proxy("flags", "get", *folder)).refused(str(path))
    path.write_text("{")
    (await audio_proxy("flags", "get", *folder)).refused(str(path), "JSON")
    mended = await audio_proxy("flags", "set", "level=3", *folder)
    assert mended.status == 0
    assert str(path) in mended.problems  # what was in it is lost
    assert "level=3" in (await audio_proxy("flags", "get", *folder)).output


async def test_a_flag_reaches_a_running_proxy_within_a_second(tmp_path: Path) -> None:
    async with proxy_process(9, tmp_path) as process:
        assert (await ask(process.admin, "/flags"))["enabled"] is True
        ended = await audio_proxy("flags", "set", "enabled=false", "--state-dir", tmp_path)
        assert ended.status == 0
        assert await ask_until(process.admin, "/flags", "enabled", seconds=1) is False
    (line,) = [line for line in process.log if "flag changed" in line]
    for word in ("flag=enabled", "before=True", "after=False", 'by="command line"', "revision=1"):
        assert word in line


# Everywhere.


@pytest.mark.parametrize("where", ["file", "redis", "admin"])
async def test_one_who_was_slower_is_told_who_was_faster(where: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        place: tuple[str, ...] = ("--state-dir", str(tmp_path))
        if where == "redis":
            place = ("--store", (await stack.enter_async_context(redis_server())).url)
        elif where == "admin":
            process = await stack.enter_async_context(proxy_process(9, tmp_path))
            place = ("--via-admin", "--admin", str(process.admin))
        set_level = ("flags", "set", *place)
        first = await audio_proxy(*set_level, "level=2", "--if-revision", "0")
        late = await audio_proxy(*set_level, "level=3", "--if-revision", "0")
        wrong = await audio_proxy(*set_level, "level=9", "--if-revision", "1")
        seen = await audio_proxy("flags", "get", *place)
        again = await audio_proxy(*set_level, "level=3", "--if-revision", "1")
    by = "command line by admin port" if where == "admin" else "command line"
    assert first == seen == done(1, FIRST.replace("level=1", "level=2"), by)
    late.refused("revision 1 and not at 0", f"by {by}")
    wrong.refused("level")
    assert again == done(2, FIRST.replace("level=1", "level=3"), by)


# At Redis.


async def test_flags_of_a_fleet_are_shown_and_changed_where_no_proxy_runs(tmp_path: Path) -> None:
    """By a password, from the environment; nothing is written here, and reading writes nothing."""
    async with redis_server("--requirepass", "p4ss") as redis:
        url = redis.url.replace("//", "//:p4ss@")
        here = {"AUDIO_PROXY_STORE": url, "AUDIO_PROXY_STATE_DIR": str(tmp_path / "state")}
        none = await audio_proxy("flags", "get", **here)
        async with redis_client(url) as client:
            assert await client.keys("*") == []
        set_off = await audio_proxy("flags", "set", "level=2", **here, ENABLE_WS_COMPRESSION="no")
        shown = await audio_proxy("flags", "get", **here)
        async with redis_client(url) as client:
            await client.set("audio-proxy:flags", "{")
        broken, mended = [
            await audio_proxy("flags", *words, **here) for words in (("get",), ("set", "level=3"))
        ]
    none.refused("no flags are stored")
    changed = FIRST.replace("enabled=true", "enabled=false").replace("level=1", "level=2")
    assert set_off == shown == done(1, changed)
    broken.refused("not JSON")
    assert mended.output == FIRST.replace("level=1", "level=3")
    assert "not JSON" in mended.problems  # what was stored is lost
    assert not (tmp_path / "state").exists()


async def test_a_flag_reaches_a_fleet_by_redis(tmp_path: Path) -> None:
    async with redis_server() as redis:
        store = ("--store", redis.url)
        async with (
            proxy_process(9, tmp_path / "one", *store) as one,
            proxy_process(9, tmp_path / "two", *store) as two,
        ):
            set_off = await audio_proxy("flags", "set", "enabled=false", *store)
            assert set_off.status == 0
            for process in (one, two):
                assert await ask_until(process.admin, "/flags", "enabled", seconds=1) is False
                assert (await ask(process.admin, "/flags"))["changed_by"] == "command line"


async def test_redis_that_is_away_or_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    async with redis_server("--requirepass", "p4ss") as redis:
        wrong = {
            ("get", f"redis://{NOBODY}"): NOBODY,
            ("set", "level=2", f"redis://{NOBODY}"): NOBODY,
            ("set", "level=2", redis.url.replace("//", "//:wr0ng@")): str(redis.port),
            ("get", "redis://:s3cret@["): "store",
            ("get", "http://s3cret@x/"): "store",
        }
        ends = await asyncio.gather(
            *(audio_proxy("flags", *words, "--store", url) for *words, url in wrong)
        )
    for name, ended in zip(wrong.values(), ends, strict=True):
        ended.refused(name)
        assert "s3cret" not in ended.problems
        assert "wr0ng" not in ended.problems


# By way of a running proxy.


async def test_a_running_proxy_shows_and_changes_its_flags(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as backend:
        port = backend.getsockname()[1]
        async with proxy_process(port, tmp_path, "--admin-token", "t0ken") as process:
            via = ("--via-admin", "--admin", str(process.admin))
            token = {"AUDIO_PROXY_ADMIN_TOKEN": "t0ken"}
            shown = await audio_proxy("flags", "get", *via, **token)
            rules = 'paths={"/ws/*":{"level":3}}'
            changes = ("enabled=false", "algorithms=flac,gzip", "min_gain=0.1", rules)
            changed = await audio_proxy("flags", "set", *changes, *via, **token)
            wrong = await audio_proxy("flags", "set", "colour=red", *via, **token)
            none = await audio_proxy("flags", "get", *via)
            flags = await ask(process.admin, "/flags", headers={"Authorization": "Bearer t0ken"})
    assert Ended(0, shown.output.replace("100\n", "100.0\n"), shown.problems) == done(0, by=None)
    assert (changed.status, changed.problems) == (0, "revision 1, by command line by admin port\n")
    assert {"enabled=false", "algorithms=flac,gzip", "min_gain=0.1", rules} <= set(
        changed.output.split()
    )
    wrong.refused("colour")
    none.refused("admin_token")
    assert (flags["enabled"], flags["changed_by"]) == (False, "command line by admin port")
    (line,) = [line for line in process.log if "flag=enabled" in line]
    assert 'by="command line by admin port"' in line


async def test_there_may_be_no_running_proxy() -> None:
    (await audio_proxy("flags", "get", "--via-admin", "--admin", NOBODY)).refused("admin", NOBODY)


async def test_a_proxy_whose_store_is_away_says_so(tmp_path: Path) -> None:
    async with (
        redis_server() as redis,
        proxy_process(9, tmp_path, "--store", redis.url) as process,
    ):
        via = ("--via-admin", "--admin", str(process.admin))
        await redis.kill()
        shown, refused = await asyncio.gather(
            audio_proxy("flags", "get", *via), audio_proxy("flags", "set", "level=2", *via)
        )
    assert (shown.status, "level=1" in shown.output) == (0, True)
    refused.refused("Redis")
