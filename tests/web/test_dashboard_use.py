"""The dashboard does not ask too much, fits every screen, and everybody can use it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from proxy.config import AdminSettings
from tests.conftest import Proxy
from tests.support.backends import websockets_backend
from tests.web.conftest import TOKEN, Learner, dashboard, main_switch, watched

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one Chromium for all

AXE = Path(__file__).parents[1] / "support" / "node" / "node_modules" / "axe-core" / "axe.min.js"


# Polling.


async def test_it_asks_one_at_a_time_however_slow_the_answers_are(proxy: Proxy, page: Page) -> None:
    waiting = most = answered = 0
    enough = asyncio.Event()

    async def slow(route: Route) -> None:
        nonlocal waiting, most, answered
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(1.2)  # longer than it waits between two
        waiting -= 1
        answered += 1
        if answered == 2:
            enough.set()
        await route.continue_()

    async with websockets_backend() as backend, proxy(backend) as app:
        await page.route("**/stats", slow)
        await page.goto(dashboard(app))
        await enough.wait()
        await page.unroute_all(behavior="wait")
    assert most == 1


HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_it_asks_nothing_while_it_is_hidden(proxy: Proxy, browser: Browser) -> None:
    async with (
        websockets_backend() as backend,
        proxy(backend) as app,
        watched(browser) as (page, requests),
    ):
        await page.clock.install()
        await page.goto(dashboard(app))
        await expect(page.locator("#state")).to_have_text("All well")
        await page.get_by_text("Connections", exact=True).click()
        await page.clock.run_for(1000)
        await expect(page.locator("#no-connections")).to_be_visible()
        await page.evaluate(HIDE, True)
        await page.clock.run_for(100)  # a turn that had begun
        seen = len(requests)
        await page.clock.run_for(60_000)
        assert len(requests) == seen
        await page.evaluate(HIDE, False)
        async with page.expect_request("**/stats"), page.expect_request("**/connections?*"):
            await page.clock.run_for(100)


async def test_connections_are_asked_for_only_while_their_section_is_open(
    proxy: Proxy, browser: Browser
) -> None:
    async with (
        websockets_backend() as backend,
        proxy(backend) as app,
        watched(browser) as (page, requests),
    ):
        await page.goto(dashboard(app))
        await expect(page.locator("#state")).to_have_text("All well")
        async with page.expect_request("**/stats"):
            assert not any("/connections?" in url for url in requests)
        async with page.expect_request("**/connections?*"):
            await page.get_by_text("Connections", exact=True).click()


# Everybody can use it.


async def serious(page: Page) -> list[str]:
    """What axe-core finds serious or critical."""
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{finding['id']}: {node['html']} {node['failureSummary']}"
        for finding in found["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_and_everybody_can_use_it(
    proxy: Proxy, page: Page, learner: Learner, scheme: Any, tmp_path: Path
) -> None:
    await page.emulate_media(color_scheme=scheme)
    async with websockets_backend() as backend, proxy(backend, price_per_gb=0.08) as app:
        await page.goto(dashboard(app))
        await expect(page.locator("#no-traffic")).to_be_visible()
        assert await serious(page) == []  # nobody is there yet
        async with learner(app, "/ws/a-rather-long-path/of-a/lesson") as client, learner(app):
            await client.compressed(32)
            app.counters.cell("gzip", "pcm").errors += 1
            AdminSettings(state_dir=tmp_path / "state").flags_file.write_text("{")
            await expect(page.locator("#state")).to_have_text("2 warnings")
            await page.get_by_label("Least gain").fill("2")
            await page.get_by_role("button", name="Save").click()
            await expect(page.locator("#min_gain-error")).not_to_be_empty()
            await page.get_by_text("Connections", exact=True).click()
            await expect(page.locator("#connection-table tbody tr")).to_have_count(2)
            for width in (360, 768, 1440):
                await page.set_viewport_size({"width": width, "height": 740})
                # A chart hears of its new size one frame later.
                await page.wait_for_function(
                    "width => document.documentElement.scrollWidth <= width", arg=width
                )
                assert await serious(page) == []
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 3 * 128) == (scheme == "dark")


async def test_the_token_dialog_is_for_everybody(proxy: Proxy, page: Page) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    async with websockets_backend() as backend, proxy(backend, admin_token=TOKEN) as app:
        await page.goto(dashboard(app))
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert await serious(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_the_keyboard_reaches_the_switch_and_the_focus_is_seen(
    proxy: Proxy, page: Page
) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        await page.goto(dashboard(app))
        await expect(main_switch(page)).to_be_enabled()
        await page.keyboard.press("Tab")
        await expect(page.locator("#state")).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(main_switch(page)).to_be_focused()
        outline = "(element) => getComputedStyle(element).outlineStyle"
        assert await main_switch(page).evaluate(outline) == "solid"
        await page.keyboard.press("Space")
        await expect(page.locator("#enabled-text")).to_have_text("off")


async def test_what_is_read_aloud_does_not_change_every_second(
    proxy: Proxy, page: Page, learner: Learner
) -> None:
    """Live regions stay as they are while figures change."""
    async with websockets_backend() as backend, proxy(backend) as app, learner(app) as client:
        await page.goto(dashboard(app))
        await expect(page.locator("#state")).to_have_text("All well")
        await page.evaluate(
            """() => {
              window.spoken = [];
              const observer = new MutationObserver((all) => window.spoken.push(all.length));
              const all = { childList: true, characterData: true, subtree: true };
              const regions = document.querySelectorAll("[role=status], [role=alert], [aria-live]");
              regions.forEach((region) => observer.observe(region, all));
            }"""
        )
        app.counters.cell("gzip", "pcm").errors += 1
        await expect(page.locator("#announcement")).to_contain_text("Encoding failed 1 time")
        for chunks in range(1, 4):
            app.counters.cell("gzip", "pcm").errors += 1
            await client.compressed(chunks)
            await expect(page.locator("#problems li")).to_contain_text(f"failed {chunks + 1} times")
        assert await page.evaluate("window.spoken.length") == 1
