"""Several workers on one port: they act as one, and each may die or be replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from proxy.control.reporting import MACHINE
from proxy.values import Address
from tests.support import pcm
from tests.support.process import Process, children_of, proxy_process
from tests.test_cli import ask

CHUNK = pcm()[40_000:44_096]
PACE = 0.02
"""Seconds between two chunks."""


@asynccontextmanager
async def tutor() -> AsyncIterator[int]:
    """A backend that speaks for ever, chunk after chunk, each with its number; gives its port."""

    async def speak(socket: ServerConnection) -> None:
        number = 0
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.send(number.to_bytes(4, "big") + CHUNK)
                number += 1
                await asyncio.sleep(PACE)

    async with serve(speak, "127.0.0.1", 0, ping_interval=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]


class Learner:
    """Listens until the connection is closed, and checks that no chunk is missing."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard = 0
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> int | None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self.socket:
                assert message == self.heard.to_bytes(4, "big") + CHUNK
                self.heard += 1
        return self.socket.close_code

    async def hears_more(self) -> None:
        heard = self.heard
        while self.heard < heard + 3:
            assert not self.listening.done(), self.socket.close_code
            await asyncio.sleep(PACE)


@asynccontextmanager
async def lessons(listen: Address, count: int) -> AsyncIterator[list[Learner]]:
    url = f"ws://{listen}/"
    learners = [Learner(await connect(url, proxy=None)) for _ in range(count)]
    try:
        for learner in learners:
            await learner.hears_more()
        yield learners
    finally:
        for learner in learners:
            await learner.socket.close()
            learner.listening.cancel()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # it happens in other processes
            await asyncio.sleep(0.01)


async def stats_until(process: Process, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The statistics, once they say so."""
    async with asyncio.timeout(20):
        while True:
            stats: dict[str, Any] = await ask(process.admin, "/stats")
            if holds(stats):
                return stats
            await asyncio.sleep(0.01)


def log_of(process: Process) -> str:
    return "".join(process.log)


async def test_all_workers_answer_as_one(tmp_path: Path) -> None:
    async with (
        tutor() as backend,
        proxy_process(backend, tmp_path, "--workers", "2") as process,
        lessons(process.listen, 12) as learners,
    ):
        stats = await stats_until(process, lambda stats: stats["tunnels"] == 12)
        assert sorted(worker["pid"] for worker in stats["workers"]) == sorted(process.workers)
        assert sum(worker["tunnels"] for worker in stats["workers"]) == 12
        assert all(worker["tunnels"] for worker in stats["workers"]), (
            "one of them has nothing to do"
        )
        async with connect(f"ws://{process.listen}/?audio_compression=gzip", proxy=None) as client:
            for _ in range(10):
                await client.recv()
        await stats_until(process, lambda stats: stats["total_compressed"] >= 4)
        for learner in learners:
            await learner.hears_more()


async def test_a_worker_that_is_killed_is_replaced_and_its_counters_stay(tmp_path: Path) -> None:
    async with tutor() as backend, proxy_process(backend, tmp_path, "--workers", "2") as process:
        before = process.workers
        async with lessons(process.listen, 12) as learners:
            async with connect(
                f"ws://{process.listen}/?audio_compression=gzip", proxy=None
            ) as client:
                for _ in range(20):
                    await client.recv()
            counted = await stats_until(
                process, lambda stats: stats["tunnels"] == 12 and stats["total_compressed"] >= 8
            )
            (victim, *_) = before
            os.kill(victim, signal.SIGKILL)
            await until(lambda: len(process.workers) == 2 and victim not in process.workers)
            stats = await stats_until(process, lambda stats: len(stats["workers"]) == 2)
            for key in ("total_compressed", "wire_bytes", "wire_original_bytes"):
                assert stats[key] >= counted[key]
            left = [learner for learner in learners if not learner.listening.done()]
            assert len(left) >= stats["tunnels"] > 0
            await until(lambda: sum(not each.listening.done() for each in learners) < 12)
            for learner in [each for each in learners if not each.listening.done()]:
                await learner.hears_more()
        async with lessons(process.listen, 6):
            pass
    assert "a worker died and is replaced" in log_of(process)


async def test_who_waits_for_a_worker_that_dies_is_served_by_the_next(tmp_path: Path) -> None:
    """Stopped, it accepts nobody; those whom the system gave it are not reset when it is killed."""
    async with tutor() as backend, proxy_process(backend, tmp_path, "--workers", "2") as process:
        victim = process.workers[0]
        os.kill(victim, signal.SIGSTOP)
        url = f"ws://{process.listen}/"
        waiting = [asyncio.create_task(connect(url, proxy=None).__aenter__()) for _ in range(30)]
        done, pending = await asyncio.wait(waiting, timeout=1)
        assert done, "the other worker serves"
        assert pending, "some wait for the one that was stopped"
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(10):
            sockets = await asyncio.gather(*waiting)
        for socket in sockets:
            assert await socket.recv() == bytes(4) + CHUNK
        for socket in sockets:
            socket.transport.abort()  # nobody listens, and closing would wait for that


async def test_a_rolling_restart_cuts_no_sentence_and_refuses_nobody(tmp_path: Path) -> None:
    options = ("--workers", "2", "--drain-timeout", "1", "--drain-idle", "0.2")
    async with (
        tutor() as backend,
        proxy_process(backend, tmp_path, *options) as process,
        lessons(process.listen, 10) as learners,
    ):
        before = set(process.workers)
        answered = 0

        async def arrive() -> None:
            nonlocal answered
            while True:
                async with connect(f"ws://{process.listen}/", proxy=None) as client:
                    assert await client.recv() == bytes(4) + CHUNK
                answered += 1

        arriving = [asyncio.create_task(arrive()) for _ in range(4)]
        os.kill(process.parent, signal.SIGHUP)
        await until(lambda: len(process.workers) == 2 and not before & set(process.workers))
        for task in arriving:
            assert not task.done(), task.exception()
            task.cancel()
        assert answered > 10
        async with asyncio.timeout(10):
            codes = await asyncio.gather(*(learner.listening for learner in learners))
        assert set(codes) == {1001}
        assert (await ask(process.admin, "/readyz")) == {"status": "ready"}


async def test_a_new_configuration_is_read_and_a_wrong_one_is_not_taken(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text("max_connections = 100\n")
    async with (
        tutor() as backend,
        proxy_process(backend, tmp_path, "--config", str(config)) as process,
    ):
        before = process.workers
        config.write_text("max_connections = 0\n")
        os.kill(process.parent, signal.SIGHUP)
        await until(lambda: "configuration not taken" in log_of(process))
        assert "max_connections" in log_of(process)
        assert process.workers == before
        config.write_text("max_connections = 1\n")
        os.kill(process.parent, signal.SIGHUP)
        await until(
            lambda: process.workers and process.workers != before and len(process.workers) == 1
        )
        async with lessons(process.listen, 1), ClientSession() as session:
            async with session.get(f"http://{process.listen}/") as response:
                assert response.status == 503
            assert (await ask(process.admin, "/stats"))["refused"] == 1


@pytest.mark.parametrize("by", ["signal", "request"])
async def test_a_drain_lets_lessons_go_on_while_it_says_that_it_is_not_ready(
    tmp_path: Path, by: str
) -> None:
    options = ("--workers", "2", "--drain-timeout", "2", "--drain-idle", "0.2")
    async with (
        tutor() as backend,
        proxy_process(backend, tmp_path, *options) as process,
        lessons(process.listen, 8) as learners,
        ClientSession() as session,
    ):
        if by == "signal":
            os.kill(process.parent, signal.SIGTERM)
            await until(lambda: "stopping" in log_of(process))
        else:
            async with session.post(f"http://{process.admin}/drain") as response:
                assert (response.status, await response.json()) == (202, {"status": "draining"})
        async with session.get(f"http://{process.admin}/readyz") as response:
            assert (response.status, await response.json()) == (
                503,
                {"error": "the proxy is stopping"},
            )
        for learner in learners:
            await learner.hears_more()
        with pytest.raises(OSError, match="onnect"):
            await connect(f"ws://{process.listen}/", proxy=None)
        async with asyncio.timeout(10):
            assert {await learner.listening for learner in learners} == {1001}


async def test_told_twice_it_ends_at_once(tmp_path: Path) -> None:
    async with (
        tutor() as backend,
        proxy_process(backend, tmp_path, "--drain-timeout", "3600") as process,
        lessons(process.listen, 2) as learners,
    ):
        os.kill(process.parent, signal.SIGTERM)
        await until(lambda: "stopping" in log_of(process))
        for learner in learners:
            await learner.hears_more()
        os.kill(process.parent, signal.SIGTERM)
        async with asyncio.timeout(15):
            await asyncio.gather(*(learner.listening for learner in learners))


async def test_a_run_folder_that_is_gone_costs_figures_and_nobody_the_service(
    tmp_path: Path,
) -> None:
    async with tutor() as backend, proxy_process(backend, tmp_path, "--workers", "2") as process:
        runs = tmp_path / "runs"

        def is_gone() -> bool:  # while workers write to it
            shutil.rmtree(runs, ignore_errors=True)
            return not runs.exists()

        await until(is_gone)
        before = process.workers
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: len(process.workers) == 2 and process.workers != before)
        async with lessons(process.listen, 8) as learners:
            for learner in learners:
                await learner.hears_more()
            assert (await ask(process.admin, "/connections"))["connections"]
        assert (await ask(process.admin, "/stats"))["tunnels"] >= 0
        assert "cannot be shared" in log_of(process)


async def test_a_worker_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """Its connections are missing in the list of the others."""
    async with tutor() as backend, proxy_process(backend, tmp_path, "--workers", "2") as process:
        halted = process.workers[0]
        listed = await ask(process.admin, "/connections")
        assert listed["unreachable"] == []
        os.kill(halted, signal.SIGSTOP)
        try:
            async with asyncio.timeout(20):
                while not (listed := await ask_one(process))["unreachable"]:
                    pass
            assert listed["unreachable"] == [MACHINE]
        finally:
            os.kill(halted, signal.SIGCONT)


async def ask_one(process: Process) -> Any:
    """The connections, if a worker has taken the question that answers."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            return await ask(process.admin, "/connections")
    return {"unreachable": []}


async def test_told_over_and_over_while_it_ends_it_ends_well(tmp_path: Path) -> None:
    async with proxy_process(1, tmp_path) as process:
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(process.parent, signal.SIGTERM)
                await asyncio.sleep(0)


async def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "run", "--backend", "http://127.0.0.1:9"),
        *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", str(tmp_path)),
        *("--workers", "2"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        assert b"serving" in await process.stderr.readline()
    finally:
        process.kill()
    async with asyncio.timeout(15):
        await process.stderr.read()  # ends when nobody has it open any more
        await process.wait()


BROKEN = """
import asyncio, logging, sys
import proxy.workers as workers
from proxy.logs import configure_logs
from proxy.config import Settings, load
async def fail(settings, place):
    raise OSError("no luck")
workers.serve = fail
configure_logs(logging.INFO)
settings = load(Settings, dict(zip(sys.argv[1::2], sys.argv[2::2])))
sys.exit(workers.Supervisor(settings, lambda: settings).run())
"""


async def test_a_worker_that_cannot_start_ends_the_parent_with_a_last_word(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BROKEN, "backend", "http://127.0.0.1:9", "listen", "127.0.0.1:0"),
        *("admin", "127.0.0.1:0", "state_dir", str(tmp_path), "workers", "2"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert b"no worker can start" in said
    assert b"no luck" in said


async def test_a_port_that_another_proxy_has_is_not_shared_with_it(tmp_path: Path) -> None:
    async with proxy_process(9, tmp_path / "one", "--workers", "2") as process:
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "run", "--backend", "http://127.0.0.1:9"),
            *("--listen", str(process.listen), "--admin", "127.0.0.1:0", "--workers", "2"),
            *("--state-dir", str(tmp_path / "two")),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            _, said = await second.communicate()
        assert second.returncode == 2
        assert said.startswith(f"audio-proxy: listen: cannot listen on {process.listen}".encode())


@pytest.mark.parametrize(("hard", "enough"), [(500, 218), (5000, None)])
async def test_too_few_open_files_are_told_of_and_more_are_taken_where_allowed(
    tmp_path: Path, hard: int, enough: int | None
) -> None:
    """1,000 connections need 2,064; a process may have 200 unless it asks for more."""
    prepare = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))  # noqa: E731
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "run", "--backend", "http://127.0.0.1:9"),
        *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", str(tmp_path)),
        *("--max-connections", "1000"),
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=prepare,
    )
    assert process.stderr is not None
    said = b""
    while b"serving" not in said:
        line = await process.stderr.readline()
        assert line, said
        said += line
    (worker,) = children_of(process.pid)
    assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (min(hard, 2064), hard)
    assert (b"max_connections cannot be reached" in said) == (enough is not None)
    if enough is not None:
        assert f"enough_for={enough}".encode() in said
    process.terminate()
    assert b"stopping" in await process.stderr.read()
    assert await process.wait() == 0
