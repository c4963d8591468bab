"""The admin port of a real proxy, by HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.frames import Frame
from websockets.protocol import Protocol, Side

import proxy.app as app_module
from proxy.app import App
from proxy.control.stats import summary
from proxy.websocket.frames import BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT, build_header
from tests.conftest import Proxy
from tests.support import pcm
from tests.support.process import proxy_process
from tests.support.raw import Peer, masked, raw_backend, raw_client, request, switch

PROBES = ("/healthz", "/readyz")
ENDPOINTS = (*PROBES, "/stats", "/flags", "/connections")
JSON = {"Content-Type": "application/json"}
FIRST_FLAGS = {
    "enabled": True,
    "min_size": 1024,
    "min_gain": 0.03,
    "level": 1,
    "algorithms": ["gzip", "flac", "opus"],
    "rollout_percent": 100,
    "shadow": False,
    "paths": {},
    "revision": 0,
    "changed_by": None,
}


@asynccontextmanager
async def operator(app: App) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client of a proxy's admin port."""
    async with aiohttp.ClientSession(f"http://{app.admin}") as session:
        yield session


async def fetch(
    session: aiohttp.ClientSession, path: str, method: str = "GET", **options: Any
) -> tuple[int, Any]:
    """Status and body of an answer, which must be JSON."""
    async with session.request(method, path, **options) as response:
        assert response.content_type == "application/json", await response.text()
        return response.status, await response.json()


# Health.


async def test_it_is_alive_and_ready_as_long_as_the_backend_accepts(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as backend:
        where = backend.getsockname()
        async with proxy(where[1]) as app, operator(app) as session:
            assert await fetch(session, "/readyz") == (200, {"status": "ready"})
            backend.close()
            status, answer = await fetch(session, "/readyz")
            assert status == 503
            assert list(answer) == ["error"]
            assert "backend" in answer["error"]
            assert await fetch(session, "/healthz") == (200, {"status": "alive"})
            with socket.create_server(where):
                assert await fetch(session, "/readyz") == (200, {"status": "ready"})


async def test_a_backend_that_does_not_accept_in_time_is_not_ready(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its TLS handshake is never answered."""
    monkeypatch.setattr(app_module, "READY_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as backend:
        url = f"https://127.0.0.1:{backend.getsockname()[1]}"
        async with proxy(url) as app, operator(app) as session:
            status, answer = await fetch(session, "/readyz")
    assert status == 503
    assert "in time" in answer["error"]


async def test_a_proxy_that_is_stopping_is_not_ready(proxy: Proxy) -> None:
    """A tunnel holds the stop back, and the admin port still answers."""
    goes_on = asyncio.Event()

    async def lesson(peer: Peer) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # /readyz connects and says nothing
            await peer.send(switch(await peer.head()))
            await goes_on.wait()

    async def ask(app: App, client: Peer) -> tuple[int, Any]:
        try:
            assert await client.rest() == b"", "the proxy ends its side"
            async with operator(app) as session:
                return await fetch(session, "/readyz")
        finally:
            goes_on.set()
            await client.close()

    async with raw_backend(lesson) as port:
        async with proxy(port) as app:
            client = Peer(*await asyncio.open_connection(app.listen.host, app.listen.port))
            await client.send(request())
            await client.head()
            asking = asyncio.create_task(ask(app, client))
        status, answer = await asking
    assert status == 503
    assert list(answer) == ["error"]


# Statistics.


def read_frames(data: bytes) -> list[Frame]:
    """A server's frames, by `websockets`' parser."""
    protocol = Protocol(Side.CLIENT, max_size=None)
    protocol.receive_data(data)
    return [event for event in protocol.events_received() if isinstance(event, Frame)]


def read_pairs(frames: Iterable[Frame]) -> list[tuple[int, int]]:
    """(original size, compressed size) of every pair, as its binary shows them."""
    pairs = []
    announced = False
    for frame in frames:
        if announced:
            assert frame.opcode == BINARY
            pairs.append((len(gzip.decompress(frame.data)), len(frame.data)))
        announced = frame.opcode == TEXT and b"audio_chunk_compressed" in frame.data
    return pairs


def frame(opcode: int, data: bytes) -> bytes:
    return build_header(opcode, len(data)) + data


WORTH_TRYING = 18
"""Binary messages of a lesson that are as large as `min_size`."""


def lesson_bytes() -> bytes:
    """What a backend sends: speech, what does not pay, what is small, fragments, controls."""
    speech = pcm()
    first, rest = speech[:3000], speech[3000:6000]
    parts = [frame(TEXT, b"question")]
    parts += [frame(BINARY, speech[at : at + 4096]) for at in range(0, 60_000, 4096)]
    parts += [frame(BINARY, os.urandom(5000)), frame(BINARY, speech[:1000]), frame(PING, b"p")]
    fragment = bytearray(frame(BINARY, first))
    fragment[0] &= ~FIN
    parts += [bytes(fragment), frame(PING, b"q"), frame(CONTINUATION, rest)]
    parts += [frame(BINARY, speech[:100_000]), frame(TEXT, b"end"), frame(CLOSE, b"\x03\xe8")]
    return b"".join(parts)


async def hold_lesson(app: App, target: bytes) -> bytes:
    """The bytes that a client gets behind its handshake."""
    async with raw_client(app.listen) as client:
        await client.send(request(target))
        await client.head()
        return await client.rest()


async def test_the_statistics_are_what_a_client_received_byte_for_byte(proxy: Proxy) -> None:
    sent = lesson_bytes()

    async def lesson(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + sent)

    async with raw_backend(lesson) as port, proxy(port) as app, operator(app) as session:
        _, before = await fetch(session, "/stats")
        received = await hold_lesson(app, b"/?audio_compression=gzip")
        _, stats = await fetch(session, "/stats")
        assert await hold_lesson(app, b"/") == sent
        assert await hold_lesson(app, b"/?audio_compression=off") == sent
        _, after = await fetch(session, "/stats")

    pairs = read_pairs(read_frames(received))
    original, compressed = (sum(sizes) for sizes in zip(*pairs, strict=True))
    totals = {
        "total_compressed": len(pairs),
        "total_original_bytes": original,
        "total_compressed_bytes": compressed,
        "average_ratio": pytest.approx(compressed / original),
    }
    expected = {
        "algorithm": "gzip",
        **totals,
        "min_size_threshold": 1024,
        "by_algorithm": {"gzip": totals},
        "wire_original_bytes": len(sent),
        "wire_bytes": len(received),
    }
    assert len(pairs) > 10
    assert (len(pairs) + stats["no_gain"], stats["errors"]) == (WORTH_TRYING, 0)
    assert len(received) < len(sent)
    assert {name: stats[name] for name in expected} == expected
    assert {name: after[name] for name in expected} == expected  # nobody else opted in

    contract = summary(app.counters, 1024)
    assert tuple(stats)[: len(contract)] == tuple(contract)
    assert (before["average_ratio"], before["by_algorithm"]) == (0.0, {})


async def test_tunnels_and_connections_are_those_that_are_open(proxy: Proxy) -> None:
    async def lesson(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        await peer.rest()

    async with raw_backend(lesson) as port, proxy(port) as app, operator(app) as session:
        async with raw_client(app.listen) as one, raw_client(app.listen) as other:
            for client in (one, other):
                await client.send(request())
                await client.head()
            _, stats = await fetch(session, "/stats")
            assert (stats["tunnels"], stats["connections"]) == (2, 2)
            await one.send(masked(CLOSE, b"\x03\xe8"))
        while (await fetch(session, "/stats"))[1]["tunnels"]:
            pass


async def test_the_threshold_is_the_one_in_force(proxy: Proxy) -> None:
    async with proxy(9) as app, operator(app) as session:
        await fetch(session, "/flags", "PATCH", json={"min_size": 2048})
        assert (await fetch(session, "/stats"))[1]["min_size_threshold"] == 2048


# Flags.


async def test_flags_are_shown_changed_and_kept(proxy: Proxy) -> None:
    async with proxy(9) as app, operator(app) as session:
        assert await fetch(session, "/flags") == (200, FIRST_FLAGS)
        assert json.loads(app.store.path.read_bytes()) == FIRST_FLAGS
        changes = {"enabled": False, "min_size": 0, "min_gain": 0.25, "level": 3}
        expected = {**FIRST_FLAGS, **changes, "revision": 1, "changed_by": "admin port"}
        assert await fetch(session, "/flags", "PATCH", json=changes) == (200, expected)
        assert await fetch(session, "/flags") == (200, expected)
        assert json.loads(app.store.path.read_bytes()) == expected
        assert app.store.live.current.enabled is False
        assert await fetch(session, "/flags", "PATCH", json={"enabled": True}) == (
            200,
            {**expected, "enabled": True, "revision": 2},
        )


PATCHES = {
    "unknown flag": (b'{"enabeld": false}', 400, "enabeld: .*enabled, min_size, min_gain, level"),
    "above the range": (b'{"level": 4}', 400, "level: .*3"),
    "no number": (b'{"min_gain": NaN}', 400, "min_gain: "),
    "wrong type": (b'{"enabled": {}}', 400, "enabled: .*boolean"),
    "null": (b'{"enabled": null}', 400, "enabled: .*boolean"),
    "one of two": (b'{"enabled": false, "level": 9}', 400, "level: "),
    "both of two": (b'{"min_size": "x", "level": 9}', 400, "min_size: .*level: "),
    "malformed": (b'{"enabled": fal', 400, "JSON"),
    "empty": (b"", 400, "JSON"),
    "no UTF-8": (b'{"enabled": "\xff"}', 400, "JSON"),
    "nested without end": (b"[" * 60_000, 400, "JSON"),
    "a list": (b'[{"enabled": false}]', 400, "object"),
    "nothing": (b"null", 400, "object"),
    "1 MiB": (b'{"enabled": false}'.ljust(1 << 20), 413, "[Ll]arge"),
}


@pytest.mark.parametrize("name", PATCHES)
async def test_a_wrong_update_is_explained_and_changes_nothing(name: str, proxy: Proxy) -> None:
    body, expected, says = PATCHES[name]
    async with proxy(9) as app, operator(app) as session:
        before = app.store.live.current, app.store.path.read_bytes()
        async with session.patch("/flags", data=body, headers=JSON) as response:
            assert response.status == expected, await response.text()
            answer = await response.json()
        assert (app.store.live.current, app.store.path.read_bytes()) == before
        assert await fetch(session, "/flags") == (200, FIRST_FLAGS)
    assert list(answer) == ["error"]
    assert re.search(says, answer["error"])


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_an_update_must_say_that_it_is_json(content_type: str, proxy: Proxy) -> None:
    """A web page may send the others across origins without asking; this one it may not."""
    headers = {"Content-Type": content_type} if content_type else {}
    skipped = [] if content_type else ["Content-Type"]
    async with proxy(9) as app, operator(app) as session:
        status, answer = await fetch(
            session,
            "/flags",
            "PATCH",
            data=b'{"enabled": false}',
            headers=headers,
            skip_auto_headers=skipped,
        )
        assert app.store.live.current.enabled
    assert status == 415
    assert "application/json" in answer["error"]


async def test_an_update_that_cannot_be_kept_is_not_taken(proxy: Proxy) -> None:
    """The flags file has become a folder."""
    async with proxy(9) as app, operator(app) as session:
        app.store.path.unlink()
        (app.store.path / "inside").mkdir(parents=True)
        status, answer = await fetch(session, "/flags", "PATCH", json={"enabled": False})
        assert app.store.live.current.enabled
    assert status >= 500  # the request was right
    assert str(app.store.path) in answer["error"]


# What is not offered.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, path) for path in (*PROBES, "/stats") for method in ("POST", "PATCH", "DELETE")),
        *(("POST", "/flags"), ("PUT", "/flags"), ("DELETE", "/flags"), ("OPTIONS", "/flags")),
    ],
)
async def test_a_method_that_is_not_offered(method: str, path: str, proxy: Proxy) -> None:
    async with proxy(9) as app, operator(app) as session:
        options: dict[str, Any] = {"data": b'{"enabled": false}', "headers": JSON}
        async with session.request(method, path, **options) as response:
            assert response.status == 405
            assert "GET" in response.headers["Allow"]
            assert list(await response.json()) == ["error"]
        assert app.store.live.current.enabled


@pytest.mark.parametrize(
    "path",
    [
        *("/flag", "/flags/", "/stats/x", "/healthz%2F", "//stats", "/static/", "/static/x.js"),
        *("/static/" + "x" * 300 + ".js", "/static/" + "/".join("x" * 100) + ".js"),
        *("/static/../admin.py", "/static/..%2Fadmin.py", "/static/%2e%2e/admin.py"),
    ],
)
async def test_a_path_that_is_not_offered(path: str, proxy: Proxy) -> None:
    async with proxy(9) as app, raw_client(app.admin) as client:
        await client.send(
            b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode()
        )
        head, body = (await client.head()).lower(), await client.rest()
    assert head.startswith(b"http/1.1 404 ")
    assert b"content-type: application/json" in head
    assert list(json.loads(body)) == ["error"]


# The token.


REQUESTS = [
    *(("GET", path) for path in (*ENDPOINTS, "/metrics", "/nothing-here") if path not in PROBES),
    *(("PATCH", "/flags"), ("PATCH", "/connections/1"), ("POST", "/drain")),
]
TOKEN = "t0p s3cret"


@pytest.mark.parametrize(
    "given",
    [
        None,
        b"",
        b"Bearer ",
        b"Bearer t0p",
        b"Bearer t0p s3cret2",
        b"Bearer \xff\xfe",
        b"t0p s3cret",
        b"Basic t0p s3cret",
    ],
)
async def test_without_the_right_token_nothing_is_answered(
    given: bytes | None, proxy: Proxy
) -> None:
    async with proxy(9, admin_token=TOKEN) as app, raw_client(app.admin) as client:
        for method, path in REQUESTS:
            lines = [f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode()]
            if given is not None:
                lines.append(b"Authorization: %b\r\n" % given)
            body = b'{"enabled": false}'
            lines.append(b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body))
            await client.send(b"".join(lines) + b"\r\n" + body)
            head = (await client.head()).lower()
            assert head.startswith(b"http/1.1 401 "), (method, path)
            assert b"www-authenticate: bearer" in head
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            answer = json.loads(await client.read(size))
            assert list(answer) == ["error"]
            assert TOKEN not in answer["error"]
        assert app.store.live.current.enabled


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_with_the_right_token_everything_is(scheme: str, proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as backend:
        async with (
            proxy(backend.getsockname()[1], admin_token=TOKEN) as app,
            operator(app) as session,
        ):
            headers = {"Authorization": f"{scheme} {TOKEN}"}
            for path in ENDPOINTS:
                assert (await fetch(session, path, headers=headers))[0] == 200
            status, answer = await fetch(
                session, "/flags", "PATCH", json={"level": 2}, headers=headers
            )
            assert (status, answer["level"]) == (200, 2)
            assert (await fetch(session, "/nothing-here", headers=headers))[0] == 404


# Pages of others.


WHOLE = {"Host": "localhost:1", **JSON}
FOREIGN = {
    "another page": ({"Origin": "http://elsewhere.example"}, 403, "Origin"),
    "another port": ({"Origin": "http://localhost:2"}, 403, "Origin"),
    "a file": ({"Origin": "null"}, 403, "Origin"),
    "another site": ({"Sec-Fetch-Site": "cross-site"}, 403, "Sec-Fetch-Site"),
    "a subdomain": ({"Sec-Fetch-Site": "same-site"}, 403, "Sec-Fetch-Site"),
    "another name": ({"Host": "elsewhere.example"}, 421, "admin_hosts"),
    "a name like ours": ({"Host": "localhost.example"}, 421, "admin_hosts"),
    "no name": ({"Host": ""}, 421, "admin_hosts"),
    "a name with ours behind it": ({"Host": "elsewhere.example@localhost"}, 421, "admin_hosts"),
}
CHANGES = (
    ("PATCH", "/flags", b'{"enabled": false}'),
    ("PATCH", "/connections/1", b'{"enabled": false}'),
    ("POST", "/drain", b""),
)


@pytest.mark.parametrize("name", FOREIGN)
async def test_changes_of_others_are_not_taken(name: str, proxy: Proxy) -> None:
    headers, expected, says = FOREIGN[name]
    async with proxy(9) as app, operator(app) as session:
        for method, path, body in CHANGES:
            async with session.request(
                method, path, data=body, headers={**WHOLE, **headers}
            ) as response:
                assert response.status == expected, path
                assert says in (await response.json())["error"]
        assert app.store.live.current.enabled
        assert not app.stop.is_set()


@pytest.mark.parametrize("path", [*ENDPOINTS[2:], "/metrics", "/"])
async def test_a_name_that_is_not_ours_reads_nothing(path: str, proxy: Proxy) -> None:
    """DNS rebinding: a page of elsewhere.example, whose name by now means our address."""
    async with proxy(9, admin_hosts="ops.example") as app, operator(app) as session:
        async with session.get(path, headers={"Host": "elsewhere.example"}) as response:
            assert response.status == 421
        for host in ("ops.example", "OPS.example:9090", "[::1]:80", "10.0.0.1", "localhost"):
            async with session.get(path, headers={"Host": host}) as response:
                assert response.status == 200, host


BODIES = {
    "malformed": (b'{"enabled": fal', 400, "JSON"),
    "a list": (b"[]", 400, "object"),
    "1 MiB": (b'{"enabled": false}'.ljust(1 << 20), 413, "[Ll]arge"),
    "an unknown key": (b'{"colour": 1}', 400, "enabled"),
    "out of range": (b'{"enabled": 2}', 400, "enabled"),
}


@pytest.mark.parametrize(("method", "path"), [change[:2] for change in CHANGES])
@pytest.mark.parametrize("name", BODIES)
async def test_every_change_is_read_with_care(
    name: str, method: str, path: str, proxy: Proxy
) -> None:
    body, expected, says = BODIES[name]
    async with proxy(9) as app, operator(app) as session:
        async with session.request(method, path, data=io.BytesIO(body), headers=JSON) as response:
            assert response.status == expected
            assert re.search(says, (await response.json())["error"]) or path == "/drain"
        for data in (body[:1000], b""):
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            status, answer = await fetch(session, path, method, data=data, headers=headers)
            assert (status, "application/json" in answer["error"]) == (415, True)
        assert await fetch(session, "/flags") == (200, FIRST_FLAGS)
        assert not app.stop.is_set()


@pytest.mark.parametrize("headers", [{}, JSON])
async def test_a_drain_may_say_nothing_or_an_empty_object(
    headers: dict[str, str], proxy: Proxy
) -> None:
    async with proxy(9) as app, operator(app) as session:
        data = b"{}" if headers else None
        async with session.post("/drain", data=data, headers=headers) as response:
            assert (response.status, await response.json()) == (202, {"status": "draining"})
        assert app.stop.is_set()


@pytest.mark.parametrize("path", ["/flags", "/connections/1"])
async def test_ten_mebibytes_are_refused_and_cost_nothing(path: str, tmp_path: Path) -> None:
    async with proxy_process(9, tmp_path) as process:
        before = process.memory()
        async with aiohttp.ClientSession(f"http://{process.admin}") as session:
            for _ in range(5):
                body = io.BytesIO(b'{"enabled": false}'.ljust(10 << 20))
                async with session.patch(path, data=body, headers=JSON) as response:
                    assert response.status == 413
                    assert "arge" in (await response.json())["error"]
            assert (await fetch(session, "/flags")) == (200, FIRST_FLAGS)
        assert process.memory() - before < 10 << 20


async def test_our_own_page_may_change_things(proxy: Proxy) -> None:
    headers = {**WHOLE, "Origin": "http://localhost:1", "Sec-Fetch-Site": "same-origin"}
    async with proxy(9) as app, operator(app) as session:
        headers["X-Audio-Proxy-Client"] = "dashboard"
        status, answer = await fetch(
            session, "/flags", "PATCH", data=b'{"level": 2}', headers=headers
        )
        assert (status, answer["changed_by"]) == (200, "dashboard")


async def test_of_two_operators_the_slower_is_told(proxy: Proxy) -> None:
    async with proxy(9) as app, operator(app) as session:
        seen = (await fetch(session, "/flags"))[1]["revision"]
        first = {"level": 2, "revision": seen}
        assert (await fetch(session, "/flags", "PATCH", json=first))[0] == 200
        status, answer = await fetch(
            session, "/flags", "PATCH", json={"level": 3, "revision": seen}
        )
        assert status == 409
        assert "by admin port" in answer["error"]
        assert app.store.live.current.level == 2
        for wrong in ("1", True, 1.5):
            status, answer = await fetch(session, "/flags", "PATCH", json={"revision": wrong})
            assert status == 400
            assert "revision" in answer["error"]


async def test_the_dashboard_is_served_with_a_strict_policy(proxy: Proxy) -> None:
    async with proxy(9, admin_token=TOKEN) as app, operator(app) as session:
        async with session.get("/") as response:
            page = await response.text()
            assert (response.status, response.content_type) == (200, "text/html")
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        scripts = re.findall(r'(?:src|href)="(/?static/[^"]+)"', page)
        assert scripts
        for path in scripts:
            async with session.get("/" + path.lstrip("/")) as response:
                assert response.status == 200, path
                assert response.headers["X-Content-Type-Options"] == "nosniff"
