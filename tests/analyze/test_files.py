from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.analyze.files import Problem, Recording, find, short_names, shown


def paths(folder: Path) -> list[str]:
    """What is found in a folder, below it."""
    found = list(find(folder))
    assert all(isinstance(entry, Recording) for entry in found), found
    return [str(entry.path.relative_to(folder)) for entry in found]


def problems(path: Path) -> list[tuple[str, str]]:
    return [(entry.path.name, entry.text) for entry in find(path) if isinstance(entry, Problem)]


def write(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"audio")


def test_a_file_is_itself_hidden_or_not(tmp_path: Path) -> None:
    write(tmp_path / ".hidden")
    assert list(find(tmp_path / ".hidden")) == [Recording(tmp_path / ".hidden", 5)]


def test_a_directory_is_its_files_at_any_depth_sorted(tmp_path: Path) -> None:
    write(*(tmp_path / name for name in ("b", "a/z", "a/y/x", "c", "B")))
    write(*(tmp_path / name for name in (".h", ".hidden/x", "a/.h")))
    os.mkfifo(tmp_path / "pipe")  # who opens it waits for ever
    assert paths(tmp_path) == ["B", "a/y/x", "a/z", "b", "c"]


def test_links_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "far/audio")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/file").symlink_to(tmp_path / "far/audio")
    (tmp_path / "here/folder").symlink_to(tmp_path / "far")
    (tmp_path / "here/again").symlink_to(tmp_path / "far")
    assert paths(tmp_path / "here") == ["again/audio", "file", "folder/audio"]


def test_loops_are_named_and_left(tmp_path: Path) -> None:
    write(tmp_path / "a/b/audio")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/self").symlink_to("self")
    (tmp_path / "a/gone").symlink_to("nowhere")
    found = list(find(tmp_path / "a"))
    assert [entry.path.name for entry in found] == ["audio", "up", "gone", "self"]
    assert problems(tmp_path / "a") == [
        ("up", "leads back to a directory above it"),
        ("gone", "No such file or directory"),
        ("self", "Too many levels of symbolic links"),
    ]


def test_what_holds_no_recording_is_named(tmp_path: Path) -> None:
    write(tmp_path / "folder/.hidden")
    os.mkfifo(tmp_path / "pipe")
    assert problems(tmp_path / "folder") == [("folder", "no files in it")]
    assert problems(tmp_path / "nowhere") == [("nowhere", "No such file or directory")]
    assert problems(tmp_path / "pipe") == [("pipe", "neither a file nor a directory")]
    assert problems(Path("/dev/zero")) == [("zero", "neither a file nor a directory")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"lesson 1.wav", "lesson 1.wav"),
        ("größe.wav".encode(), "größe.wav"),
        (b"a\nb\x1b[31m.wav", r"a\nb\x1b[31m.wav"),
        (b"\xff.wav", r"\xff.wav"),
    ],
)
def test_every_name_is_shown_on_one_line(name: bytes, text: str) -> None:
    assert shown(Path(os.fsdecode(name))) == text
    assert str(Problem(Path(os.fsdecode(name)), "empty")) == f"{text}: empty"


def test_names_are_short_where_they_are_unlike() -> None:
    names = short_names([Path("a/x"), Path("a/y"), Path("b/x"), Path("a/y")])
    assert names == {Path("a/x"): "a/x", Path("a/y"): "y", Path("b/x"): "b/x"}
