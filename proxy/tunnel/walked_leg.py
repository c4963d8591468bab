"""Legs whose bytes pass as they are, their frames' headers walked over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.tunnel.leg import OPEN, READ, BackendLeg, Leg, State, now
from proxy.websocket.segments import Buffer
from proxy.websocket.walker import FrameWalker

_read = memoryview(READ)


class WalkedLeg(Leg):
    """A client's leg: that it closes is seen, nothing else is looked at."""

    __slots__ = ("_walker",)

    def __init__(self, transport: asyncio.Transport, on_lost: Callable[[], None]) -> None:
        super().__init__(transport, on_lost)
        self._walker = FrameWalker()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came: they go to the peer."""
        self._walker.feed(READ, nbytes)
        self.heard = now()
        peer = self.peer
        if peer.state is OPEN:
            peer.write(_read[:nbytes])

    def receive(self, data: Buffer) -> None:
        """See `Leg.receive`."""
        self._walker.feed(bytes(data), len(data))
        super().receive(data)

    @property
    def close_code(self) -> int | None:
        """What its end's close frame said, `NO_CODE` if nothing; None: there was none."""
        return self._walker.close_code


class PassingLeg(WalkedLeg, BackendLeg):
    """The backend's leg of a tunnel that did not opt in."""

    __slots__ = ()

    def close_client(self, *, at_once: bool) -> bool:
        """See `BackendLeg`."""
        if self.peer.state is not State.OPEN or self._walker.closed:
            return True
        if not self._walker.is_between:
            return False
        self.peer.say_goodbye()
        return True
