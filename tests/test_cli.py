"""The commands' settings, help and logs; what they do is tested in tests/commands."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from proxy.config import AdminSettings, Settings
from tests.support.command import BACKEND, FREE_PORTS, NOBODY, ask, audio_proxy, running, start
from tests.support.tls import Certificates

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


# Logs.


async def test_the_log_is_json_where_that_is_set(tmp_path: Path) -> None:
    options = (*BACKEND, *FREE_PORTS, "--state-dir", tmp_path, "--log-format", "json")
    async with start("run", *options) as (process, stderr):
        first = await stderr.readline()
        process.terminate()
        output, rest = await process.communicate()
    assert (process.returncode, output) == (0, b"")
    lines = [json.loads(line) for line in (first, *rest.splitlines())]
    for line in lines:
        assert line["level"] in ("info", "warning")
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
    assert [line["event"] for line in lines][:2] == ["serving", "stopping"]
    assert lines[0]["backend"] == f"http://{NOBODY}"


async def test_the_form_of_the_log_is_read_anew_at_sighup(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text("log_format = 'text'")
    options = (*BACKEND, *FREE_PORTS, "--state-dir", tmp_path, "--config", file)
    async with start("run", *options) as (process, stderr):
        assert b"[info" in await stderr.readline()
        file.write_text("log_format = 'json'")
        process.send_signal(signal.SIGHUP)
        line = json.loads(await stderr.readline())
        process.terminate()
        await process.communicate()
    assert line["event"] == "replacing the workers one by one"


FAILURES = """
import logging, sys, structlog
from proxy.logs import configure_logs
configure_logs(logging.INFO, sys.argv[1])
def fail(secret):
    raise OSError("no luck")
for log in (structlog.get_logger("ours"), logging.getLogger("asyncio")):
    try:
        fail("s3" + "cret")
    except OSError:
        log.exception("it failed")
logging.getLogger("asyncio").info("libraries say less")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_traceback_shows_no_variables_whoever_logs_it(log_format: str) -> None:
    """Ours, and those of asyncio and aiohttp, in the same form."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FAILURES, log_format),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        output, log = await process.communicate()
    assert (process.returncode, output) == (0, b"")
    text = log.decode()
    assert text.count("Traceback") == text.count("OSError: no luck") == 2
    assert text.count("it failed") == 2
    assert "s3cret" not in text
    assert "libraries say less" not in text
    if log_format == "json":
        for line in map(json.loads, text.splitlines()):
            assert (line["event"], line["level"]) == ("it failed", "error")
            assert line["exception"].endswith("OSError: no luck")
    else:
        assert len(re.findall(r"^\S+Z \[error +\] it failed", text, re.MULTILINE)) == 2


# Help.


async def test_help_lists_every_setting_and_says_where_else_it_may_stand() -> None:
    commands = {"run": Settings, "status": AdminSettings, "connections": AdminSettings}
    ends = await asyncio.gather(*(audio_proxy(name, "--help") for name in commands))
    run, *_ = ends
    for ended, settings in zip(ends, commands.values(), strict=True):
        assert (ended.status, ended.problems) == (0, "")
        listed = set(re.findall(r"--[a-z-]+", ended.output))
        assert {"--" + name.replace("_", "-") for name in settings.model_fields} <= listed
    assert re.search("AUDIO_PROXY_.*TOML", run.output, re.DOTALL)


async def test_the_version_and_the_commands() -> None:
    version, no_words = await asyncio.gather(audio_proxy("--version"), audio_proxy())
    assert re.fullmatch(r"audio-proxy \d+\.\d+\.\d+\n", version.output)
    assert version.status == 0
    for command in ("run", "demo", "flags", "status", "connections", "analyze"):
        assert re.search(rf"^\W*{command}\b", no_words.output + no_words.problems, re.MULTILINE)
