"""Scripted peers and real ones, for tests."""

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
    return speech("speech-22050-s16.wav")[44:]
