"""Which codec for this chunk, and whether its result pays. Sizes are compared here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.audio.codec import CODECS, Codec


class Policy(Protocol):
    """What the operator decides, as one immutable record."""

    @property
    def enabled(self) -> bool:
        """Compress at all."""
        ...

    @property
    def min_size(self) -> int:
        """Smaller chunks are not worth a try, in bytes."""
        ...

    @property
    def min_gain(self) -> float:
        """The least that a compressed pair must save, as a share of the original frames."""
        ...

    @property
    def level(self) -> int:
        """0, fastest, to 3, smallest."""
        ...

    @property
    def algorithms(self) -> Sequence[str]:
        """The algorithms allowed."""
        ...


def worth_trying(size: int, policy: Policy) -> bool:
    """Whether a chunk of `size` bytes is to be encoded at all."""
    return policy.enabled and size >= policy.min_size


def pays(original: int, encoded: int, policy: Policy) -> bool:
    """Whether `encoded` bytes on the wire are enough less than `original` ones.

    Both count everything that is sent: frame headers, and the metadata of what is encoded.
    """
    return encoded < original and original - encoded >= policy.min_gain * original


def choose(accepted: Sequence[str], policy: Policy) -> Codec | None:
    """The first algorithm in the client's order of preference that is allowed and installed."""
    for name in accepted:
        if name in policy.algorithms and name in CODECS:
            return CODECS[name]
    return None
