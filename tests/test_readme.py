"""What the README shows is run."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from proxy.demo.backend import serve
from tests.support import pcm
from tests.support.process import Process, proxy_process
from tests.support.savings import table

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


async def run(*command: str, **environment: str) -> str:
    """Output of a command, which must end well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def test_the_savings_table_is_what_is_measured() -> None:
    shown = re.search(r"<!-- savings:.*?-->\n(.*?)\n<!-- /savings -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == table()


async def test_the_python_client_example(tmp_path: Path) -> None:
    (example,) = [block for block in blocks("python") if "connect(" in block]
    async with serve(pace=1000) as backend, proxy_process(backend, tmp_path) as proxy:
        example = example.replace("127.0.0.1:8080", str(proxy.listen))
        assert await run(sys.executable, "-c", example) == f"{len(pcm())} bytes of speech\n"


async def test_the_compression_example() -> None:
    (example,) = [block for block in blocks("python") if "audio_compression" in block]
    compressed, ratio = (await run(sys.executable, "-c", example)).split()
    assert compressed == "True"
    assert 0 < float(ratio) < 1


async def shell(line: str, proxy: Process, state_dir: Path) -> str:
    """Run one line of the README's as a shell does, against a running proxy."""
    line = line.replace("127.0.0.1:9090", str(proxy.admin))
    return await run(
        *("sh", "-c", line),
        AUDIO_PROXY_STATE_DIR=str(state_dir),
        AUDIO_PROXY_ADMIN=str(proxy.admin),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )


async def test_the_operators_commands(tmp_path: Path) -> None:
    flags, curls = [
        [line for line in block.splitlines() if line.startswith(("audio-proxy", "curl"))]
        for block in blocks("sh")
        if "flags get" in block or "curl" in block
    ]
    async with serve(pace=1000) as backend, proxy_process(backend, tmp_path) as proxy:
        get, off, on, status = [await shell(line, proxy, tmp_path) for line in flags]
        assert "enabled=true" in get
        assert "min_size=1024" in get
        assert "enabled=false" in off
        assert "enabled=true" in on
        assert "min_size=2048" in on
        assert "saved" in status
        stats, patched = [await shell(line, proxy, tmp_path) for line in curls]
        assert '"wire_bytes": 0' in stats
        assert '"enabled": false' in patched


@pytest.mark.parametrize("name", ["enabled", "min_size", "min_gain", "level", "algorithms"])
async def test_every_flag_is_described_with_its_first_value(name: str) -> None:
    from proxy.control.flags import Flags

    row = re.search(rf"^\| `{name}` \| (.*?) \|", README, re.MULTILINE)
    assert row is not None
    value = getattr(Flags(), name)
    shown = ",".join(value) if isinstance(value, tuple) else str(value).lower()
    assert shown in row[1]
