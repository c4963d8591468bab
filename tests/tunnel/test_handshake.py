from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import BackendError
from proxy.http.headers import RawHeaders
from proxy.tunnel.handshake import (
    accept_of,
    check_switch,
    parse_algorithms,
    request_headers,
    split_target,
    switch_head,
)

KNOWN = ("gzip", "flac", "opus")
NAME = b"audio_compression"

# RFC 6455 section 1.3.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

# The request target.


@pytest.mark.parametrize(
    ("value", "algorithms"),
    [
        (b"gzip", ("gzip",)),
        (b"flac,gzip", ("flac", "gzip")),
        (b"gzip,flac", ("gzip", "flac")),
        (b"GZip , OPUS", ("gzip", "opus")),
        (b"gzip,gzip,1", ("gzip",)),
        (b"brotli,gzip", ("gzip",)),
        (b",gzip,", ("gzip",)),
        *((yes, ("gzip",)) for yes in (b"1", b"true", b"on", b"yes", b"True", b"ON")),
        *((no, ()) for no in (b"0", b"false", b"off", b"no", b"NO", b"")),
        *((unknown, ()) for unknown in (b"brotli", b"2", b"gzip;q=1", b"gz\xc3\xafp", b"%67zip")),
    ],
)
def test_algorithms(value: bytes, algorithms: tuple[str, ...]) -> None:
    assert parse_algorithms(value, KNOWN) == algorithms


def test_only_what_the_operator_allows() -> None:
    assert parse_algorithms(b"opus,flac,1", ("flac",)) == ("flac",)


@pytest.mark.parametrize(
    ("target", "rest", "algorithms"),
    [
        # First, in the middle, last, alone, several times.
        (b"/ws?audio_compression=gzip&a=1", b"/ws?a=1", ("gzip",)),
        (b"/ws?a=1&audio_compression=gzip&b=2", b"/ws?a=1&b=2", ("gzip",)),
        (b"/ws?a=1&audio_compression=gzip", b"/ws?a=1", ("gzip",)),
        (b"/ws?audio_compression=gzip", b"/ws", ("gzip",)),
        (b"/?audio_compression=gzip&x&audio_compression=flac", b"/?x", ("flac",)),
        (b"/?audio_compression=gzip&x&audio_compression=0", b"/?x", ()),
        (b"/?audio_compression=gzip&audio_compression", b"/", ()),
        # Values, encoded in every way that a client may.
        (b"/?audio_compression=flac%2Cgzip", b"/", ("flac", "gzip")),
        (b"/?audio_compression=flac,+gzip", b"/", ("flac", "gzip")),
        (b"/?audio_compression=%67%7A%69%70", b"/", ("gzip",)),
        (b"/?audio_compression=%2567zip", b"/", ()),
        (b"/?audio_compression=gzip=1", b"/", ()),
        (b"/?audio_compression=", b"/", ()),
        (b"/?audio_compression", b"/", ()),
        # The name, encoded.
        (b"/?audio%5Fcompression=1&%61udio%5fcompression=flac", b"/", ("flac",)),
        # What is left behind stays, even where it is nothing.
        (b"/?audio_compression=1&", b"/?", ("gzip",)),
        (b"/?&audio_compression=1", b"/?", ("gzip",)),
        (b"/?&audio_compression=1&", b"/?&", ("gzip",)),
        (b"/?a=?&audio_compression=1", b"/?a=?", ("gzip",)),
    ],
)
def test_the_parameter_is_cut_out(target: bytes, rest: bytes, algorithms: tuple[str, ...]) -> None:
    assert split_target(target, NAME, KNOWN) == (rest, algorithms)


@pytest.mark.parametrize(
    "target",
    [
        b"/ws",
        b"/ws?",
        b"/ws?&",
        b"/ws??",
        b"*",
        b"/audio_compression=gzip",
        b"/a%2Fb/audio_compression?x=audio_compression=gzip",
        b"/?AUDIO_COMPRESSION=gzip",
        b"/?xaudio_compression=gzip&audio_compressionx=gzip",
        b"/?a;audio_compression=gzip",
        b"/?q=%2F+%zz%&q=&q&=v&\xc3\xa9=%C3%A9",
    ],
)
def test_a_target_without_it_stays_as_it_is(target: bytes) -> None:
    assert split_target(target, NAME, KNOWN) == (target, ())


@st.composite
def spellings(draw: st.DrawFn) -> bytes:
    """The parameter's name, some of its bytes percent-encoded."""
    forms = (b"%c", b"%%%02x", b"%%%02X")
    return b"".join(draw(st.sampled_from(forms)) % byte for byte in NAME)


others = st.sampled_from(
    (b"a=1", b"a=1", b"p=%2F", b"b=x+y", b"c=", b"d", b"", b"e=%C3%A9", b"f=\xc3\xa9", b"g=a=b?")
) | st.binary(max_size=12).filter(lambda part: b"&" not in part)


@settings(deadline=None)
@given(
    st.binary(max_size=10).filter(lambda path: b"?" not in path),
    st.lists(others, max_size=6),
    st.lists(
        st.tuples(spellings(), st.sampled_from((b"=gzip", b"=flac", b"=0", b"")), st.integers(0)),
        min_size=1,
        max_size=3,
    ),
)
def test_cutting_it_out_undoes_putting_it_in(
    path: bytes, parts: list[bytes], inserted: list[tuple[bytes, bytes, int]]
) -> None:
    """Whatever else the query holds, and wherever and however often it was put in."""
    original = path + b"?" + b"&".join(parts) if parts else path
    for name, value, where in inserted:
        parts.insert(where % (len(parts) + 1), name + value)
    last = [part for part in parts if part.startswith((b"a", b"%")) and len(part) >= len(NAME)][-1]
    algorithms = parse_algorithms(last.partition(b"=")[2], KNOWN)
    assert split_target(path + b"?" + b"&".join(parts), NAME, KNOWN) == (original, algorithms)


@settings(deadline=None)
@given(st.binary())
@example(b"?audio_compressio=gzip")
def test_any_target_without_it_stays_as_it_is(target: bytes) -> None:
    assert split_target(target, NAME, KNOWN) == (target, ())


def test_the_parameters_name_is_a_setting() -> None:
    assert split_target(
        "/?ü=gzip&%C3%BC=flac&audio_compression=1".encode(), "ü".encode(), KNOWN
    ) == (
        b"/?audio_compression=1",
        ("flac",),
    )


# Headers to the backend.

REQUEST: RawHeaders = [
    (b"Host", b"tutor.example"),
    (b"sec-websocket-KEY", KEY),
    (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
    (b"Cookie", b"a=1"),
    (b"SEC-WEBSOCKET-EXTENSIONS", b"x-other"),
    (b"Sec-WebSocket-Protocol", b"tutor.v2"),
]
WISH: RawHeaders = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]


def test_who_opted_in_offers_no_extension() -> None:
    kept = [REQUEST[0], REQUEST[1], REQUEST[3], REQUEST[5]]
    assert request_headers(REQUEST, opted_in=True) == kept + WISH


def test_everyone_elses_extensions_travel() -> None:
    assert request_headers(REQUEST, opted_in=False) == REQUEST + WISH


# The backend's 101.

ANSWER: RawHeaders = [
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Accept", ACCEPT),
]


def test_the_rfcs_own_example() -> None:
    assert accept_of(KEY) == ACCEPT
    check_switch(ANSWER, KEY, opted_in=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"upgrade", b"WebSocket"),
        (b"CONNECTION", b"upgrade"),
        (b"Connection", b"keep-alive, UPGRADE"),
        (b"sec-websocket-accept", ACCEPT),
    ],
)
def test_an_honest_101_in_another_spelling(name: bytes, value: bytes) -> None:
    answer = [pair for pair in ANSWER if pair[0].lower() != name.lower()]
    check_switch([*answer, (name, value)], KEY, opted_in=True)


LIES: dict[str, tuple[bytes, list[bytes], str]] = {
    "no Upgrade": (b"Upgrade", [], "upgrade to websocket"),
    "another Upgrade": (b"Upgrade", [b"h2c"], "upgrade to websocket"),
    "more than that": (b"Upgrade", [b"websocket, h2c"], "upgrade to websocket"),
    "twice": (b"Upgrade", [b"websocket", b"websocket"], "upgrade to websocket"),
    "no Connection": (b"Connection", [], "lacks Connection: Upgrade"),
    "another Connection": (b"Connection", [b"keep-alive"], "lacks Connection: Upgrade"),
    "part of a word": (b"Connection", [b"Upgrades"], "lacks Connection: Upgrade"),
    "no accept": (b"Sec-WebSocket-Accept", [], "wrong Sec-WebSocket-Accept"),
    "an empty accept": (b"Sec-WebSocket-Accept", [b""], "wrong Sec-WebSocket-Accept"),
    "the key": (b"Sec-WebSocket-Accept", [KEY], "wrong Sec-WebSocket-Accept"),
    "other case": (b"Sec-WebSocket-Accept", [ACCEPT.lower()], "wrong Sec-WebSocket-Accept"),
    "two accepts": (b"Sec-WebSocket-Accept", [ACCEPT, ACCEPT], "wrong Sec-WebSocket-Accept"),
    "right and wrong": (b"Sec-WebSocket-Accept", [ACCEPT, KEY], "wrong Sec-WebSocket-Accept"),
    "of another key": (
        b"Sec-WebSocket-Accept",
        [accept_of(b"AAAAAAAAAAAAAAAAAAAAAA==")],
        "wrong Sec-WebSocket-Accept",
    ),
}


@pytest.mark.parametrize("opted_in", [True, False])
@pytest.mark.parametrize("lie", LIES)
def test_a_lying_101(lie: str, opted_in: bool) -> None:
    name, values, complaint = LIES[lie]
    answer = [pair for pair in ANSWER if pair[0] != name] + [(name, value) for value in values]
    with pytest.raises(BackendError, match=complaint) as caught:
        check_switch(answer, KEY, opted_in=opted_in)
    assert caught.value.status == 502


def test_a_101_to_a_client_that_sent_no_key() -> None:
    for accept in (ACCEPT, accept_of(b"")):
        answer = [*ANSWER[:2], (b"Sec-WebSocket-Accept", accept)]
        with pytest.raises(BackendError, match="wrong Sec-WebSocket-Accept"):
            check_switch(answer, None, opted_in=False)


def test_an_extension_that_was_not_offered() -> None:
    answer = [*ANSWER, (b"sec-websocket-extensions", b"permessage-deflate")]
    check_switch(answer, KEY, opted_in=False)
    with pytest.raises(BackendError, match="extension that was not offered"):
        check_switch(answer, KEY, opted_in=True)


# The 101 to the client.


def test_the_client_gets_the_backends_101() -> None:
    answer = [*ANSWER, (b"set-COOKIE", b"a=1"), (b"Set-Cookie", b"b=\xc3\xa9")]
    assert switch_head(b"Switching Protocols", answer, ()) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n"
        b"set-COOKIE: a=1\r\n"
        b"Set-Cookie: b=\xc3\xa9\r\n"
        b"\r\n"
    )


def test_who_opted_in_is_told_what_is_in_effect() -> None:
    assert switch_head(b"", [], ("flac", "gzip")) == (
        b"HTTP/1.1 101 \r\nX-Audio-Compression: flac,gzip\r\n\r\n"
    )
