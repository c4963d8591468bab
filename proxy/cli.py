"""The commands."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from proxy import __version__
from proxy.commands import connections, flags
from proxy.commands.options import options_of
from proxy.commands.status import status
from proxy.config import Settings, load
from proxy.errors import AudioProxyError
from proxy.logs import configure_logs

app = typer.Typer(
    help="A proxy that makes streamed speech smaller, for clients that ask for it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        print(f"audio-proxy {__version__}")
        raise typer.Exit


@app.command()
@options_of(Settings)
def run(**options: str | None) -> None:
    """Serve, in front of a backend.

    Every option is also an environment variable, AUDIO_PROXY_ and its name, and a key of the TOML
    file named by --config; an option beats the environment, which beats the file.
    """
    from proxy.workers import Supervisor

    def read() -> Settings:
        settings = load(Settings, options)
        configure_logs(logging.INFO, settings.log_format)
        return settings

    exit_status = Supervisor(read(), read).run()
    if exit_status:
        raise typer.Exit(exit_status)


app.command("status")(status)
app.add_typer(flags.app, name="flags")
app.add_typer(connections.app, name="connections")


@app.command()
def demo(
    serve: Annotated[
        bool, typer.Option("--serve", help="Stay up: a page to try it on, its address printed.")
    ] = False,
) -> None:
    """Stream real speech from a sample backend, and show what the proxy saves of it."""
    from proxy.demo.run import main as run_demo
    from proxy.loop import run_loop

    run_loop(run_demo(serve))


@app.command()
def analyze(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE|DIR…", show_default=False)],
    chunk_size: Annotated[
        list[int],
        typer.Option(min=1, max=1 << 24, help="Bytes of each message; may be given several times."),
    ] = [4096],  # noqa: B006  # read only
    accept: Annotated[
        str, typer.Option(help="What the client accepts, in its order of preference.")
    ] = "flac,gzip",
    pcm_layout: Annotated[
        str | None,
        typer.Option(
            help="Layout of raw samples: ENCODING/RATE/CHANNELS such as s16le/24000/1, or "
            "PATTERN=LAYOUT for some files; comma-separated, the first that matches counts."
        ),
    ] = None,
    opus_bitrate: Annotated[
        int, typer.Option(min=6_000, max=256_000, help="Bits a second of Opus speech.")
    ] = 24_000,
    opus_raw: Annotated[
        bool, typer.Option("--opus-raw", help="Raw samples may become Opus too, with loss.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture to make: .png or .svg.")
    ] = None,
) -> None:
    """Show what the proxy would save of recordings of what a backend sends, and why.

    Exit status 1 where a file was skipped: it cannot be read, or is empty.
    """
    from proxy.analyze.options import Options
    from proxy.analyze.run import main as run_analyze

    options = Options.parse(
        chunk_size=chunk_size,
        accept=accept,
        pcm_layout=pcm_layout,
        opus_bitrate=opus_bitrate,
        opus_raw=opus_raw,
    )
    run_analyze(paths, options, json=as_json, plot=plot)


def main() -> None:
    """Run the command line. Errors that a user can mend are one line each, without a traceback."""
    configure_logs(logging.WARNING)
    try:
        app()
    except AudioProxyError as error:
        for line in str(error).splitlines():
            print(f"audio-proxy: {line}", file=sys.stderr)
        sys.exit(2)
