"""Connections as the operator sees them, and the switch of each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.app import App
from proxy.audio.counters import Counters
from proxy.errors import QueryError
from proxy.tunnel.base_leg import State
from proxy.tunnel.listing import _COLUMNS, SORTS, Selection, index, merge
from proxy.tunnel.registry import Tunnels
from proxy.tunnel.tunnel import Tunnel
from tests.conftest import Proxy
from tests.control.test_admin import fetch, operator
from tests.support import pcm, until
from tests.support.raw import Peer, masked, raw_backend, request, switch
from tests.websocket.strategies import binary

CHUNKS = [pcm()[at : at + 4096] for at in range(40_000, 200_000, 4096)]
WIRE = 4 + 4096
"""Bytes of a chunk's frame."""


@asynccontextmanager
async def tutor() -> AsyncIterator[int]:
    """A backend that sends a chunk for each byte it is sent, the next one each time."""

    async def speak(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        for chunk in CHUNKS:
            with contextlib.suppress(asyncio.IncompleteReadError):
                await peer.read(len(masked(1, b"?")))
                await peer.send(binary(chunk).wire)
        await peer.rest()

    async with raw_backend(speak) as port:
        yield port


class Learner:
    """Asks for chunks, one by one."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    @classmethod
    async def join(cls, app: App, target: str) -> Learner:
        peer = Peer(*await asyncio.open_connection(app.listen.host, app.listen.port))
        await peer.send(request(target.encode()))
        await peer.head()
        return cls(peer)

    async def hear(self) -> bool:
        """Whether the next chunk came compressed."""
        await self.peer.send(masked(1, b"?"))
        first = await self.peer.read(2)
        if first[0] & 0x0F == 2:
            await self.peer.read(WIRE - 2)
            return False
        await self.peer.read(first[1])
        header = await self.peer.read(4)
        await self.peer.read(int.from_bytes(header[2:], "big"))
        return True


@asynccontextmanager
async def lessons(app: App, *targets: str) -> AsyncIterator[list[Learner]]:
    learners = [await Learner.join(app, target) for target in targets]
    try:
        yield learners
    finally:
        for learner in learners:
            await learner.peer.close()


async def rows(session: Any, query: str = "") -> list[dict[str, Any]]:
    status, answer = await fetch(session, "/connections" + query)
    assert status == 200, answer
    assert answer["unreachable"] == []
    found: list[dict[str, Any]] = answer["connections"]
    return found


async def test_a_row_says_what_a_connection_did(proxy: Proxy) -> None:
    before = time.time()
    async with (
        tutor() as port,
        proxy(port, pcm_layout="s16le/22050/1") as app,
        operator(app) as session,
        lessons(app, "/ws/tutor?audio_compression=flac,gzip&token=s3cret", "/plain") as learners,
    ):
        compressed = sum([await learners[0].hear() for _ in range(20)])
        assert not await learners[1].hear()
        plain, opted_in = await rows(session, "?sort=path&order=asc")
        _, stats = await fetch(session, "/stats")

    assert compressed > 15
    assert opted_in["path"] == "/ws/tutor"
    assert opted_in["address"] == "127.0.0.1"
    assert opted_in["opted_in"] is opted_in["enabled"] is opted_in["in_rollout"] is True
    assert opted_in["algorithms"] == ["flac", "gzip"]
    assert opted_in["algorithm"] == "flac"
    assert opted_in["format"] == "pcm"
    assert (opted_in["chunks"], opted_in["compressed"]) == (20, compressed)
    assert opted_in["original_bytes"] == stats["wire_original_bytes"] == 20 * WIRE
    assert opted_in["wire_bytes"] == stats["wire_bytes"]
    assert opted_in["saved_bytes"] == opted_in["original_bytes"] - opted_in["wire_bytes"] > 0
    assert before - 1 < opted_in["since"] <= opted_in["last_chunk"] < time.time() + 1
    assert opted_in["backlog_bytes"] == 0
    assert 0 < opted_in["rtt_ms"] < 10_000
    assert (plain["path"], plain["opted_in"], plain["algorithms"]) == ("/plain", False, [])
    for nothing in ("algorithm", "format", "chunks", "enabled", "in_rollout", "last_chunk"):
        assert plain[nothing] is None, nothing
    assert plain["saved_bytes"] == 0
    assert plain["wire_bytes"] > WIRE
    assert plain["id"] != opted_in["id"]
    assert stats["open"] == {"none": 1, "flac": 1}


async def test_addresses_are_shown_where_the_operator_allows_it(proxy: Proxy) -> None:
    async with (
        tutor() as port,
        proxy(port, show_addresses=False) as app,
        operator(app) as session,
        lessons(app, "/"),
    ):
        (row,) = await rows(session)
        assert row["address"] is None


async def test_filters_sorts_and_pages(proxy: Proxy) -> None:
    targets = [f"/ws/{n}?audio_compression=gzip" for n in range(6)]
    async with (
        tutor() as port,
        proxy(port) as app,
        operator(app) as session,
        lessons(app, *targets, "/other", "/other?audio_compression=flac") as learners,
    ):
        for number, learner in enumerate(learners[:6]):
            for _ in range(number):
                await learner.hear()

        def paths(found: list[dict[str, Any]]) -> list[str]:
            return [row["path"] for row in found]

        assert paths(await rows(session, "?sort=chunks&path=/ws/*&limit=2")) == ["/ws/5", "/ws/4"]
        assert paths(await rows(session, "?sort=chunks&path=/ws/*&limit=2&offset=2")) == [
            "/ws/3",
            "/ws/2",
        ]
        assert paths(await rows(session, "?sort=since&order=asc"))[0] == "/ws/0"
        assert paths(await rows(session, "?opted_in=false")) == ["/other"]
        assert len(await rows(session, "?opted_in=true")) == 7
        assert len(await rows(session, "?algorithm=gzip")) == 5, "/ws/0 has had no chunk"
        assert len(await rows(session, "?format=pcm")) == 5
        for sort in SORTS:
            for order in ("asc", "desc"):
                found = await rows(session, f"?sort={sort}&order={order}")
                values = [row[sort] for row in found]
                known = [value for value in values if value is not None]
                assert len(found) == 8
                assert values[: len(known)] == sorted(known, reverse=order == "desc")
        _, answer = await fetch(session, "/connections?limit=3&offset=7")
        assert (answer["total"], answer["offset"], answer["limit"]) == (8, 7, 3)
        assert len(answer["connections"]) == 1


async def test_a_page_is_in_the_order_of_what_it_shows(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round-trip time may change between the choice of a page's rows and their reading."""
    asked: set[int] = set()

    def rtt_ms(tunnel: Tunnel) -> float:
        is_first = tunnel.number not in asked
        asked.add(tunnel.number)
        return float(tunnel.number if is_first else -tunnel.number)

    monkeypatch.setitem(_COLUMNS, "rtt_ms", rtt_ms)
    async with (
        tutor() as port,
        proxy(port) as app,
        operator(app) as session,
        lessons(app, "/1", "/2", "/3"),
    ):
        found = await rows(session, "?sort=rtt_ms&order=asc")
        assert [row["rtt_ms"] for row in found] == [-3, -2, -1]


class _Name(str):
    """An id that can be watched."""


async def test_of_many_only_those_are_kept_that_may_be_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is kept while the others are looked at is work for the collector: with 5,000 it stopped
    the worker, each second."""
    alive: weakref.WeakSet[_Name] = weakref.WeakSet()
    most = 0
    tunnels = Tunnels(60, 5, Counters())

    def id_of(self: Tunnels, tunnel: Tunnel) -> str:
        nonlocal most
        name = _Name(f"{tunnel.number:04}")
        alive.add(name)
        most = max(most, len(alive))
        return name

    monkeypatch.setattr(Tunnels, "id_of", id_of)
    for number in range(2000):
        tunnels.enter(f"/{number * 7 % 2000:04}")
    selection = Selection(sort="path", descending=False, offset=10, limit=10)
    found = await index(tunnels, selection)
    assert found["total"] == 2000
    assert [order[-1] for order, _ in found["first"]] == [f"/{n:04}" for n in range(20)]
    assert most <= 2 * 20


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("sort=colour", "sort: 'colour' is none of since"),
        ("order=up", "order"),
        ("limit=0", "limit: '0' is no number from 1 to 500"),
        ("limit=501", "limit"),
        ("limit=1e3", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("opted_in=yes", "opted_in"),
        ("enabled=1", "enabled"),
        ("colour=red", "colour: there is no such parameter"),
    ],
)
async def test_a_wrong_parameter_is_named(query: str, says: str, proxy: Proxy) -> None:
    async with proxy(9) as app, operator(app) as session:
        status, answer = await fetch(session, f"/connections?{query}")
        assert status == 400
        assert answer["error"].startswith(says)


async def test_one_connection_is_switched_off_and_on(proxy: Proxy) -> None:
    async with (
        tutor() as port,
        proxy(port) as app,
        operator(app) as session,
        lessons(app, "/a?audio_compression=gzip", "/b?audio_compression=gzip") as (one, other),
    ):
        first = next(row for row in await rows(session) if row["path"] == "/a")

        async def turn(on: bool) -> None:
            status, row = await fetch(
                session, f"/connections/{first['id']}", "PATCH", json={"enabled": on}
            )
            assert status == 200
            assert (row["id"], row["enabled"]) == (first["id"], on)

        assert any([await one.hear() for _ in range(6)])
        await turn(False)
        assert not any([await one.hear() for _ in range(5)])
        assert any([await other.hear() for _ in range(6)])
        assert [row["path"] for row in await rows(session, "?enabled=false")] == ["/a"]
        app.store.set({"level": 3})
        assert not await one.hear(), "a change of the flags leaves the switch as it is"
        await turn(True)
        assert any([await one.hear() for _ in range(6)])
        _, stats = await fetch(session, "/stats")
        assert stats["chunks"]["none"]["disabled"] >= 5


async def test_who_cannot_be_switched(proxy: Proxy) -> None:
    async with (
        tutor() as port,
        proxy(port) as app,
        operator(app) as session,
        lessons(app, "/plain"),
    ):
        (row,) = await rows(session)
        path = f"/connections/{row['id']}"
        status, answer = await fetch(session, path, "PATCH", json={"enabled": False})
        assert (status, "opt in" in answer["error"]) == (409, True)
        for unknown in (
            path + "1",
            path + "1" * 5000,
            "/connections/1",
            "/connections/x-1-1",
            "/connections/-1",
        ):
            status, answer = await fetch(session, unknown, "PATCH", json={"enabled": False})
            assert (status, "no such connection" in answer["error"]) == (404, True)
        for wrong in ({}, {"enabled": 1}, {"enabled": "false"}, {"enabled": True, "level": 1}):
            status, answer = await fetch(session, path, "PATCH", json=wrong)
            assert (status, "enabled" in answer["error"]) == (400, True)


async def test_who_has_left_is_not_shown(proxy: Proxy) -> None:
    async with tutor() as port, proxy(port) as app, operator(app) as session:
        async with lessons(app, "/"):
            assert len(await rows(session)) == 1
        await until(lambda: len(app.tunnels) == 0)
        assert await rows(session) == []


def test_pages_of_several_workers_are_one() -> None:
    selection = Selection.parse({"sort": "chunks", "limit": "2", "offset": "1"})
    indexes = [
        {"total": 9, "first": [[selection.order(n), f"a-{n}"] for n in (8, 3, None)]},
        {"total": 2, "first": [[selection.order(n), f"b-{n}"] for n in (5, 4)]},
    ]
    assert merge(indexes, selection) == (11, ["b-5", "b-4"])


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_who_is_alike_stands_on_one_page_only(order: str, proxy: Proxy) -> None:
    async with (
        tutor() as port,
        proxy(port) as app,
        operator(app) as session,
        lessons(app, *["/same"] * 9),
    ):
        pages = [
            await rows(session, f"?sort=path&order={order}&limit=2&offset={at}")
            for at in range(0, 9, 2)
        ]
        assert len({row["id"] for page in pages for row in page}) == 9


async def test_a_client_that_reset_its_connection_is_shown_too(proxy: Proxy) -> None:
    """Its leg is gone, and the backend's is not: its socket has no descriptor any more."""
    left = asyncio.Event()

    async def lingers(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await peer.ended()
        await left.wait()

    async with raw_backend(lingers) as port, proxy(port) as app, operator(app) as session:
        learner = await Learner.join(app, "/?audio_compression=gzip")
        (tunnel,) = [each async for each in app.tunnels.each()]
        sock = learner.peer.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        learner.peer.reset()
        await until(lambda: tunnel.client.state is State.LOST)
        (row,) = await rows(session, "?sort=rtt_ms")
        assert row["rtt_ms"] is None
        left.set()


def test_a_selection_travels() -> None:
    selection = Selection.parse({"path": "/ws/*", "opted_in": "true", "order": "asc"})
    assert Selection(**selection.as_record()) == selection
    with pytest.raises(QueryError):
        Selection.parse({"limit": "²"})
