"""What settings are made of, read from text: addresses, networks, layouts of samples by path."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from proxy.audio.pcm import PcmLayout, parse_layout

UNIX = "unix:"

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and port, or a path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name, which may mean anything

    def __str__(self) -> str:
        if self.path is not None:
            return UNIX + self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(value: object) -> object:
    """Read `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`. Raises ValueError."""
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not HOST:PORT, [IPV6]:PORT or unix:PATH")
    if value.startswith(UNIX):
        if value == UNIX:
            raise ValueError("a path is missing after 'unix:'")
        return Address(path=value.removeprefix(UNIX))
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{value!r} is not HOST:PORT, [IPV6]:PORT or unix:PATH")
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise ValueError(f"a host is missing in {value!r}")
    return Address(host, int(port))


def parse_networks(value: object) -> object:
    """Read `10.0.0.0/8,::1` and the word `unix`. Raises ValueError."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def parse_workers(value: object) -> object:
    """Read a number, or `auto`: as many as there are cores to run on."""
    return len(os.sched_getaffinity(0)) if value == "auto" else value


@dataclass(frozen=True, slots=True)
class LayoutRule:
    """The layout of raw PCM on the paths that a pattern matches."""

    pattern: str
    layout: PcmLayout

    def __str__(self) -> str:
        return f"{self.pattern}={self.layout}"


def parse_layout_rules(value: object) -> object:
    """Read `s16le/24000/1`, or `/ws/call*=mulaw/8000/1,/ws/*=s16le/24000/1`. Raises ValueError."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("a layout such as s16le/24000/1 is expected, or PATTERN=LAYOUT")
    return tuple(map(_parse_layout_rule, parts))


def _parse_layout_rule(part: object) -> LayoutRule:
    if isinstance(part, LayoutRule):
        return part
    pattern, equals, layout = str(part).rpartition("=")
    if equals and not pattern.strip().startswith(("/", "*")):
        raise ValueError(f"{pattern!r} is no pattern of paths: '/' or '*' begins it")
    return LayoutRule(pattern.strip() if equals else "*", parse_layout(layout))


def parse_names(value: object) -> object:
    """Read names with commas, in lower case."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ValueError("names with commas are expected")
    return tuple(str(name).strip().lower() for name in names if str(name).strip())


@dataclass(frozen=True, slots=True)
class RolloutKey:
    """What of a handshake keeps a client's place in a roll-out."""

    kind: str
    """"address", "cookie", "header" or "query"."""
    name: str = ""
    """Of the cookie, header or query parameter; a header's in lower case."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def parse_rollout_key(value: object) -> object:
    """Read `address`, `cookie:NAME`, `header:NAME` or `query:NAME`. Raises ValueError."""
    if isinstance(value, RolloutKey):
        return value
    kind, colon, name = str(value).strip().partition(":")
    name = name.strip()
    if (kind == "address" and not colon) or (kind in ("cookie", "header", "query") and name):
        return RolloutKey(kind, name.lower() if kind == "header" else name)
    raise ValueError(f"{value!r} is not address, cookie:NAME, header:NAME or query:NAME")
