from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from proxy.errors import FrameError
from proxy.websocket.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, build_header
from proxy.websocket.frames import parse_header as parse

SIZES = [0, 1, 125, 126, 127, 255, 256, 65535, 65536, 1 << 20]
CONTROLS = [CLOSE, PING, PONG]


def header_of(opcode: int, size: int, *, fin: bool = True) -> bytes:
    """As `websockets` writes it."""
    return Frame(Opcode(opcode), bytes(size), fin).serialize(mask=False)[: -size or None]


def test_opcodes_are_the_rfcs() -> None:
    assert tuple(Opcode) == (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_headers_are_built_as_websockets_builds_them(opcode: int, size: int) -> None:
    assert build_header(opcode, size) == header_of(opcode, size)


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY])
def test_headers_are_parsed_once_complete(opcode: int, size: int, fin: bool) -> None:
    header = header_of(opcode, size, fin=fin)
    for end in range(len(header)):
        assert parse(header[:end], 0) is None
    assert parse(header, 0) == (fin << 7 | opcode, len(header), size)
    assert parse(bytearray(b"??" + header + b"payload"), 2) == (header[0], len(header), size)


@pytest.mark.parametrize("size", [0, 1, 125])
@pytest.mark.parametrize("opcode", CONTROLS)
def test_control_frames(opcode: int, size: int) -> None:
    assert parse(header_of(opcode, size), 0) == (0x80 | opcode, 2, size)


@pytest.mark.parametrize(
    ("header", "size"),
    [(b"\x82\x7e\x00\x05", 5), (b"\x82\x7f" + bytes(7) + b"\x05", 5)],
)
def test_a_size_may_be_written_longer_than_it_need_be(header: bytes, size: int) -> None:
    """RFC 6455 forbids it, receivers accept it: the frame's end is known, so it is readable."""
    assert parse(header, 0) == (0x82, len(header), size)


@pytest.mark.parametrize("size", [(1 << 63) - 1, 1 << 62])
def test_huge_sizes(size: int) -> None:
    assert parse(b"\x82\x7f" + size.to_bytes(8, "big"), 0) == (0x82, 10, size)


@settings(deadline=None)
@given(st.integers(0, 255), st.integers(0, 255), st.binary(min_size=8, max_size=8))
@example(0x82, 0x7F, b"\x80" + bytes(7))
@example(0x82, 0x7F, b"\x7f" + bytes(7))
def test_what_no_server_may_send(first: int, second: int, rest: bytes) -> None:
    """Every pair of leading bytes, judged by the RFC's own list (5.2, 5.5)."""
    opcode, size = first & 0x0F, second & 0x7F
    control = opcode >= 8
    wrong = (
        first & 0x70
        or opcode not in tuple(Opcode)
        or second & 0x80
        or (control and (size > 125 or not first & 0x80))
        or (size == 127 and rest[0] & 0x80)
    )
    if wrong:
        with pytest.raises(FrameError):
            parse(bytes((first, second)) + rest, 0)
    else:
        assert parse(bytes((first, second)) + rest, 0) is not None
