"""Workers that are replaced, stopped and killed while hundreds speak and hundreds more arrive.

The usual run takes a slice; `-m deep` the numbers of issue 4.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from proxy.values import Address
from tests.support import until
from tests.support.lessons import Course, Learner, School
from tests.support.process import Process, proxy_process

PATIENCE = 60
"""Seconds after which a test fails."""
NEW_WORKER = 2
"""Seconds in which who waits for a worker that was killed must be served by another."""
_TOTALS = (
    "total_compressed",
    "total_original_bytes",
    "total_compressed_bytes",
    "wire_original_bytes",
    "wire_bytes",
)


@dataclass(frozen=True)
class Scale:
    """How many, and for how long."""

    speaking: int
    per_second: int
    """New connections."""
    course: Course
    drain_idle: float
    drain_timeout: float
    endless: int
    """Learners whose tutor never pauses."""

    @property
    def options(self) -> tuple[str, ...]:
        idle, timeout = str(self.drain_idle), str(self.drain_timeout)
        return ("--workers", "2", "--drain-idle", idle, "--drain-timeout", timeout)


SLICE = Scale(50, 50, Course(chunks=6, pause=3.0), 1.5, 5, 5)
WHOLE = Scale(200, 200, Course(chunks=24, pause=4.5), 2, 30, 20)
both_scales = pytest.mark.parametrize(
    "scale",
    [pytest.param(SLICE, id="slice"), pytest.param(WHOLE, id="whole", marks=pytest.mark.deep)],
)


async def holders(listen: Address) -> dict[int, int | None]:
    """Which process holds the proxy's end of each connection, by the client's port.

    None: it is in a queue, and no process has accepted it yet.
    """
    process = await asyncio.create_subprocess_exec(
        *("ss", "-tnpH", f"sport = :{listen.port}"), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[int, int | None] = {}
    for line in output.decode().splitlines():
        state, _, _, _, peer, *users = line.split()
        if users or state == "ESTAB":
            pid = re.search(r"pid=(\d+)", users[0]) if users else None
            found[int(peer.rpartition(":")[2])] = int(pid[1]) if pid else None
    return found


async def in_queue(listen: Address) -> set[int]:
    """The ports of those whom no process has accepted."""
    return {port for port, pid in (await holders(listen)).items() if pid is None}


def state_of(pid: int) -> str:
    """A process's state, one letter."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@asynccontextmanager
async def totals_never_fall(process: Process) -> AsyncIterator[list[dict[str, Any]]]:
    """Asks for the statistics all along; gives what has been answered so far."""
    answers: list[dict[str, Any]] = []

    async def ask(session: ClientSession) -> None:
        while True:
            # The worker that has taken the request may be the one that is killed.
            with contextlib.suppress(ClientError, TimeoutError):
                async with session.get(f"http://{process.admin}/stats") as response:
                    assert response.status == 200
                    answers.append(await response.json())
            for before, after in zip(answers[-2:], answers[-1:], strict=False):
                for name in _TOTALS:
                    assert after[name] >= before[name], name
            await asyncio.sleep(0.02)

    connector = TCPConnector(force_close=True)  # each time whichever worker is there
    async with (
        ClientSession(connector=connector, timeout=ClientTimeout(total=1)) as session,
        asyncio.TaskGroup() as group,
    ):
        asking = group.create_task(ask(session))
        yield answers
        asking.cancel()


@both_scales
async def test_neither_replacing_nor_stopping_cuts_anybody_off(
    tmp_path: Path, scale: Scale
) -> None:
    school = School(scale.course)
    async with (
        asyncio.timeout(2 * PATIENCE),
        school.open() as backend,
        proxy_process(backend, tmp_path, *scale.options) as process,
        totals_never_fall(process),
        school.in_session(process.listen, scale.speaking, scale.per_second, Learner.check_goodbye),
    ):
        await until(lambda: len(school.learners) == scale.speaking, PATIENCE)
        first = school.learners[:]
        await until(lambda: all(learner.sentence for learner in first), PATIENCE)

        before = set(process.workers)
        os.kill(process.parent, signal.SIGHUP)
        await until(
            lambda: len(process.workers) == 2 and not before & set(process.workers), PATIENCE
        )
        assert all(learner.ended.done() for learner in first), "somebody is still with the old ones"
        assert {learner.pairs > 0 for learner in first} == {True, False}
        arrived = school.visitors[:]
        await asyncio.gather(*(visitor.ended for visitor in arrived))
        assert all(visitor.is_served for visitor in arrived)

        endless = [await school.join(process.listen, endless=True) for _ in range(scale.endless)]
        await until(lambda: all(learner.chunk for learner in endless))
        last = set(school.present) - set(endless)
        school.is_over = True
        told = asyncio.get_running_loop().time()
        os.kill(process.parent, signal.SIGTERM)
        await asyncio.gather(*(learner.ended for learner in (*last, *endless)))
        for learner in last:
            learner.check_goodbye()
        for learner in endless:
            assert learner.code == 1001
            assert learner.closed_at - told >= scale.drain_timeout
    # Who comes when all stop is refused; who had been let in is served.
    await asyncio.gather(*(visitor.ended for visitor in school.visitors), return_exceptions=True)
    assert all(visitor.is_served for visitor in school.visitors if visitor.is_answered)


@both_scales
async def test_a_worker_that_is_killed_takes_only_its_own_with_it(
    tmp_path: Path, scale: Scale
) -> None:
    school = School(scale.course)
    lost: set[int] = set()  # ports of those whose connection the victim had accepted

    def left(learner: Learner) -> None:
        assert learner.port in lost, "a tunnel of another worker has ended"

    async with (
        asyncio.timeout(2 * PATIENCE),
        school.open() as backend,
        proxy_process(backend, tmp_path, *scale.options) as process,
        totals_never_fall(process) as answers,
        school.in_session(process.listen, scale.speaking, scale.per_second, left),
    ):
        await until(lambda: len(school.learners) == scale.speaking, PATIENCE)
        await until(lambda: all(learner.sentence for learner in school.learners), PATIENCE)
        await until(lambda: bool(answers) and answers[-1]["total_compressed"] > 0)

        victim, other = process.workers
        os.kill(victim, signal.SIGSTOP)
        await until(lambda: state_of(victim) == "T")
        # It accepts nobody any more: what it holds now is what will be lost, and who waits in its
        # queue can be told from that.
        waiting: set[int] = set()
        while len(waiting) < scale.per_second // 2:
            queued = await in_queue(process.listen)
            waiting = queued & await in_queue(process.listen)
        held = await holders(process.listen)
        lost |= {port for port, pid in held.items() if pid == victim}
        spared = [learner for learner in school.present if held.get(learner.port) == other]
        taken = [learner for learner in school.present if learner.port in lost]
        assert spared
        assert taken

        heard = {learner: learner.sentence for learner in spared}
        kept = max(answer["wire_bytes"] for answer in answers)
        os.kill(victim, signal.SIGKILL)
        queue = [visitor for visitor in school.visitors if visitor.port in waiting]
        async with asyncio.timeout(NEW_WORKER):
            await asyncio.gather(*(visitor.ended for visitor in queue))
        await until(lambda: len(process.workers) == 2)
        assert victim not in process.workers
        assert other in process.workers

        await until(lambda: all(learner.ended.done() for learner in taken))
        await until(lambda: all(each.sentence > heard[each] + 1 for each in spared), PATIENCE)
        assert not any(learner.ended.done() for learner in spared)
        await until(lambda: answers[-1]["wire_bytes"] > kept)
        arrived = school.visitors[:]
        await asyncio.wait([visitor.ended for visitor in arrived])
        unserved = {visitor.port for visitor in arrived if not visitor.is_served}
        assert unserved <= lost, "who had not been accepted by it is lost"
    assert any("a worker died and is replaced" in line for line in process.log)
