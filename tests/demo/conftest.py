"""The sample tutor, a proxy in front of it, and Chromium."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright
from websockets.asyncio.client import ClientConnection, connect

from proxy.app import App
from proxy.demo import backend
from proxy.demo.measure import MeteredConnection
from tests.conftest import Proxy
from tests.support import pcm, speech

CHROMIUM = "/usr/bin/chromium"
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

FAST = 200.0
"""Pace of answers whose pace does not matter."""


FORMATS = {
    "pcm": pcm(),
    "wav": speech("speech-22050-s16.wav"),
    "mp3": speech("speech-44100-128k.mp3"),
}


def question(**changes: Any) -> str:
    """What a client sends; `changes` to its fields."""
    return json.dumps({"type": "question", "text": "Why?", "format": "pcm", **changes})


def nothing() -> None:
    """Counts no progress."""


@asynccontextmanager
async def tutor(pace: float = FAST) -> AsyncIterator[ClientConnection]:
    """A connection to the tutor, nothing between."""
    async with (
        backend.serve(pace) as url,
        connect(
            url.replace("http", "ws", 1) + "/ws/tutor",
            create_connection=MeteredConnection,
            compression=None,
        ) as connection,
    ):
        yield connection


@dataclass(frozen=True)
class Stage:
    """A tutor's URL, and the proxy in front of it."""

    backend: str
    app: App

    @property
    def url(self) -> str:
        """The public URL."""
        return f"http://{self.app.listen}"


Staging = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.fixture
def stage(proxy: Proxy) -> Staging:
    """`async with stage(pace) as running`."""

    @asynccontextmanager
    async def start(pace: float = FAST) -> AsyncIterator[Stage]:
        async with backend.serve(pace) as url, proxy(url) as app:
            yield Stage(url, app)

    return start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that logs no error and asks no other host for anything."""
    context = await browser.new_context()
    page = await context.new_page()
    complaints: list[str] = []
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            complaints.append(request.url)
            if not request.url.startswith(("http://127.0.0.1:", "blob:"))
            else None
        ),
    )
    yield page
    await context.close()
    assert not complaints
