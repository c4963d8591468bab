from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.audio.chooser import choose, pays, worth_trying
from proxy.audio.codec import CODECS
from proxy.control.flags import Flags


def gain(share: float) -> Flags:
    return Flags(min_gain=share)


@pytest.mark.parametrize(
    ("size", "flags", "worth"),
    [
        (1024, Flags(), True),
        (1023, Flags(), False),
        (0, Flags(min_size=0), True),
        (1 << 30, Flags(enabled=False), False),
    ],
)
def test_worth_trying_from_min_size_on(size: int, flags: Flags, worth: bool) -> None:
    assert worth_trying(size, flags) is worth


@pytest.mark.parametrize(
    ("original", "encoded", "share", "enough"),
    [
        (10_000, 9_700, 0.03, True),
        (10_000, 9_701, 0.03, False),
        (10_000, 9_999, 0.0, True),
        (10_000, 10_000, 0.0, False),
        (10_000, 10_001, 0.0, False),
        (0, 0, 0.0, False),
    ],
)
def test_it_pays_from_min_gain_on(original: int, encoded: int, share: float, enough: bool) -> None:
    assert pays(original, encoded, gain(share)) is enough


@settings(deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32), st.floats(0, 1, exclude_max=True))
def test_what_pays_is_never_worse_than_plain(original: int, encoded: int, share: float) -> None:
    if pays(original, encoded, gain(share)):
        assert encoded < original
        assert 1 - encoded / original >= share - 1e-9


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (("gzip",), "gzip"),
        (("flac", "gzip", "opus"), "gzip"),
        (("nothing", "known"), None),
        ((), None),
    ],
)
def test_the_first_accepted_that_is_installed(accepted: Sequence[str], chosen: str | None) -> None:
    codec = choose(accepted, Flags())
    assert (codec and codec.name) == chosen
    assert chosen is None or codec is CODECS[chosen]


def test_what_the_operator_forbids_is_not_chosen() -> None:
    allowed = Flags.model_construct(algorithms=("flac",))
    assert choose(("gzip",), allowed) is None
