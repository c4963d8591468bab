"""PyAV, FFmpeg's libraries, where an extra has installed it."""

from __future__ import annotations

import importlib
from typing import Any

av: Any
"""The package, or None."""
try:
    av = importlib.import_module("av")
except ImportError:
    av = None


def has_codec(name: str, mode: str) -> bool:
    """Whether FFmpeg's encoder (`mode` "w") or decoder ("r") `name` is there."""
    if av is None:
        return False
    try:
        av.Codec(name, mode)
    except ValueError:  # UnknownCodecError: a build without it
        return False
    return True
