"""Scripted peers and real ones, for tests."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import Callable
from pathlib import Path

_HERE = Path(__file__).parent
_FOLDERS = (_HERE.parent / "data", _HERE.parent.parent / "proxy" / "demo" / "speech")

SPEECH = {file.name: file for folder in _FOLDERS for file in folder.iterdir() if file.is_file()}
"""The recordings, by file name."""


def speech(name: str) -> bytes:
    """A recording's bytes."""
    return SPEECH[name].read_bytes()


def pcm() -> bytes:
    """12 seconds of speech, raw PCM: s16le, 22,050 Hz, mono."""
    with wave.open(str(SPEECH["speech-22050-s16.wav"])) as file:
        return file.readframes(file.getnframes())


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something that has no event of its own; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # see above
            await asyncio.sleep(0.002)
