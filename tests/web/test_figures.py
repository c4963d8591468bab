"""The dashboard's pure modules: how figures are written, and what follows from /stats."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Route

from proxy.audio.counters import SECONDS, Histogram
from tests.web.conftest import DASHBOARD

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one Chromium for all

MINUS = "\N{MINUS SIGN}"

Run = Callable[..., Awaitable[Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(browser: Browser) -> AsyncIterator[Run]:
    """`await run("format.js", "bytes(given)", 12)`: an expression among what a module exports."""
    page = await browser.new_page()

    async def serve(route: Route) -> None:
        file = DASHBOARD / Path(route.request.url).name
        if file.suffix == ".js":
            await route.fulfill(path=file, content_type="text/javascript")
        else:
            await route.fulfill(body="", content_type="text/html")

    await page.route("http://modules/**", serve)
    await page.goto("http://modules/")

    async def evaluate(module: str, expression: str, given: Any = None) -> Any:
        body = f"with (module) return {expression}"
        found = await page.evaluate(
            """async ([file, body, given]) => {
              const module = await import(`/${file}`);
              return new Function("module", "given", body)(module, given);
            }""",
            [module, body, given],
        )
        return found.replace("\N{NO-BREAK SPACE}", " ") if isinstance(found, str) else found

    yield evaluate
    await page.close()


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("bytes(0)", "0 B"),
        ("bytes(999)", "999 B"),
        ("bytes(999.6)", "1.00 kB"),
        ("bytes(1234567)", "1.23 MB"),
        ("bytes(99950000)", "100 MB"),
        ("bytes(999500)", "1.00 MB"),
        ("bytes(262e9)", "262 GB"),
        ("bytes(5e18)", "5000 PB"),
        ("bytes(-1500)", f"{MINUS}1.50 kB"),
        ("bytes(-0.2)", "0 B"),
        ("rate(2500)", "2.50 kB/s"),
        ("percent(0.1824)", "18.2 %"),
        ("percent(-0.25)", f"{MINUS}25.0 %"),
        ("percent(-0.0001)", "0.0 %"),
        ("count(1234567)", "1,234,567"),
        ("shortCount(99999)", "99,999"),
        ("shortCount(123456)", "123 k"),
        ("shortCount(54600000)", "54.6 M"),
        ("money(3.871, 'USD')", "3.87 USD"),
        ("money(-12, 'EUR')", f"{MINUS}12.00 EUR"),
        ("money(0, 'USD')", "0.00 USD"),
        ("money(0.0004, 'USD')", "under 0.01 USD"),
        ("moment(0.000123)", "123 µs"),
        ("moment(0.0034)", "3.40 ms"),
        ("moment(1.2)", "1.20 s"),
        ("duration(59.9)", "59 s"),
        ("duration(240)", "4 min"),
        ("duration(7500)", "2 h 5 min"),
        ("duration(273600)", "3 d 4 h"),
        ("duration(-3)", "0 s"),
        ("plural(1, 'worker')", "1 worker"),
        ("plural(1200, 'worker')", "1,200 workers"),
    ],
)
async def test_figures_are_written_for_people(run: Run, expression: str, text: str) -> None:
    assert await run("format.js", expression) == text


async def test_a_time_of_another_day_has_its_date(run: Run) -> None:
    at = "new Date(2026, 10, 27, 8, 5, 9)"
    assert await run("format.js", f"clock({at}, new Date(2026, 10, 27, 23, 0, 0))") == "08:05:09"
    assert await run("format.js", f"clock({at}, new Date(2026, 10, 28))") == "27 Nov 08:05:09"


async def test_savings_may_be_less_than_nothing(run: Run) -> None:
    assert await run("measure.js", "savings(200, 150)") == {"bytes": 50, "share": 0.25}
    assert await run("measure.js", "savings(200, 250)") == {"bytes": -50, "share": -0.25}
    assert await run("measure.js", "savings(0, 0)") == {"bytes": 0, "share": None}


def histogram(*seconds: float) -> dict[str, Any]:
    """As /stats shows one."""
    counted = Histogram()
    for each in seconds:
        counted.add(each)
    return {"le": list(SECONDS), "counts": counted.counts}


@pytest.mark.parametrize(
    ("share", "seconds", "value", "is_beyond"),
    [
        (0.5, [0.0003] * 10, 0.00035, False),  # the middle of the bucket from 0.2 to 0.5 ms
        (0.5, [0.00001], 0.00001, False),
        (0.99, [0.0003] * 98 + [0.015] * 2, 0.015, False),
        (0.99, [0.0003] * 98 + [100.0] * 2, 5.0, True),
    ],
)
async def test_quantiles_are_estimated_within_their_buckets(
    run: Run, share: float, seconds: list[float], value: float, is_beyond: bool
) -> None:
    found = await run("measure.js", "quantile(given[0], given[1])", [share, histogram(*seconds)])
    assert found["seconds"] == pytest.approx(value)
    assert found["isBeyond"] == is_beyond


async def test_a_histogram_of_nothing_has_no_quantile(run: Run) -> None:
    assert await run("measure.js", "quantile(0.5, given)", histogram()) is None


def answer(encode: dict[str, Any], **machines: tuple[int, int]) -> dict[str, Any]:
    """What of /stats the history keeps; `machines`: bytes before and after, by run."""
    rows = [
        {"run": run, "wire_original_bytes": original, "wire_bytes": wire}
        for run, (original, wire) in machines.items()
    ]
    return {"machines": rows, "encode_seconds": encode}


HISTORY = """(() => {
  const history = new History();
  return given.map(([at, stats]) => {
    history.add(at, stats);
    return { now: history.now, columns: history.columns, encoded: counted(history.encode) };
  });
})()"""


async def test_now_is_the_average_of_the_last_seconds(run: Run) -> None:
    answers = [(at, answer(histogram(), a=(1000 * at**2, 500 * at**2))) for at in range(10)]
    found = await run("measure.js", HISTORY, answers)
    assert found[0]["now"] is None
    assert found[1]["now"] == {"original": 1000, "wire": 500}
    assert found[9]["now"] == {"original": 13_000, "wire": 6500}  # (81 - 16) / 5
    ages, before, after = found[9]["columns"]
    assert ages == list(range(-9, 1))
    assert (before[:2], before[-1], after[-1]) == ([None, 1000], 13_000, 6500)


async def test_a_rest_is_a_gap_and_no_average(run: Run) -> None:
    times = [0, 1, 500, 501]
    answers = [(at, answer(histogram(*[0.001] * at), a=(at, at))) for at in times]
    found = await run("measure.js", HISTORY, answers)
    assert [each["now"] is None for each in found] == [True, False, True, False]
    assert found[3]["columns"][0] == [-1, 0]  # what is older is not shown
    assert [each["encoded"] for each in found] == [0, 1, 0, 1]


async def test_a_machine_that_comes_or_goes_is_no_traffic(run: Run) -> None:
    answers = [
        (0, answer(histogram(0.1), a=(100, 100))),
        (1, answer(histogram(*[0.1] * 9), a=(150, 120), b=(10**9, 10**9))),
        (2, answer(histogram(*[0.1] * 10), b=(10**9 + 60, 10**9 + 30))),
    ]
    found = await run("measure.js", HISTORY, answers)
    assert found[1]["now"] == {"original": 50, "wire": 20}
    assert found[2]["now"] == {"original": 0, "wire": 0}  # it was not there when that began
    assert [each["encoded"] for each in found] == [0, 0, 0]


async def test_outcomes_are_summed_over_algorithms(run: Run) -> None:
    chunks = {
        "gzip": {"compressed": 3, "no_gain": 1, "error": 0, "shadow": 0},
        "flac": {"compressed": 4, "no_gain": 0, "error": 1, "shadow": 0},
        "none": {"too_small": 1, "new_reason": 0},
    }
    found = await run("measure.js", "outcomes(given)", chunks)
    counts = {each["outcome"]: each["count"] for each in found}
    assert counts["compressed"] == 7
    assert counts["error"] == counts["no_gain"] == counts["too_small"] == 1
    assert counts["new_reason"] == counts["resting"] == 0
    assert sum(each["share"] for each in found) == pytest.approx(1)


# Health.


def machine(name: str = "a", **changes: Any) -> dict[str, Any]:
    """One that is well."""
    well = {
        "machine": name,
        "run": name,
        "is_self": False,
        "age_seconds": 0.1,
        "draining": False,
        "worker_restarts": 0,
        "store": "connected",
        "flags_revision": 7,
    }
    return well | changes


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({}, "good", "well"),
        ({"age_seconds": 8.4}, "bad", "not heard of for 8 s"),
        ({"store": "disconnected"}, "bad", "store disconnected"),
        ({"draining": True}, "note", "draining"),
        ({"flags_revision": 6}, "note", "flags still at revision 6"),
    ],
)
async def test_a_machine_is_as_it_says(
    run: Run, changes: dict[str, Any], level: str, text: str
) -> None:
    found = await run("health.js", "machineHealth(given, 7)", machine(**changes))
    assert found["level"] == level
    assert found["text"].replace("\N{NO-BREAK SPACE}", " ") == text


async def test_what_is_wrong_is_said_once(run: Run) -> None:
    away = {"kind": "redis", "state": "disconnected", "error": "refused"}
    stats = {
        "store": away,
        "flags_error": "refused",
        "flags_revision": 7,
        "machines": [
            machine(is_self=True, store="disconnected"),
            machine("b", store="disconnected"),
        ],
    }
    found = await run("health.js", "problems(given)", stats)
    assert [each["id"] for each in found] == ["store", "b"]
    assert "refused" in found[0]["text"]
    stats["store"] = {"kind": "file", "state": "connected", "error": None}
    found = await run("health.js", "problems(given)", stats)
    assert [each["id"] for each in found] == ["flags", "a", "b"]


async def test_rises_are_seen_machine_by_machine(run: Run) -> None:
    looks = [
        [machine("a", worker_restarts=5)],  # as it was found
        [machine("a", worker_restarts=6), machine("b", worker_restarts=9)],
        [machine("b", worker_restarts=9)],  # the other has left
        [machine("a", worker_restarts=5), machine("b", worker_restarts=10)],  # heard late
    ]
    code = """(() => {
      const rises = new Rises("worker_restarts");
      return given.map((machines) => [rises.look(machines), rises.risen]);
    })()"""
    found = await run("health.js", code, looks)
    assert found == [[False, 0], [True, 1], [False, 1], [True, 2]]


# What is typed.


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("parseNumber(' 12 ')", 12),
        ("parseNumber('0.03')", 0.03),
        ("parseNumber('')", ""),
        ("parseNumber('many')", "many"),
        ("parseRules('')", {}),
        ("parseRules('{')", "{"),
        ("parseNames(['flac', 'gzip'], ['gzip', 'opus'])", ["gzip", "flac"]),
        ("written([])", "none"),
        ("written(false)", "off"),
        ("written({'/a': {level: 1}})", '{"/a":{"level":1}}'),
        ("whom(null)", "somebody"),
        ("whom('admin port')", "the admin port"),
    ],
)
async def test_what_is_typed_becomes_a_value(run: Run, expression: str, value: Any) -> None:
    assert await run("draft.js", expression) == value


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (
            "level: too high; algorithms: 'x' is no algorithm; there are gzip, flac, opus",
            {
                "level": "level: too high",
                "algorithms": "algorithms: 'x' is no algorithm; there are gzip, flac, opus",
            },
        ),
        (
            "paths./ws/*.level: too high; paths./ws/*.min_size: too low",
            {"paths": "paths./ws/*.level: too high; paths./ws/*.min_size: too low"},
        ),
        ("the body is not JSON", {"": "the body is not JSON"}),
    ],
)
async def test_refusals_are_told_apart_by_flag(
    run: Run, message: str, parts: dict[str, str]
) -> None:
    assert await run("draft.js", "refusals(given)", message) == parts


# Rows.


async def test_rows_are_kept_and_the_focus_with_them(run: Run) -> None:
    code = """(() => {
      const parent = document.body;
      const show = (names) =>
        keyed(parent, names, (name) => name, () => make("button"), setText);
      show(["a", "b", "c"]);
      const [a, b] = parent.children;
      b.focus();
      show(["b", "d", "a"]);
      return [parent.textContent, parent.children[0] === b, parent.children[2] === a,
              document.activeElement === b];
    })()"""
    assert await run("dom.js", code) == ["bda", True, True, True]
