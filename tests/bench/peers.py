"""What is measured: each proxy as a process of its own, on its cores, in front of one backend."""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT = 20.0
"""Seconds."""

_LISTENING = re.compile(rb"\bserving\b.*\blisten=127\.0\.0\.1:(\d+)")
_ADMIN = re.compile(rb"\bserving\b.*\badmin=127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Peer:
    """A running proxy; `pid` is 0 where there is none."""

    name: str
    port: int
    pid: int
    admin: int = 0
    """The port of our admin, where it has one."""


@dataclass(frozen=True)
class Mode:
    """One row of the tables: a peer, and what is sent through it."""

    name: str
    peer: str
    query: str = ""
    sends: str = "pcm"
    pace: float = math.inf
    """Megabytes a second that are sent at most: what the kernel holds must be encoded, too."""
    speakers: int | None = None
    """That speak at most where memory is measured: a core that is behind has it in memory."""


MODES = (
    Mode("direct", "direct"),
    Mode("nginx", "nginx"),
    Mode("nginx 64k", "nginx 64k"),
    Mode("HAProxy", "HAProxy"),
    Mode("aiohttp relay", "aiohttp"),
    Mode("websockets relay", "websockets"),
    Mode("bare gzip relay", "bare", "?audio_compression=gzip"),
    Mode("audio-proxy", "audio-proxy"),
    Mode("audio-proxy gzip", "audio-proxy", "?audio_compression=gzip"),
    Mode("audio-proxy FLAC", "audio-proxy", "?audio_compression=flac", pace=40),
    Mode("audio-proxy Opus", "audio-proxy", "?audio_compression=opus", pace=4, speakers=60),
    Mode("audio-proxy MP3", "audio-proxy", "?audio_compression=gzip", "mp3"),
)

_COMMANDS = {"nginx": "nginx", "nginx 64k": "nginx", "HAProxy": "haproxy"}

_PROXY = ("--pcm-layout", "s16le/24000/1", "--opus-raw", "true")

_NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log crit;

events {{ worker_connections 16384; multi_accept on; }}
http {{
  access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
  fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  tcp_nodelay on;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://127.0.0.1:{backend}; proxy_http_version 1.1; {buffers}
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
      proxy_read_timeout 600s; proxy_send_timeout 600s;
    }}
  }}
}}
"""
_NGINX_BUFFERS = "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;"

_HAPROXY = """
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 10s
  timeout client 600s
  timeout server 600s
  timeout tunnel 600s
frontend front
  bind 127.0.0.1:{port} backlog 4096
  default_backend back
backend back
  server one 127.0.0.1:{backend}
"""


def missing_commands(modes: Iterable[Mode]) -> list[str]:
    """The commands of their peers that are not installed."""
    needed = dict.fromkeys(_COMMANDS[mode.peer] for mode in modes if mode.peer in _COMMANDS)
    return [name for name in needed if shutil.which(name, path=_path()) is None]


def versions() -> dict[str, str]:
    """What the commands of the peers say that they are, where they are installed."""
    found = {}
    for name in dict.fromkeys(_COMMANDS.values()):
        if path := shutil.which(name, path=_path()):
            ran = subprocess.run([path, "-v"], capture_output=True, text=True, check=True)
            found[name] = (ran.stdout or ran.stderr).splitlines()[0]
    return found


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin"


@contextmanager
def run_peer(
    name: str, backend: int, cores: Iterable[int], options: Sequence[str] = ()
) -> Iterator[Peer]:
    """Run a peer in front of the port `backend`, on some cores, until the block ends.

    `options`: more of them, for this proxy.
    """
    if name == "direct":
        yield Peer(name, backend, 0)
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        directory = Path(folder)
        directory.chmod(0o755)  # nginx's worker is another user
        command, port = _command(name, backend, directory, options)
        log = directory / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, "PATH": _path()},
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        try:
            where = _port_of(process, log, port)
            admin = _ADMIN.search(log.read_bytes())
            yield Peer(name, where, process.pid, int(admin[1]) if admin else 0)
        finally:
            process.terminate()
            process.wait()


def _command(
    name: str, backend: int, directory: Path, options: Sequence[str]
) -> tuple[list[str], int | None]:
    """The command line, and the port where it is ours to choose."""
    if name in ("aiohttp", "websockets", "bare"):
        return [sys.executable, "-m", "tests.bench.relays", name, str(backend)], None
    if name == "audio-proxy":
        where = f"http://127.0.0.1:{backend}"
        command = [sys.executable, "-m", "proxy", "run", "--backend", where]
        command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        return [*command, "--state-dir", str(directory), *_PROXY, *options], None
    port = _free_port()
    config = directory / "config"
    if name == "HAProxy":
        config.write_text(_HAPROXY.format(port=port, backend=backend))
        return ["haproxy", "-db", "-f", str(config)], port
    buffers = _NGINX_BUFFERS if name == "nginx 64k" else ""
    config.write_text(_NGINX.format(dir=directory, port=port, backend=backend, buffers=buffers))
    return ["nginx", "-c", str(config), "-p", str(directory)], port


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _port_of(process: subprocess.Popen[bytes], log: Path, port: int | None) -> int:
    """Where it listens, once it does. Raises RuntimeError with its log where it does not."""

    def told() -> int | None:
        said = log.read_bytes()
        found = _LISTENING.search(said) or re.fullmatch(rb"(\d+)\n", said)
        return int(found[1]) if found else None

    def answers() -> int | None:
        assert port is not None
        with socket.socket() as sock:
            return port if sock.connect_ex(("127.0.0.1", port)) == 0 else None

    found: Callable[[], int | None] = told if port is None else answers
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        where = found()
        if where is not None:
            return where
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen:\n{log.read_text(errors='replace')}")
