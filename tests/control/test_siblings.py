"""Workers of one machine ask each other."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.audio.counters import Counters
from proxy.config import Settings, load
from proxy.control import siblings as module
from proxy.control.flags import Flags
from proxy.control.reporting import Reporting
from proxy.control.roster import Roster
from proxy.control.siblings import Answer, Siblings
from proxy.control.store import FileStore
from proxy.fleet import Fleet
from proxy.tunnel.registry import Tunnels

GONE = "99999999.sock"
"""Of a process that there cannot be."""


@asynccontextmanager
async def worker(
    folder: Path, pid: int, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Siblings]:
    """A worker with a process id of its own."""
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "getpid", lambda: pid)
        found = Siblings(folder, answer)
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


def says(what: str) -> Answer:
    async def answer(question: dict[str, Any]) -> dict[str, Any]:
        return {"of": what, "to": question}

    return answer


@pytest.mark.parametrize("name", ["run", "a folder with a very long name " * 7])
async def test_all_others_answer_and_nobody_oneself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    async with (
        worker(folder, 1, says("one"), monkeypatch) as one,
        worker(folder, 2, says("two"), monkeypatch),
        worker(folder, 3, says("three"), monkeypatch),
    ):
        answers = await one.ask({"n": 1})
    assert sorted(answer["of"] for answer in answers) == ["three", "two"]
    assert all(answer["to"] == {"n": 1} for answer in answers)
    assert list(folder.iterdir()) == []


async def test_large_answers_come_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(question: dict[str, Any]) -> dict[str, Any]:
        return {"rows": ["x" * 300] * 10_000}

    async with (
        worker(tmp_path, 1, says("one"), monkeypatch) as one,
        worker(tmp_path, 2, answer, monkeypatch),
    ):
        (found,) = await one.ask({})
    assert len(found["rows"]) == 10_000


async def test_who_has_nothing_to_say_fails_or_is_dead_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(question: dict[str, Any]) -> None:
        return None

    async def never(question: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    async def dead() -> None:
        """A worker that was killed leaves its socket behind."""
        server = await asyncio.start_unix_server(lambda *_: None, tmp_path / "9.sock")
        os.rename(tmp_path / "9.sock", tmp_path / GONE)
        server.close()

    await dead()
    with capture_logs() as logs, contextlib.suppress(asyncio.CancelledError):
        async with (
            worker(tmp_path, 1, says("one"), monkeypatch) as one,
            worker(tmp_path, 2, nothing, monkeypatch),
            worker(tmp_path, 3, never, monkeypatch),
            worker(tmp_path, 4, says("four"), monkeypatch),
        ):
            answers = await one.ask({}, 0.5)
            assert [answer["of"] for answer in answers] == ["four"]
    assert [line["worker"] for line in logs] == ["3.sock"]
    assert not (tmp_path / GONE).exists()


async def test_what_is_no_question_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker(tmp_path, 2, says("two"), monkeypatch):
        for line in (b"{\n", b"\n", b""):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "2.sock")
            writer.write(line)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()


async def test_a_folder_that_takes_no_sockets_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_sockets(*_: Any, **__: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(asyncio, "start_unix_server", no_sockets)
    roster = Roster.open(tmp_path)
    settings = load(Settings, {"backend": "http://127.0.0.1:9", "state_dir": tmp_path})
    tunnels = Tunnels(1, 1, Counters())
    reporting = Reporting(
        Counters(),
        FileStore(tmp_path / "flags.json", Flags()),
        lambda: {"tunnels": 0, "connections": 0, "open": {}, "backlog_bytes": 0, "draining": False},
        0,
        0.0,
        roster,
        "a",
        "1",
    )
    reporting.publish()
    with capture_logs() as logs:
        async with contextlib.AsyncExitStack() as stack:
            fleet = Fleet(settings, tunnels, reporting)
            await fleet.start(stack)
            assert (await fleet.connections({}))["connections"] == []
    assert [line["event"] for line in logs] == ["connections of other workers are not shown"]
