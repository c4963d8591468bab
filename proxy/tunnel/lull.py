"""When a worker's chores are done: not while a burst of messages is being read."""

from __future__ import annotations

import asyncio
import itertools

from proxy.tunnel.base_leg import now

_MOST_TURNS = 8
"""Of the event loop, after which it is time all the same."""

_asked = itertools.count(1).__next__


async def lull_after(seconds: float) -> None:
    """Sleep so long, and on until a turn of the event loop in which no leg is read.

    Timers go off when something has woken the loop: mostly the first message of a burst, behind
    which the others would wait for a chore.
    """
    await asyncio.sleep(seconds)
    for _ in range(_MOST_TURNS):
        before = _reads()
        await asyncio.sleep(0)
        if _reads() == before:
            return


def _reads() -> int:
    """A number that changes where a leg is read."""
    return now() - _asked()  # each question moves that clock by one
