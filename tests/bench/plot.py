"""What was measured, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.results import Results, Rounds, median, median_added

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tests.bench.measure import Bulk, Crowd, Paced

FORMATS = (".png", ".svg")

# Okabe and Ito's colours, which the colour-blind tell apart (https://jfly.uni-koeln.de/color/),
# and greys for the proxies in C.
_COLOURS = {
    "nginx": "#222222",
    "nginx 64k": "#777777",
    "HAProxy": "#BBBBBB",
    "aiohttp relay": "#F0E442",
    "websockets relay": "#CC79A7",
    "audio-proxy": "#D55E00",
    "audio-proxy gzip": "#E69F00",
    "audio-proxy FLAC": "#0072B2",
    "audio-proxy Opus": "#009E73",
    "audio-proxy MP3": "#56B4E9",
}
_DARK, _LIGHT = "#0072B2", "#56B4E9"
_INK = "#444444"
_GROUP = 0.85
"""Of the room that a group of bars has, the part that they fill."""
_LEAST_US = 1.0
"""What is drawn where the direct way was slower."""


def save_plot(results: Results, path: Path) -> None:
    """CPU of a message by its size, added latency, memory of a connection, memory of a crowd."""
    import matplotlib
    from matplotlib.figure import Figure

    beneath = len(results.paced) + bool(results.memory)
    rows = bool(results.bulk) + bool(beneath) + (results.crowd is not None)
    figure = Figure(figsize=(14, 5.2 * max(rows, 1)), layout="constrained")
    grid = figure.add_gridspec(max(rows, 1), 1)
    if results.bulk:
        _draw_bulk(figure.add_subplot(grid[0]), results.bulk)
    if beneath:
        cells = grid[int(bool(results.bulk))].subgridspec(1, beneath)
        plots = [figure.add_subplot(cells[number]) for number in range(beneath)]
        for axes, (count, rounds) in zip(plots, results.paced.items(), strict=False):
            _draw_latency(axes, count, rounds)
        if results.memory:
            _draw_memory(plots[-1], results)
        names = [[label.get_text() for label in axes.get_yticklabels()] for axes in plots]
        for axes, own in zip(plots[1:], names[1:], strict=True):
            if own == names[0]:
                axes.set_yticklabels([])
    if results.crowd is not None:
        _draw_crowd(figure.add_subplot(grid[rows - 1]), results.crowd)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        figure.savefig(path, dpi=120)


def _draw_bulk(axes: Axes, by_size: dict[int, Rounds[Bulk]]) -> None:
    """Groups of bars that stand, one for each size."""
    modes = [mode for mode in _COLOURS if all(mode in rounds for rounds in by_size.values())]
    width = _GROUP / max(len(modes), 1)
    lowest = 1.0
    for number, mode in enumerate(modes):
        heights = [median(rounds[mode], "cpu_us") for rounds in by_size.values()]
        places = [group + (number + 0.5) * width - _GROUP / 2 for group in range(len(by_size))]
        bars = axes.bar(places, heights, width * 0.92, color=_COLOURS[mode], label=mode)
        lowest = min(lowest, *heights)
        labels = [_short(height) for height in heights]
        axes.bar_label(bars, labels, padding=2, fontsize=6.5, color=_INK)
    axes.set_title("CPU of the proxy per message, backend to client at full speed", fontsize=12)
    axes.set_yscale("log")
    axes.margins(x=0.01, y=0.1)
    axes.set_ylim(bottom=_decade(lowest))
    axes.set_ylabel("µs per message, logarithmic")
    axes.set_xticks(range(len(by_size)), [f"{size:,}-byte messages" for size in by_size])
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", ncols=2, fontsize=8, frameon=False)


def _draw_latency(axes: Axes, count: int, rounds: Rounds[Paced]) -> None:
    modes = [mode for mode in _COLOURS if mode in rounds]
    series = {
        name: [max(median_added(rounds, mode, figure), _LEAST_US) for mode in modes]
        for name, figure in (("p50", "p50_us"), ("p99", "p99_us"))
    }
    _draw_lying(axes, modes, series)
    axes.set_title(f"Latency added, {count} connections at speech pace", fontsize=11)
    axes.set_xlabel("µs, logarithmic")


def _draw_memory(axes: Axes, results: Results) -> None:
    modes = [mode for mode in _COLOURS if mode in results.memory]
    series = {
        name: [max(median(results.memory[mode], name) / 1024, 0.1) for mode in modes]
        for name in ("idle", "speaking")
    }
    _draw_lying(axes, modes, series)
    axes.set_title("Memory of the proxy per connection", fontsize=11)
    axes.set_xlabel("KiB, logarithmic")


def _draw_crowd(axes: Axes, crowd: Crowd) -> None:
    """A line that should be flat behind the other, which says where it should start to be."""
    times = [number * crowd.interval for number in range(len(crowd.memory))]
    axes.plot(times, [each / 1e6 for each in crowd.memory], color=_DARK)
    axes.axvline(crowd.settled * crowd.interval, color=_INK, linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.set_title(
        f"Memory of the proxy, {crowd.connections:,} connections, {crowd.speaking:,} of them speak",
        fontsize=11,
    )
    axes.set_xlabel("seconds")
    axes.set_ylabel("MB, resident")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_lying(axes: Axes, modes: Sequence[str], series: dict[str, list[float]]) -> None:
    """Pairs of bars that lie, one for each mode, the first mode at the top."""
    height = _GROUP / 2
    for number, ((name, widths), colour) in enumerate(
        zip(series.items(), (_DARK, _LIGHT), strict=True)
    ):
        places = [row + (number - 0.5) * height for row in range(len(modes))]
        bars = axes.barh(places, widths, height * 0.92, color=colour, label=name)
        axes.bar_label(bars, [_short(each) for each in widths], padding=3, fontsize=7, color=_INK)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlim(left=_decade(min(map(min, series.values()))))
    axes.set_yticks(range(len(modes)), modes)
    axes.set_ylim(len(modes) - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.24), ncols=2, fontsize=8, frameon=False)


def _decade(value: float) -> float:
    """The power of ten beneath."""
    return float(10.0 ** math.floor(math.log10(value)))


def _short(value: float) -> str:
    """To two digits where it is less than 10, else to the unit."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.0f}"
