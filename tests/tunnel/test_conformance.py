"""Autobahn's cases: through the proxy, a backend gets the verdicts that it gets directly."""

from __future__ import annotations

from collections.abc import Sequence

import kosoku
import pytest

from tests.conftest import Proxy
from tests.support.backends import echo_backend

# All but 9 (limits) and most of 12 and 13 (permessage-deflate), which take minutes.
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*", "12.1.1", "13.1.1"]

# Answers of 65,535 repeated bytes and more: what comes back is a pair, which Autobahn cannot read.
COMPRESSED = ["1.2.6", "1.2.7", "1.2.8"]

# kosoku's cases leave the files open that they read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# Both are conformant. Which one a case gets that sends a message and then a broken frame depends
# on whether the answer comes before the refusal: of 12 direct runs, 3.3, 3.4 and 4.2.5 gave both.
CONFORMANT = {"NON-STRICT": "OK"}

_AGAIN = 2
"""How often a case that differs is tried again: one has a second to end, and a machine that stands
still for as long changes its verdict."""

Verdicts = dict[str, tuple[str, str]]
Differing = dict[str, tuple[object, object]]


async def verdicts(url: str, cases: list[str] | None, excluded: list[str]) -> Verdicts:
    """Verdicts on the messages and on the closing handshake, by case."""
    try:
        results = await kosoku.run_fuzzingclient(
            url, cases=cases, exclude_cases=excluded, concurrency=4
        )
    except kosoku.FailureError as error:
        results = error.results
    return {
        r.case_id: (CONFORMANT.get(r.behavior.value, r.behavior.value), r.behavior_close.value)
        for r in results
    }


async def compare(
    proxy: Proxy, query: str, cases: list[str] | None, excluded: Sequence[str] = ()
) -> tuple[Verdicts, Differing]:
    """The direct verdicts, and, of the cases that have another one through the proxy, both."""
    async with echo_backend() as port, proxy(port) as app:

        async def both(cases: list[str] | None) -> tuple[Verdicts, Differing]:
            direct = await verdicts(f"ws://127.0.0.1:{port}/", cases, [*excluded])
            through = await verdicts(f"ws://{app.listen}/{query}", cases, [*excluded])
            assert direct.keys() == through.keys()
            return direct, {
                case: (verdict, through[case])
                for case, verdict in direct.items()
                if verdict != through[case]
            }

        direct, differing = await both(cases)
        for _ in range(_AGAIN):
            if differing:
                _, differing = await both([*differing])
    return direct, differing


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_who_did_not_opt_in(proxy: Proxy) -> None:
    direct, differing = await compare(proxy, "", CASES)
    assert list(direct.values()).count(("OK", "OK")) > 200
    assert not differing


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_who_opted_in(proxy: Proxy) -> None:
    """Everything that is no pair gets the same verdict."""
    direct, differing = await compare(proxy, "?audio_compression=gzip", CASES[:8], COMPRESSED)
    assert len(direct) > 200
    assert not differing


@pytest.mark.deep
async def test_every_case(proxy: Proxy) -> None:
    direct, differing = await compare(proxy, "", None)
    assert len(direct) > 500
    assert not differing
