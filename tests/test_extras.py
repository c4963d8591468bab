"""What an installation without the extras offers: the packages are kept from being imported."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.support.backends import websockets_backend


def program(*, without: Sequence[str] = ()) -> list[str]:
    """`audio-proxy`, on a Python that lacks certain packages."""
    code = "import sys\n"
    code += "".join(f"sys.modules[{name!r}] = None\n" for name in without)
    code += "from proxy.cli import main\nmain()"
    return [sys.executable, "-c", code]


@asynccontextmanager
async def running(tmp_path: Path, without: Sequence[str]) -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy's address, and what it logged until it served."""
    async with websockets_backend() as backend:
        process = await asyncio.create_subprocess_exec(
            *(*program(without=without), "run", "--backend", f"http://127.0.0.1:{backend}"),
            *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
            *("--state-dir", str(tmp_path)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(30):
                log: list[str] = []
                while not log or " serving " not in log[-1]:
                    line = await process.stderr.readline()
                    assert line, log
                    log.append(line.decode())
                found = re.search(r"\blisten=(\S+)", log[-1])
                assert found is not None
                yield found[1], log
        finally:
            process.terminate()
            await process.communicate()
        assert process.returncode == 0


async def offered(address: str, asked: str) -> str | None:
    """What the proxy says is in effect for a client that asks for some algorithms."""
    url = f"ws://{address}/?audio_compression={asked}"
    async with connect(url, proxy=None) as connection:
        assert connection.response is not None
        return connection.response.headers.get("X-Audio-Compression")


def of_missing(log: Sequence[str]) -> list[str]:
    return [line for line in log if "not installed" in line]


async def test_what_is_not_installed_is_not_offered_and_the_log_says_how_to_get_it(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ["av"]) as (address, log):
        flac, opus = of_missing(log)
        for name, line in (("flac", flac), ("opus", opus)):
            assert f"{name} is not offered" in line
            assert f"pip install 'audio-compression-proxy[{name}]'" in line
        assert await offered(address, "flac,opus") is None
        assert await offered(address, "flac,gzip") == "gzip"
        assert await offered(address, "gzip") == "gzip"


@pytest.mark.parametrize("missing", ["proxy.tunnel.speedups", "proxy.audio.huffman"])
async def test_without_the_part_in_c_it_serves_and_says_so(tmp_path: Path, missing: str) -> None:
    async with running(tmp_path, [missing]) as (address, log):
        (line,) = of_missing(log)
        assert "the part in C is not installed" in line
        assert "python3-dev" in line
        assert await offered(address, "flac,opus") == "flac,opus"


async def test_what_is_installed_is_offered_and_nothing_is_said(tmp_path: Path) -> None:
    async with running(tmp_path, []) as (address, log):
        assert of_missing(log) == []
        assert await offered(address, "flac,opus") == "flac,opus"
