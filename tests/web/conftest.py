"""The dashboard of a real proxy in Chromium, and a real backend behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, async_playwright
from websockets.asyncio.client import ClientConnection, connect

from proxy.app import App
from tests.demo.conftest import CHROMIUM, SWITCHES
from tests.support import pcm

DASHBOARD = Path(__file__).parents[2] / "proxy" / "web" / "dashboard"
DESKTOP = {"width": 1440, "height": 900}
CHUNK = 4096
TOKEN = "a-token-of-the-operator"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield browser
        await browser.close()


@asynccontextmanager
async def watched(browser: Browser, **options: Any) -> AsyncIterator[tuple[Page, list[str]]]:
    """A page and what it requests; in the end no other host may have been asked for anything, and
    no script may have failed. Answers that refuse something are no failure."""
    context = await browser.new_context(viewport=DESKTOP, **options)
    page = await context.new_page()
    complaints: list[str] = []
    requests: list[str] = []

    def hear(kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            complaints.append(text)

    page.on("console", lambda message: hear(message.type, message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    yield page, requests
    hosts = {url.split("/")[2] for url in requests}
    await context.close()
    assert not complaints
    assert len(hosts) == 1, f"other hosts were asked: {hosts}"


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page, see `watched`."""
    async with watched(browser) as (page, _):
        yield page


def dashboard(app: App) -> str:
    """Its URL."""
    return f"http://{app.admin}/"


def main_switch(page: Page) -> Locator:
    """What turns compression off everywhere."""
    return page.locator("#enabled")


@pytest.fixture
def chunk_file(tmp_path: Path) -> Path:
    """32 chunks, each of which gzip makes smaller, of which a backend sends as many as asked."""
    path = tmp_path / "chunks.pcm"
    path.write_bytes(pcm()[2000:2256] * (32 * CHUNK // 256))
    return path


class Client:
    """A client that opted in for gzip and asks for chunks when it wants some."""

    def __init__(self, socket: ClientConnection, path: Path) -> None:
        self._socket = socket
        self._path = str(path)

    async def compressed(self, chunks: int = 1) -> list[bool]:
        """Ask for so many chunks. Returns for each whether it came compressed."""
        question = {"path": self._path, "size": CHUNK, "limit": chunks * CHUNK}
        await self._socket.send(json.dumps(question))
        found, announced = [], False
        while (message := await self._socket.recv()) != "end":
            if isinstance(message, bytes):
                found.append(announced)
            announced = isinstance(message, str) and "audio_chunk_compressed" in message
        assert len(found) == chunks
        return found


Learner = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def learner(chunk_file: Path) -> Learner:
    """`async with learner(app, "/ws/tutor") as client`: through the proxy."""

    @asynccontextmanager
    async def start(app: App, path: str = "/ws/tutor") -> AsyncIterator[Client]:
        url = f"ws://{app.listen}{path}?audio_compression=gzip"
        async with connect(url, compression=None, proxy=None) as socket:
            yield Client(socket, chunk_file)

    return start


async def ask(app: App, path: str, method: str = "GET", **options: Any) -> Any:
    """What the admin port answers to another operator."""
    async with (
        aiohttp.ClientSession(f"http://{app.admin}") as session,
        session.request(method, path, **options) as response,
    ):
        assert response.ok, await response.text()
        return await response.json()
