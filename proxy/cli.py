"""The commands."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy import __version__
from proxy.config import PREFIX, AdminSettings, Settings, load, parse_switch
from proxy.control.flags import Flags
from proxy.control.store import FileStore
from proxy.errors import AudioProxyError, ConfigError, FlagsError

app = typer.Typer(
    help="A proxy that makes streamed speech smaller, for clients that ask for it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
flags_app = typer.Typer(help="Show or change the flags.", no_args_is_help=True)
app.add_typer(flags_app, name="flags")

console = Console()


def options_of(settings_class: type[AdminSettings]) -> Callable[[Callable[..., None]], Any]:
    """Give a command one option per setting. It gets them as keywords, None where not given."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        settings = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    str | None,
                    typer.Option("--" + name.replace("_", "-"), help=_help(name, settings_class)),
                ],
            )
            for name in settings_class.model_fields
        ]

        def run(**values: Any) -> None:
            command(**values)

        run.__doc__ = command.__doc__
        run.__name__ = command.__name__
        run.__signature__ = inspect.Signature([*own, *settings])  # type: ignore[attr-defined]
        return run

    return decorate


def _help(name: str, settings_class: type[AdminSettings]) -> str:
    field = settings_class.model_fields[name]
    text = field.description or ""
    if field.default is None or field.is_required():
        return text
    default = field.get_default(call_default_factory=True)
    if default in ((), ""):
        return text
    return f"{text} Default: {str(default).lower() if isinstance(default, bool) else default}."


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        console.print(f"audio-proxy {__version__}")
        raise typer.Exit


@app.command()
@options_of(Settings)
def run(**options: str | None) -> None:
    """Serve, in front of a backend.

    Every option is also an environment variable, AUDIO_PROXY_ and its name, and a key of the TOML
    file named by --config; an option beats the environment, which beats the file.
    """
    from proxy.workers import Supervisor

    _configure_logs(logging.INFO)
    status = Supervisor(load(Settings, options), lambda: load(Settings, options)).run()
    if status:
        raise typer.Exit(status)


@flags_app.command("get")
@options_of(AdminSettings)
def flags_get(**options: str | None) -> None:
    """Show the flags that are stored."""
    settings = load(AdminSettings, options)
    _print_flags(FileStore(settings.flags_file, _first_flags()).read())


@flags_app.command("set")
@options_of(AdminSettings)
def flags_set(
    changes: Annotated[list[str], typer.Argument(metavar="NAME=VALUE…")], **options: str | None
) -> None:
    """Change flags: every running proxy with this state folder follows within a second."""
    settings = load(AdminSettings, options)
    values = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise FlagsError(f"{change!r} is not NAME=VALUE")
        values[name] = value
    store = FileStore(settings.flags_file, _first_flags())
    if settings.flags_file.exists():
        try:
            store.read()
        except FlagsError as error:
            print(f"{error}; the flags not named here are set to their defaults", file=sys.stderr)
    _print_flags(store.set(values))


@app.command()
@options_of(AdminSettings)
def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    **options: str | None,
) -> None:
    """Show what a running proxy does and saves. Exit status 1 where something is wrong."""
    settings = load(AdminSettings, options)
    stats = _ask(settings, "/stats", {"wire_bytes", "flags_error"})
    flags = _ask(settings, "/flags", {"enabled"})
    ready = _ask(settings, "/readyz", {"status"})
    problems = [text for text in (ready.get("error"), stats["flags_error"]) if text]
    if as_json:
        print(json.dumps({"stats": stats, "flags": flags, "problems": problems}, indent=2))
    else:
        _print_status(stats, flags)
        for problem in problems:
            console.print(Text.assemble(("problem: ", "bold red"), problem), soft_wrap=True)
    if problems:
        raise typer.Exit(1)


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


def _ask(settings: AdminSettings, path: str, expected: set[str]) -> dict[str, Any]:
    """The JSON that the admin port answers, an error's too. Raises ConfigError."""
    request = urllib.request.Request(f"http://{settings.admin}{path}")
    if settings.admin_token is not None:
        request.add_header("Authorization", f"Bearer {settings.admin_token.get_secret_value()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is no web site
    try:
        try:
            response = opener.open(request, timeout=5)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            if response.status == 401:
                raise ConfigError("admin_token: the proxy does not take it, or needs one")
            body: dict[str, Any] = json.load(response)
            if not isinstance(body, dict) or (response.status == 200 and not expected <= set(body)):
                raise ValueError(f"{path} is answered by something else")
    except (OSError, HTTPException, ValueError) as error:
        raise ConfigError(f"admin: no proxy answers at {settings.admin}: {error}") from error
    return body


def _first_flags() -> Flags:
    """What is in force where nothing is stored yet, as `run` would say with this environment."""
    name = "ENABLE_WS_COMPRESSION"
    return Flags(enabled=parse_switch(name, os.environ.get(name) or os.environ.get(PREFIX + name)))


def _print_flags(flags: Flags) -> None:
    for name, value in flags.model_dump(mode="json").items():
        text = ",".join(value) if isinstance(value, list) else json.dumps(value)
        print(f"{name}={text}")


def _print_status(stats: dict[str, Any], flags: dict[str, Any]) -> None:
    table = Table(title="audio-proxy", show_header=False)
    original, wire = stats["wire_original_bytes"], stats["wire_bytes"]
    share = f" ({1 - wire / original:.1%})" if original else ""
    rows = {
        "compression": "on" if flags["enabled"] else "off",
        "tunnels": f"{stats['tunnels']:,}",
        "chunks compressed": f"{stats['total_compressed']:,}",
        "not worth compressing": f"{stats['no_gain']:,}",
        "codec errors": f"{stats['errors']:,}",
        "opted-in traffic": f"{original:,} bytes",
        "sent": f"{wire:,} bytes",
        "saved": f"{original - wire:,} bytes{share}",
        "up for": f"{stats['uptime_seconds']:,.0f} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _configure_logs(least: int) -> None:
    """Logs of `least` level and above go to standard error: standard output stays clean."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(least),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # shows no local variables
            ),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def main() -> None:
    """Run the command line. Errors that a user can mend are one line each, without a traceback."""
    _configure_logs(logging.WARNING)
    try:
        app()
    except AudioProxyError as error:
        for line in str(error).splitlines():
            print(f"audio-proxy: {line}", file=sys.stderr)
        sys.exit(2)
