"""The ffmpeg program, as PyPI's `imageio-ffmpeg` brings it: a judge that is not our own code."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

FFMPEG = get_ffmpeg_exe()
"""The program's path."""


def run(*arguments: str | Path) -> None:
    """Run it. It must succeed and complain of nothing."""
    command = [FFMPEG, "-nostdin", "-v", "warning", "-xerror", "-y", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def read_each(files: Sequence[Path], encoding: str) -> list[bytes]:
    """The samples of each file, as raw PCM in an encoding of ffmpeg's (`s16le`).

    One process reads them all, for starting one takes longer than what it has to do; each file is
    an input of its own, with a demuxer and a decoder of its own.
    """
    outputs = [file.with_suffix(".raw") for file in files]
    inputs = [argument for file in files for argument in ("-i", file)]
    maps = [
        argument
        for number, output in enumerate(outputs)
        for argument in ("-map", str(number), "-f", encoding, "-c:a", f"pcm_{encoding}", output)
    ]
    run(*inputs, *maps)
    return [output.read_bytes() for output in outputs]
