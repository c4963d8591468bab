"""The operator's page: its figures, its switches, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from proxy.config import AdminSettings
from tests.conftest import Proxy
from tests.support.backends import websockets_backend
from tests.support.process import proxy_process
from tests.support.redis_server import redis_server
from tests.web.conftest import TOKEN, Learner, ask, dashboard, main_switch

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one Chromium for all

PATIENCE = 20_000
"""Milliseconds for what takes long where the machine is busy."""
NOTHING = "\N{EN DASH}"


async def is_figure(page: Page, name: str, value: object) -> None:
    """An exact value, of which the page shows some digits."""
    await expect(page.locator(f"#{name}")).to_have_attribute("value", str(value))


# Figures.


async def test_its_figures_are_those_of_the_statistics(
    proxy: Proxy, page: Page, learner: Learner
) -> None:
    async with websockets_backend() as backend, proxy(backend, price_per_gb=1000) as app:
        await page.goto(dashboard(app))
        await expect(page.locator("#state")).to_have_text("All well")
        async with learner(app) as client, learner(app):
            await client.compressed(32)
            await expect(page.locator("#opted-in")).to_have_text("2")
            await expect(page.locator("#now-saved")).to_have_attribute(
                "value", re.compile("^[1-9]")
            )
            stats = await ask(app, "/stats")

            original, wire = stats["wire_original_bytes"], stats["wire_bytes"]
            assert 0 < wire < original
            await is_figure(page, "total-saved", original - wire)
            await is_figure(page, "total-original", original)
            await expect(page.locator("#total-share")).to_have_text(
                f"{100 * (original - wire) / original:.1f} %"
            )
            await expect(page.locator("#total-money")).to_have_text(
                f"{(original - wire) / 1e6:.2f} USD"
            )
            await expect(page.locator("#now-money")).to_have_text(re.compile(r"\sUSD an hour$"))
            await is_figure(page, "open", 2)
            for outcome, count in stats["chunks"]["gzip"].items():
                row = page.locator(f"#outcomes [data-row={outcome}] data")
                await expect(row).to_have_attribute("value", str(count))
            gzip = page.locator("#open-by-algorithm [data-row=gzip] data")
            await expect(gzip).to_have_attribute("value", "2")
            encoded = page.locator("#encoded-by-algorithm [data-row=gzip] data")
            await expect(encoded.first).to_have_attribute("value", "32")
            await expect(page.locator("#encode-median")).to_have_text(re.compile(r"\d\s(µs|ms)$"))
            machine = page.locator("#machines .machine")
            await expect(machine).to_have_count(1)
            await expect(machine.locator(".health")).to_have_text("well")
            saved = machine.locator(".saved data")
            await expect(saved).to_have_attribute("value", str(original - wire))


async def test_savings_below_nothing_are_shown_as_such(proxy: Proxy, page: Page) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        app.counters.sent(1_000_000, 1_250_000)
        await page.goto(dashboard(app))
        await expect(page.locator("#total-saved")).to_have_text("\N{MINUS SIGN}250 kB")
        await expect(page.locator("#total-share")).to_have_text("\N{MINUS SIGN}25.0 %")


async def test_who_has_no_client_yet_is_told_how_one_opts_in(
    proxy: Proxy, page: Page, learner: Learner
) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        await page.goto(dashboard(app))
        hint = page.locator("#no-traffic")
        await expect(hint).to_contain_text("?audio_compression=flac,gzip")
        await page.get_by_text("Connections", exact=True).click()
        await expect(page.locator("#no-connections")).to_contain_text("No client that opted in")
        async with learner(app):
            await expect(hint).to_be_hidden()
            await expect(page.locator("#no-connections")).to_be_hidden()


# Flags.


async def test_the_switch_reaches_the_next_chunk(
    proxy: Proxy, page: Page, learner: Learner
) -> None:
    async with websockets_backend() as backend, proxy(backend) as app, learner(app) as client:
        await page.goto(dashboard(app))
        await expect(main_switch(page)).to_be_enabled()
        for word, is_on in [("on", True), ("off", False), ("on", True)]:
            await main_switch(page).set_checked(is_on)
            await expect(page.locator("#enabled-text")).to_have_text(word)
            assert await client.compressed() == [is_on]
        flags = await ask(app, "/flags")
        assert (flags["revision"], flags["changed_by"]) == (2, "dashboard")
        await expect(page.locator("#flags-revision")).to_have_text(
            "Revision 2, changed by a dashboard."
        )


async def test_flags_are_typed_and_saved_together(proxy: Proxy, page: Page) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        await page.goto(dashboard(app))
        await page.get_by_label("Least size").fill("2000")
        await page.get_by_label("Least gain").fill("0.1")
        await page.get_by_label("Roll-out in percent").fill("40")
        await page.get_by_label("Shadow mode").check()
        await page.get_by_role("checkbox", name="opus").uncheck()
        await page.get_by_role("radio", name="3").check()
        await page.get_by_label("Other flags").fill('{"/ws/exam/*": {"enabled": false}}')
        before = await ask(app, "/flags")
        assert before["revision"] == 0
        await page.get_by_role("button", name="Save 7 changes").click()
        await expect(page.locator("#flags-message")).to_have_text("Saved, revision 1.")
        assert await ask(app, "/flags") == {
            **before,
            "min_size": 2000,
            "min_gain": 0.1,
            "rollout_percent": 40,
            "shadow": True,
            "algorithms": ["gzip", "flac"],
            "level": 3,
            "paths": {"/ws/exam/*": {"enabled": False}},
            "revision": 1,
            "changed_by": "dashboard",
        }
        await expect(page.locator("#mode")).to_contain_text("Shadow mode is on")


async def test_what_is_refused_is_said_beside_the_flag(proxy: Proxy, page: Page) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        await page.goto(dashboard(app))
        await page.get_by_label("Least gain").fill("2")
        await page.get_by_label("Other flags").fill("{")
        await page.get_by_role("button", name="Save").click()
        await expect(page.locator("#min_gain-error")).to_contain_text("less than 1")
        await expect(page.locator("#paths-error")).to_contain_text("JSON is expected")
        await expect(page.get_by_label("Least gain")).to_be_focused()
        await expect(page.get_by_label("Least gain")).to_have_value("2")
        assert (await ask(app, "/flags"))["revision"] == 0
        await page.get_by_role("button", name="Discard").click()
        await expect(page.get_by_label("Least gain")).to_have_value("0.03")
        await expect(page.locator("#min_gain-error")).to_be_empty()


async def no_statistics(page: Page) -> None:
    """From now on /stats is not answered, so the page learns nothing by itself."""
    asked = asyncio.Event()

    async def refuse(route: Route) -> None:
        asked.set()
        await route.abort()

    await page.route("**/stats", refuse)
    await asked.wait()  # what was asked before is over


async def test_a_conflict_is_told_and_what_was_typed_stays(proxy: Proxy, page: Page) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        await page.goto(dashboard(app))
        await page.get_by_label("Least size").fill("2000")
        await no_statistics(page)
        await ask(app, "/flags", "PATCH", json={"level": 3})
        await page.get_by_role("button", name="Save").click()
        message = page.locator("#flags-message")
        await expect(message).to_contain_text(
            "The admin port was faster, revision 1: level is 3 now, it was 1."
        )
        await expect(page.get_by_label("Least size")).to_have_value("2000")
        await expect(page.get_by_role("radio", name="3")).to_be_checked()
        assert (await ask(app, "/flags"))["min_size"] == 1024
        await page.get_by_role("button", name="Save").click()
        await expect(message).to_have_text("Saved, revision 2.")
        flags = await ask(app, "/flags")
        assert (flags["min_size"], flags["level"]) == (2000, 3)


async def test_a_conflict_at_the_switch_is_told(proxy: Proxy, page: Page) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        await page.goto(dashboard(app))
        await expect(main_switch(page)).to_be_checked()
        await no_statistics(page)
        await ask(app, "/flags", "PATCH", json={"level": 2})
        await main_switch(page).click()
        await expect(page.locator("#switch-message")).to_contain_text("admin port was faster")
        await expect(main_switch(page)).to_be_checked()
        assert (await ask(app, "/flags"))["enabled"]
        await main_switch(page).click()
        await expect(page.locator("#enabled-text")).to_have_text("off")
        await expect(page.locator("#switch-message")).to_be_empty()


async def test_changes_of_others_are_shown_also_while_something_is_typed(
    proxy: Proxy, page: Page
) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        await page.goto(dashboard(app))
        await page.get_by_label("Least size").fill("2000")
        await ask(app, "/flags", "PATCH", json={"min_size": 512, "enabled": False})
        await expect(page.locator("#flags-message")).to_contain_text("min_size is 512 now")
        await expect(page.locator("#enabled-text")).to_have_text("off")
        await expect(page.get_by_label("Least size")).to_have_value("2000")
        await expect(page.locator("[data-flag=min_size] .now")).to_contain_text("in force: 512")


async def test_its_own_switch_is_nobody_else(proxy: Proxy, page: Page) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        await page.goto(dashboard(app))
        await page.get_by_label("Least size").fill("2000")
        await main_switch(page).click()
        await expect(page.locator("#flags-revision")).to_contain_text("Revision 1")
        await expect(page.locator("#flags-message")).to_be_empty()
        await page.get_by_role("button", name="Save 1 change").click()
        await expect(page.locator("#flags-message")).to_have_text("Saved, revision 2.")


# Connections.


async def test_one_connection_is_switched_off_and_on(
    proxy: Proxy, page: Page, learner: Learner
) -> None:
    async with (
        websockets_backend() as backend,
        proxy(backend) as app,
        learner(app, "/ws/one") as one,
        learner(app, "/ws/other") as other,
    ):
        assert await one.compressed() == await other.compressed() == [True]
        await page.goto(dashboard(app))
        await page.get_by_text("Connections", exact=True).click()
        switch = page.get_by_role("switch", name="Compression of /ws/one")
        await switch.focus()
        for is_on in (False, True):
            await page.keyboard.press("Space")
            said = page.locator("#connections-message")
            await expect(said).to_contain_text(f"is {'on' if is_on else 'off'} for /ws/one")
            assert await one.compressed() == [is_on]
            assert await other.compressed() == [True]
        await expect(page.locator("#connection-table tbody tr")).to_have_count(2)
        await expect(switch).to_be_focused()


async def test_a_connection_that_has_ended_is_told_so(
    proxy: Proxy, page: Page, learner: Learner
) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        await page.goto(dashboard(app))
        async with learner(app, "/ws/one"):
            stale = await ask(app, "/connections")
        await page.route("**/connections?*", lambda route: route.fulfill(json=stale))
        await page.get_by_text("Connections", exact=True).click()
        await page.get_by_role("switch", name="Compression of /ws/one").click()
        said = page.locator("#connections-message")
        await expect(said).to_contain_text("there is no such connection, or it has ended")
        async with page.expect_response("**/connections?*"):
            pass
        await expect(said).to_contain_text("Not switched off: /ws/one")
        await expect(page.get_by_role("switch", name="Compression of /ws/one")).to_be_checked()


async def test_connections_are_filtered_sorted_and_paged_by_the_proxy(
    proxy: Proxy, page: Page, learner: Learner
) -> None:
    rows = page.locator("#connection-table tbody tr")
    async with (
        websockets_backend() as backend,
        proxy(backend) as app,
        AsyncExitStack() as learners,
    ):
        for number in range(60):
            await learners.enter_async_context(learner(app, f"/ws/{number:02}"))
        await page.goto(dashboard(app))
        await page.get_by_text("Connections", exact=True).click()
        await expect(page.locator("#page")).to_have_text("1\N{EN DASH}50 of 60")
        await page.get_by_role("button", name="Path").click()
        await expect(rows.first.locator(".path")).to_contain_text("/ws/59")
        await page.get_by_role("button", name="Path").click()
        await expect(rows.first.locator(".path")).to_contain_text("/ws/00")
        path_header = page.get_by_role("columnheader", name="Path")
        await expect(path_header).to_have_attribute("aria-sort", "ascending")
        await page.get_by_role("button", name="Next").click()
        await expect(page.locator("#page")).to_have_text("51\N{EN DASH}60 of 60")
        await expect(rows).to_have_count(10)
        await page.locator("#filter [name=path]").fill("/ws/1")
        await expect(page.locator("#page")).to_have_text("1\N{EN DASH}10 of 10")
        await page.locator("#filter [name=algorithm]").select_option("flac")
        await expect(page.locator("#no-connections")).to_contain_text("widen it")


# What is wrong.


async def test_redis_killed_is_told_until_it_is_back(page: Page, tmp_path: Path) -> None:
    async with (
        redis_server() as server,
        websockets_backend() as backend,
        proxy_process(backend, tmp_path / "state", "--store", server.url) as process,
    ):
        await page.goto(f"http://{process.admin}/")
        await expect(page.locator("#all-well")).to_contain_text("flags from redis")
        await server.kill()
        warning = page.locator("#problems li")
        await expect(warning).to_contain_text("The flag store is away", timeout=PATIENCE)
        await expect(page.locator("#state")).to_have_text("1 warning")
        await main_switch(page).click()
        await expect(page.locator("#switch-message")).to_contain_text("was not switched off")
        await expect(main_switch(page)).to_be_checked()
        await server.start()
        await expect(warning).to_have_count(0, timeout=PATIENCE)
        await expect(page.locator("#state")).to_have_text("All well")
        await main_switch(page).click()
        await expect(page.locator("#enabled-text")).to_have_text("off")


async def test_a_worker_that_dies_is_told_until_it_is_dismissed(page: Page, tmp_path: Path) -> None:
    async with (
        websockets_backend() as backend,
        proxy_process(backend, tmp_path / "state", "--workers", "2") as process,
    ):
        await page.goto(f"http://{process.admin}/")
        await expect(page.locator("#machines .worker")).to_have_count(2)
        os.kill(process.workers[0], signal.SIGKILL)
        warning = page.locator("#problems li")
        await expect(warning).to_contain_text("1 worker died", timeout=PATIENCE)
        await expect(page.locator("#machines .restarts data").first).to_have_text("1")
        await page.get_by_role("button", name="Dismiss").click()
        await expect(warning).to_have_count(0)


async def test_errors_that_rise_and_flags_that_are_broken_are_told(
    proxy: Proxy, page: Page, tmp_path: Path
) -> None:
    async with websockets_backend() as backend, proxy(backend) as app:
        app.counters.cell("flac", "pcm").errors += 1  # before anybody looked
        await page.goto(dashboard(app))
        await expect(page.locator("#state")).to_have_text("All well")
        app.counters.cell("gzip", "pcm").errors += 2
        await expect(page.locator("#problems li")).to_contain_text("Encoding failed 2 times")
        flags = AdminSettings(state_dir=tmp_path / "state").flags_file
        flags.write_text("{")
        await expect(page.locator("#problems li").first).to_contain_text("is not in force")
        await expect(page.locator("#state")).to_have_text("2 warnings")


async def test_a_proxy_that_does_not_answer_is_told(proxy: Proxy, page: Page) -> None:
    async with websockets_backend() as backend:
        async with proxy(backend) as app:
            await page.goto(dashboard(app))
            await expect(page.locator("#state")).to_have_text("All well")
        await expect(page.locator("#problems li")).to_contain_text("has not answered since")
        await expect(page.locator("#now-saved")).to_have_text(NOTHING)
        async with proxy(backend, admin=str(app.admin)):
            await expect(page.locator("#state")).to_have_text("All well")


# The token.


async def test_the_token_is_asked_for_once(proxy: Proxy, page: Page) -> None:
    async with websockets_backend() as backend, proxy(backend, admin_token=TOKEN) as app:
        await page.goto(dashboard(app))
        dialog = page.get_by_role("dialog")
        await expect(page.get_by_label("Token", exact=True)).to_be_focused()
        await page.keyboard.press("Escape")
        await page.keyboard.press("Escape")
        await page.get_by_label("Token", exact=True).fill("another")
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("alert")).to_have_text("This token is wrong. Try again.")
        await expect(page.locator("#state")).not_to_have_text("All well")
        await page.get_by_label("Token", exact=True).fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(dialog).to_be_hidden()
        await expect(page.locator("#state")).to_have_text("All well")
        await main_switch(page).click()
        await expect(page.locator("#enabled-text")).to_have_text("off")
        await page.reload()
        await expect(page.locator("#state")).to_have_text("All well")
        await expect(dialog).to_be_hidden()
