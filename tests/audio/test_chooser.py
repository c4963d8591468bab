from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.audio.chooser import Chooser, LosslessTrial, Trial, pays, worth_trying
from proxy.audio.codec import Encoded
from proxy.audio.flac import FLAC
from proxy.audio.formats import Format
from proxy.audio.gzip import GZIP
from proxy.audio.pcm import PcmLayout
from proxy.audio.stream import Chunk
from proxy.control.flags import Flags

PCM_CHUNK = Chunk(bytes(4096), Format.PCM, PcmLayout("s16le", 24_000, 1), 0, 4096, 4096)
MP3_CHUNK = Chunk(bytes(4096), Format.MP3)
DEFAULT = Flags()


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
        (10_000, 9_700.5, 0.03, False),
        (10_000, 9_999, 0.0, True),
        (10_000, 10_000, 0.0, False),
        (10_000, 10_001, 0.0, False),
        (0, 0, 0.0, False),
    ],
)
def test_it_pays_from_min_gain_on(
    original: int, encoded: float, share: float, enough: bool
) -> None:
    assert pays(original, encoded, gain(share)) is enough


@settings(deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32), st.floats(0, 1, exclude_max=True))
def test_what_pays_is_never_worse_than_plain(original: int, encoded: int, share: float) -> None:
    if pays(original, encoded, gain(share)):
        assert encoded < original
        assert 1 - encoded / original >= share - 1e-9


# One algorithm on one connection.


def rests(trial: Trial, misses: int) -> list[int]:
    """How long it rests after each of so many chunks that it gains nothing on."""
    found = []
    for _ in range(misses):
        trial.resting = 0
        trial.missed()
        found.append(trial.resting)
    return found


def test_it_rests_after_three_misses_and_longer_each_time() -> None:
    trial = Trial("gzip")
    assert rests(trial, 8) == [0, 0, 8, 16, 32, 64, 64, 64]
    assert trial.is_poor


def test_a_gain_forgives_everything() -> None:
    trial = Trial("gzip")
    for _ in range(2):
        assert rests(trial, 5) == [0, 0, 8, 16, 32]
        trial.gained()
        assert not trial.is_poor


def test_misses_in_a_row_count_and_no_others() -> None:
    trial = Trial("gzip")
    for _ in range(20):
        trial.missed()
        trial.missed()
        trial.gained()
        assert (trial.resting, trial.is_poor) == (0, False)


def test_another_kind_of_audio_is_a_new_beginning() -> None:
    trial = Trial("gzip")
    assert rests(trial, 5)[-1] == 32
    trial.reset()
    assert (trial.resting, trial.is_poor) == (0, False)
    assert rests(trial, 4) == [0, 0, 8, 16]


def test_it_is_off_after_three_failures_in_a_row() -> None:
    trial = Trial("gzip")
    for proof_of_life in (trial.gained, trial.missed):
        trial.failed()
        trial.failed()
        assert not trial.is_off
        proof_of_life()
    trial.failed()
    trial.failed()
    assert not trial.is_off
    trial.failed()
    assert trial.is_off


def test_what_is_off_stays_off_whatever_comes() -> None:
    trial = Trial("gzip")
    for _ in range(3):
        trial.failed()
    trial.reset()
    assert trial.is_off


# Several codecs.


def chooser() -> tuple[Chooser, LosslessTrial, LosslessTrial]:
    """For a client that accepts flac and gzip; and how the two fare."""
    made = Chooser([FLAC, GZIP])
    flac, gzip = made.trials
    return made, flac, gzip


def chosen(of: Chooser, chunk: Chunk = PCM_CHUNK, flags: Flags = DEFAULT) -> list[str] | None:
    """By which codecs the next chunk is to be encoded; None: it passes unseen."""
    if not of.due(flags):
        return None
    return [trial.name for trial in of.choose(chunk, flags)]


def test_all_are_tried_in_the_clients_order() -> None:
    for codecs in ([FLAC, GZIP], [GZIP, FLAC], [GZIP]):
        assert chosen(Chooser(codecs)) == [codec.name for codec in codecs]
    assert chosen(Chooser([])) is None


def test_what_the_operator_forbids_is_not_chosen() -> None:
    made, _, _ = chooser()
    assert chosen(made, flags=Flags(algorithms=("gzip",))) == ["gzip"]
    assert chosen(made, flags=Flags(algorithms=("opus",))) is None
    assert chosen(made) == ["flac", "gzip"]


def test_what_is_off_is_not_chosen() -> None:
    made, flac, gzip = chooser()
    for _ in range(3):
        flac.failed()
    assert chosen(made) == ["gzip"]
    gzip.is_off = True
    assert chosen(made) is None


def test_flac_rests_where_it_can_do_nothing() -> None:
    made, flac, _ = chooser()
    asked = [chosen(made, MP3_CHUNK) for _ in range(30)]
    assert asked == [["gzip"]] * 30
    assert flac.resting > 0
    assert chosen(Chooser([FLAC]), MP3_CHUNK) == []


def test_who_rests_is_not_chosen_while_so_many_chunks_pass() -> None:
    made, flac, gzip = chooser()
    gzip.rest()
    assert [chosen(made) for _ in range(7)] == [["flac"]] * 7
    flac.rest()
    gzip.resting = 9
    assert [chosen(made) for _ in range(8)] == [None] * 8
    assert chosen(made) == ["flac", "gzip"]


@pytest.mark.parametrize("resting", [0, 1, 8, 64])
def test_how_many_chunks_pass_unseen_is_known_beforehand(resting: int) -> None:
    """`idle` chunks may pass without `due` being asked, if `passed` is told of them."""
    one, flac, gzip = chooser()
    flac.resting, gzip.resting = resting, 64
    other, *trials = chooser()
    trials[0].resting, trials[1].resting = resting, 64
    assert one.idle(DEFAULT) == resting
    asked = [other.due(DEFAULT) for _ in range(resting)]
    assert not any(asked)
    one.passed(resting)
    assert (flac.resting, gzip.resting) == (0, 64 - resting)
    assert [trial.resting for trial in trials] == [0, 64 - resting]
    one.passed(100)
    assert (flac.resting, gzip.resting) == (0, 0)


def test_another_kind_of_audio_wakes_everybody() -> None:
    made, flac, gzip = chooser()
    for _ in range(4):
        flac.missed()
    gzip.rest()
    made.reset()
    assert chosen(made) == ["flac", "gzip"]
    assert rests(flac, 4) == rests(gzip, 4) == [0, 0, 8, 16]


def test_who_may_not_be_tried_keeps_nobody_from_idling() -> None:
    made, flac, gzip = chooser()
    gzip.resting = 8
    assert made.idle(DEFAULT) == 0
    assert made.idle(Flags(algorithms=("gzip",))) == 8
    flac.is_off = True
    assert made.idle(DEFAULT) == 8
    assert made.idle(Flags(algorithms=("opus",))) > 0


def test_a_codec_is_what_encodes_a_chunk() -> None:
    for codec in (FLAC, GZIP):
        encoded = codec.encode_chunk(PCM_CHUNK, 1)
        assert isinstance(encoded, Encoded)
        assert len(encoded.data) < 200
