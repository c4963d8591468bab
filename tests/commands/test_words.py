from __future__ import annotations

from operator import itemgetter

import pytest
from rich.table import Table

from proxy.commands.words import Column, duration, plain, saved, size, table
from tests.support.terminal import drawn


def shown(made: Table, width: int) -> list[str]:
    """Its lines, where the terminal has so many columns."""
    return drawn(made, width).splitlines()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB")),
        *((999_949, "999.9 kB"), (999_950, "1.0 MB"), (2.5e9, "2.5 GB"), (7e15, "7,000.0 TB")),
        *((0.4, "0 B"), (-1500, "-1.5 kB")),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-3, "0 s"), (7.9, "7 s"), (60, "1:00"), (727, "12:07"), (11_527, "3:12:07")),
        *((86_399, "23:59:59"), (86_400, "1 d 0 h"), (2_000_000, "23 d 3 h")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_shares() -> None:
    assert saved(1000, 752) == "24.8%"
    assert saved(1000, 1010) == "-1.0%"
    assert saved(0, 0) == "-"


def test_text_from_elsewhere_does_nothing_to_the_terminal() -> None:
    """Neither escape sequences, nor line ends, nor signs that turn the order round; nor markup."""
    hostile = "/ws\x1b[2J\x9b1m\r\n\u202e\x00[red]é"
    assert plain(hostile).plain == "/ws�[2J�1m����[red]é"
    lines = shown(
        table("", [Column("[b]path", itemgetter("path"), "text")], [{"path": hostile}], 80), 80
    )
    assert "/ws�[2J�1m����[red]é" in lines
    assert "[b]path" in lines


COLUMNS = (
    Column("id", itemgetter("id"), "word"),
    Column("path", itemgetter("path"), "text"),
    Column("rtt", itemgetter("rtt"), spare=1),
    Column("backlog", itemgetter("backlog"), spare=2),
    Column("for", itemgetter("for")),
)
ROWS = [
    {
        "id": "9f3ac2-812-17",
        "path": "/ws/" + "lesson" * 5,
        "rtt": "12 ms",
        "backlog": "0 B",
        "for": "3 s",
    },
    {"id": "9f3ac2-9-1", "path": "/", "rtt": "-", "backlog": "1.2 MB", "for": "12:07"},
]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (200, ["id", "path", "rtt", "backlog", "for"]),
        (60, ["id", "path", "rtt", "backlog", "for"]),
        (45, ["id", "path", "rtt", "for"]),
        (36, ["id", "path", "for"]),
    ],
)
def test_a_narrow_terminal_gets_less_of_texts_then_fewer_columns(
    width: int, headings: list[str]
) -> None:
    lines = shown(table("two", COLUMNS, ROWS, width), width)
    assert lines[0].strip() == "two"
    assert lines[1].split() == headings
    assert all(len(line) <= width for line in lines)
    first, second = lines[3], lines[4]
    assert first.startswith("9f3ac2-812-17 ")
    assert first.endswith("3 s")
    assert second.endswith("12:07")
    path = first.split()[1]
    assert len(path) >= 12
    assert path == ROWS[0]["path"] if width == 200 else path.endswith("…")


def test_a_table_of_nothing_has_its_headings() -> None:
    assert shown(table("none", COLUMNS, [], 80), 80)[1].split() == [c.heading for c in COLUMNS]
