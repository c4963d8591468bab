"""The real command, as an operator types it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from tests.support import SPEECH, pcm, speech
from tests.test_extras import program

NAMED = ("--pcm-layout", "*.pcm=s16le/22050/1,*.ulaw=mulaw/8000/1", "--opus-raw")
MP3 = SPEECH["speech-24000-48k.mp3"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Ended:
    """What a command said, and its status."""

    status: int
    output: str
    problems: str

    @property
    def report(self) -> Any:
        return json.loads(self.output)


def analyze(
    *arguments: str | Path, without: Sequence[str] = (), prefix: Sequence[str] = (), **options: Any
) -> Ended:
    """Run `audio-proxy analyze`, piped."""
    ended = subprocess.run(
        [*prefix, *program(without=without), "analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def in_terminal(columns: int, *arguments: str | Path) -> tuple[str, str]:
    """The same in a terminal; its output and its problems, which have one each."""
    texts = []
    masters, slaves = zip(*(pty.openpty() for _ in range(2)), strict=True)
    for slave in slaves:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [*program(), "analyze", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=slaves[0],
        stderr=slaves[1],
        env=environment | {"TERM": "xterm"},
    )
    for slave in slaves:
        os.close(slave)
    # The bar's terminal is the second: it is read while the first one's few lines wait.
    for master in reversed(masters):
        text = b""
        try:
            while data := os.read(master, 65536):
                text += data
        except OSError:  # EIO: the other end is closed
            os.close(master)
        texts.append(text.decode().replace("\r\n", "\n"))
    assert process.wait() == 0
    problems, output = texts
    return output, problems


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All recordings in one folder, and the WAV without its header."""
    folder = tmp_path_factory.mktemp("recordings")
    for path in SPEECH.values():
        shutil.copy(path, folder)
    (folder / "speech.pcm").write_bytes(pcm())
    return folder


@pytest.fixture(scope="module")
def report(recordings: Path) -> Any:
    ended = analyze(recordings, *NAMED, "--json")
    assert (ended.status, ended.problems) == (0, "")
    return ended.report


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


def percent(share: float) -> str:
    return f"{share:z.1%}"


def test_the_tables_say_what_the_json_says(recordings: Path, report: Any) -> None:
    ended = analyze(recordings, *NAMED, env=os.environ | {"COLUMNS": "40"})
    assert (ended.status, ended.problems) == (0, "")
    assert "\x1b" not in ended.output
    saved, times, picks = (
        {row[0]: row[1:] for row in map(cells, table.splitlines())}
        for table in re.findall(r"^ ─+ *\n(.*?)\n *\n", ended.output, re.MULTILINE | re.DOTALL)
    )
    names = sorted([*SPEECH, "speech.pcm"])
    assert [Path(one["path"]).name for one in report["measurements"]] == names
    assert list(saved) == list(times) == list(picks) == names
    for one in report["measurements"]:
        name = Path(one["path"]).name
        alone = [one["algorithms"][algorithm] for algorithm in ("gzip", "flac", "opus")]
        tried = [bool(played["tried"]) for played in alone]
        shares = [percent(played["saved"]) if played["tried"] else "-" for played in alone]
        assert saved[name][1:] == [*shares, percent(one["permessage_deflate"]["saved"])]
        assert times[name][0] == str(one["chunks"])
        figures = [re.fullmatch(r"[\d,]+ / [\d,]+", cell) for cell in times[name][1:]]
        assert [figure is not None for figure in figures] == tried
        assert picks[name] == [
            percent(one["picked"]["saved"]),
            one["pick"] or "as it is",
            one["why"],
        ]


def test_the_json_adds_up(report: Any) -> None:
    assert report["accepted"] == ["flac", "gzip"]
    assert report["missing"] == {}
    assert report["problems"] == []
    for one in report["measurements"]:
        assert one["size"] == Path(one["path"]).stat().st_size
        assert one["chunks"] == -(-one["size"] // one["chunk_size"])
        assert one["size"] < one["wire_original_bytes"] <= one["size"] + 4 * one["chunks"]
        for played in (*one["algorithms"].values(), one["permessage_deflate"], one["picked"]):
            share = 1 - played["wire_bytes"] / one["wire_original_bytes"]
            assert played["saved"] == pytest.approx(share, abs=1e-6)
        for played in (*one["algorithms"].values(), one["picked"]):
            assert 0 <= played["cpu_us"]["median"] <= played["cpu_us"]["p99"]
            assert played["wire_bytes"] <= one["wire_original_bytes"]
        assert set(one["algorithms"]) == {"gzip", "flac", "opus"}
        assert one["pick"] in {None, *one["picked"]["encoded"]}
    formats = {Path(one["path"]).name: one["format"] for one in report["measurements"]}
    assert formats == {
        "speech-22050-s16.wav": "wav",
        "speech-24000-48k.mp3": "mp3",
        "speech-24k.ogg": "opus",
        "speech-44100-128k.mp3": "mp3",
        "speech-48k.aac": "aac",
        "speech-8000.ulaw": "pcm",
        "speech.pcm": "pcm",
    }


@pytest.mark.parametrize("columns", [80, 120])
def test_in_a_terminal_the_tables_fit_and_nothing_is_cut(
    columns: int, recordings: Path, report: Any
) -> None:
    output, problems = in_terminal(columns, recordings, *NAMED)
    lines = ESCAPES.sub("", output).splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in output
    text = "\n".join(lines)
    for one in report["measurements"]:
        for played in one["algorithms"].values():
            if played["tried"]:
                assert percent(played["saved"]) in text
        assert percent(one["permessage_deflate"]["saved"]) in text
        # Names are folded where there is no room, and then are still all there.
        assert Path(one["path"]).name[:10] in text
        assert one["why"].split()[-1] in text
    assert "━" in problems
    assert "━" not in output


def test_two_sizes_of_chunks_are_told_apart(recordings: Path) -> None:
    path = recordings / "speech.pcm"
    sizes = ("--chunk-size", "4096", "--chunk-size", "16384")
    ended = analyze(path, *sizes, *NAMED)
    small, large = [cells(line) for line in ended.output.splitlines() if "s16le/22050/1" in line]
    assert small[:2] == ["speech.pcm", "4,096"]
    assert large[:2] == ["speech.pcm", "16,384"]
    (one, other) = analyze(path, *sizes, *NAMED, "--json").report["measurements"]
    assert (one["chunk_size"], other["chunk_size"]) == (4096, 16384)
    for row, measured in ((small, one), (large, other)):
        assert row[4] == percent(measured["algorithms"]["flac"]["saved"])
    assert one["algorithms"]["flac"]["saved"] < other["algorithms"]["flac"]["saved"]


def test_a_text_is_analyzed_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("The quick brown fox jumps.\n" * 600)
    ended = analyze(tmp_path / "notes.txt", "--json")
    (one,) = ended.report["measurements"]
    assert ended.status == 0
    assert (one["format"], one["layout"], one["pick"]) == ("unknown", None, "gzip")
    assert one["why"] == "no audio recognised"
    assert "no audio recognised" in analyze(tmp_path / "notes.txt").output


def test_what_cannot_be_read_is_named_and_the_rest_is_analyzed(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    shutil.copy(MP3, tmp_path / "ok.mp3")
    # Readable by its mode, and yet not at its first byte.
    unreadable = Path("/proc/self/mem")
    for form in ((), ("--json",)):
        ended = analyze(tmp_path, "nowhere", unreadable, *form)
        assert ended.status == 1
        assert sorted(ended.problems.splitlines()) == sorted(
            [
                f"audio-proxy: {tmp_path}/gone: No such file or directory",
                f"audio-proxy: {tmp_path}/loop: leads back to a directory above it",
                "audio-proxy: nowhere: No such file or directory",
                f"audio-proxy: {tmp_path}/empty.wav: empty",
                f"audio-proxy: {unreadable}: Input/output error",
            ]
        )
        assert "ok.mp3" in ended.output
    assert [Path(one["path"]).name for one in ended.report["measurements"]] == ["ok.mp3"]
    assert {problem["problem"] for problem in ended.report["problems"]} == {
        "No such file or directory",
        "leads back to a directory above it",
        "empty",
        "Input/output error",
    }


def test_without_permission(tmp_path: Path) -> None:
    """Root, who may read everything, gives up that right."""
    shutil.copy(MP3, tmp_path / "ok.mp3")
    shutil.copy(MP3, tmp_path / "secret.mp3")
    (tmp_path / "closed").mkdir()
    for path in (tmp_path / "secret.mp3", tmp_path / "closed"):
        path.chmod(0)
    drop = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    ended = analyze(tmp_path, prefix=drop if os.geteuid() == 0 else ())
    assert ended.status == 1
    assert sorted(ended.problems.splitlines()) == [
        f"audio-proxy: {tmp_path}/{name}: Permission denied" for name in ("closed", "secret.mp3")
    ]
    assert "ok.mp3" in ended.output


def test_names_that_the_output_cannot_show(tmp_path: Path) -> None:
    (tmp_path / "größe.txt").write_bytes(bytes(2000))
    ended = analyze(tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (ended.status, ended.problems) == (0, "")
    assert r"gr\xf6\xdfe.txt" in ended.output


def test_nothing_to_analyze(tmp_path: Path) -> None:
    ended = analyze(tmp_path)
    assert (ended.status, ended.output) == (1, "")
    assert ended.problems == f"audio-proxy: {tmp_path}: no files in it\n"
    assert analyze(tmp_path, "--json").report["measurements"] == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "FILE"),
        (("x", "--chunk-size", "0"), "--chunk-size"),
        (("x", "--chunk-size", "99999999"), "--chunk-size"),
        (("x", "--chunk-size", "4k"), "--chunk-size"),
        (("x", "--accept", "gzip,brotli"), "--accept: 'brotli'"),
        (("x", "--accept", ""), "--accept"),
        (("x", "--pcm-layout", "s16le"), "--pcm-layout: 's16le'"),
        (("x", "--pcm-layout", "raw=s16le/8000/1"), "--pcm-layout: 'raw'"),
        (("x", "--opus-bitrate", "100"), "--opus-bitrate"),
        (("x", "--plot", "x.gif"), "--plot: x.gif"),
        (("x", "--plot", "png"), "--plot: png"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], named: str) -> None:
    ended = analyze(*arguments)
    assert (ended.status, ended.output) == (2, "")
    assert named in ended.problems
    assert "Traceback" not in ended.problems


def test_accept_decides_the_pick(recordings: Path) -> None:
    path = recordings / "speech-22050-s16.wav"
    (one,) = analyze(path, "--accept", "Opus,flac", "--json").report["measurements"]
    assert (one["pick"], one["picked"]["saved"]) == ("opus", one["algorithms"]["opus"]["saved"])
    (less,) = analyze(path, "--opus-bitrate", "64000", "--json").report["measurements"]
    assert less["pick"] == "flac"
    assert less["algorithms"]["opus"]["saved"] < one["algorithms"]["opus"]["saved"] - 0.05


# Without the extras.


def test_without_pyav_the_rest_is_shown_and_how_to_get_it(recordings: Path) -> None:
    ended = analyze(recordings / "speech-22050-s16.wav", MP3, without=["av"])
    assert (ended.status, ended.problems) == (0, "")
    rows = map(cells, ended.output.splitlines())
    heads = [row for row in rows if row[0] == "file" and "gzip" in row]
    assert heads == [["file", "format", "gzip", "deflate"], ["file", "chunks", "gzip"]]
    for name in ("flac", "opus"):
        assert f"is not installed: pip install 'audio-compression-proxy[{name}]'" in ended.output
    assert "raw samples, 16 bit; gzip gains in" in ended.output
    assert "of it; flac is not installed" in ended.output
    report = analyze(MP3, "--accept", "opus", "--json", without=["av"]).report
    assert set(report["missing"]) == {"flac", "opus"}
    (one,) = report["measurements"]
    assert set(one["algorithms"]) == {"gzip"}
    assert one["why"].endswith("; opus is not installed")


def test_without_matplotlib_a_plot_is_refused_and_nothing_else(tmp_path: Path) -> None:
    plot = tmp_path / "x.png"
    ended = analyze(MP3, "--plot", plot, without=["matplotlib"])
    assert (ended.status, ended.output) == (2, "")
    assert "pip install 'audio-compression-proxy[plot]'" in ended.problems
    assert len(ended.problems.splitlines()) == 1
    assert not plot.exists()
    assert analyze(MP3, without=["matplotlib"]).status == 0


# The picture.

COLOURS = {"gzip": "#E69F00", "flac": "#0072B2", "opus": "#009E73", "permessage-deflate": "#999999"}


@pytest.fixture
def odd(tmp_path: Path) -> list[Path]:
    """Recordings whose names mean something to those who draw, or are in no font."""
    paths = [tmp_path / name for name in ("$a$_$b$.wav", "話 <&>.wav", "a" * 60 + ".wav")]
    for path in paths:
        path.write_bytes(speech("speech-22050-s16.wav")[:100_000])
    return paths


def test_a_plot_as_svg(odd: list[Path], tmp_path: Path) -> None:
    plot = tmp_path / "x.svg"
    ended = analyze(*odd, "--chunk-size", "4096", "--chunk-size", "16384", "--plot", plot)
    assert (ended.status, ended.problems) == (0, "")
    root = ElementTree.parse(plot).getroot()
    space = "{http://www.w3.org/2000/svg}"
    texts = ["".join(text.itertext()).strip() for text in root.iter(f"{space}text")]
    assert {"chunks of 4,096 bytes", "chunks of 16,384 bytes", "saved, %", *COLOURS} <= {*texts}
    assert {"$a$_$b$.wav", "話 <&>.wav"} <= {*texts}
    assert [text for text in texts if text.startswith("…") and text.endswith("a.wav")]
    shares = sorted(text for text in texts if re.fullmatch(r"-?[\d.]+%", text))
    report = analyze(*odd, "--chunk-size", "4096", "--chunk-size", "16384", "--json").report
    assert shares == sorted(
        percent(played["saved"])
        for one in report["measurements"]
        for played in (*one["algorithms"].values(), one["permessage_deflate"])
    )
    styles = [path.get("style", "").lower() for path in root.iter(f"{space}path")]
    for colour in COLOURS.values():
        bars = [style for style in styles if f"fill: {colour.lower()}" in style]
        assert len(bars) == 2 * len(odd) + 1  # and one in the legend


def test_a_plot_as_png(tmp_path: Path, report: Any) -> None:
    plot = tmp_path / "x.PNG"
    paths = [one["path"] for one in report["measurements"] if one["format"] in ("wav", "mp3")]
    assert analyze(*paths, *NAMED, "--plot", plot).status == 0
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")
    pixels = imread(plot, format="png")[:, :, :3]
    longest = {
        # Bars stand one below the other: in the row of the longest are the most of its pixels.
        name: int((abs(pixels - to_rgb(colour)) < 0.01).all(axis=2).sum(axis=1).max())
        for name, colour in COLOURS.items()
    }
    assert all(longest.values())
    most = {
        name: max(
            one["algorithms"][name]["saved"]
            for one in report["measurements"]
            if one["path"] in paths
        )
        for name in ("flac", "opus")
    }
    ratio = longest["flac"] / longest["opus"]
    assert ratio == pytest.approx(most["flac"] / most["opus"], abs=0.02)


def test_a_plot_of_many_files_shows_the_first_and_says_so(tmp_path: Path) -> None:
    plot = tmp_path / "x.svg"
    folder = tmp_path / "lessons"
    folder.mkdir()
    for number in range(70):
        (folder / f"{number:02}.txt").write_bytes(bytes(2000))
    ended = analyze(folder, "--plot", plot)
    assert ended.status == 0
    assert ended.problems == f"{plot} shows the first 60 of 70 files\n"
    text = plot.read_text()
    assert "59.txt" in text
    assert "60.txt" not in text


def test_a_plot_that_cannot_be_written_is_named_and_the_tables_are_there(tmp_path: Path) -> None:
    ended = analyze(MP3, "--plot", tmp_path / "nowhere" / "x.png")
    assert ended.status == 2
    assert MP3.name in ended.output
    assert ended.problems == (
        f"audio-proxy: --plot: cannot write {tmp_path}/nowhere/x.png: No such file or directory\n"
    )


def test_the_help_names_every_option() -> None:
    ended = analyze("--help", env=os.environ | {"COLUMNS": "120"})
    for option in (
        *("--chunk-size", "--accept", "--pcm-layout", "--opus-bitrate", "--opus-raw"),
        *("--json", "--plot"),
    ):
        assert option in ended.output
