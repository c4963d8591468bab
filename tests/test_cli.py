"""The real command, as an operator types it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.client import connect
from proxy.config import AdminSettings, Settings
from tests.support import SPEECH
from tests.support.backends import aiohttp_server, websockets_backend
from tests.support.process import proxy_process
from tests.support.raw import Peer, raw_backend
from tests.support.tls import Certificates

NOBODY = "127.0.0.1:9"
"""An address where nobody listens."""

BACKEND = ("--backend", f"http://{NOBODY}")
FREE_PORTS = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")


@dataclass(frozen=True)
class Ended:
    """What a command said, and its status."""

    status: int | None
    output: str
    problems: str

    def refused(self, *names: str) -> None:
        """It must have ended with one line for the operator, which names what is wrong."""
        assert (self.status, self.output) == (2, ""), self.problems
        assert len(self.problems.splitlines()) == 1, self.problems
        for name in names:
            assert name in self.problems


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's, without what may be in it of settings for us and for the web."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if "proxy" not in name.lower() and name.upper() != "ENABLE_WS_COMPRESSION"
    }
    return {**kept, **more}


@asynccontextmanager
async def start(
    *arguments: str | Path, **more: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """Start a command; yields it and its standard error. Keywords are environment variables."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(more),
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            yield process, process.stderr
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def audio_proxy(*arguments: str | Path, **more: str) -> Ended:
    """Run a command to its end."""
    async with start(*arguments, **more) as (process, _):
        output, problems = await process.communicate()
    return Ended(process.returncode, output.decode(), problems.decode())


@asynccontextmanager
async def running(
    *options: str | Path, stop: signal.Signals = signal.SIGTERM, **more: str
) -> AsyncIterator[dict[str, str]]:
    """`audio-proxy run` until the block ends, then a signal, which must end it well.

    Yields what it says of itself when it serves: `listen`, `admin`, `backend`, `flags`.
    """
    async with start("run", *options, **more) as (process, stderr):
        log = ""
        while "serving" not in log:
            line = (await stderr.readline()).decode()
            assert line, log
            log += line
        yield dict(re.findall(r"(\w+)=(\S+)", log))
        process.send_signal(stop)
        output, rest = await process.communicate()
    assert (process.returncode, output) == (0, b""), rest
    assert b"stopping" in rest
    assert b"Traceback" not in rest


async def ask(admin: object, path: str, **options: Any) -> Any:
    """The JSON that an admin port answers."""
    url = f"http://{admin}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, **options) as response:
        return await response.json()


async def ask_until(admin: object, path: str, key: str, seconds: float = 5) -> Any:
    """Ask again until `key` is neither null nor true."""
    async with asyncio.timeout(seconds):
        while (value := (await ask(admin, path))[key]) in (None, True):
            pass
    return value


async def lesson(url: str) -> None:
    """Have one recording streamed from a backend of tests.support.backends."""
    recording = str(SPEECH["speech-22050-s16.wav"])
    async with connect(url, proxy=None) as tutor:
        await tutor.send(json.dumps({"path": recording, "size": 4096, "limit": 100_000}))
        while await tutor.recv() != "end":
            pass


# Flags.


async def test_flags_are_kept_and_shown_as_they_are_set(tmp_path: Path) -> None:
    folder = ("--state-dir", tmp_path / "state")
    done = await audio_proxy("flags", "set", "enabled=false", "level=2", *folder)
    assert done == Ended(
        0, "enabled=false\nmin_size=1024\nmin_gain=0.03\nlevel=2\nalgorithms=gzip,flac,opus\n", ""
    )
    kept = json.loads((tmp_path / "state" / "flags.json").read_bytes())
    assert (kept["enabled"], kept["level"]) == (False, 2)
    other = ("--state-dir", tmp_path / "other")
    shown, set_again = await asyncio.gather(
        audio_proxy("flags", "get", *folder),
        audio_proxy("flags", "set", *done.output.split(), *other),
    )
    assert shown == set_again == done
    first = ("--state-dir", tmp_path / "first")
    assert done == await audio_proxy("flags", "set", "level=2", *first, ENABLE_WS_COMPRESSION="no")


async def test_a_wrong_flag_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    wrong = {
        "level=9": "level",
        "enabled=": "enabled",
        "algorithms=gzip,lzma": "lzma",
        "colour=red": "colour",
        "enabled": "'enabled' is not NAME=VALUE",
    }
    common = ("flags", "set", "--state-dir", tmp_path, "min_size=1")
    ends = await asyncio.gather(*(audio_proxy(*common, change) for change in wrong))
    for name, ended in zip(wrong.values(), ends, strict=True):
        ended.refused(name)
    assert not (tmp_path / "flags.json").exists()


async def test_flags_that_are_not_there_or_broken(tmp_path: Path) -> None:
    folder = ("--state-dir", tmp_path)
    path = tmp_path / "flags.json"
    (await audio_proxy("flags", "get", *folder)).refused(str(path))
    path.write_text("{")
    (await audio_proxy("flags", "get", *folder)).refused(str(path), "JSON")
    mended = await audio_proxy("flags", "set", "level=3", *folder)
    assert mended.status == 0
    assert str(path) in mended.problems  # what was in it is lost
    assert "level=3" in (await audio_proxy("flags", "get", *folder)).output


async def test_a_flag_reaches_a_running_proxy_within_a_second(tmp_path: Path) -> None:
    async with proxy_process(9, tmp_path) as process:
        assert (await ask(process.admin, "/flags"))["enabled"] is True
        done = await audio_proxy("flags", "set", "enabled=false", "--state-dir", tmp_path)
        assert done.status == 0
        assert await ask_until(process.admin, "/flags", "enabled", seconds=1) is False
    assert "flags changed" in "".join(process.log)


# Status.


async def test_the_status_of_a_proxy_at_work(tmp_path: Path) -> None:
    async with websockets_backend() as port, proxy_process(port, tmp_path) as process:
        await lesson(f"ws://{process.listen}/")
        stats = await ask(process.admin, "/stats")
        table, for_programs = await asyncio.gather(
            audio_proxy("status", "--admin", str(process.admin)),
            audio_proxy("status", "--json", "--admin", str(process.admin)),
        )
    assert (table.status, table.problems) == (0, "")
    assert stats["total_compressed"] > 10
    saved = stats["wire_original_bytes"] - stats["wire_bytes"]
    for number in (stats["total_compressed"], stats["wire_bytes"], saved):
        assert f"{number:,}" in table.output
    assert f"{saved / stats['wire_original_bytes']:.1%}" in table.output
    assert "problem" not in table.output

    assert (for_programs.status, for_programs.problems) == (0, "")
    answer = json.loads(for_programs.output)
    assert answer["problems"] == []
    assert answer["flags"]["enabled"] is True
    assert answer["stats"]["wire_bytes"] == stats["wire_bytes"]


async def test_the_status_of_a_proxy_in_trouble(tmp_path: Path) -> None:
    """Nobody is behind it, and its flags are broken: by a name that a terminal may not like."""
    flag = "[red][/]"
    async with proxy_process(9, tmp_path) as process:
        (tmp_path / "flags.json").write_text(json.dumps({flag: 1}))
        await ask_until(process.admin, "/stats", "flags_error")
        table, for_programs = await asyncio.gather(
            audio_proxy("status", "--admin", str(process.admin)),
            audio_proxy("status", "--json", "--admin", str(process.admin)),
        )
    assert (table.status, table.problems) == (1, "")
    problems = [line for line in table.output.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2
    assert "backend" in problems[0]
    assert f"flags.json: {flag}: there is no such flag" in problems[1]
    assert for_programs.status == 1
    told = json.loads(for_programs.output)["problems"]
    assert [f"problem: {problem}" for problem in told] == problems


async def test_the_token_is_sent_and_a_wrong_one_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as backend:
        port = backend.getsockname()[1]
        async with proxy_process(port, tmp_path, "--admin-token", "t0ken") as process:
            command = ("status", "--admin", str(process.admin))
            right, none, wrong = await asyncio.gather(
                audio_proxy(*command, AUDIO_PROXY_ADMIN_TOKEN="t0ken"),
                audio_proxy(*command),
                audio_proxy(*command, AUDIO_PROXY_ADMIN_TOKEN="other"),
            )
    assert (right.status, right.problems) == (0, "")
    none.refused("admin_token")
    wrong.refused("admin_token")
    assert "other" not in wrong.problems


async def test_status_where_nobody_or_something_else_is() -> None:
    """Such as the public port, taken for this one: what the backend answers may be anything."""

    async def talk(peer: Peer) -> None:
        await peer.send(b"SSH-2.0-OpenSSH_9.2\r\n")

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({})

    site, api = web.Application(), web.Application()
    api.router.add_get("/{path:.*}", answer)
    async with aiohttp_server(site) as one, aiohttp_server(api) as two, raw_backend(talk) as three:
        places = [NOBODY, *(f"127.0.0.1:{port}" for port in (one, two, three))]
        ends = await asyncio.gather(*(audio_proxy("status", "--admin", at) for at in places))
    for where, ended in zip(places, ends, strict=True):
        ended.refused("admin", where)


async def test_status_asks_the_proxy_itself_and_shows_no_token(tmp_path: Path) -> None:
    """`http_proxy` is for the web: the token is not to go there, nor to the screen."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        port = backend.getsockname()[1]
        async with proxy_process(port, tmp_path, "--admin-token", "t0ken") as process:
            command = ("status", "--admin", str(process.admin))
            through_web, with_newline = await asyncio.gather(
                audio_proxy(
                    *command, AUDIO_PROXY_ADMIN_TOKEN="t0ken", http_proxy=f"http://{NOBODY}"
                ),
                audio_proxy(*command, AUDIO_PROXY_ADMIN_TOKEN="t0ken\n"),
            )
    assert (through_web.status, through_web.problems) == (0, "")
    assert "t0ken" not in with_newline.problems + with_newline.output


# Settings that are wrong.


async def test_a_wrong_setting_is_named_in_one_line(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    unknown = tmp_path / "unknown.toml"
    unknown.write_text("lissen = '127.0.0.1:0'")
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = "{}:{}".format(*server.getsockname())
        wrong: list[tuple[list[str | Path], list[str]]] = [
            ([], ["backend", "must be set"]),
            (["--backend", "localhost"], ["backend", "localhost"]),
            (["--backend", "http://u:passw0rd@host/"], ["backend", "credentials"]),
            ([*BACKEND, "--listen", taken], ["audio-proxy: listen: ", taken]),
            ([*BACKEND, "--admin", taken], ["audio-proxy: admin: ", taken]),
            ([*BACKEND, "--admin", "0.0.0.0:0"], ["admin", "admin_token"]),
            ([*BACKEND, "--tls-cert", files.cert], ["tls_cert and tls_key go together"]),
            ([*BACKEND, "--tls-cert", files.cert, "--tls-key", files.ca], [str(files.ca)]),
            ([*BACKEND, "--config", "/no/such.toml"], ["config", "/no/such.toml"]),
            ([*BACKEND, "--config", unknown], ["lissen: there is no such setting"]),
            ([*BACKEND, "--enable-ws-compression", "maybe"], ["enable_ws_compression"]),
        ]
        common = ("run", *FREE_PORTS, "--state-dir", tmp_path)
        ends = await asyncio.gather(*(audio_proxy(*common, *options) for options, _ in wrong))
    for (_, names), ended in zip(wrong, ends, strict=True):
        ended.refused(*names)
        assert "passw0rd" not in ended.problems


# Where settings come from.


async def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    for level, source in enumerate(("file", "environment", "flag"), 1):
        (tmp_path / source).mkdir()
        (tmp_path / source / "flags.json").write_text(json.dumps({"level": level}))
    file = tmp_path / "proxy.toml"
    file.write_text(f"state_dir = {json.dumps(str(tmp_path / 'file'))}\nbackend = 'http://a/'\n")
    by_file = {"AUDIO_PROXY_CONFIG": str(file)}
    by_environment = {"AUDIO_PROXY_STATE_DIR": str(tmp_path / "environment")}
    seen = await asyncio.gather(
        audio_proxy("flags", "get", **by_file),
        audio_proxy("flags", "get", "--config", file, **by_environment),
        audio_proxy("flags", "get", "--state-dir", tmp_path / "flag", **by_file, **by_environment),
    )
    assert [ended.status for ended in seen] == [0, 0, 0]
    assert [re.findall(r"level=(\d)", ended.output) for ended in seen] == [["1"], ["2"], ["3"]]


@pytest.mark.parametrize("source", ["flags", "environment", "file"])
async def test_each_source_is_enough_to_run(source: str, tmp_path: Path) -> None:
    settings = {
        "backend": f"http://{NOBODY}/base",
        "listen": f"unix:{tmp_path}/listen",
        "admin": "127.0.0.1:0",
        "state_dir": f"{tmp_path}/state",
    }
    options: list[str | Path] = []
    variables = {}
    if source == "flags":
        for name, value in settings.items():
            options += [f"--{name.replace('_', '-')}", value]
    elif source == "environment":
        variables = {f"AUDIO_PROXY_{name.upper()}": value for name, value in settings.items()}
    else:
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
        (tmp_path / "proxy.toml").write_text("".join(lines))
        options = ["--config", tmp_path / "proxy.toml"]
    async with running(*options, **variables) as serving:
        assert (await ask(serving["admin"], "/healthz")) == {"status": "alive"}
    assert serving["backend"] == settings["backend"]
    assert serving["listen"] == settings["listen"]
    assert serving["flags"] == f"{tmp_path}/state/flags.json"


async def test_the_switch_is_the_first_value_and_the_stored_flag_wins_later(tmp_path: Path) -> None:
    async def enabled() -> object:
        options = ("--state-dir", tmp_path)
        async with running(
            *BACKEND, *FREE_PORTS, *options, ENABLE_WS_COMPRESSION="false"
        ) as serving:
            return (await ask(serving["admin"], "/flags"))["enabled"]

    assert await enabled() is False
    done = await audio_proxy("flags", "set", "enabled=true", "--state-dir", tmp_path)
    assert done.status == 0
    assert await enabled() is True


# Help.


async def test_help_lists_every_setting_and_says_where_else_it_may_stand() -> None:
    commands = ("run", "status")
    run, status = await asyncio.gather(*(audio_proxy(name, "--help") for name in commands))
    for ended, settings in ((run, Settings), (status, AdminSettings)):
        assert (ended.status, ended.problems) == (0, "")
        listed = set(re.findall(r"--[a-z-]+", ended.output))
        assert {"--" + name.replace("_", "-") for name in settings.model_fields} <= listed
    assert re.search("AUDIO_PROXY_.*TOML", run.output, re.DOTALL)


async def test_the_version_and_the_commands() -> None:
    version, no_words = await asyncio.gather(audio_proxy("--version"), audio_proxy())
    assert re.fullmatch(r"audio-proxy \d+\.\d+\.\d+\n", version.output)
    assert version.status == 0
    for command in ("run", "demo", "flags", "status"):
        assert re.search(rf"^\W*{command}\b", no_words.output + no_words.problems, re.MULTILINE)
