"""The command: `python -m tests.bench`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.bench.load import LoadError
from tests.bench.peers import MODES, missing_commands
from tests.bench.plot import FORMATS, save_plot
from tests.bench.report import as_json, print_tables
from tests.bench.results import Results
from tests.bench.run import KINDS, QUICK, USUAL, Plan, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_ERRORS = Console(stderr=True)
_NUMBERS = "numbers with commas between them"


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"{_NUMBERS} are expected") from None
    if min(numbers) < 1:
        raise typer.BadParameter("a number is less than 1")
    return numbers


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    known = [mode.name for mode in MODES]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of: {', '.join(known)}")
    return names


def _kinds(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        if name not in KINDS:
            raise typer.BadParameter(f"{name!r} is none of: {', '.join(KINDS)}")
    return names


def _pictures(paths: list[Path] | None) -> list[Path] | None:
    for path in paths or ():
        if path.suffix.lower() not in FORMATS:
            raise typer.BadParameter(f"{path} does not end with .png or .svg")
    return paths


@app.command()
def bench(
    sizes: Annotated[
        str | None,
        typer.Option(
            callback=_numbers, help=f"Bytes of a message in bulk: {_NUMBERS}.", metavar="N,N,..."
        ),
    ] = None,
    connections: Annotated[int | None, typer.Option(min=1, help="Connections in bulk.")] = None,
    paced: Annotated[
        str | None,
        typer.Option(
            callback=_numbers, help=f"Connections that speak: {_NUMBERS}.", metavar="N,N,..."
        ),
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(
            "--modes",
            "--peers",
            callback=_names,
            help=f"With commas between them: {', '.join(mode.name for mode in MODES)}.",
            metavar="NAME,NAME,...",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Interleaved rounds.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.01, help="Of each measurement, or turn at speech pace.")
    ] = None,
    crowd: Annotated[int | None, typer.Option(min=1, help="Connections of the crowd.")] = None,
    crowd_speaking: Annotated[int | None, typer.Option(min=1, help="Of them, who speak.")] = None,
    crowd_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="That the crowd speaks for.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            callback=_kinds,
            help=f"One of {', '.join(KINDS)}; may be repeated. Unless asked for: "
            f"{', '.join(USUAL)}.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute, for correctness, not for figures.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write all figures here.")] = None,
    plot: Annotated[
        list[Path] | None,
        typer.Option(callback=_pictures, help="Draw, as .png or .svg; may be repeated."),
    ] = None,
) -> None:
    """Measure audio-proxy beside nginx, HAProxy and two naive relays, in one run."""
    given: dict[str, Any] = {
        "sizes": sizes,
        "connections": connections,
        "paced": paced,
        "modes": modes,
        "rounds": rounds,
        "memory_rounds": rounds,
        "seconds": seconds,
        "crowd": crowd,
        "crowd_speaking": crowd_speaking,
        "crowd_seconds": crowd_seconds,
        "kinds": tuple(dict.fromkeys(only)) if only else None,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    plan = dataclasses.replace(QUICK if quick else Plan(), **changes)
    if plan.crowd_speaking > plan.crowd:
        raise typer.BadParameter("more are to speak than the crowd has")
    if missing := missing_commands(plan.needed):
        _fail(f"not installed: {', '.join(missing)} (Debian: apt-get install nginx-light haproxy)")
    try:
        results = _run(plan)
    except (LoadError, RuntimeError) as error:
        _fail(str(error))
    print_tables(results, plan, Console())
    if json is not None:
        json.write_text(as_json(results, plan) + "\n")
    for path in plot or ():
        save_plot(results, path)
    if results.failed:
        raise typer.Exit(1)


def _run(plan: Plan) -> Results:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=_ERRORS, transient=True) as progress:
        task = progress.add_task("", total=plan.steps)

        def step(what: str) -> None:
            progress.update(task, advance=1, description=what)

        return uvloop.run(run(plan, step))


def _fail(problem: str) -> None:
    _ERRORS.print(f"bench: {problem}", style="red", markup=False, highlight=False)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
