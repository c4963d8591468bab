"""Two legs, each with the other as its peer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.audio.chooser import Policy
from proxy.audio.counters import Tally
from proxy.tunnel.base_leg import State
from proxy.tunnel.filtered_leg import FilteredLeg
from proxy.tunnel.leg import BackendLeg
from proxy.tunnel.walked_leg import WalkedLeg

ABNORMAL = 1006
"""Stands for an end without a close frame (RFC 6455 section 7.4.1)."""
GOING_AWAY = 1001


class Switch(Protocol):
    """The flags of one connection."""

    is_on: bool
    """Its own switch."""

    @property
    def current(self) -> Policy:
        """The record that it goes by. It is replaced whole, at any moment."""
        ...

    @property
    def in_rollout(self) -> bool:
        """Whether the roll-out includes it."""
        ...

    def switch(self, *, on: bool) -> None:
        """Switch compression off for it, or follow the flags again."""
        ...

    def leave(self) -> None:
        """The connection has ended."""
        ...


class Tunnel:
    """One client's WebSocket through the proxy."""

    __slots__ = (
        "_ended_with",
        "_on_end",
        "address",
        "algorithms",
        "backend",
        "client",
        "number",
        "path",
        "since",
        "switch",
    )

    client: WalkedLeg
    backend: BackendLeg

    def __init__(
        self,
        on_end: Callable[[Tunnel], None],
        number: int = 0,
        path: str = "",
        address: str | None = None,
        algorithms: Sequence[str] = (),
        switch: Switch | None = None,
    ) -> None:
        """`number` is its own in this process, `address` the client's; `algorithms` are those in
        effect and `switch` its flags, where it opted in."""
        self._on_end = on_end
        self._ended_with: int | None = None  # the close code, where it was us
        self.number = number
        self.path = path
        self.address = address
        self.algorithms = algorithms
        self.switch = switch
        self.since = time.time()

    def join(self, client: WalkedLeg, backend: BackendLeg) -> None:
        """Make the two legs each other's peer."""
        self.client, self.backend = client, backend
        client.peer, backend.peer = backend, client

    def leg_lost(self) -> None:
        """A leg is closed."""
        if self.client.state is State.LOST and self.backend.state is State.LOST:
            if self.switch is not None:
                self.switch.leave()
            self._on_end(self)
            self.client.leave()
            self.backend.leave()

    @property
    def tally(self) -> Tally | None:
        """What it has counted, where it opted in."""
        return self.backend.tally if isinstance(self.backend, FilteredLeg) else None

    @property
    def ending(self) -> tuple[int, str]:
        """With which close code it has ended, and by whom: client, backend or proxy."""
        client, backend = self.client, self.backend
        by_client, by_backend = client.close_code, backend.close_code
        if self._ended_with == GOING_AWAY:
            return GOING_AWAY, "proxy"
        if by_client is None and by_backend is None:
            if self._ended_with is not None:
                return self._ended_with, "proxy"
            return ABNORMAL, "client" if client.ended_at < backend.ended_at else "backend"
        # Who answers a close frame has the last word.
        is_client = by_backend is None or (by_client is not None and client.heard < backend.heard)
        code = by_client if is_client else by_backend
        assert code is not None
        return code, "client" if is_client else "backend"

    def take_pauses(self) -> int:
        """How often one of its sides was not read further, since this was last asked."""
        pauses = self.client.pauses + self.backend.pauses
        self.client.pauses = self.backend.pauses = 0
        return pauses

    @property
    def backlog(self) -> int:
        """Bytes that wait here to be sent, to either side."""
        # For whom nothing waits, the transport is not asked.
        client, backend = self.client, self.backend
        return (client.backlog if client.waits else 0) + (backend.backlog if backend.waits else 0)

    def overdue(self, now: float, stall_timeout: float, close_timeout: float) -> bool:
        """Whether one of its sides has let a time limit pass; see `Leg.overdue`."""
        # Both are asked: each keeps its own account of what it saw last.
        client = self.client.overdue(now, stall_timeout, close_timeout)
        return self.backend.overdue(now, stall_timeout, close_timeout) or client

    @property
    def is_delivering(self) -> bool:
        """Whether the client has not got yet all that the backend has said."""
        return self.backend.is_paused or self.client.is_sending

    @property
    def heard(self) -> tuple[int, bool]:
        """When either side last said something, and whether that was the backend."""
        client, backend = self.client.heard, self.backend.heard
        return max(client, backend), backend >= client

    def close(self, *, at_once: bool) -> bool:
        """Close it with 1001, as `BackendLeg.close_client` does; then both sides end by
        themselves."""
        done = self.backend.close_client(at_once=at_once)
        if self.client.state is State.CLOSING:
            self._ended_with = GOING_AWAY
        return done

    def finish(self) -> None:
        """End both sides, with all that is held written out."""
        self._ended_with = self._ended_with or ABNORMAL
        self.backend.source_ended()
        self.client.source_ended()

    def abort(self) -> None:
        """Close both sockets at once."""
        self._ended_with = self._ended_with or ABNORMAL
        self.client.abort()
        self.backend.abort()
