"""All tunnels of a worker: looking after them holds nobody up."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from proxy.audio.counters import Counters
from proxy.tunnel.registry import Tunnels
from proxy.tunnel.tunnel import Tunnel
from tests.support import until


@pytest.mark.parametrize("how", ["watch", "drain"])
async def test_others_get_their_turn_while_many_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    loop = asyncio.get_running_loop()
    turns = 0
    looks: list[int] = []  # for each tunnel looked at, the turn of the event loop

    def count() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(count)

    def look(*_: object) -> bool:
        looks.append(turns)
        return False

    monkeypatch.setattr(Tunnel, "overdue", look)
    monkeypatch.setattr(Tunnel, "heard", property(lambda _: (0, look())))
    monkeypatch.setattr(Tunnel, "is_delivering", False)
    monkeypatch.setattr(Tunnel, "backlog", 0)
    monkeypatch.setattr(Tunnel, "take_pauses", lambda _: 0)
    tunnels = Tunnels(stall_timeout=0.004, close_timeout=0.004, counters=Counters())
    for _ in range(1000):
        tunnels.enter()
    looking = tunnels.watch() if how == "watch" else tunnels.drain(loop.time() + 60, 60)
    task = asyncio.create_task(looking)
    count()
    await until(lambda: len(looks) >= 1000)
    task.cancel()
    assert max(Counter(looks).values()) < 100


async def test_the_watch_is_spread_over_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it between the tunnels: none is looked at later than that, all not at once."""
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(Tunnel, "overdue", lambda *_: False)
    monkeypatch.setattr(Tunnel, "backlog", 0)
    monkeypatch.setattr(Tunnel, "take_pauses", lambda _: 0)
    monkeypatch.setattr("proxy.tunnel.registry.lull_after", nap)
    tunnels = Tunnels(stall_timeout=60, close_timeout=60, counters=Counters())
    for _ in range(640):
        tunnels.enter()
    task = asyncio.create_task(tunnels.watch())
    await until(lambda: len(naps) >= 12)
    task.cancel()
    assert naps[:12] == pytest.approx([1.0, *[0.1] * 10, 1.0])
