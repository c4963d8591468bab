"""Two legs, each with the other as its peer."""

from __future__ import annotations

from collections.abc import Callable

from proxy.tunnel.leg import BackendLeg, Leg, State


class Tunnel:
    """One client's WebSocket through the proxy."""

    __slots__ = ("_on_end", "backend", "client")

    def __init__(self, on_end: Callable[[Tunnel], None]) -> None:
        self._on_end = on_end
        self.client: Leg
        self.backend: BackendLeg

    def join(self, client: Leg, backend: BackendLeg) -> None:
        """Make the two legs each other's peer."""
        self.client, self.backend = client, backend
        client.peer, backend.peer = backend, client

    def leg_lost(self) -> None:
        """A leg is closed."""
        if self.client.state is State.LOST and self.backend.state is State.LOST:
            self._on_end(self)

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
        return self.backend.close_client(at_once=at_once)

    def finish(self) -> None:
        """End both sides, with all that is held written out."""
        self.backend.source_ended()
        self.client.source_ended()

    def abort(self) -> None:
        """Close both sockets at once."""
        self.client.abort()
        self.backend.abort()
