"""The recordings that the command line names: files, and all files in directories."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Recording:
    """A file to analyze."""

    path: Path
    size: int
    """In bytes, when it was found."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a path was skipped."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.text}"


def shown(path: Path) -> str:
    """A path on one line, whatever bytes it is made of."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short_names(paths: Iterable[Path]) -> dict[Path, str]:
    """How to name files beside each other: by name, or by path where others have that name."""
    given = dict.fromkeys(paths)
    alike = Counter(path.name for path in given)
    return {path: shown(Path(path.name) if alike[path.name] == 1 else path) for path in given}


def problem_of(path: Path, error: OSError) -> Problem:
    """What the system says of a path."""
    return Problem(path, error.strerror or str(error))


def find(path: Path) -> Iterator[Recording | Problem]:
    """The files that a path stands for: itself, or those in it at any depth, sorted by name.

    In directories hidden names, and what is neither file nor directory, are left out. Links are
    followed; one that leads back to a directory above it is a problem.
    """
    found = False
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(path, frozenset())]
    while waiting:
        entry, above = waiting.pop()
        try:
            status = entry.stat()
            if stat.S_ISDIR(status.st_mode):
                identity = (status.st_dev, status.st_ino)
                if identity in above:
                    found = True
                    yield Problem(entry, "leads back to a directory above it")
                    continue
                names = sorted(os.listdir(entry), reverse=True)
                below = above | {identity}
                waiting += [(entry / name, below) for name in names if name[0] != "."]
                continue
        except OSError as error:
            found = True
            yield problem_of(entry, error)
            continue
        if stat.S_ISREG(status.st_mode):
            found = True
            yield Recording(entry, status.st_size)
        elif entry is path:
            found = True
            yield Problem(entry, "neither a file nor a directory")
    if not found:
        yield Problem(path, "no files in it")
