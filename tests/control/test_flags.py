from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.control.flags import Flags, LiveFlags, PathFlags, Revision, Variants
from proxy.errors import ConflictError, FlagsError

NAMES = (
    *("enabled", "min_size", "min_gain", "level", "algorithms"),
    *("rollout_percent", "shadow", "paths"),
)
ABOUT = ("revision", "changed_by")
"""What a store keeps beside the flags."""

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
        "rollout_percent": 100,
        "shadow": False,
        "paths": {},
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
        ("rollout_percent", "12.5", 12.5),
        ("rollout_percent", 0, 0.0),
        ("shadow", "on", True),
        ("paths", "", {}),
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
        ("min_size", 10**310),
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
        ("rollout_percent", -1),
        ("rollout_percent", 100.1),
        ("rollout_percent", True),
        ("rollout_percent", "nan"),
        ("shadow", "half"),
        ("paths", "{"),
        ("paths", []),
        ("paths", {"ws": {}}),
        ("paths", None),
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


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"level": 4}, r"^paths\./ws/\*\.level: "),
        ({"enabled": "maybe"}, r"^paths\./ws/\*\.enabled: "),
        ({"algorithms": "lzma"}, r"^paths\./ws/\*\.algorithms: 'lzma' is no algorithm"),
        ({"paths": {}}, r"^paths\./ws/\*\.paths: there is no such flag; .*shadow$"),
        (5, r"^paths\./ws/\*: "),
    ],
)
def test_what_is_wrong_in_a_rule_is_named_with_its_path(rule: Any, message: str) -> None:
    with pytest.raises(FlagsError, match=message):
        Flags().updated({"paths": {"/ws/*": rule}})


# What they mean for one connection.


def test_the_first_pattern_that_fits_counts() -> None:
    rules = {"/ws/a*": {"level": 3, "enabled": True}, "/ws/*": {"enabled": False}}
    variants = Variants(Flags(level=2).updated({"paths": rules}))
    answers = {path: variants.of(path, 0, is_on=True) for path in ("/ws/ab", "/ws/b", "/other")}
    assert [(each.enabled, each.level) for each in answers.values()] == [
        (True, 3),
        (False, 2),
        (True, 2),
    ]


def test_a_switch_and_the_roll_out_switch_off_and_nothing_else() -> None:
    flags = Flags(rollout_percent=30, level=2)
    variants = Variants(flags)
    assert variants.of("/", 29.99, is_on=True) == flags
    off = flags.model_copy(update={"enabled": False})
    assert variants.of("/", 30, is_on=True) == off
    assert variants.of("/", 0, is_on=False) == off
    assert Variants(off).of("/", 0, is_on=True) == off


def test_a_connection_gets_the_same_object_while_nothing_changes() -> None:
    """The data path asks for the record's identity at each read."""
    variants = Variants(Flags().updated({"paths": {"/a": {"level": 3}}, "rollout_percent": 50}))
    for path in ("/a", "/b"):
        for place in (0, 99):
            assert variants.of(path, place, is_on=True) is variants.of(path, place, is_on=True)


# As text.


@settings(deadline=None)
@given(
    st.builds(
        Flags,
        enabled=st.booleans(),
        min_size=st.integers(0, 1 << 31),
        min_gain=st.floats(0, 1, exclude_max=True),
        level=st.integers(0, 3),
        rollout_percent=st.floats(0, 100),
        shadow=st.booleans(),
        paths=st.just({"/ws/*": PathFlags(level=3, algorithms=("opus",))}),
    ),
    st.integers(0, 1 << 40),
    st.none() | st.text(),
)
def test_what_is_written_is_read(flags: Flags, number: int, by: str | None) -> None:
    revision = Revision(flags, number, by)
    assert Revision.parse(revision.to_json(), Flags()) == revision
    assert tuple(json.loads(revision.to_json())) == (*NAMES, *ABOUT)


def test_flags_left_out_have_their_defaults() -> None:
    first = Flags(enabled=False)
    assert Revision.parse(b'{"level": 2}', first) == Revision(Flags(enabled=False, level=2))
    assert Revision.parse(b"{}", Flags()) == Revision(Flags())


@pytest.mark.parametrize("number", ["1", -1, True, 1.5, None])
def test_a_revision_is_a_whole_number(number: object) -> None:
    with pytest.raises(FlagsError, match=r"^revision: "):
        Revision.parse(json.dumps({"revision": number}).encode(), Flags())


def test_of_two_at_once_the_second_is_told() -> None:
    seen = Revision(Flags(), 4, "dashboard")
    first = seen.changed({"level": 2}, "command line", 4)
    assert first == Revision(Flags(level=2), 5, "command line")
    with pytest.raises(ConflictError, match=r"by command line .* revision 5 and not at 4"):
        first.changed({"level": 3}, "dashboard", 4)
    assert first.changed({"level": 3}, "dashboard", None).number == 6
    assert first.changed({"level": 2}, "dashboard", 5) is first, "nothing has changed"


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
        Revision.parse(data, Flags())


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), everything_json, max_size=3))
@example({"algorithms": [["gzip"]]})
@example({"enabled": "\ud800"})
@example({"\ud800": 1})
def test_any_json_is_a_record_or_a_flags_error(record: dict[str, Any]) -> None:
    """A worker reads whatever stands in the file: nothing else may come out of it."""
    try:
        flags = Revision.parse(json.dumps(record).encode(), Flags()).flags
    except FlagsError:
        flags = Flags()
    else:
        assert set(record) <= {*NAMES, *ABOUT}
    assert type(flags.enabled) is bool
    assert flags.min_size >= 0
    assert 0 <= flags.min_gain < 1
    assert flags.level in range(4)
    assert set(flags.algorithms) <= {"gzip", "flac", "opus"}
    assert flags.algorithms


def test_live_flags_are_replaced_whole_and_who_listens_is_told() -> None:
    live = LiveFlags(Flags())
    seen, heard = live.current, list[bool]()
    live.listen(lambda: heard.append(live.current.enabled))
    assert live.take(Revision(Flags(enabled=False, level=3), 7, "hand")) == {
        "enabled": (True, False),
        "level": (1, 3),
    }
    assert seen.enabled
    assert not live.current.enabled
    assert (live.revision, live.changed_by, heard) == (7, "hand", [False])
    same = live.current
    assert live.take(Revision(Flags(enabled=False, level=3), 8)) == {}
    assert live.current is same, "nobody need look anew"
    assert (live.revision, heard) == (8, [False])
