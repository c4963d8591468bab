"""Which record of the flags each opted-in connection goes by."""

from __future__ import annotations

import hashlib

from proxy.control.flags import Flags, LiveFlags, Variants

_PLACES = 10_000
"""Places of a roll-out: hundredths of a per cent."""


def place_of(identity: bytes) -> float:
    """Where in a roll-out somebody stands, 0 to 100. It is always the same for the same one."""
    digest = hashlib.blake2b(identity, digest_size=8).digest()
    return int.from_bytes(digest, "big") % _PLACES * 100 / _PLACES


class ConnectionFlags:
    """The flags of one connection: `current` is replaced whole when they change."""

    __slots__ = ("_path", "_place", "_rollout", "current", "is_on")

    def __init__(self, rollout: Rollout, path: str, place: float) -> None:
        self._rollout = rollout
        self._path = path
        self._place = place
        self.is_on = True
        """Its own switch."""
        self.current: Flags
        self.renew()

    def renew(self) -> None:
        """The flags have changed, for everybody or for it."""
        self.current = self._rollout.variants.of(self._path, self._place, is_on=self.is_on)

    def switch(self, *, on: bool) -> None:
        """Switch compression off for this connection, or follow the flags again."""
        self.is_on = on
        self.renew()

    @property
    def in_rollout(self) -> bool:
        """Whether the roll-out includes it."""
        return self._place < self._rollout.variants.percent_of(self._path)

    def leave(self) -> None:
        """The connection has ended."""
        self._rollout.forget(self)


class Rollout:
    """Keeps the flags of all opted-in connections up to date."""

    def __init__(self, live: LiveFlags) -> None:
        self._live = live
        self._members: set[ConnectionFlags] = set()
        self.variants = Variants(live.current)
        live.listen(self._renew)

    def enter(self, path: str, identity: bytes) -> ConnectionFlags:
        """The flags of a new connection. `identity` is what a client has in common with itself
        when it comes again."""
        member = ConnectionFlags(self, path, place_of(identity))
        self._members.add(member)
        return member

    def forget(self, member: ConnectionFlags) -> None:
        """See `ConnectionFlags.leave`."""
        self._members.discard(member)

    def _renew(self) -> None:
        self.variants = Variants(self._live.current)
        for member in self._members:  # 8,000 in 6 ms, when an operator changes something
            member.renew()
