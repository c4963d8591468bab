"""A real Prometheus that scrapes real workers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from proxy.control.metrics import CONTENT_TYPE, FAMILIES
from proxy.values import Address
from proxy.websocket.frames import BINARY, CLOSE, TEXT, build_header
from tests.control.test_metrics import lint
from tests.support import pcm
from tests.support.process import Process, proxy_process
from tests.support.raw import Peer, raw_backend, raw_client, request, switch

TOKEN = "t0ken"
LEARNERS = 12


def frame(opcode: int, payload: bytes) -> bytes:
    return build_header(opcode, len(payload)) + payload


CHUNKS = [frame(BINARY, pcm()[at : at + 4096]) for at in range(0, 100_000, 4096)]
LESSON = frame(TEXT, b"question") + b"".join(CHUNKS) + frame(CLOSE, b"\x03\xe8")


async def learn(proxy: Address) -> int:
    """Hear a lesson, with gzip. Returns the bytes that came behind the handshake."""
    async with raw_client(proxy) as learner:
        await learner.send(request(b"/?audio_compression=gzip"))
        await learner.head()
        return len(await learner.rest())


class Prometheus:
    """A server that is running."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """The values of now, by those of their labels."""
        url = f"{self._url}/api/v1/query"
        async with self._session.get(url, params={"query": expression}) as response:
            answer: dict[str, Any] = await response.json()
        assert answer["status"] == "success", answer
        return {
            tuple(value for _, value in sorted(result["metric"].items())): float(result["value"][1])
            for result in answer["data"]["result"]
        }

    async def until(self, expression: str, value: float) -> None:
        """Wait for a value."""
        async with asyncio.timeout(20):
            while (await self.query(expression)) != {(): value}:
                pass


@asynccontextmanager
async def prometheus(process: Process, folder: Path) -> AsyncIterator[Prometheus]:
    """One that scrapes a proxy every second."""
    config = {
        "scrape_configs": [
            {
                "job_name": "audio-proxy",
                "scrape_interval": "1s",
                "authorization": {"credentials": TOKEN},
                "static_configs": [{"targets": [str(process.admin)]}],
            }
        ]
    }
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))  # which is YAML
    server = await asyncio.create_subprocess_exec(
        *("prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}"),
        "--web.listen-address=127.0.0.1:0",
        stderr=asyncio.subprocess.PIPE,
    )
    assert server.stderr is not None
    try:
        log = ""
        async with asyncio.timeout(20):
            while "ready to receive" not in log:
                line = (await server.stderr.readline()).decode()
                assert line, log
                log += line
        draining = asyncio.create_task(server.stderr.read())
        address = re.findall(r'"Listening on" address=(\S+)', log)[0]
        async with aiohttp.ClientSession() as session:
            yield Prometheus(f"http://{address}", session)
        server.terminate()
        await draining
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


async def test_its_totals_are_what_the_clients_counted_byte_for_byte(tmp_path: Path) -> None:
    async def speak(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + LESSON)

    async with (
        raw_backend(speak) as port,
        proxy_process(
            port, tmp_path / "state", "--workers", "2", "--admin-token", TOKEN
        ) as process,
        prometheus(process, tmp_path) as server,
    ):
        received = await asyncio.gather(*(learn(process.listen) for _ in range(LEARNERS)))
        assert sum(received) < LEARNERS * len(LESSON)
        await server.until("sum(audio_proxy_wire_bytes_total)", sum(received))
        await server.until("sum(audio_proxy_wire_original_bytes_total)", LEARNERS * len(LESSON))
        await server.until("sum(audio_proxy_closed_total)", LEARNERS)
        await server.until('sum(audio_proxy_handshakes_total{result="opted_in"})', LEARNERS)
        await server.until("sum(audio_proxy_chunks_total)", LEARNERS * len(CHUNKS))
        names = await server.query('count by (__name__) ({__name__=~"audio_proxy_.*"})')
        kept = {re.sub("_(bucket|sum|count)$", "", name) for (name,) in names}
        url = f"http://{process.admin}/metrics"
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
            session.get(url) as response,
        ):
            text = await response.read()
            assert response.headers["Content-Type"] == CONTENT_TYPE
    assert kept == {family.name for family in FAMILIES}
    assert lint(text) == ""
