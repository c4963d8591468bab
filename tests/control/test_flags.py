from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.control.flags import Flags, LiveFlags, parse_flags
from proxy.errors import FlagsError

NAMES = ("enabled", "min_size", "min_gain", "level", "algorithms")

everything_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_the_first_record() -> None:
    assert Flags().model_dump() == {
        "enabled": True,
        "min_size": 1024,
        "min_gain": 0.03,
        "level": 1,
        "algorithms": ("gzip", "flac", "opus"),
    }


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Flags().enabled = False


def test_an_update_leaves_the_old_record_as_it_was() -> None:
    before = Flags(level=3)
    after = before.updated({"enabled": False})
    assert before == Flags(level=3)
    assert after == Flags(level=3, enabled=False)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("enabled", "false", False),
        ("enabled", "off", False),
        ("enabled", "1", True),
        ("min_size", "0", 0),
        ("min_size", "65536", 65536),
        ("min_gain", "0", 0.0),
        ("min_gain", "0.25", 0.25),
        ("level", "3", 3),
        ("algorithms", "gzip", ("gzip",)),
        ("algorithms", " GZip ", ("gzip",)),
        ("algorithms", ["gzip"], ("gzip",)),
        ("algorithms", "gzip,GZIP", ("gzip",)),
        ("algorithms", "Opus, flac,gzip", ("opus", "flac", "gzip")),
        ("algorithms", ["flac", "opus", "FLAC"], ("flac", "opus")),
    ],
)
def test_values_from_the_command_line_and_from_json(name: str, text: Any, value: object) -> None:
    assert getattr(Flags(enabled=value is not True).updated({name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enabled", "maybe"),
        ("enabled", ""),
        ("enabled", None),
        ("enabled", 2),
        ("min_size", -1),
        ("min_size", "-1"),
        ("min_size", "1.5"),
        ("min_size", "1k"),
        ("min_size", None),
        ("min_gain", -0.01),
        ("min_gain", 1),
        ("min_gain", "nan"),
        ("min_gain", float("nan")),
        ("min_gain", float("inf")),
        ("min_gain", "3%"),
        ("level", -1),
        ("level", 4),
        ("level", "best"),
        ("algorithms", ""),
        ("algorithms", "gzip,"),
        ("algorithms", "gzip,lzma"),
        ("algorithms", []),
        ("algorithms", None),
        ("algorithms", 5),
        ("algorithms", [None]),
        ("algorithms", [["gzip"]]),
        ("algorithms", [{"gzip": 1}]),
        ("algorithms", {"gzip": 1}),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(FlagsError, match=f"^{name}: "):
        Flags().updated({name: value})


def test_a_truth_value_is_no_size() -> None:
    """`{"min_size": true}` is a slip for `enabled`; as 1 it would compress everything."""
    with pytest.raises(FlagsError, match=r"^min_size: "):
        Flags().updated({"min_size": True})


def test_an_unknown_algorithm_is_named_with_those_that_exist() -> None:
    with pytest.raises(FlagsError, match=r"'lzma' is no algorithm; .* gzip, flac, opus$"):
        Flags().updated({"algorithms": "gzip,lzma"})


def test_an_algorithm_may_be_allowed_where_it_is_not_installed() -> None:
    """Machines that share their flags need not have the same codecs."""
    script = """
import sys
sys.modules["av"] = None
from proxy.audio.algorithms import INSTALLED, MISSING
from proxy.control.flags import Flags
print(*INSTALLED, *MISSING, *Flags().updated({"algorithms": "opus,flac"}).algorithms)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split() == ["gzip", "flac", "opus", "opus", "flac"]


def test_an_unknown_flag_is_named_with_those_that_exist() -> None:
    with pytest.raises(FlagsError, match=f"^enabeld: there is no such flag.*{', '.join(NAMES)}"):
        Flags().updated({"enabeld": "false"})


def test_everything_wrong_is_named_at_once() -> None:
    with pytest.raises(FlagsError) as caught:
        Flags().updated({"level": 9, "min_gain": 2, "colour": "red"})
    for name in ("level", "min_gain", "colour"):
        assert f"{name}: " in str(caught.value)


# As text.


@settings(deadline=None)
@given(
    st.builds(
        Flags,
        enabled=st.booleans(),
        min_size=st.integers(0, 1 << 40),
        min_gain=st.floats(0, 1, exclude_max=True),
        level=st.integers(0, 3),
    )
)
def test_what_is_written_is_read(flags: Flags) -> None:
    assert parse_flags(flags.to_json(), Flags()) == flags
    assert tuple(json.loads(flags.to_json())) == NAMES


def test_flags_left_out_have_their_defaults() -> None:
    assert parse_flags(b'{"level": 2}', Flags(enabled=False)) == Flags(enabled=False, level=2)
    assert parse_flags(b"{}", Flags()) == Flags()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b'{"enabled": fals',
        b"enabled=false",
        b"\xff\xfe\x00",
        b"[]",
        b'"enabled"',
        b"null",
        b"[" * 100_000,
        b'{"min_size":' + b"9" * 5000 + b"}",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(FlagsError, match=r"not (a )?JSON"):
        parse_flags(data, Flags())


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), everything_json, max_size=3))
@example({"algorithms": [["gzip"]]})
@example({"enabled": "\ud800"})
@example({"\ud800": 1})
def test_any_json_is_a_record_or_a_flags_error(record: dict[str, Any]) -> None:
    """A worker reads whatever stands in the file: nothing else may come out of it."""
    try:
        flags = parse_flags(json.dumps(record).encode(), Flags())
    except FlagsError:
        flags = Flags()
    else:
        assert set(record) <= set(NAMES)
    assert type(flags.enabled) is bool
    assert flags.min_size >= 0
    assert 0 <= flags.min_gain < 1
    assert flags.level in range(4)
    assert set(flags.algorithms) <= {"gzip", "flac", "opus"}
    assert flags.algorithms


def test_live_flags_are_replaced_whole() -> None:
    live = LiveFlags(Flags())
    seen = live.current
    live.current = Flags(enabled=False)
    assert seen.enabled
    assert not live.current.enabled
