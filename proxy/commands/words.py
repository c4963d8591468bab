"""Figures, texts and tables, as they stand in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

NOTHING = "-"

Record = Mapping[str, Any]

_WIDE = 10_000
_GAP = 2
"""Between two columns."""
_TEXT = 12
"""What is left of a text, at least."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


def console() -> Console:
    """As wide as the terminal, or as wide as needed where there is none."""
    made = Console()
    if not made.is_terminal:
        made.width = _WIDE
    return made


def plain(value: object) -> Text:
    """Text from elsewhere, such as a path: it does nothing to the terminal."""
    signs = (sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(value))
    return Text("".join(signs))


def saved(original: float, sent: float) -> str:
    """The share that was saved."""
    return f"{1 - sent / original:.1%}" if original else NOTHING


def size(count: float) -> str:
    """Bytes, in the unit that makes it short."""
    power = 0
    while abs(count) >= 999.95 and power < len(_UNITS) - 1:
        count /= 1000
        power += 1
    return f"{count:,.{min(power, 1)}f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Such as 7 s, 12:07, 3:12:07 or 2 d 3 h."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


@dataclass(frozen=True)
class Column:
    """What a table shows of each record."""

    heading: str
    show: Callable[[Record], object]
    kind: Literal["text", "word", "number"] = "number"
    """A text may be cut short where there is too little room; a word and a number may not."""
    spare: int = 0
    """Left out where there is too little room, the highest first; 0: never."""


def table(title: str, columns: Iterable[Column], records: Iterable[Record], width: int) -> Table:
    """A row for each record, in `width` columns of the terminal."""
    rows = list(records)
    shown = [(column, [_cell(column, record) for record in rows]) for column in columns]
    while any(column.spare for column, _ in shown) and _least(shown) > width:
        shown.remove(max(shown, key=lambda each: each[0].spare))
    made = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for column, _ in shown:
        made.add_column(
            Text(column.heading),
            justify="right" if column.kind == "number" else "left",
            no_wrap=column.kind != "text",
        )
    for cells in zip(*(cells for _, cells in shown), strict=True):
        made.add_row(*cells)
    return made


def _cell(column: Column, record: Record) -> Text:
    value = column.show(record)
    text = value if isinstance(value, Text) else plain(value)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _least(shown: Sequence[tuple[Column, Sequence[Text]]]) -> int:
    """The room that columns need, their texts cut short."""
    total = _GAP * (len(shown) - 1)
    for column, cells in shown:
        widest = max((cell.cell_len for cell in cells), default=0)
        room = max(len(column.heading), widest)
        total += min(room, _TEXT) if column.kind == "text" else room
    return total
