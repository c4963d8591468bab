"""The log as text, where standard error is no terminal: a line stays one, whatever is in it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from proxy.logs import configure_logs

_HEAD = re.compile(r"(\S+Z) \[(\w+) *\] (tunnel ended)")
_VALUE = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|[^\s"=]+)')


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    root = logging.getLogger()
    before = structlog.get_config(), root.handlers[:], root.level
    yield
    structlog.configure(**before[0])
    root.handlers[:], root.level = before[1:]


def written(**values: object) -> str:
    """What one line in the log is."""
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        configure_logs(logging.INFO)
        structlog.get_logger().info("tunnel ended", **values)
    return stream.getvalue()


def parsed(line: str) -> dict[str, str]:
    """The values of a line, which has nothing else in it."""
    head = _HEAD.match(line)
    assert head is not None
    assert head[2] == "info"
    found, at = {}, head.end()
    while (value := _VALUE.match(line, at)) is not None:
        text = value[2]
        found[value[1]] = json.loads(text) if text.startswith('"') else text
        at = value.end()
    assert line[at:] == "\n"
    return found


def test_what_is_plain_has_no_quotes() -> None:
    line = written(path="/ws/1", seconds=1.5, code=1000, by="client", algorithms="flac,gzip")
    assert line.endswith(" path=/ws/1 seconds=1.5 code=1000 by=client algorithms=flac,gzip\n")


_FORGED = "\n2026-01-01T00:00:00Z [info    ] forged"


@pytest.mark.parametrize("text", ["", "a b", "a=b", '"', "\\", _FORGED, "\x9b31m", "ä"])
def test_what_could_be_taken_for_something_else_is_quoted(text: str) -> None:
    line = written(path=text, by="client")
    assert line.isascii()
    assert parsed(line) == {"path": text, "by": "client"}


@given(path=st.text(), by=st.text())
def test_every_value_is_read_back_from_one_line(path: str, by: str) -> None:
    line = written(path=path, by=by)
    assert line.splitlines() == [line[:-1]]
    assert parsed(line) == {"path": path, "by": by}
