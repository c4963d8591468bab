"""A whole proxy: how it starts or does not, what it logs, how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientTimeout, web
from websockets.asyncio.client import connect as websockets_connect
from websockets.exceptions import InvalidStatus

from proxy.client import connect
from proxy.errors import ConfigError
from tests.conftest import Proxy
from tests.support.backends import aiohttp_server, websockets_backend
from tests.support.process import Process, proxy_process
from tests.support.raw import raw_client, request
from tests.support.tls import Certificates
from tests.test_cli import FREE_PORTS, ask, running

# Starting.


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize("setting", ["listen", "admin"])
async def test_a_start_that_fails_names_the_setting_and_leaves_nothing(
    setting: str, proxy: Proxy
) -> None:
    before = asyncio.all_tasks()
    other = f"127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = "{}:{}".format(*server.getsockname())
        addresses = {"listen": other, "admin": other, setting: taken}
        with pytest.raises(ConfigError, match=f"^{setting}: .*{taken}"):
            async with proxy(9, **addresses):
                pass
    assert asyncio.all_tasks() == before
    async with proxy(9, **addresses) as app:  # both are free again
        assert {str(app.listen), str(app.admin)} == {taken, other}


async def test_the_two_ports_may_not_be_the_same(proxy: Proxy) -> None:
    both = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"^listen: .*{both}"):
        async with proxy(9, listen=both, admin=both):
            pass


async def test_tls_files_are_read_before_anything_listens(proxy: Proxy, tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    admin = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=r"^tls_cert, tls_key: "):
        async with proxy(9, admin=admin, tls_cert=files.cert, tls_key=files.ca):
            pass
    async with proxy(9, admin=admin, tls_cert=files.cert, tls_key=files.key) as app:
        assert str(app.admin) == admin


async def test_a_file_where_a_socket_is_to_be_is_not_removed(proxy: Proxy, tmp_path: Path) -> None:
    path = tmp_path / "lesson.txt"
    path.write_text("precious")
    with pytest.raises(ConfigError, match=f"^listen: .*{path}"):
        async with proxy(9, listen=f"unix:{path}"):
            pass
    assert path.read_text() == "precious"


async def test_a_unix_socket_that_somebody_listens_on_is_left_to_him(
    proxy: Proxy, tmp_path: Path
) -> None:
    where = f"unix:{tmp_path}/a.sock"
    async with proxy(9, listen=where):
        with pytest.raises(ConfigError, match=r"^listen: .*in use"):
            async with proxy(9, listen=where):
                pass
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/a.sock")
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 502 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("text", ["", '{"level": 9}', '{"algorithms": [["gzip"]]}', "[" * 100_000])
async def test_broken_flags_do_not_keep_it_from_serving(
    text: str, proxy: Proxy, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / "flags.json"
    path.write_text(text)
    async with proxy(9, enable_ws_compression="false") as app:
        assert not app.store.live.current.enabled
        assert (await ask(app.admin, "/stats"))["flags_error"].startswith(f"{path}: ")
        path.write_text('{"level": 2}')
        async with asyncio.timeout(1):
            while (await ask(app.admin, "/flags"))["level"] != 2:
                pass
        assert (await ask(app.admin, "/stats"))["flags_error"] is None
    assert path.read_text() == '{"level": 2}'


async def test_flags_that_cannot_be_kept_do_not_keep_it_from_serving(
    proxy: Proxy, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file, no folder")
    async with proxy(9) as app:
        assert (await ask(app.admin, "/flags"))["enabled"] is True
        assert "flags.json" in (await ask(app.admin, "/stats"))["flags_error"]


HOLD_LOCK = (
    "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), 2); print(); input()"
)


async def test_a_program_that_holds_the_lock_of_the_flags_stops_nobody_else(
    tmp_path: Path,
) -> None:
    """One that hangs, or that somebody stopped with ^Z."""
    async with proxy_process(9, tmp_path) as process, ClientSession() as session:
        holder = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HOLD_LOCK, str(tmp_path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert holder.stdout is not None
        await holder.stdout.readline()
        url = f"http://{process.admin}"
        change = asyncio.create_task(_patch(session, f"{url}/flags", {"level": 2}))
        try:
            for _ in range(20):  # the first may come before the change does
                async with session.get(f"{url}/healthz", timeout=ClientTimeout(5)) as response:
                    assert response.status == 200
        finally:
            await holder.communicate(b"\n")
            await change


async def _patch(session: ClientSession, url: str, changes: dict[str, int]) -> None:
    async with session.patch(url, json=changes) as response:
        await response.read()


# The log.


SECRETS = ("s3cret", "t0ken", "passw0rd", "c00kie", "wr0ng")
HEADERS = {"Authorization": "Bearer passw0rd", "Cookie": "session=c00kie"}


async def backend_with_secrets(request: web.Request) -> web.StreamResponse:
    """Gets every secret, and refuses or breaks off where the path says so."""
    assert request.query["token"] == "s3cret"
    if request.path == "/refuse":
        raise web.HTTPForbidden
    if request.path == "/break":
        assert request.transport is not None
        request.transport.abort()
        return web.Response()
    tutor = web.WebSocketResponse()
    await tutor.prepare(request)
    await tutor.send_str(request.headers["Authorization"] + request.headers["Cookie"])
    await tutor.close()
    return tutor


async def provoke(process: Process) -> None:
    """Requests that go wrong in many ways, each with a secret in it."""
    for path in ("refuse", "break"):
        url = f"ws://{process.listen}/{path}?token=s3cret"
        with pytest.raises(InvalidStatus):
            async with websockets_connect(url, additional_headers=HEADERS, proxy=None):
                pass
    for data in (
        b"GET /?token=s3cret HTTP/1.1\r\nHost: a\r\nAuthorization: passw0rd\r\nbroken\r\n\r\n",
        b"GET /?token=s3cret" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT s3cret:443 HTTP/1.1\r\nHost: s3cret:443\r\n\r\n",
        request(b"/break?token=s3cret\xff", b"Authorization: passw0rd\xff"),
        request(b"/break?token=s3cret", b"Authorization: pass\x01w0rd"),
    ):
        async with raw_client(process.listen) as client:
            await client.send(data)
            await client.ended()
    wrong = {"Authorization": "Bearer wr0ng"}
    assert "error" in await ask(process.admin, "/stats?token=s3cret", headers=wrong)


async def test_no_secret_is_in_the_log(tmp_path: Path) -> None:
    backend = web.Application()
    backend.router.add_get("/{path:.*}", backend_with_secrets)
    async with (
        aiohttp_server(backend) as port,
        proxy_process(port, tmp_path, "--admin-token", "t0ken") as process,
    ):
        url = f"ws://{process.listen}/?token=s3cret"
        async with connect(url, additional_headers=HEADERS, proxy=None) as tutor:
            assert await tutor.recv() == "Bearer passw0rdsession=c00kie"
        await provoke(process)
    log = "".join(process.log)
    assert log.count("request not relayed") >= 2
    assert "Traceback" not in log
    assert [secret for secret in SECRETS if secret in log] == []


# The end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_well_in_the_midst_of_a_lesson(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with websockets_backend() as port, AsyncExitStack() as lessons:
        backend = ("--backend", f"http://127.0.0.1:{port}")
        options = (*backend, *FREE_PORTS, "--state-dir", tmp_path)
        async with running(*options, stop=number) as serving:
            lesson = connect(f"ws://{serving['listen']}/", proxy=None)
            tutor = await lessons.enter_async_context(lesson)
            await tutor.send(b"echo")
            assert await tutor.recv() == b"echo"
        await tutor.wait_closed()
