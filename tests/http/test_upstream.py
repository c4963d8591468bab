"""What is said to h11 in fewer words is what h11 would have said; and what is used of it."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import ClientError
from proxy.http.headers import RawHeaders
from proxy.http.upstream import Backend, read_switch

BACKEND = Backend("127.0.0.1", 80)
REQUEST = h11.Request(method="GET", target="/", headers=[("Host", "a"), ("Upgrade", "websocket")])

odd = st.sampled_from((b"\r", b"\n", b"\r\n", b":", b": ", b" ", b"\t", b"\0", b"\x7f", b"\xe9"))
letters = st.binary(min_size=1, max_size=3)
plain = st.sampled_from((b"X-A", b"b", b"/a?b=c", b"host", b"Content-Length", b"1", b"a b"))
texts = st.lists(plain | odd | letters, max_size=3).map(b"".join)


def as_h11_writes(target: bytes, headers: RawHeaders) -> bytes:
    """Raises h11.LocalProtocolError where it would not."""
    http = h11.Connection(h11.CLIENT)
    return http.send(h11.Request(method="GET", target=target, headers=headers))


@settings(deadline=None, max_examples=1000)
@given(texts, st.lists(st.tuples(texts, texts), max_size=4))
@example(b"/", [(b"A", b"1\r\nB: 2")])
@example(b"/", [(b"A: 1\r\nB", b"2")])
@example(b"/", [(b"A: 1", b"2")])
@example(b"/", [(b"", b"1")])
@example(b"/", [(b"A", b" 1")])
@example(b"/", [(b"A", b"1 ")])
@example(b"/", [(b"A", b"1\t 2")])
@example(b"/", [(b"A", b"1\v2")])
@example(b"/", [(b"A", b"1\f2")])
@example(b"/", [(b"A", b"1\02")])
@example(b"/", [(b"A", b"1\r2")])
@example(b"/", [(b"A", b"")])
@example(b"/", [(b"A", b"1\r\n 2")])
@example(b"/", [(b"HOST", b"b")])
@example(b"/", [(b"Content-Length", b"0"), (b"content-length", b"1")])
@example(b"/ HTTP/1.1\r\nA: 1\r\nB:", [(b"C", b"2")])
@example(b"/\xe9", [])
@example(b"", [])
def test_a_handshake_is_written_as_h11_would(target: bytes, headers: RawHeaders) -> None:
    headers = [(b"Host", b"a"), *headers]
    try:
        expected = as_h11_writes(target, headers)
    except h11.LocalProtocolError:
        if sum(name.lower() == b"content-length" for name, _ in headers) == 1:
            return  # what it says is the front's to check: nothing is sent by it
        with pytest.raises(ClientError):
            BACKEND.handshake("GET", target, headers)
        return
    try:
        assert BACKEND.handshake("GET", target, headers) == expected
    except ClientError:  # h11 takes twice the same for once
        assert sum(name.lower() == b"content-length" for name, _ in headers) > 1


def test_a_handshake_keeps_every_byte_and_the_order() -> None:
    headers = [(b"Cookie", b"a=\xe9"), (b"hOST", b"a"), (b"X", b"")]
    assert BACKEND.handshake("POST", b"/a%2F?b", headers) == (
        b"POST /a%2F?b HTTP/1.1\r\nCookie: a=\xe9\r\nhOST: a\r\nX: \r\n\r\n"
    )


SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection:Upgrade \r\n"
    b"X-Odd: \xe9\r\n folded\r\n\r\n"
)


@settings(deadline=None, max_examples=1000)
@given(st.integers(0, len(SWITCH)), st.integers(0, 3), odd | letters | st.just(b""))
@example(len(SWITCH), 0, b"\x81\x00")
@example(13, 0, b"1")
@example(17, 0, b"\v")
@example(34, 0, b"Content-Length: x\r\n")
@example(34, 0, b"Transfer-Encoding: gzip\r\n")
@example(len(SWITCH) - 12, 12, b"\r\n\r\n")
def test_a_101_is_read_as_h11_would(at: int, removed: int, put: bytes) -> None:
    data = SWITCH[:at] + put + SWITCH[at + removed :]
    http = h11.Connection(h11.CLIENT)
    http.send(REQUEST)
    http.receive_data(data)
    try:
        expected = http.next_event()
    except h11.RemoteProtocolError:
        expected = h11.NEED_DATA
    found = read_switch(data)
    if found is not None:
        switch, behind = found
        assert isinstance(expected, h11.InformationalResponse)
        assert expected.status_code == 101
        assert switch == (expected.reason, expected.headers.raw_items())
        assert behind == http.trailing_data[0]


def test_an_ordinary_101_is_read_without_h11() -> None:
    data = SWITCH.replace(b"\r\n folded", b"") + b"\x81\x00"
    assert read_switch(data) == (
        (
            b"Switching Protocols",
            [(b"Upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"X-Odd", b"\xe9")],
        ),
        b"\x81\x00",
    )


@pytest.mark.parametrize("fill", [b" ", b"\t", b"a", b" a", b"a ", b"A: a\r\n", b"A:  \r\n"])
def test_a_101_that_never_ends_well_is_gone_through_once(fill: bytes) -> None:
    """Each byte over and over, it would take an hour."""
    begin = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade:"
    assert read_switch(begin + fill * (400_000 // len(fill)) + b"\0\r\n\r\n") is None
