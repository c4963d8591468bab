"""Legs whose bytes pass as they are, their frames' headers walked over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.tunnel.base_leg import FrameWalker, State
from proxy.tunnel.leg import BackendLeg, Leg


class WalkedLeg(Leg):
    """A client's leg: that it closes is seen, nothing else is looked at."""

    __slots__ = ()

    walker: FrameWalker

    def __init__(self, transport: asyncio.Transport, on_lost: Callable[[], None]) -> None:
        super().__init__(transport, on_lost)
        self.walker = FrameWalker()

    @property
    def close_code(self) -> int | None:
        """What its end's close frame said, `NO_CODE` if nothing; None: there was none."""
        return self.walker.close_code


class PassingLeg(WalkedLeg, BackendLeg):
    """The backend's leg of a tunnel that did not opt in."""

    __slots__ = ()

    def close_client(self, *, at_once: bool) -> bool:
        """See `BackendLeg`."""
        if self.peer.state is not State.OPEN or self.walker.closed:
            return True
        if not self.walker.is_between:
            return False
        self.peer.say_goodbye()
        return True
