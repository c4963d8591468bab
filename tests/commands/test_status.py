"""`audio-proxy status`, of real proxies; what it makes of figures that are hard to bring about."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.commands.status import Look, picture, rates
from tests.support.backends import aiohttp_server, websockets_backend
from tests.support.command import NOBODY, ask, ask_until, audio_proxy, lesson
from tests.support.figures import made_up_stats
from tests.support.process import proxy_process
from tests.support.raw import Peer, raw_backend
from tests.support.redis_server import redis_server
from tests.support.terminal import drawn, terminal

FLAGS = {
    "enabled": True,
    "shadow": False,
    "rollout_percent": 100,
    "revision": 7,
    "changed_by": "dashboard",
}


def look(**stats: Any) -> Look:
    return Look(100.0, {**made_up_stats(), **stats}, FLAGS, None)


def pictured(look: Look, width: int = 80, rate: tuple[float, float] | None = None) -> str:
    return drawn(picture(look, width, rate), width)


def row(text: str, *, starts: str) -> list[str]:
    """The cells of the line that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(starts)]
    return re.split(r"\s{2,}", line.strip())


# What it shows.


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_picture_has_every_part_and_fits(width: int) -> None:
    stats = made_up_stats()
    text = pictured(look(), width)
    assert all(len(line) <= width for line in text.splitlines())
    for title in ("by algorithm", "by format", "chunks", "machines", "workers"):
        assert re.search(rf"^{title}\s*$", text, re.MULTILINE), title
    gzip = stats["by_algorithm"]["gzip"]
    assert row(text, starts="gzip")[1:4] == [
        f"{gzip[name]:,}"
        for name in ("total_compressed", "total_original_bytes", "total_compressed_bytes")
    ]
    assert row(text, starts="pcm")[1] == f"{stats['by_format']['pcm']['total_compressed']:,}"
    assert row(text, starts="no gain")[1:] == [
        f"{stats['chunks'][name]['no_gain']:,}" for name in ("gzip", "flac", "opus")
    ]
    assert row(text, starts="too small")[1:] == [f"{stats['chunks']['none']['too_small']:,}"]
    host_2 = [line for line in text.splitlines() if line.startswith("host-2")]
    assert "draining" in host_2[0]
    assert f"{stats['machines'][1]['worker_restarts']:,}" in host_2[0]
    worker = [line for line in text.splitlines() if " 812 " in line]
    assert "draining" in worker[0]
    assert "1:01" in worker[0]
    assert "8,000,000,000 bytes" in text
    assert "2,000,000,000 bytes (25.0%)" in text
    assert "revision 7, by dashboard" in text
    assert "redis, connected" in text


def test_a_machine_with_a_long_name_leaves_room_for_the_rest() -> None:
    stats = made_up_stats()
    for each in (*stats["machines"], *stats["workers"]):
        each["machine"] = "a-machine-with-a-very-long-name.region-1.example.org"
    text = pictured(look(**stats))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert len(re.findall(r"^a-machine-\S*…", text, re.MULTILINE)) == 5
    assert len(re.findall(r"draining", text)) == 2


def test_what_has_not_happened_takes_no_room() -> None:
    nothing = {"compressed": 0, "no_gain": 0, "error": 0, "shadow": 0}
    passed = {"too_small": 3, "disabled": 0}
    text = pictured(look(by_algorithm={}, by_format={}, chunks={"gzip": nothing, "none": passed}))
    assert "by algorithm" not in text
    assert "by format" not in text
    assert row(text, starts="outcome")[1:] == ["not tried"]
    assert row(text, starts="too small")[1:] == ["3"]
    assert "disabled" not in text
    assert "chunks\n" not in pictured(look(chunks={"none": {"too_small": 0}}))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, r"on\s+│"),
        ({"enabled": False, "shadow": True}, r"off\s+│"),
        ({"rollout_percent": 12.5}, r"on, for 12.5 % of those who ask"),
        ({"shadow": True}, r"on, shadow: what came is sent"),
    ],
)
def test_it_says_what_is_on_and_for_whom(flags: Mapping[str, Any], words: str) -> None:
    text = pictured(replace(look(), flags={**FLAGS, **flags}))
    assert re.search(rf"compression\s+│ {words}", text)


def test_what_shadow_would_save() -> None:
    assert "1,234 bytes" in pictured(look(shadow_saved_bytes=1234))
    assert "shadow been" not in pictured(look(shadow_saved_bytes=0))


# Rates.


def test_rates_are_of_the_time_between_two_looks() -> None:
    before = look(wire_original_bytes=1_000_000, wire_bytes=900_000)
    after = look(wire_original_bytes=1_096_000, wire_bytes=960_000)
    rate = rates(before, replace(after, at=102.0))
    assert rate == (48_000, 30_000)
    assert "48.0 kB/s, sent as 30.0 kB/s (37.5% saved)" in pictured(after, rate=rate)
    still = rates(before, replace(before, at=101.0))
    assert still == (0, 0)
    assert "0 B/s, sent as 0 B/s " in pictured(before, rate=still)


def test_there_is_no_rate_where_a_machine_has_left_the_fleet_or_no_time_has_passed() -> None:
    before = look(wire_original_bytes=1_000_000, wire_bytes=900_000)
    assert rates(before, replace(look(wire_original_bytes=5, wire_bytes=4), at=101.0)) is None
    assert rates(before, before) is None
    assert "traffic now" not in pictured(before, rate=None)


# Problems.


def test_each_problem_is_told_once() -> None:
    away = {"kind": "redis", "state": "disconnected", "error": "Redis at x: refused"}
    assert look(store=away, flags_error=away["error"]).problems == [
        "store: redis is disconnected: Redis at x: refused"
    ]
    assert replace(look(flags_error="level: 9"), not_ready="no backend").problems == [
        "no backend",
        "level: 9",
    ]
    stats = made_up_stats()
    for each in stats["machines"]:
        each["store"] = "disconnected"  # of this one it is said already where it is so
    assert look(**stats).problems == ["store: host-2 is disconnected"]
    assert look().problems == []
    assert "store away" in pictured(look(**stats), 120)


# The real thing.


async def test_the_status_of_a_proxy_at_work(tmp_path: Path) -> None:
    async with websockets_backend() as port, proxy_process(port, tmp_path) as process:
        await lesson(f"ws://{process.listen}/")
        pid, stats = process.pid, await ask(process.admin, "/stats")
        table, for_programs = await asyncio.gather(
            audio_proxy("status", "--admin", str(process.admin)),
            audio_proxy("status", "--json", "--admin", str(process.admin)),
        )
    assert (table.status, table.problems) == (0, "")
    assert stats["total_compressed"] > 10
    saved = stats["wire_original_bytes"] - stats["wire_bytes"]
    for number in (stats["total_compressed"], stats["wire_bytes"], saved):
        assert f"{number:,}" in table.output
    assert f"{saved / stats['wire_original_bytes']:.1%}" in table.output
    assert row(table.output, starts="gzip")[1] == f"{stats['total_compressed']:,}"
    assert row(table.output, starts="compressed")[1] == f"{stats['total_compressed']:,}"
    assert re.search(rf"\b{pid}\s+serving\b", table.output)
    assert "problem" not in table.output
    assert max(map(len, table.output.splitlines())) < 120  # nothing is padded where it is no screen

    assert (for_programs.status, for_programs.problems) == (0, "")
    answer = json.loads(for_programs.output)
    assert answer["problems"] == []
    assert answer["flags"]["enabled"] is True
    assert answer["stats"]["wire_bytes"] == stats["wire_bytes"]


async def test_the_status_of_a_proxy_in_trouble(tmp_path: Path) -> None:
    """Nobody is behind it, and its flags are broken: by a name that a terminal may not like."""
    flag = "[red][/]"
    async with proxy_process(9, tmp_path) as process:
        (tmp_path / "flags.json").write_text(json.dumps({flag: 1}))
        await ask_until(process.admin, "/stats", "flags_error")
        table, for_programs = await asyncio.gather(
            audio_proxy("status", "--admin", str(process.admin)),
            audio_proxy("status", "--json", "--admin", str(process.admin)),
        )
    assert (table.status, table.problems) == (1, "")
    problems = [line for line in table.output.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2
    assert "backend" in problems[0]
    assert f"flags.json: {flag}: there is no such flag" in problems[1]
    assert for_programs.status == 1
    told = json.loads(for_programs.output)["problems"]
    assert [f"problem: {problem}" for problem in told] == problems


async def test_the_status_of_a_fleet_and_of_its_store(tmp_path: Path) -> None:
    async with redis_server() as redis, websockets_backend() as port:
        store = ("--store", redis.url)
        async with (
            proxy_process(port, tmp_path / "one", *store, "--workers", "2") as one,
            proxy_process(port, tmp_path / "two", *store) as two,
        ):
            await lesson(f"ws://{two.listen}/")
            asked = await ask(two.admin, "/stats")
            async with asyncio.timeout(10):  # until one has heard of the other
                while True:
                    stats = await ask(one.admin, "/stats")
                    if (len(stats["machines"]), stats["wire_bytes"]) == (2, asked["wire_bytes"]):
                        break
            pids = (*one.workers, *two.workers)
            command = ("status", "--admin", str(one.admin))
            well = await audio_proxy(*command)
            await redis.kill()
            async with asyncio.timeout(10):
                while (await ask(one.admin, "/stats"))["store"]["state"] == "connected":
                    pass
            away, for_programs = await asyncio.gather(
                audio_proxy(*command), audio_proxy(*command, "--json")
            )
    assert (well.status, well.problems) == (0, "")
    assert "redis, connected" in well.output
    assert f"{stats['wire_bytes']:,} bytes" in well.output
    for pid in pids:
        assert re.search(rf"\b{pid}\s+serving\b", well.output)
    name = re.escape(socket.gethostname())
    assert len(re.findall(rf"^{name}\s+serving", well.output, re.MULTILINE)) == 2

    assert (away.status, away.problems) == (1, "")
    (problem,) = re.findall(r"^problem: (.*)", away.output, re.MULTILINE)
    assert problem.startswith(f"store: redis is disconnected: Redis at 127.0.0.1:{redis.port}")
    assert for_programs.status == 1
    assert json.loads(for_programs.output)["problems"] == [problem]


async def test_the_token_is_sent_and_a_wrong_one_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as backend:
        port = backend.getsockname()[1]
        async with proxy_process(port, tmp_path, "--admin-token", "t0ken") as process:
            command = ("status", "--admin", str(process.admin))
            right, none, wrong = await asyncio.gather(
                audio_proxy(*command, AUDIO_PROXY_ADMIN_TOKEN="t0ken"),
                audio_proxy(*command),
                audio_proxy(*command, AUDIO_PROXY_ADMIN_TOKEN="other"),
            )
    assert (right.status, right.problems) == (0, "")
    none.refused("admin_token")
    wrong.refused("admin_token")
    assert "other" not in wrong.problems


async def test_where_nobody_or_something_else_is() -> None:
    """Such as the public port, taken for this one: what the backend answers may be anything."""

    async def talk(peer: Peer) -> None:
        await peer.send(b"SSH-2.0-OpenSSH_9.2\r\n")

    def answering(body: object, status: int = 200) -> web.Application:
        async def answer(request: web.Request) -> web.Response:
            return web.json_response(body, status=status)

        api = web.Application()
        api.router.add_get("/{path:.*}", answer)
        return api

    async with (
        aiohttp_server(web.Application()) as one,
        aiohttp_server(answering({})) as two,
        aiohttp_server(answering({"detail": "Not Found"}, 404)) as three,
        raw_backend(talk) as four,
    ):
        ports = (one, two, three, four)
        places = [NOBODY, *(f"127.0.0.1:{port}" for port in ports)]
        ends = await asyncio.gather(*(audio_proxy("status", "--admin", at) for at in places))
    for where, ended in zip(places, ends, strict=True):
        ended.refused("admin", where)


async def test_a_name_that_the_admin_port_does_not_go_by(tmp_path: Path) -> None:
    """It says itself how it may be called."""
    async with proxy_process(9, tmp_path) as process:
        ended = await audio_proxy("status", "--admin", f"127.1:{process.admin.port}")
    ended.refused("Host", "admin_hosts")


async def test_it_asks_the_proxy_itself_and_shows_no_token(tmp_path: Path) -> None:
    """`http_proxy` is for the web: the token is not to go there, nor to the screen."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        port = backend.getsockname()[1]
        async with proxy_process(port, tmp_path, "--admin-token", "t0ken") as process:
            command = ("status", "--admin", str(process.admin))
            through_web, with_newline = await asyncio.gather(
                audio_proxy(
                    *command, AUDIO_PROXY_ADMIN_TOKEN="t0ken", http_proxy=f"http://{NOBODY}"
                ),
                audio_proxy(*command, AUDIO_PROXY_ADMIN_TOKEN="t0ken\n"),
            )
    assert (through_web.status, through_web.problems) == (0, "")
    assert "t0ken" not in with_newline.problems + with_newline.output


# Watching.


async def test_watching_shows_rates_until_ctrl_c_and_leaves_the_last_picture(
    tmp_path: Path,
) -> None:
    async with websockets_backend() as port, proxy_process(port, tmp_path) as process:
        async with terminal("status", "--watch", "--admin", str(process.admin)) as screen:
            await screen.until(r"traffic now\s+│ 0 B/s, sent as 0 B/s")
            await lesson(f"ws://{process.listen}/")
            await screen.until(r"traffic now\s+│ [\d.]+ [kM]B/s, sent as [\d.]+ [kM]B/s \(\d")
            left = await screen.interrupt()
        pid, stats = process.pid, await ask(process.admin, "/stats")
    assert f"{stats['total_compressed']:,}" in left
    assert f"{stats['wire_bytes']:,} bytes" in left
    assert re.search(rf"\b{pid}\s+serving\b", left)


async def test_watching_goes_on_while_the_proxy_is_away(tmp_path: Path) -> None:
    async with AsyncExitStack() as serving:
        port = await serving.enter_async_context(websockets_backend())
        process = await serving.enter_async_context(proxy_process(port, tmp_path))
        async with terminal("status", "--watch", "--admin", str(process.admin)) as screen:
            await screen.until("traffic now")
            await serving.aclose()
            await screen.until("problem: admin: no proxy answers")
            left = await screen.interrupt()
    assert "compression" in left  # what it said last
    assert "traffic now" not in left


async def test_watching_begins_where_a_proxy_is_and_is_for_people() -> None:
    (await audio_proxy("status", "--watch", "--admin", NOBODY)).refused("admin", NOBODY)
    (await audio_proxy("status", "--watch", "--json")).refused("--watch", "--json")
