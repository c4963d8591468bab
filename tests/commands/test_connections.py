"""`audio-proxy connections`, of real proxies with real clients."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as connect_plainly

from proxy.client import AudioConnection, connect
from proxy.commands.connections import show
from tests.support import SPEECH
from tests.support.backends import websockets_backend
from tests.support.command import NOBODY, ask, audio_proxy
from tests.support.process import Process, proxy_process
from tests.support.redis_server import redis_server
from tests.support.terminal import terminal

LESSON = {"path": str(SPEECH["speech-22050-s16.wav"]), "size": 4096, "limit": 100_000}


async def listen(learner: AudioConnection) -> None:
    """Have one recording streamed."""
    await learner.send(json.dumps(LESSON))
    while await learner.recv() != "end":
        pass


@asynccontextmanager
async def learners(process: Process, path: str = "/ws/tutor") -> AsyncIterator[AudioConnection]:
    """Two connections, of which one opted in, which is yielded; it has heard something."""
    url = f"ws://{process.listen}{path}"
    async with connect(url, proxy=None) as asking, connect_plainly(f"{url}/plain", proxy=None):
        await listen(asking)
        yield asking


async def test_who_is_connected(tmp_path: Path) -> None:
    async with websockets_backend() as port, proxy_process(port, tmp_path) as process:
        command = ("connections", "--admin", str(process.admin))
        async with learners(process):
            table, everyone, for_programs, no_mp3, by_size = await asyncio.gather(
                audio_proxy(*command),
                audio_proxy(*command, "--all"),
                audio_proxy(*command, "--json"),
                audio_proxy(*command, "--format", "mp3"),
                audio_proxy(
                    *(*command, "--all", "--sort", "wire_bytes", "--order", "asc"),
                    *("--limit", "1", "--path", "/ws/*"),
                ),
            )
            answer = await ask(process.admin, "/connections?opted_in=true")
        none = await audio_proxy(*command)
    for ended in (table, everyone, for_programs, no_mp3, by_size, none):
        assert (ended.status, ended.problems) == (0, "")
    (row,) = answer["connections"]
    assert json.loads(for_programs.output)["connections"][0]["id"] == row["id"]

    lines = [line.strip() for line in table.output.splitlines()]
    assert lines[0] == "1 connection"
    headings, _, values = (re.split(r"\s{2,}", line) for line in lines[1:])
    cells = dict(zip(headings, values, strict=True))
    assert cells["id"] == row["id"]
    assert (cells["path"], cells["client"]) == ("/ws/tutor", "127.0.0.1")
    assert (cells["state"], cells["as"], cells["format"]) == ("on", row["algorithm"], "wav")
    assert cells["chunks"] == f"{row['chunks']:,}"
    assert cells["bytes"] == f"{row['original_bytes'] / 1000:.1f} kB"
    assert cells["saved"] == f"{row['saved_bytes'] / row['original_bytes']:.1%}"
    assert cells["saved"] > "1"

    assert everyone.output.startswith("2 connections ")
    assert re.search(r"/ws/tutor/plain\s+127.0.0.1\s+plain\s+-\s", everyone.output)
    assert no_mp3.output.startswith("0 connections ")
    assert none.output.startswith("0 connections ")
    assert by_size.output.startswith("2 connections, the first 1 of them ")
    assert "/ws/tutor/plain" in by_size.output


async def test_one_is_switched_off_and_on(tmp_path: Path) -> None:
    async with websockets_backend() as port, proxy_process(port, tmp_path) as process:
        admin = ("--admin", str(process.admin))
        async with learners(process) as learner:
            rows = (await ask(process.admin, "/connections?sort=path&order=asc"))["connections"]
            asked, plain = (row["id"] for row in rows)
            off = await audio_proxy("connections", "off", asked, *admin)
            before = await ask(process.admin, "/stats")
            await listen(learner)
            after = await ask(process.admin, "/stats")
            shown = await audio_proxy("connections", *admin)
            on = await audio_proxy("connections", *admin, "on", asked)
            await listen(learner)
            at_last = await ask(process.admin, "/stats")
            wrong = await audio_proxy("connections", "off", plain, *admin)
        ended = await audio_proxy("connections", "off", asked, *admin)
        strange = await audio_proxy("connections", "off", "../flags?x=1#y", *admin)
    assert (off.status, off.output, off.problems) == (0, f"{asked} is off\n", "")
    assert (on.status, on.output, on.problems) == (0, f"{asked} is on\n", "")
    assert after["total_compressed"] == before["total_compressed"]
    assert at_last["total_compressed"] > after["total_compressed"]
    assert re.search(r"/ws/tutor\s+127.0.0.1\s+off\s", shown.output)
    wrong.refused("opt")
    ended.refused(asked)
    strange.refused("../flags?x=1#y")


async def test_the_connections_of_a_fleet(tmp_path: Path) -> None:
    """Shown, and switched, by a machine that does not hold them."""
    async with redis_server() as redis, websockets_backend() as port:
        store = ("--store", redis.url)
        async with (
            proxy_process(port, tmp_path / "one", *store) as one,
            proxy_process(port, tmp_path / "two", *store) as two,
        ):
            admin = ("--admin", str(one.admin))
            async with learners(two):
                async with asyncio.timeout(10):  # until one has heard of the other
                    while not (rows := (await ask(one.admin, "/connections"))["connections"]):
                        pass
                shown = await audio_proxy("connections", *admin)
                (row,) = [row for row in rows if row["opted_in"]]
                off = await audio_proxy("connections", "off", row["id"], *admin)
                (found,) = (await ask(two.admin, "/connections?opted_in=true"))["connections"]
    assert row["id"] in shown.output
    assert off.output == f"{row['id']} is off\n"
    assert (found["id"], found["enabled"]) == (row["id"], False)


def test_a_machine_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the table: a machine cannot be made silent here that has another name than this."""
    show({"total": 0, "connections": [], "unreachable": ["host-2\x1b[2J"]})
    output, problems = capsys.readouterr()
    assert output.startswith("0 connections ")
    assert problems == "host-2�[2J does not answer: its connections are not among them\n"


async def test_a_narrow_terminal_shows_whole_ids(tmp_path: Path) -> None:
    path = "/ws/tutor/a-lesson-with-a-very-long-name-that-goes-on-and-on"
    async with (
        websockets_backend() as port,
        proxy_process(port, tmp_path) as process,
        learners(process, path),
        terminal("connections", "--all", "--admin", str(process.admin)) as screen,
    ):
        text = await screen.end()
        answer = await ask(process.admin, "/connections")
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for row in answer["connections"]:
        (line,) = [line for line in lines if row["id"] in line]
        assert re.search(r"/ws/tutor/\S*…", line)


async def test_what_is_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    async with proxy_process(9, tmp_path, "--admin-token", "t0ken") as process:
        admin = {"AUDIO_PROXY_ADMIN": str(process.admin), "AUDIO_PROXY_ADMIN_TOKEN": "t0ken"}
        sort, order, limit, both, token, nobody = await asyncio.gather(
            audio_proxy("connections", "--sort", "colour", **admin),
            audio_proxy("connections", "--order", "up", **admin),
            audio_proxy("connections", "--limit", "0", **admin),
            audio_proxy("connections", "--sort", "path", "off", "1-2-3", **admin),
            audio_proxy("connections", AUDIO_PROXY_ADMIN=str(process.admin)),
            audio_proxy("connections", "off", "1-2-3", "--admin", NOBODY),
        )
    sort.refused("sort", "colour", "saved_bytes")
    order.refused("order", "up")
    limit.refused("limit")
    both.refused("connections on, off")
    token.refused("admin_token")
    nobody.refused("admin", NOBODY)


async def test_every_column_that_rows_are_sorted_by_is_in_the_help() -> None:
    from proxy.tunnel.listing import SORTS

    ended = await audio_proxy("connections", "--help")
    assert set(SORTS) <= set(re.findall(r"\w+", ended.output))
