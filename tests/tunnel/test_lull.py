"""Chores are done between bursts of messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from proxy.control.reporting import Reporting
from proxy.control.store import FileStore
from proxy.tunnel.base_leg import now
from proxy.tunnel.lull import lull_after
from proxy.tunnel.registry import Tunnels
from tests.conftest import Proxy
from tests.support import until


class Bursts:
    """In every turn of the event loop, `reading` says whether a leg is read."""

    def __init__(self, length: int, pause: int) -> None:
        """Turns with reads, turns without, for ever."""
        self._length, self._all = length, length + pause
        self._loop = asyncio.get_running_loop()
        self.turn = 0
        self.reading = False

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """While entered."""
        self._handle = self._loop.call_soon(self._go_on)
        try:
            yield
        finally:
            self._handle.cancel()

    def _go_on(self) -> None:
        self.reading = self.turn % self._all < self._length
        if self.reading:
            now()  # as a leg does for each read
        self.turn += 1
        self._handle = self._loop.call_soon(self._go_on)


@pytest.mark.parametrize("length", range(1, 6))
async def test_it_comes_when_a_burst_is_over(length: int) -> None:
    bursts = Bursts(length, 2)
    with bursts.going_on():
        for _ in range(10):
            await lull_after(0)
            assert not bursts.reading


async def test_it_comes_though_the_reading_never_ends() -> None:
    bursts = Bursts(1, 0)
    with bursts.going_on():
        await lull_after(0)
        assert 6 <= bursts.turn <= 10


async def test_it_comes_at_once_where_nothing_is_read() -> None:
    bursts = Bursts(0, 1)
    with bursts.going_on():
        await lull_after(0)
        assert bursts.turn <= 3


async def test_the_chores_of_a_worker_wait_for_it(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts = Bursts(4, 4)
    seen: dict[str, Counter[bool]] = {"refresh": Counter(), "publish": Counter()}
    looks: Counter[bool] = Counter()

    def spy(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def chore(*arguments: Any) -> Any:
            seen[name][bursts.reading] += 1
            return original(*arguments)

        monkeypatch.setattr(owner, name, chore)

    async def look(*_: Any) -> int:
        looks[bursts.reading] += 1
        return 0

    monkeypatch.setattr("proxy.control.store.POLL_INTERVAL", 0.001)
    monkeypatch.setattr("proxy.app.PUBLISH_INTERVAL", 0.001)
    monkeypatch.setattr(Tunnels, "_look", look)
    async with proxy(9, stall_timeout=0.004) as app:
        await until(lambda: bool(looks))  # each has begun
        spy(FileStore, "refresh")
        spy(Reporting, "publish")
        looks.clear()
        with bursts.going_on():
            counts = [looks, *seen.values()]
            await until(lambda: all(count.total() >= 20 for count in counts))
        monkeypatch.undo()
        assert not app.tunnels
    assert not any(count[True] for count in counts)
