from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.headers import ForwardingRules, Hop, RawHeaders, end_to_end, hop_of, tokens

PLAIN: RawHeaders = [
    (b"Host", b"tutor.example:8080"),
    (b"ORIGIN", b"https://school.example"),
    (b"authorization", b"Bearer x"),
    (b"Cookie", b"a=1"),
    (b"X-Odd", b"\xe9\xff"),
    (b"cookie", b"b=2"),
    (b"Sec-WebSocket-Protocol", b"a, b"),
    (b"X-Empty", b""),
]
HOP_BY_HOP: RawHeaders = [
    (b"Connection", b"keep-alive"),
    (b"Expect", b"100-continue"),
    (b"Keep-Alive", b"timeout=5"),
    (b"PROXY-CONNECTION", b"keep-alive"),
    (b"TE", b"trailers"),
    (b"trailer", b"X-Sum"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Upgrade", b"websocket"),
]
OURS = (b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"Forwarded")


def test_tokens_of_a_header() -> None:
    headers = [(b"Connection", b"Keep-Alive,  upgrade"), (b"x", b"y"), (b"CONNECTION", b"Close")]
    assert tokens(headers, b"connection") == [b"keep-alive", b"upgrade", b"close"]
    assert tokens(headers, b"upgrade") == []


@settings(deadline=None)
@given(st.permutations(PLAIN + HOP_BY_HOP))
def test_headers_for_one_hop_stay_behind(headers: RawHeaders) -> None:
    """The others travel in their order and spelling, repeated ones too."""
    assert end_to_end(headers) == [header for header in headers if header in PLAIN]


@pytest.mark.parametrize(
    "connection",
    [
        [(b"Connection", b"close, X-Secret, x-other")],
        [(b"connection", b"X-SECRET"), (b"CONNECTION", b" X-Other ,")],
    ],
)
def test_headers_that_connection_names_stay_behind(connection: RawHeaders) -> None:
    named = [(b"x-secret", b"1"), (b"X-Other", b"2"), (b"X-SECRET", b"3")]
    assert end_to_end([*named, *PLAIN, *connection]) == PLAIN


def test_connection_cannot_take_away_what_the_message_means() -> None:
    """Nor who sent it, nor what it asks for."""
    names = (
        "Host Content-Length Authorization Cookie Set-Cookie Origin Sec-WebSocket-Key "
        "Sec-WebSocket-Protocol X-Forwarded-For X-Forwarded-Proto X-Forwarded-Host Forwarded"
    )
    kept = [(name.encode(), b"value") for name in names.split()]
    takes_all = (b"Connection", names.replace(" ", ",").lower().encode())
    assert end_to_end([takes_all, *kept]) == kept


# Forwarding headers.


def applied(
    headers: RawHeaders, hop: Hop, rules: ForwardingRules | None = None
) -> dict[bytes, bytes]:
    """Our headers; all others must have been kept, in order, in front of them."""
    result = (rules or ForwardingRules()).apply(headers, hop)
    kept = [h for h in headers if h[0].lower() not in {name.lower() for name in OURS}]
    assert result[: len(kept)] == kept
    assert tuple(name for name, _ in result[len(kept) :]) == OURS
    return dict(result[len(kept) :])


@pytest.mark.parametrize(
    ("hop", "address", "node", "proto"),
    [
        (Hop("192.0.2.7", False), b"192.0.2.7", b"192.0.2.7", b"http"),
        (Hop("192.0.2.7", True), b"192.0.2.7", b"192.0.2.7", b"https"),
        (Hop("2001:db8::7", True), b"2001:db8::7", b'"[2001:db8::7]"', b"https"),
        (Hop(None, False), b"unknown", b"unknown", b"http"),
    ],
)
def test_what_the_proxy_says_of_a_hop(hop: Hop, address: bytes, node: bytes, proto: bytes) -> None:
    """IPv6 addresses stand in brackets and quotes, ports in quotes (RFC 7239 section 4 and 6)."""
    assert applied(PLAIN, hop) == {
        b"X-Forwarded-For": address,
        b"X-Forwarded-Proto": proto,
        b"X-Forwarded-Host": b"tutor.example:8080",
        b"Forwarded": b'for=%b;host="tutor.example:8080";proto=%b' % (node, proto),
    }


CLAIMED: RawHeaders = [
    (b"x-forwarded-for", b"203.0.113.1"),
    (b"X-FORWARDED-FOR", b"198.51.100.1, 198.51.100.2"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"school.example"),
    (b"forwarded", b"for=203.0.113.1;proto=https"),
    (b"Forwarded", b"for=198.51.100.2"),
]
TRUSTED = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("rules", "peer"),
    [
        (ForwardingRules(), "192.0.2.7"),
        (ForwardingRules(TRUSTED), "192.0.3.7"),
        (ForwardingRules(TRUSTED), "2001:db9::7"),
        (ForwardingRules(TRUSTED), None),
        (ForwardingRules((), trust_unix=True), "192.0.2.7"),
    ],
)
def test_anybody_could_have_written_them(rules: ForwardingRules, peer: str | None) -> None:
    hop = Hop(peer, False)
    assert applied([*CLAIMED[:3], *PLAIN, *CLAIMED[3:]], hop, rules) == applied(PLAIN, hop)


@pytest.mark.parametrize(
    ("rules", "peer", "address", "node"),
    [
        (ForwardingRules(TRUSTED), "192.0.2.7", b"192.0.2.7", b"192.0.2.7"),
        (ForwardingRules(TRUSTED), "2001:db8::7", b"2001:db8::7", b'"[2001:db8::7]"'),
        (ForwardingRules((), trust_unix=True), None, b"unknown", b"unknown"),
    ],
)
def test_a_trusted_peers_are_kept_and_appended_to(
    rules: ForwardingRules, peer: str | None, address: bytes, node: bytes
) -> None:
    assert applied([*CLAIMED[:3], *PLAIN, *CLAIMED[3:]], Hop(peer, False), rules) == {
        b"X-Forwarded-For": b"203.0.113.1, 198.51.100.1, 198.51.100.2, " + address,
        b"X-Forwarded-Proto": b"https",
        b"X-Forwarded-Host": b"school.example",
        b"Forwarded": b"for=203.0.113.1;proto=https, for=198.51.100.2, "
        b'for=%b;host="tutor.example:8080";proto=http' % node,
    }


def test_a_trusted_peer_that_says_nothing_is_the_client() -> None:
    hop = Hop("192.0.2.7", True)
    assert applied(PLAIN, hop, ForwardingRules(TRUSTED)) == applied(PLAIN, hop)


def test_a_host_cannot_break_out_of_its_quotes() -> None:
    said = applied([(b"Host", b'a";for="\\evil')], Hop("192.0.2.7", False))
    assert said[b"Forwarded"] == b'for=192.0.2.7;host="a\\";for=\\"\\\\evil";proto=http'


def test_host_is_kept_or_replaced_where_it_stands() -> None:
    rules = ForwardingRules(host=b"backend.internal")
    headers = rules.apply(PLAIN, Hop("192.0.2.7", False))
    assert headers[: len(PLAIN)] == [(b"Host", b"backend.internal"), *PLAIN[1:]]
    assert (b"X-Forwarded-Host", b"tutor.example:8080") in headers
    assert ForwardingRules().apply(PLAIN, Hop("192.0.2.7", False))[0] == PLAIN[0]


def test_a_target_in_absolute_form_counts_instead_of_host() -> None:
    """RFC 9112 section 3.2.2; the operator's own host counts even more."""
    hop = Hop("192.0.2.7", False, b"other.example")
    headers = ForwardingRules().apply(PLAIN, hop)
    assert headers[0] == (b"Host", b"other.example")
    assert (b"X-Forwarded-Host", b"other.example") in headers
    replaced = ForwardingRules(host=b"backend.internal").apply(PLAIN, hop)
    assert replaced[0] == (b"Host", b"backend.internal")
    assert (b"X-Forwarded-Host", b"other.example") in replaced


# The hop, as a real server sees it.


async def seen(listener: socket.socket, client: socket.socket, target: bytes = b"/") -> Hop:
    """The hop of a request that `client` sends to `listener`."""
    hops: list[Hop] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        hops.append(hop_of(request))
        return web.Response()

    loop = asyncio.get_running_loop()
    front = web.Server(handler)
    start = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
    server = await start(front, sock=listener)
    client.setblocking(False)
    with client:
        await loop.sock_connect(client, listener.getsockname())
        await loop.sock_sendall(client, b"GET %b HTTP/1.0\r\n\r\n" % target)
        while await loop.sock_recv(client, 4096):
            pass
    server.close()
    await server.wait_closed()
    await front.shutdown()
    return hops[0]


def listening(family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    listener = socket.socket(family)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(address)
    listener.listen()
    return listener


async def test_an_ipv4_peer() -> None:
    listener = listening(socket.AF_INET, ("127.0.0.1", 0))
    assert await seen(listener, socket.socket(socket.AF_INET)) == Hop("127.0.0.1", False)


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        (b"http://other.example:81/path?query", b"other.example:81"),
        (b"HTTPS://[2001:db8::1]?query", b"[2001:db8::1]"),
        (b"/path?url=http://other.example/", None),
        (b"/http://other.example/", None),
    ],
)
async def test_the_host_of_a_target(target: bytes, authority: bytes | None) -> None:
    listener = listening(socket.AF_INET, ("127.0.0.1", 0))
    hop = await seen(listener, socket.socket(socket.AF_INET), target)
    assert hop == Hop("127.0.0.1", False, authority)


async def test_an_ipv4_peer_on_an_ipv6_socket_is_an_ipv4_peer() -> None:
    """Networks that the operator wrote as IPv4 must match it."""
    listener = listening(socket.AF_INET6, ("::ffff:127.0.0.1", 0))
    assert await seen(listener, socket.socket(socket.AF_INET6)) == Hop("127.0.0.1", False)


async def test_a_peer_on_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    listener = listening(socket.AF_UNIX, str(tmp_path / "proxy.sock"))
    assert await seen(listener, socket.socket(socket.AF_UNIX)) == Hop(None, False)


@pytest.mark.parametrize(
    "name",
    ["X-Forwarded-For", "Forwarded", "Origin", "Sec-WebSocket-Key", "Cookie", "Host", "Set-Cookie"],
)
def test_connection_takes_no_header_away_that_matters(name: str) -> None:
    headers = [(b"Connection", name.encode()), (name.encode(), b"x"), (b"X-Hop", b"1")]
    assert end_to_end(headers) == headers[1:]


def test_what_is_not_known_is_not_said() -> None:
    """No Host, and an empty list from a trusted peer."""
    rules = ForwardingRules(trusted_networks=[ip_network("10.0.0.0/8")])
    headers = rules.apply([(b"X-Forwarded-For", b"")], Hop("10.0.0.1", secure=False))
    assert headers == [
        (b"X-Forwarded-For", b"10.0.0.1"),
        (b"X-Forwarded-Proto", b"http"),
        (b"Forwarded", b"for=10.0.0.1;proto=http"),
    ]
