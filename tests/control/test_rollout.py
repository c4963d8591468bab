"""A roll-out by steps: who is in stays in, and as many are as it says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control.flags import Flags, LiveFlags, Revision
from proxy.control.rollout import ConnectionFlags, Rollout, place_of
from tests.conftest import Proxy
from tests.support import pcm
from tests.support.raw import Peer, raw_backend, request, switch
from tests.websocket.strategies import binary

CHUNK = binary(pcm()[40_000:44_096]).wire
CLIENTS = 1000
STEPS = (0, 30, 70, 100)


@given(st.binary())
def test_a_place_is_always_the_same_and_from_0_to_100(identity: bytes) -> None:
    assert place_of(identity) == place_of(bytes(identity))
    assert 0 <= place_of(identity) < 100


def rolled_out(percent: float, live: LiveFlags, members: Sequence[ConnectionFlags]) -> set[int]:
    """Who is in once the flag has been set."""
    live.take(Revision(live.current.updated({"rollout_percent": percent}), live.revision + 1))
    assert [each.current.enabled for each in members] == [each.in_rollout for each in members]
    return {number for number, each in enumerate(members) if each.current.enabled}


def test_a_flag_reaches_all_at_once_and_who_left_is_forgotten() -> None:
    live = LiveFlags(Flags())
    rollout = Rollout(live)
    members = [rollout.enter("/", b"%d" % n) for n in range(10)]
    members[0].leave()
    live.take(Revision(Flags(level=3), 1))
    assert [each.current.level for each in members] == [1] + [3] * 9


def test_a_switch_is_one_connections_own_and_outlives_a_change() -> None:
    live = LiveFlags(Flags())
    rollout = Rollout(live)
    one, other = rollout.enter("/", b"1"), rollout.enter("/", b"2")
    one.switch(on=False)
    assert (one.current.enabled, other.current.enabled) == (False, True)
    live.take(Revision(Flags(level=2), 1))
    assert (one.current.enabled, one.current.level) == (False, 2)
    one.switch(on=True)
    assert one.current is other.current
    live.take(Revision(Flags(enabled=False), 2))
    assert not one.current.enabled, "a switch does not overrule the flag"


def test_paths_have_roll_outs_of_their_own() -> None:
    live = LiveFlags(Flags())
    rollout = Rollout(live)
    members = [rollout.enter(path, b"%d" % n) for n in range(500) for path in ("/a", "/b")]
    live.take(Revision(Flags().updated({"paths": {"/a": {"rollout_percent": 0}}}), 1))
    assert [each.in_rollout for each in members] == [False, True] * 500


def test_a_higher_percentage_takes_nobody_out() -> None:
    live = LiveFlags(Flags())
    rollout = Rollout(live)
    members = [rollout.enter("/", b"learner %d" % n) for n in range(2000)]
    before: set[int] = set()
    for percent in (0, 0.5, 1, 5, 30, 30.01, 70, 99.9, 100):
        now = rolled_out(percent, live, members)
        assert before <= now
        assert_share(len(now), len(members), percent)
        before = now


def assert_share(found: int, of: int, percent: float) -> None:
    """Within five standard deviations of a binomial distribution."""
    share = percent / 100
    assert abs(found - share * of) <= 5 * sqrt(of * share * (1 - share)) + 1e-9


@pytest.mark.parametrize(
    ("rollout_by", "target", "header"),
    [
        ("query:learner", b"/?audio_compression=gzip&learner=%d", b"X-Other: 1"),
        ("cookie:learner", b"/?audio_compression=gzip", b"Cookie: a=b; learner=%d"),
        ("header:X-Learner", b"/?audio_compression=gzip", b"x-learner: %d"),
        ("address", b"/?audio_compression=gzip", b"X-Forwarded-For: 10.0.%d.7, 127.0.0.1"),
    ],
)
async def test_who_comes_again_stands_where_they_stood(
    rollout_by: str, target: bytes, header: bytes, proxy: Proxy
) -> None:
    """The same learner on another connection, other learners elsewhere."""

    async def lesson(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await peer.rest()

    def of(text: bytes, learner: int) -> bytes:
        return text % learner if b"%d" in text else text

    async with (
        raw_backend(lesson) as port,
        proxy(port, rollout_by=rollout_by, trusted_proxies="127.0.0.1") as app,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(2):
            for learner in range(30):
                reader, writer = await asyncio.open_connection(app.listen.host, app.listen.port)
                stack.callback(writer.close)
                client = Peer(reader, writer)
                await client.send(request(of(target, learner), of(header, learner)))
                await client.head()
        app.store.set({"rollout_percent": 50})
        tunnels = [each async for each in app.tunnels.each()]
        places = [each.switch.in_rollout for each in tunnels if each.switch is not None]
        assert len(places) == 60
        assert places[:30] == places[30:]
        assert set(places) == {True, False}


async def test_a_thousand_learners_are_taken_in_step_by_step(proxy: Proxy) -> None:
    """What the clients get counts: at each step a chunk, compressed or as it came."""
    speak = asyncio.Condition()
    step = -1

    async def lesson(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        for number in range(len(STEPS)):
            async with speak:
                await speak.wait_for(lambda number=number: step >= number)  # type: ignore[misc]
            await peer.send(CHUNK)
        await peer.rest()

    async with raw_backend(lesson) as port, proxy(port, rollout_by="query:learner") as app:

        async def join(learner: int) -> Peer:
            reader, writer = await asyncio.open_connection(app.listen.host, app.listen.port)
            client = Peer(reader, writer)
            await client.send(request(b"/?audio_compression=gzip&learner=%d" % learner))
            await client.head()
            return client

        async def hears_less(client: Peer) -> bool:
            """Whether the next chunk comes compressed."""
            first = await client.read(2)
            if first[0] & 0x0F == 2:
                await client.read(len(CHUNK) - 2)
                return False
            await client.read(first[1])
            header = await client.read(4)
            await client.read(int.from_bytes(header[2:], "big"))
            return True

        clients = []
        for at in range(0, CLIENTS, 50):
            clients += await asyncio.gather(*map(join, range(at, at + 50)))
        before: set[int] = set()
        for number, percent in enumerate(STEPS):
            app.store.set({"rollout_percent": percent})
            async with speak:
                step = number
                speak.notify_all()
            heard = await asyncio.gather(*map(hears_less, clients))
            now = {learner for learner, less in enumerate(heard) if less}
            assert before <= now
            assert_share(len(now), CLIENTS, percent)
            before = now
        assert len(before) == CLIENTS
        for client in clients:
            await client.close()
