"""What the README shows is run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.control.flags import Flags
from proxy.control.metrics import FAMILIES
from proxy.demo.backend import serve
from tests.support import pcm
from tests.support.process import Process, proxy_process

README_FOLDER = Path(__file__).parent.parent
README = (README_FOLDER / "README.md").read_text()


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


ROWS = {
    "PCM, 16 bit, 22.05 kHz": "speech.pcm",
    "WAV, the same": "speech-22050-s16.wav",
    "µ-law, 8 kHz": "speech-8000.ulaw",
    "MP3, 48 kb/s": "speech-24000-48k.mp3",
    "MP3, 128 kb/s": "speech-44100-128k.mp3",
    "AAC, ADTS": "speech-48k.aac",
    "Ogg Opus, 24 kb/s": "speech-24k.ogg",
}
COLUMNS = {"gzip": "gzip", "FLAC": "flac", "Opus": "opus", "permessage-deflate": None}


def savings_table(report: Any) -> list[list[str]]:
    """What `analyze --json` measured, as the README shows it."""
    sizes = sorted({one["chunk_size"] for one in report["measurements"]})
    measured = {(Path(one["path"]).name, one["chunk_size"]): one for one in report["measurements"]}
    assert len(measured) == len(report["measurements"])
    assert {name for name, _ in measured} == set(ROWS.values())

    def cell(name: str, algorithm: str | None) -> str:
        shares = []
        for size in sizes:
            one = measured[name, size]
            played = one["permessage_deflate"]
            if algorithm is not None:
                played = one["algorithms"][algorithm]
                if not played["tried"]:
                    return "-"
            shares.append(f"{100 * played['saved']:z.1f}")
        return " / ".join(shares) + " %"

    kibibytes = " / ".join(str(size // 1024) for size in sizes)
    head = [f"saved at {kibibytes} KiB", *COLUMNS]
    rows = [
        [label, *(cell(name, algorithm) for algorithm in COLUMNS.values())]
        for label, name in ROWS.items()
    ]
    return [head, ["---"] * len(head), *rows]


MEASURED = Path(__file__).parent / "bench" / "measured"
SPEED_ROWS = {
    "nginx": "nginx",
    "nginx 64k": "nginx, buffers of 64 KiB",
    "HAProxy": "HAProxy",
    "aiohttp relay": "a relay on aiohttp",
    "websockets relay": "a relay on `websockets`",
    "audio-proxy": "**audio-proxy**, not opted in",
    "audio-proxy MP3": "audio-proxy, opted in, MP3",
    "audio-proxy gzip": "audio-proxy, gzip",
    "audio-proxy FLAC": "audio-proxy, FLAC",
}


def speed_table(measured: Any) -> list[list[str]]:
    """What the benchmark measured, as the README shows it."""
    bulk, medians = measured["medians"]["bulk"], measured["medians"]
    sizes = [f"{int(size) // 1024} KiB" for size in bulk]

    def figure(one: Any) -> str:
        return f"{one['cpu_us']:,.0f}" if one["cpu_us"] >= 100 else f"{one['cpu_us']:.3g}"

    def cell(rounds: Any, mode: str) -> str:
        return figure(rounds[mode]) if mode in rounds else ""

    rows = [
        [label, *(cell(rounds, mode) for rounds in (*bulk.values(), medians["handshakes"]))]
        for mode, label in SPEED_ROWS.items()
    ]
    bare = [figure(one) for one in medians["codec"].values()]
    head = ["CPU µs of the proxy", *sizes, "handshake"]
    return [head, ["---"] * len(head), *rows, ["gzip alone", *bare, ""]]


def test_the_speed_table_is_what_was_measured() -> None:
    """By `python -m tests.bench`, whose figures are kept beside the pictures that are shown."""
    measured = json.loads((MEASURED / "measured.json").read_text())
    table = re.search(r"<!-- speed -->\n(.*)<!-- /speed -->", README, re.DOTALL)
    assert table is not None
    text = "".join(
        f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in speed_table(measured)
    )
    assert table[1] == text
    pictures = re.findall(r"tests/bench/measured/[a-z.]+", README)
    assert {Path(name).suffix for name in pictures} >= {".svg", ".png", ".json"}
    for name in pictures:
        assert (README_FOLDER / name).is_file()


def shares_of(cell: str) -> list[float]:
    return [float(share) for share in cell.removesuffix(" %").split(" / ")]


async def test_the_savings_table_is_what_its_command_measures(tmp_path: Path) -> None:
    section = README.partition("## What it saves\n")[2].partition("\n## ")[0]
    table = re.search(r"<!-- savings -->\n(.*)<!-- /savings -->", section, re.DOTALL)
    command = re.search(r"^```sh\n(.*?)\n```", section, re.DOTALL | re.MULTILINE)
    assert table is not None
    assert command is not None
    lines = command[1].replace("/tmp/speech.pcm", f"{tmp_path}/speech.pcm")
    report = json.loads(
        await run(
            *("sh", "-ec", f"cd {Path(__file__).parent.parent}\n{lines} --json"),
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        )
    )
    only_samples = (tmp_path / "speech.pcm").read_bytes() == pcm()
    assert only_samples
    measured = savings_table(report)
    shown = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()
    ]
    # Opus, in the fourth column, depends on the build of libopus.
    exact = [[row[:3] + row[4:] for row in rows] for rows in (shown, measured)]
    text = "\n".join(f"| {' | '.join(row)} |" for row in measured)
    assert exact[0] == exact[1], text
    for ours, theirs in zip(shown[2:], measured[2:], strict=True):
        if "-" in (ours[3], theirs[3]):
            assert ours[3] == theirs[3]
        else:
            assert shares_of(ours[3]) == pytest.approx(shares_of(theirs[3]), abs=0.5), text


async def test_the_python_client_examples(tmp_path: Path) -> None:
    lossless, lossy = [block for block in blocks("python") if "connect(" in block]
    async with serve(pace=1000) as backend, proxy_process(backend, tmp_path) as proxy:
        original, speech = [
            await run(*(sys.executable, "-c", example.replace("127.0.0.1:8080", str(proxy.listen))))
            for example in (lossless, lossy)
        ]
    assert original == f"{len(pcm())} bytes of speech\n"
    seconds = re.fullmatch(r"([\d.]+) s of speech\n", speech)
    assert seconds is not None
    assert float(seconds[1]) == pytest.approx(len(pcm()) / 2 / 22050, abs=0.11)


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
        get, off, on, shadow, paths, status, connections = [
            await shell(line, proxy, tmp_path) for line in flags
        ]
        assert "enabled=true" in get
        assert "min_size=1024" in get
        assert "enabled=false" in off
        assert "enabled=true" in on
        assert "min_size=2048" in on
        assert "rollout_percent=30" in shadow
        assert "shadow=true" in shadow
        assert re.search(r'^paths=\{"/ws/exam\*": ?\{"enabled": ?false\}\}$', paths, re.MULTILINE)
        assert "saved" in status
        assert connections
        stats, patched, listed = [await shell(line, proxy, tmp_path) for line in curls]
        assert '"wire_bytes": 0' in stats
        assert '"connections": []' in listed
        assert '"enabled": false' in patched


def test_every_metric_is_described() -> None:
    table = re.search(r"<!-- metrics -->\n(.*)<!-- /metrics -->", README, re.DOTALL)
    assert table is not None
    _, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()
    ]
    expected = [
        [
            f"`{one.name}`",
            one.kind,
            ", ".join(f"`{label}`" for label in one.labels),
            one.help,
        ]
        for one in FAMILIES
    ]
    assert rows == expected


@pytest.mark.parametrize("name", Flags.model_fields)
def test_every_flag_is_described_with_its_first_value(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| (.*?) \|", README, re.MULTILINE)
    assert row is not None
    value = getattr(Flags(), name)
    shown = ",".join(value) if isinstance(value, tuple) else str(value).lower()
    assert shown in row[1]
