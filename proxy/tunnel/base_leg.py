"""What a leg does for each chunk. `speedups.c` is the same in C: it is used where it was built."""

from __future__ import annotations

import asyncio
import itertools
import os
from enum import Enum
from types import ModuleType
from typing import TYPE_CHECKING

from proxy.audio.counters import SECONDS
from proxy.websocket.metadata import build
from proxy.websocket.segments import Buffer
from proxy.websocket.walker import FrameWalker as PythonFrameWalker

speedups: ModuleType | None
try:
    from proxy.tunnel import speedups
except ImportError:  # no C compiler was there; tests do not run without
    speedups = None

BUILD = "install a C compiler and Python's headers (python3-dev), then the proxy again"
"""What gives the part in C to those who lack it."""


class State(Enum):
    """Of a leg. OPEN -> (CLOSING) -> ENDING -> LOST, or straight to LOST."""

    OPEN = 0
    CLOSING = 3
    """Its WebSocket was closed by us: what else comes for it is dropped, what it says goes on."""
    ENDING = 1
    """Its peer has ended: it writes out what it holds, ends, and reads on until it is closed."""
    LOST = 2


OPEN = State.OPEN  # an enum's members are looked up in 0.1 us

READ_SIZE = 512 * 1024
"""Bytes that are read at once, at most."""

# One for all legs: what is read leaves it before another leg reads, so that nothing is allocated
# or copied on the way through. In bulk, with half of it the CPU is 1.1 to 1.2 times as much.
_whole = bytearray(READ_SIZE)
READ = memoryview(_whole)
"""Where legs read to. (asyncio's TLS slices it: of a bytearray that would be a copy.)"""

_tick = itertools.count(1).__next__


class PythonBaseLeg:
    """What is read of the socket goes to the peer's, past the transport where it can."""

    __slots__ = (
        "file",
        "heard",
        "peer",
        "repeater",
        "sent_at",
        "state",
        "transport",
        "waits",
        "walker",
        "written",
    )

    transport: asyncio.Transport
    peer: PythonBaseLeg
    state: State
    heard: int
    """When it last received something, by the clock of `now`; 0: never."""
    file: int
    """The socket's descriptor while it may be written to without the transport, or -1."""
    waits: bool
    """Whether the transport may hold bytes: what was written past them would overtake them. Who
    gives it bytes sets it first, or nobody would see that they are not taken."""
    written: int
    """Bytes that were given to it to send."""
    walker: FrameWalker | None
    """Follows what is read; None: it is filtered."""
    repeater: object
    """Of a leg that is filtered, in C: does what `filter` does with most chunks."""
    sent_at: float
    """When that leg's peer was last sent something, by `perf_counter`; 0: never."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return READ

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came: they go to the peer, or nowhere where it is gone."""
        self.heard = now()
        if self.walker is None:
            self.filter(nbytes)
            return
        self.walker.feed(_whole, nbytes)
        peer = self.peer
        if peer.state is OPEN:
            peer.write(READ[:nbytes])

    def filter(self, nbytes: int) -> None:
        """Bytes came: what goes to the peer is to be found out."""
        raise NotImplementedError

    def write(self, data: Buffer) -> None:
        """Send bytes. What the system does not take at once waits in the transport."""
        size = len(data)
        self.written += size
        if self.is_direct():
            try:
                sent = os.write(self.file, data)
            except OSError:  # full; or broken, which the transport will find and deal with
                sent = 0
            if sent == size:
                return
            if sent:
                data = memoryview(data)[sent:]
        self.waits = True
        self.transport.write(bytes(data))

    def is_direct(self) -> bool:
        """Whether the socket may be written to without the transport."""
        if self.waits:
            self.waits = self.transport.get_write_buffer_size() > 0
        return self.file >= 0 and not self.waits


if TYPE_CHECKING or speedups is None:
    BaseLeg = PythonBaseLeg
    FrameWalker = PythonFrameWalker
    now = _tick
else:
    BaseLeg = speedups.BaseLeg
    FrameWalker = speedups.FrameWalker
    now = speedups.now
    speedups.share(READ, OPEN, SECONDS, build)
