"""`audio-proxy analyze`: find, measure, report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from proxy.analyze.files import Problem, Recording, find, problem_of, shown
from proxy.analyze.measure import Measurement, measure
from proxy.analyze.options import Options
from proxy.analyze.plot import MOST_FILES, check_plot, save_plot
from proxy.analyze.report import as_json, print_tables

_NAME_WIDTH = 30
"""Columns for a file's name beside the bar: its end."""


def main(paths: Sequence[Path], options: Options, *, json: bool, plot: Path | None) -> None:
    """Analyze what is found at `paths`; `plot` names a picture to make.

    Raises ConfigError where the picture cannot be made, typer.Exit with status 1 where anything
    was skipped.
    """
    if plot is not None:
        check_plot(plot)
    if isinstance(sys.stdout, TextIOWrapper):  # a name may have characters that it does not take
        sys.stdout.reconfigure(errors="backslashreplace")
    measurements, problems = measure_all(paths, options)
    if json:
        print(as_json(measurements, problems, options))
    elif measurements:
        print_tables(measurements, options, Console(highlight=False))
    for problem in problems:
        print(f"audio-proxy: {problem}", file=sys.stderr)
    if plot is not None and measurements:
        save_plot(measurements, options, plot)
        count = len({one.path for one in measurements})
        if count > MOST_FILES:
            print(f"{shown(plot)} shows the first {MOST_FILES} of {count} files", file=sys.stderr)
    if problems:
        raise typer.Exit(1)


def measure_all(paths: Sequence[Path], options: Options) -> tuple[list[Measurement], list[Problem]]:
    """Measure all files, with a bar on standard error where that is a terminal."""
    found = [entry for path in paths for entry in find(path)]
    recordings = [entry for entry in found if isinstance(entry, Recording)]
    problems = [entry for entry in found if isinstance(entry, Problem)]
    measurements: list[Measurement] = []
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        total = options.readings * sum(recording.size for recording in recordings)
        task = progress.add_task("", total=total)
        for recording in recordings:
            path = recording.path
            progress.update(task, description=shown(path)[-_NAME_WIDTH:])
            try:
                measured = measure(path, options, partial(progress.advance, task))
            except OSError as error:
                problems.append(problem_of(path, error))
                continue
            if not measured:
                problems.append(Problem(path, "empty"))
            measurements += measured
    return measurements, problems
