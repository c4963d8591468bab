"""The event loop that everything runs on."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys
from collections.abc import Coroutine
from typing import Any

SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that encodes lets the event loop go on. Python's own 5 ms would be
heard: between two packets it works in Python."""

_M_ARENA_MAX = -8  # of glibc's malloc.h


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop, where that exists."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    _share_heap()
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def _share_heap() -> None:
    """Let threads that encode take memory from where all do: with heaps of their own, a connection
    with Opus left 17 KiB more of what was given back."""
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
