"""Three machines of two workers each, and a real Redis server that fails in every way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from isal import isal_zlib
from websockets.asyncio.client import ClientConnection, connect

from proxy.values import Address
from tests.support import until
from tests.support.process import Process, proxy_process
from tests.support.redis_server import RedisServer, redis_server, relay
from tests.test_workers import CHUNK, tutor

MACHINES = 3
WORKERS = 2
PROMISE = 1.0
"""Seconds in which a flag is in force everywhere."""
RETURN = 5.0
"""The same, once Redis is back."""
GROWTH = 16 * 1024 * 1024
"""Bytes that a worker may grow by, in all the tests of one run."""


class Learner:
    """Listens, and checks that no chunk is missing."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard = 0
        self.is_compressed = False
        """Whether the last chunk was."""
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        announced = False
        async for message in self.socket:
            if isinstance(message, str):
                announced = True
                continue
            data = isal_zlib.decompress(message, 31) if announced else message
            assert data == self.heard.to_bytes(4, "big") + CHUNK, "a chunk is lost"
            self.is_compressed, announced = announced, False
            self.heard += 1


class Fleet:
    """All machines, and those who listen."""

    def __init__(self, machines: list[Process], session: ClientSession) -> None:
        self.machines = machines
        self.learners: list[Learner] = []
        self._session = session

    async def get(self, number: int, path: str) -> Any:
        async with self._session.get(f"http://{self.machines[number].admin}{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def set(self, number: int, **flags: Any) -> tuple[int, Any]:
        url = f"http://{self.machines[number].admin}/flags"
        async with self._session.patch(url, json=flags) as response:
            return response.status, await response.json()

    async def is_ready(self) -> bool:
        for machine in self.machines:
            async with self._session.get(f"http://{machine.admin}/readyz") as response:
                if response.status != 200:
                    return False
        return True

    async def stores(self) -> set[str]:
        """What the machines say of their store."""
        return {(await self.get(number, "/stats"))["store"]["state"] for number in range(MACHINES)}

    async def see(self, *, compressed: bool) -> float:
        """Wait until all learners hear it so. Returns seconds."""
        start = time.perf_counter()
        await until(lambda: all(each.is_compressed is compressed for each in self.learners), 30)
        return time.perf_counter() - start

    async def hears_more(self) -> None:
        heard = {each: each.heard for each in self.learners}
        await until(lambda: all(each.heard > heard[each] + 2 for each in self.learners), 30)

    def memory(self) -> list[int]:
        """Resident bytes of each worker."""
        pids = [pid for machine in self.machines for pid in machine.workers]
        return [int(Path(f"/proc/{p}/statm").read_text().split()[1]) * 4096 for p in pids]


async def join(listen: Address) -> Learner:
    url = f"ws://{listen}/?audio_compression=gzip"
    return Learner(await connect(url, proxy=None, compression=None))


@asynccontextmanager
async def fleet(redis: str, tmp_path: Path, learners: int) -> AsyncIterator[Fleet]:
    """Machines with `learners` in all, in every worker at least one."""
    async with contextlib.AsyncExitStack() as stack:
        backend = await stack.enter_async_context(tutor())
        machines = [
            await stack.enter_async_context(
                proxy_process(
                    backend,
                    tmp_path / str(number),
                    *("--workers", str(WORKERS), "--store", redis),
                )
            )
            for number in range(MACHINES)
        ]
        session = await stack.enter_async_context(ClientSession())
        found = Fleet(machines, session)
        stack.push_async_callback(_leave, found)
        while len(found.learners) < learners or not await _all_workers_are_met(found):
            machine = machines[len(found.learners) % MACHINES]
            found.learners.append(await join(machine.listen))
        yield found
        for each in found.learners:
            assert not each.listening.done(), each.listening.exception()


async def _leave(found: Fleet) -> None:
    for each in found.learners:
        each.listening.cancel()
        await each.socket.close()


async def _all_workers_are_met(found: Fleet) -> bool:
    rows = (await found.get(0, "/connections?limit=500"))["connections"]
    return len({row["worker"] for row in rows}) == MACHINES * WORKERS


@pytest.mark.parametrize(
    "flips", [pytest.param(10, id="slice"), pytest.param(100, id="whole", marks=pytest.mark.deep)]
)
async def test_a_flag_is_in_force_in_all_workers_within_a_second(
    flips: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen where it matters: in what learners of every worker hear."""
    async with redis_server() as redis, fleet(redis.url, tmp_path, 12) as found:
        took = []
        await found.see(compressed=True)
        for number in range(flips):
            on = number % 2 == 1
            status, answer = await found.set(number % MACHINES, enabled=on)
            assert (status, answer["enabled"]) == (200, on)
            took.append(await found.see(compressed=on))
        assert max(took) <= PROMISE
        with capsys.disabled():
            print(
                f"\n{flips} flips, 6 workers, {len(found.learners)} learners: median "
                f"{statistics.median(took) * 1e3:.0f} ms, longest {max(took) * 1e3:.0f} ms"
            )
        revisions = {(await found.get(n, "/flags"))["revision"] for n in range(MACHINES)}
        assert len(revisions) == 1


Trouble = Callable[[RedisServer, Any], Any]


async def kill(redis: RedisServer, line: Any) -> None:
    await redis.kill()


async def start(redis: RedisServer, line: Any) -> None:
    await redis.start()


async def halt(redis: RedisServer, line: Any) -> None:
    redis.stop()


async def go_on(redis: RedisServer, line: Any) -> None:
    redis.cont()


async def cut(redis: RedisServer, line: Any) -> None:
    line.drop()


async def stall(redis: RedisServer, line: Any) -> None:
    line.stall()


async def mend(redis: RedisServer, line: Any) -> None:
    line.resume()


@pytest.mark.parametrize(
    "troubles",
    [
        pytest.param(((kill, start), (stall, mend)), id="slice"),
        pytest.param(
            ((kill, start), (cut, mend), (halt, go_on), (stall, mend)) * 3,
            id="whole",
            marks=pytest.mark.deep,
        ),
    ],
)
async def test_whatever_redis_does_no_lesson_notices(
    troubles: tuple[tuple[Trouble, Trouble], ...], tmp_path: Path
) -> None:
    """50 learners listen all along; each of them checks every chunk."""
    async with (
        redis_server() as redis,
        relay(redis.port) as line,
        fleet(line.url, tmp_path, 50) as found,
    ):
        await found.see(compressed=True)
        before, on = found.memory(), True
        for begin, end in troubles:
            await begin(redis, line)
            async with asyncio.timeout(30):
                while await found.stores() != {"disconnected"}:  # noqa: ASYNC110  # of another process
                    await asyncio.sleep(0.05)
            assert await found.is_ready()
            await found.hears_more()
            status, answer = await found.set(0, enabled=not on)
            assert status == 503, answer
            assert all(each.is_compressed is on for each in found.learners)
            stats = await found.get(1, "/stats")
            assert [each["is_self"] for each in stats["machines"]] == [True]
            assert stats["store"]["error"] is None or "redis" in stats["store"]["error"].lower()
            assert (await found.get(2, "/connections?limit=1"))["total"] > 0

            await end(redis, line)
            returned = time.perf_counter()
            async with asyncio.timeout(RETURN):
                while (await found.set(1, enabled=not on))[0] != 200:  # noqa: ASYNC110  # of another process
                    await asyncio.sleep(0.05)
                on = not on
                await found.see(compressed=on)
            async with asyncio.timeout(30):
                while len((await found.get(0, "/stats"))["machines"]) < MACHINES:  # noqa: ASYNC110  # of another process
                    await asyncio.sleep(0.05)
            assert time.perf_counter() - returned < 30
            await found.hears_more()

        line.delay = 0.2  # it is slow
        assert (await found.set(2, enabled=not on))[0] in (200, 503)
        await found.hears_more()
        line.delay = 0.0
        growth = [after - then for after, then in zip(found.memory(), before, strict=True)]
        assert max(growth) < GROWTH


async def test_the_fleet_is_one_for_its_operator(tmp_path: Path) -> None:
    """Statistics, connections and switches, whichever machine is asked."""
    async with redis_server() as redis, fleet(redis.url, tmp_path, 12) as found:
        await found.see(compressed=True)
        async with asyncio.timeout(10):  # the others tell of themselves once a second
            while (stats := await found.get(0, "/stats"))["tunnels"] < len(found.learners):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert len(stats["machines"]) == MACHINES
        assert len(stats["workers"]) == MACHINES * WORKERS
        assert stats["store"] == {"kind": "redis", "state": "connected", "error": None}
        assert stats["open"]["gzip"] == stats["tunnels"] == len(found.learners)

        pages = [await found.get(number, "/connections?limit=500") for number in range(MACHINES)]
        ids = [sorted(row["id"] for row in page["connections"]) for page in pages]
        assert ids[0] == ids[1] == ids[2]
        assert len(set(ids[0])) == pages[0]["total"] == len(found.learners)
        for page in pages:
            own = [row for row in page["connections"] if row["address"] is not None]
            assert len({row["id"].partition("-")[0] for row in own}) == 1, "an address left home"
            assert own

        far = next(row for row in pages[0]["connections"] if row["address"] is None)
        url = f"http://{found.machines[0].admin}/connections/{far['id']}"
        async with ClientSession() as session:
            async with session.patch(url, json={"enabled": False}) as response:
                assert (await response.json())["enabled"] is False
            await until(lambda: sum(not each.is_compressed for each in found.learners) == 1)
            async with session.patch(url, json={"enabled": True}) as response:
                assert response.status == 200
        await found.see(compressed=True)

        keys = await _everything_in(redis)
        assert "127.0.0.1" not in json.dumps(keys)


async def _everything_in(redis: RedisServer) -> dict[str, str]:
    from redis.asyncio import Redis

    client = Redis.from_url(redis.url, decode_responses=True)
    try:
        found = {}
        for key in await client.keys("*"):
            kind = await client.type(key)
            value = await client.smembers(key) if kind == "set" else await client.get(key)
            found[key] = str(value)
        return found
    finally:
        await client.aclose()
