"""Which headers travel, and what a proxy says of itself (RFC 9110 section 7.6, RFC 7239)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from aiohttp import web

from proxy.values import IPNetwork

RawHeaders = list[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1, with Keep-Alive and Proxy-Connection of older practice.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"expect",  # answered here
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_FOR, _PROTO, _HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
_FORWARDED = b"forwarded"

# What `Connection` may not take away: without them the message means something else, or comes
# from somebody else.
_FORWARDING = (_FOR, _PROTO, _HOST, _FORWARDED)
_END_TO_END = frozenset(
    (
        b"host",
        b"content-length",
        b"authorization",
        b"cookie",
        b"set-cookie",
        b"origin",
        *_FORWARDING,
    )
)
_WEBSOCKET = b"sec-websocket-"


def tokens(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The comma-separated values of a header, lower-case; `name` is lower-case."""
    return listed([value for key, value in headers if key.lower() == name])


def listed(values: Iterable[bytes]) -> list[bytes]:
    """What lines of a header list with commas, lower-case."""
    return [token.strip().lower() for value in values for token in value.split(b",")]


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """`headers` without those that are meant for one hop, in their order and spelling."""
    kept: RawHeaders = []
    named: list[bytes] = []
    for header in headers:
        name = header[0].lower()
        if name not in _HOP_BY_HOP:
            kept.append(header)
        elif name == b"connection":
            named += listed(header[1:])
    dropped = {
        name
        for name in named
        if name not in _HOP_BY_HOP and name not in _END_TO_END and not name.startswith(_WEBSOCKET)
    }
    return [header for header in kept if header[0].lower() not in dropped] if dropped else kept


@dataclass(frozen=True, slots=True)
class Hop:
    """The client's connection, as the forwarding headers describe it."""

    peer: str | None
    """The client's IP address; None on a Unix socket."""
    secure: bool
    """Whether it came by TLS."""
    authority: bytes | None = None
    """The host of a target in absolute form, which counts instead of `Host`."""


def authority_of(request: web.BaseRequest) -> bytes | None:
    """The host that a target in absolute form names (RFC 9112 section 3.2.2)."""
    if request.raw_path.startswith("/"):
        return None
    target = request.raw_path.encode("utf-8", "surrogateescape")
    scheme, mark, rest = target.partition(b"://")
    if not mark or not scheme.isalnum():
        return None
    return re.split(rb"[/?]", rest, maxsplit=1)[0]


def hop_of(request: web.BaseRequest) -> Hop:
    """The hop that a request came by."""
    authority = authority_of(request)
    if authority is not None:
        authority = authority.rpartition(b"@")[2]  # credentials are nobody's business
    transport = request.transport
    peername = transport.get_extra_info("peername") if transport is not None else None
    if not isinstance(peername, tuple):
        return Hop(None, request.secure, authority)
    peer: str = peername[0]
    if ":" in peer:
        address = IPv6Address(peer)
        peer = str(address.ipv4_mapped or address).partition("%")[0]
    return Hop(peer, request.secure, authority)


@dataclass(frozen=True, slots=True)
class ForwardingRules:
    """What is done to the headers of every request to the backend."""

    trusted_networks: Sequence[IPNetwork] = ()
    trust_unix: bool = False
    host: bytes | None = None

    def apply(self, headers: Iterable[tuple[bytes, bytes]], hop: Hop) -> RawHeaders:
        """`headers`, end to end ones, with the forwarding headers set and `Host` replaced.

        Forwarding headers of a peer that is not trusted are dropped: anybody could have written
        them. A trusted peer's are kept, and this hop is appended.
        """
        proto = b"https" if hop.secure else b"http"
        host = b""
        before: dict[bytes, list[bytes]] = {name: [] for name in _FORWARDING}
        is_trusted = self._trusts(hop.peer)
        kept: RawHeaders = []
        for name, value in headers:
            lower = name.lower()
            if lower in before:
                if value and is_trusted:
                    before[lower].append(value)
                continue
            if lower == b"host":
                host = value = hop.authority or value
                if self.host is not None:
                    value = self.host
            kept.append((name, value))
        peer = hop.peer.encode("ascii") if hop.peer else b"unknown"
        node = b'"[%b]"' % peer if b":" in peer else peer
        quoted = host.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        forwarded = b"for=%b%b;proto=%b" % (node, b';host="%b"' % quoted if host else b"", proto)
        kept += (
            (b"X-Forwarded-For", b", ".join([*before[_FOR], peer])),
            (b"X-Forwarded-Proto", b", ".join(before[_PROTO]) or proto),
        )
        if forwarded_host := b", ".join(before[_HOST]) or host:
            kept.append((b"X-Forwarded-Host", forwarded_host))
        kept.append((b"Forwarded", b", ".join([*before[_FORWARDED], forwarded])))
        return kept

    def client_of(self, headers: Iterable[tuple[bytes, bytes]], hop: Hop) -> str | None:
        """The client's address: the peer's, or what trusted peers say. None: on a Unix socket,
        and nobody said."""
        if not self._trusts(hop.peer):
            return hop.peer
        found = hop.peer
        for named in reversed(tokens(headers, _FOR)):
            address = named.decode("latin-1")
            try:
                ip_address(address)
            except ValueError:  # an empty one, or a name: nobody before it can be told
                break
            found = address
            if not self._trusts(address):
                break
        return found

    def _trusts(self, peer: str | None) -> bool:
        if peer is None:
            return self.trust_unix
        if not self.trusted_networks:
            return False
        address = ip_address(peer)
        return any(address in network for network in self.trusted_networks)
