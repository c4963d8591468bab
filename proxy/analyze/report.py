"""What was measured, as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.analyze.explain import format_of, why
from proxy.analyze.files import Problem, short_names
from proxy.analyze.measure import FLAGS, Measurement, Played
from proxy.analyze.options import Options
from proxy.audio.algorithms import INSTALLED, MISSING
from proxy.audio.formats import Format

_WIDE = 10_000
"""Columns where no terminal limits them: every row on one line."""
_NARROW = 80
"""Columns at least: on fewer, figures would be cut."""

NOTHING = "-"


def as_json(
    measurements: Sequence[Measurement], problems: Sequence[Problem], options: Options
) -> str:
    """For programs. Sizes are in bytes, shares between 0 and 1, times in microseconds.

    - `accepted`: the algorithms of the client for whom is picked, in its order
    - `missing`: by algorithm that is not installed, the command that installs it
    - `problems`: `path` and `problem` of what was skipped
    - `measurements`: one for each file and chunk size
      - `path`, `size`, `chunk_size`, `chunks`
      - `format`: wav, pcm, mp3, aac, opus, vorbis, ogg, flac, webm or unknown
      - `layout`: of its samples, ENCODING/RATE/CHANNELS, or null; `layout_guessed`: its rate is
        not known then
      - `wire_original_bytes`: all messages with their frame headers
      - `algorithms`: by name, for a client that accepts no other: `wire_bytes` with frame headers
        and metadata, `saved` of `wire_original_bytes`, `encoded` (by how many pairs), `tried`
        (how often), `cpu_us` of a chunk's encoding: `median` and `p99`
      - `permessage_deflate`: `wire_bytes` and `saved`
      - `pick`: the algorithm that most of the audio gets of those accepted, or null where that is
        not worth it; `why`; `picked`: as one of `algorithms`, for all accepted ones together
    """
    return json.dumps(
        {
            "accepted": list(options.accept),
            "missing": MISSING,
            "problems": [
                {"path": str(problem.path), "problem": problem.text} for problem in problems
            ],
            "measurements": [_record(measurement, options) for measurement in measurements],
        },
        indent=2,
    )


def _record(measurement: Measurement, options: Options) -> dict[str, Any]:
    survey = measurement.survey
    layout = survey.sample.layout
    return {
        "path": str(measurement.path),
        "size": survey.size,
        "chunk_size": measurement.chunk_size,
        "chunks": survey.chunks,
        "format": survey.sample.format.value,
        "layout": None if layout is None else str(layout),
        "layout_guessed": survey.sample.guessed,
        "wire_original_bytes": survey.wire_original_bytes,
        "algorithms": {name: _played(played) for name, played in measurement.alone.items()},
        "permessage_deflate": {
            "wire_bytes": survey.deflated_bytes,
            "saved": round(measurement.deflate_saved, 6),
        },
        "pick": measurement.pick,
        "why": why(measurement, options),
        "picked": _played(measurement.accepted),
    }


def _played(played: Played) -> dict[str, Any]:
    by_algorithm = played.counters.by_algorithm
    return {
        "wire_bytes": played.counters.wire_bytes,
        "saved": round(played.saved, 6),
        "encoded": {name: counted.chunks for name, counted in by_algorithm.items()},
        "tried": played.jobs,
        "cpu_us": {"median": played.cpu_at(0.5), "p99": played.cpu_at(0.99)},
    }


def print_tables(measurements: Sequence[Measurement], options: Options, console: Console) -> None:
    """For people: as wide as the terminal, or as wide as needed where there is none."""
    console.width = max(console.width, _NARROW) if console.is_terminal else _WIDE
    sizes = " and ".join(f"{size:,}" for size in options.chunk_sizes)
    numbers = dict.fromkeys(INSTALLED, _NUMBER)
    tables: tuple[tuple[str, dict[str, _Style], _Cells], ...] = (
        (
            f"Saved, in chunks of {sizes} bytes",
            {"format": _TEXT, **numbers, "permessage-\ndeflate": _NUMBER},
            _savings,
        ),
        (
            "CPU of a chunk in µs, median / 99th percentile",
            {"chunks": _NUMBER, **numbers},
            _times,
        ),
        (
            f"What a client gets that accepts {','.join(options.accept)}",
            {"saved": _NUMBER, "pick": _TEXT, "why": _TEXT},
            partial(_pick, options=options),
        ),
    )
    for title, columns, cells in tables:
        console.print(Text(title, style="bold"))
        console.print(_table(measurements, columns, cells))
    console.print(_notes(measurements))


_Style = dict[str, Any]
_Cells = Callable[[Measurement], list[str]]
_TEXT: _Style = {"overflow": "fold"}
_NUMBER: _Style = {"justify": "right", "no_wrap": True}


def _table(measurements: Sequence[Measurement], columns: dict[str, _Style], cells: _Cells) -> Table:
    """A row for each measurement: the file, its chunks' size where there are several, `cells`."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("file", style="bold", **_TEXT)
    with_size = len({one.chunk_size for one in measurements}) > 1
    if with_size:
        table.add_column("chunk,\nbytes", **_NUMBER)
    for name, style in columns.items():
        table.add_column(name, **style)
    names = short_names(one.path for one in measurements)
    for one in measurements:
        size = [f"{one.chunk_size:,}"] if with_size else []
        table.add_row(*map(Text, (names[one.path], *size, *cells(one))))
    return table


def percent(share: float) -> str:
    """A share with one decimal; no minus stands before a zero."""
    return f"{share:z.1%}"


def _savings(one: Measurement) -> list[str]:
    """What it is, and what each algorithm saves."""
    alone = (one.alone[name] for name in INSTALLED)
    return [
        format_of(one.survey.sample),
        *(percent(played.saved) if played.jobs else NOTHING for played in alone),
        percent(one.deflate_saved),
    ]


def _times(one: Measurement) -> list[str]:
    """What each algorithm costs."""
    alone = (one.alone[name] for name in INSTALLED)
    return [
        f"{one.survey.chunks:,}",
        *(
            f"{played.cpu_at(0.5):,} / {played.cpu_at(0.99):,}" if played.jobs else NOTHING
            for played in alone
        ),
    ]


def _pick(one: Measurement, options: Options) -> list[str]:
    """What the proxy does, and why."""
    return [percent(one.accepted.saved), one.pick or "as it is", why(one, options)]


def _notes(measurements: Sequence[Measurement]) -> Table:
    """How to read it."""
    notes = Table.grid(padding=(0, 2, 0, 0))
    notes.add_column(style="bold", no_wrap=True)
    notes.add_column(overflow="fold")
    for name, remedy in MISSING.items():
        notes.add_row(name, Text(f"is not installed: {remedy}"))
    notes.add_row(
        "saved", "of all bytes sent to a client: metadata and the headers of all frames paid"
    )
    if any(not played.jobs for one in measurements for played in one.alone.values()):
        notes.add_row(
            NOTHING,
            "never tried: it does not take this format, or the chunks are smaller than "
            f"{FLAGS.min_size:,} bytes",
        )
    if "opus" in INSTALLED:
        notes.add_row("opus", "lossy; takes raw samples only with --pcm-layout and --opus-raw")
    notes.add_row("CPU", "of encoding alone; where an encoder is made, that too")
    notes.add_row(
        "permessage-deflate",
        "what it saves of the same messages (zlib level 6, context kept); "
        "a connection that opts in does without it",
    )
    if any(one.survey.sample.format is Format.UNKNOWN for one in measurements):
        notes.add_row("no audio recognised", "if it is raw samples, name their --pcm-layout")
    return notes
