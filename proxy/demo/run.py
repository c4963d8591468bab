"""`audio-proxy demo`: the same answers with and without the proxy, as a table."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_plain
from websockets.exceptions import WebSocketException

from proxy.audio.algorithms import INSTALLED, MISSING
from proxy.client import connect
from proxy.demo.backend import CHUNK_SIZE, PACE, recordings, serve
from proxy.demo.measure import Answer, AnswerError, MeteredConnection, ask, receive_end
from proxy.demo.proxy_process import DemoError, ProxyProcess, run_proxy

MEASURED_PACE = 8.0
"""Seconds of speech a second while measuring: ten answers one after the other, in 15 seconds."""

NAMES = {"pcm": "PCM", "wav": "WAV", "mp3": "MP3"}

LOSSLESS = ("gzip", "flac")
ALGORITHMS = {"pcm": LOSSLESS, "wav": (*LOSSLESS, "opus"), "mp3": ("gzip", "opus")}
"""Those that are shown, by format."""

MOST_SECONDS_OFF = 0.04
"""By which speech that came as Opus may be longer or shorter."""
END_TIMEOUT = 5.0

WIRE_KEYS = ("wire_original_bytes", "wire_bytes")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same answer, directly and through the proxy."""

    audio_format: str
    algorithm: str
    direct: Answer
    proxied: Answer
    counted: tuple[int, int]
    """What the proxy counted of it meanwhile: bytes without its work, and with it."""

    @property
    def problems(self) -> list[str]:
        """What must not be."""
        name = f"{NAMES[self.audio_format]} by {self.algorithm}"
        expected = recordings()[self.audio_format]
        problems = []
        if self.direct.audio != expected.data:
            problems.append(f"{name}: the audio that came directly is not what the backend has")
        if self.algorithm in LOSSLESS:
            if self.proxied.audio != expected.data:
                problems.append(
                    f"{name}: the audio that came through the proxy is not what the backend has"
                )
        elif abs(self.proxied.seconds - expected.seconds) > MOST_SECONDS_OFF:
            problems.append(
                f"{name}: {self.proxied.seconds:.3f} s of speech came of {expected.seconds:.3f} s"
            )
        received = (self.backend_bytes, self.proxied.wire_bytes)
        if received != self.counted:
            problems.append(
                f"{name}: the client counts {received[0]:,} bytes that became {received[1]:,}, "
                f"the proxy {self.counted[0]:,} that became {self.counted[1]:,}"
            )
        return problems

    @property
    def backend_bytes(self) -> int:
        """What the backend sent. What Opus stands for is only known to the proxy."""
        return self.proxied.backend_bytes if self.algorithm in LOSSLESS else self.counted[0]

    @property
    def added_delay(self) -> float:
        """Median through the proxy less median direct, in seconds."""
        return self.proxied.delay - self.direct.delay

    def row(self) -> tuple[str, ...]:
        """Its row of the table."""
        return (
            NAMES[self.audio_format],
            self.algorithm,
            f"{self.backend_bytes:,}",
            f"{self.proxied.wire_bytes:,}",
            _saved(self.backend_bytes, self.proxied.wire_bytes),
            _saved(self.direct.backend_bytes, self.direct.deflated_bytes),
            f"{self.added_delay * 1000:.2f} ms",
        )


def _saved(original: int, size: int) -> str:
    return f"{1 - size / original:.1%}"


class Comparer:
    """Asks one tutor the same question, directly and through a proxy."""

    def __init__(self, backend: str, proxy: ProxyProcess, session: aiohttp.ClientSession) -> None:
        self._direct = f"{backend.replace('http', 'ws', 1)}/ws/tutor"
        self._proxied = f"ws://{proxy.listen}/ws/tutor"
        self._stats = f"http://{proxy.admin}/stats"
        self._session = session

    async def compare(self, audio_format: str, on_message: Callable[[], None]) -> list[Comparison]:
        """One after the other, so that none slows another."""
        # No extension: the direct connection's bytes are those that the backend made.
        options: dict[str, Any] = {
            "create_connection": MeteredConnection,
            "compression": None,
            "ping_interval": None,
            "proxy": None,
        }
        async with connect_plain(self._direct, **options) as connection:
            direct = await ask(connection, audio_format, on_message)
        comparisons = []
        for algorithm in shown(audio_format):
            async with connect(self._proxied, algorithm, **options) as connection:
                before = await self._counted()
                proxied = await ask(connection, audio_format, on_message)
                if algorithm not in LOSSLESS:
                    await _receive_ends(connection, proxied, audio_format)
                after = await self._counted()
            counted = after[0] - before[0], after[1] - before[1]
            comparisons.append(Comparison(audio_format, algorithm, direct, proxied, counted))
        return comparisons

    async def _counted(self) -> tuple[int, int]:
        async with self._session.get(self._stats) as response:
            stats = await response.json()
        original, wire = (stats[key] for key in WIRE_KEYS)
        return original, wire


async def _receive_ends(connection: ClientConnection, answer: Answer, audio_format: str) -> None:
    """The end of what was said comes when the proxy has noticed the pause behind it."""
    try:
        async with asyncio.timeout(END_TIMEOUT):
            while answer.seconds < recordings()[audio_format].seconds - 0.001:  # sums of floats
                await receive_end(connection, answer)
    except TimeoutError as error:
        raise AnswerError(f"only {answer.seconds:.3f} s of speech came") from error


def shown(audio_format: str) -> list[str]:
    """The algorithms that are shown of a format, as far as they are installed."""
    return [name for name in ALGORITHMS[audio_format] if name in INSTALLED]


async def _compare_all(backend: str, proxy: ProxyProcess) -> list[Comparison]:
    console = Console(stderr=True)
    console.print("Asking the tutor in each format, directly and through the proxy…")
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        async with aiohttp.ClientSession() as session:
            comparer = Comparer(backend, proxy, session)
            tasks = {}
            for audio_format, speech in recordings().items():
                chunks = -(-len(speech.data) // CHUNK_SIZE)
                # A start, an end, and two for a chunk; directly, and once by each algorithm.
                messages = (1 + len(shown(audio_format))) * (2 * chunks + 2)
                tasks[audio_format] = progress.add_task(
                    NAMES[audio_format], total=messages, start=False
                )
            comparisons = []
            for audio_format, task in tasks.items():
                progress.start_task(task)
                advance = partial(progress.advance, task)
                comparisons += await comparer.compare(audio_format, advance)
    return comparisons


def _print_table(comparisons: list[Comparison], pace: float, console: Console) -> None:
    seconds = recordings()["pcm"].seconds
    table = Table(title=f"{seconds:.0f} s of speech through audio-proxy", box=box.SIMPLE_HEAD)
    table.add_column("format", style="bold")
    table.add_column("algorithm")
    table.add_column("backend\nsent, bytes", justify="right")
    table.add_column("on the\nwire, bytes", justify="right")
    table.add_column("\nsaved", justify="right", style="green")
    table.add_column("permessage-\ndeflate", justify="right")
    table.add_column("added\nlatency", justify="right")
    for comparison, following in pairwise([*comparisons, None]):
        assert comparison is not None
        is_last = following is None or following.audio_format != comparison.audio_format
        table.add_row(*comparison.row(), end_section=is_last)
    console.print(table)
    notes = Table.grid(padding=(0, 2, 0, 0))
    notes.add_column(style="bold", no_wrap=True)
    notes.add_column()
    for subject, note in _NOTES:
        notes.add_row(subject, note.format(pace=pace))
    for name, remedy in MISSING.items():
        notes.add_row(name, f"is not installed: {remedy}")
    console.print(notes)


_NOTES = (
    (
        "bytes",
        "all between the question and the answer's end: speech, JSON messages, metadata, "
        "the headers of all frames",
    ),
    (
        "MP3",
        "is compressed already: gzip finds next to nothing in it, and a chunk that would not "
        "pay goes as it came",
    ),
    (
        "gzip, flac",
        "lose nothing: the client gets what the backend sent, byte for byte",
    ),
    (
        "opus",
        "is lossy, 24 kb/s, and goes only to clients that ask for it",
    ),
    (
        "permessage-deflate",
        "what it would save of the same messages (zlib level 6, context kept); "
        "a connection that opts in does without it",
    ),
    (
        "added latency",
        "of a chunk, median through the proxy less median direct, at {pace:g} times "
        "the pace of speech",
    ),
)


async def _show(backend: str, proxy: ProxyProcess, pace: float) -> None:
    """Measure and print. Raises typer.Exit with status 1 where something differs."""
    try:
        comparisons = await _compare_all(backend, proxy)
    except (OSError, WebSocketException, aiohttp.ClientError) as error:
        raise DemoError(f"the connection broke: {error}\n{proxy.log}") from error
    console = Console()
    _print_table(comparisons, pace, console)
    problems = [problem for comparison in comparisons for problem in comparison.problems]
    for problem in problems:
        console.print(f"[bold red]wrong:[/] {problem}", highlight=False)
    if problems:
        raise typer.Exit(1)
    console.print(
        "\n[green]All audio is what the backend sent, byte for byte, but for Opus, whose speech is "
        "as long; the bytes counted here are those that the proxy's /stats count.[/]",
        highlight=False,
    )


def _addresses(backend: str, proxy: ProxyProcess, state_dir: Path) -> str:
    command = "audio-proxy" if shutil.which("audio-proxy") else f"{sys.executable} -m proxy"
    return f"""
Ask the tutor      http://{proxy.listen}/
The backend alone  {backend}/
The dashboard      http://{proxy.admin}/
Statistics         http://{proxy.admin}/stats

Switch compression off, and on again, while it speaks:
  {command} flags set enabled=false --state-dir {state_dir}
  {command} flags set enabled=true --state-dir {state_dir}
What it saves:
  {command} status --admin {proxy.admin}

Ctrl-C ends it.
"""


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work` until it is done or `stop` is set; whether it is done."""
    tasks = (asyncio.create_task(work), asyncio.create_task(stop.wait()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():  # a terminal's Ctrl-C ends the proxy too: that is no fault of the work
            return False
        await tasks[0]
        return True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def main(serve_only: bool, pace: float | None = None) -> None:
    """Run the demo: the table, or with `serve_only` the tutor and the proxy until a signal.

    Raises DemoError where it cannot go on, typer.Exit where it ends otherwise than well.
    """
    if pace is None:
        pace = PACE if serve_only else MEASURED_PACE
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="audio-proxy-demo-") as folder:
        state_dir = Path(folder)
        async with (
            serve(pace) as backend,
            run_proxy(backend, state_dir, show_log=serve_only) as (proxy, ended),
        ):
            if serve_only:
                print(_addresses(backend, proxy, state_dir), flush=True)
                if await _unless(stop, _wait(ended)):
                    raise DemoError(f"the proxy has ended\n{proxy.log}")
            elif not await _unless(stop, _show(backend, proxy, pace)):
                raise typer.Exit(128 + signal.SIGINT)


async def _wait(task: asyncio.Task[None]) -> None:
    """Until it ends; cancelling this leaves it running."""
    await asyncio.shield(task)
