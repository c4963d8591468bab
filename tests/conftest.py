"""Fixtures: a proxy in this process, on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy.app import App
from proxy.config import Settings, load

ON_BOTH_LOOPS = ("tunnel", "http")
"""Folders of tests whose subject behaves by the event loop's transports."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What touches sockets is tested on uvloop, which the proxy runs on, and on asyncio."""
    if item.path.parent.name in ON_BOTH_LOOPS:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


Proxy = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def proxy(tmp_path: Path) -> Proxy:
    """`async with proxy(backend, **settings) as app`: a proxy in front of a port or a URL.

    When it stops, no task and no tunnel may be left.
    """

    @asynccontextmanager
    async def start(backend: int | str, **settings: Any) -> AsyncIterator[App]:
        before = asyncio.all_tasks()
        url = f"http://127.0.0.1:{backend}" if isinstance(backend, int) else backend
        options = {
            "backend": url,
            "listen": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "state_dir": tmp_path / "state",
            **settings,
        }
        async with App(load(Settings, options)) as app:
            yield app
        left = {task for task in asyncio.all_tasks() - before if not task.done()}
        assert not left, f"tasks left: {left}"
        assert not app.tunnels

    return start
