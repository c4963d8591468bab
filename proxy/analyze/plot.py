"""What was measured, as a picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.analyze.files import short_names, shown
from proxy.analyze.measure import Measurement
from proxy.analyze.options import Options
from proxy.analyze.report import percent
from proxy.audio.algorithms import INSTALLED
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")

_DEFLATE = "permessage-deflate"

# Okabe and Ito's colours, which the colour-blind tell apart (https://jfly.uni-koeln.de/color/).
_COLOURS = {"gzip": "#E69F00", "flac": "#0072B2", "opus": "#009E73", _DEFLATE: "#999999"}

_GROUP = 0.8
"""Of the height that a file has, the part that its bars fill."""
_FILE_HEIGHT = 0.85  # inches
_SIZE_WIDTH = 4.2  # inches
MOST_FILES = 60
"""More would make a picture that no viewer opens."""
_NAME_LENGTH = 32


def check_plot(path: Path) -> None:
    """Raises ConfigError where a picture cannot be made."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--plot: {shown(path)} is no file name that ends with .png or .svg")
    try:
        import matplotlib.figure  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise ConfigError(
            f"--plot: needs matplotlib: pip install 'audio-compression-proxy[plot]' ({error})"
        ) from error


def save_plot(measurements: Sequence[Measurement], options: Options, path: Path) -> None:
    """Draw what each algorithm saves of each file, or of the first `MOST_FILES`.

    Raises ConfigError where it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    files = list(dict.fromkeys(one.path for one in measurements))[:MOST_FILES]
    sizes = options.chunk_sizes
    figure = Figure(
        figsize=(2.4 + _SIZE_WIDTH * len(sizes), 1.6 + _FILE_HEIGHT * len(files)),
        layout="constrained",
    )
    figure.suptitle("What a client saves of the bytes on the wire", fontsize=13)
    plots = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for size, axes in zip(sizes, plots, strict=True):
        of_file = {one.path: one for one in measurements if one.chunk_size == size}
        _draw(axes, [of_file[file] for file in files])
        axes.set_title(f"chunks of {size:,} bytes", fontsize=10)
    names = [_shortened(name) for name in short_names(files).values()]
    plots[0].set_yticks(range(len(files)), names, parse_math=False)
    plots[0].set_ylim(len(files) - 0.5, -0.5)  # the first file at the top
    handles, labels = plots[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    # Text stays text, and a name in a script that the font lacks is no reason to complain.
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"--plot: cannot write {shown(path)}: {reason}") from error


def _draw(axes: Axes, measurements: Sequence[Measurement]) -> None:
    """A group of bars for each measurement."""
    names = (*INSTALLED, _DEFLATE)
    height = _GROUP / len(names)
    for number, name in enumerate(names):
        shares = [_share(one, name) for one in measurements]
        bars = axes.barh(
            [row + (number + 0.5) * height - _GROUP / 2 for row in range(len(measurements))],
            [100 * (share or 0) for share in shares],
            height,
            color=_COLOURS[name],
            label=name,
        )
        labels = ["" if share is None else percent(share) for share in shares]
        axes.bar_label(bars, labels, padding=3, fontsize=7, color="#444444")
    axes.set_xlim(-5, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("saved, %")
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _share(measurement: Measurement, name: str) -> float | None:
    """What is saved; None: nothing was tried."""
    if name == _DEFLATE:
        return measurement.deflate_saved
    played = measurement.alone[name]
    return played.saved if played.jobs else None


def _shortened(name: str) -> str:
    """A file's name, after as much of its path as there is room for."""
    parts = name.split("/")
    while len(parts) > 1 and len("/".join(parts)) > _NAME_LENGTH:
        parts = ["…", *parts[2 if parts[0] == "…" else 1 :]]
    text = "/".join(parts)
    return text if len(text) <= _NAME_LENGTH else "…" + text[-_NAME_LENGTH:]
