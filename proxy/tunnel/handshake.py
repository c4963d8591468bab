"""The opening handshake: who opted in, what the backend is asked, whether its 101 holds."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Sequence
from urllib.parse import unquote_to_bytes

from proxy.errors import BackendError
from proxy.http.headers import RawHeaders, listed

RESPONSE_HEADER = b"X-Audio-Compression"

_EXTENSIONS = b"sec-websocket-extensions"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3

_YES = frozenset((b"1", b"true", b"on", b"yes"))


def parse_algorithms(value: bytes, known: Collection[str]) -> tuple[str, ...]:
    """The algorithms that a parameter's decoded value names, in its order, each once.

    Unknown names are skipped; `1`, `true`, `on` and `yes` mean gzip, everything else nothing.
    """
    names = []
    for part in value.lower().split(b","):
        word = part.strip()
        name = "gzip" if word in _YES else word.decode("latin-1")
        if name in known and name not in names:
            names.append(name)
    return tuple(names)


def split_target(
    target: bytes, parameter: bytes, known: Collection[str]
) -> tuple[bytes, tuple[str, ...]]:
    """Cut the parameter out of a request target.

    Returns the target without it, every other byte as it was, and the algorithms that its last
    occurrence asked for. The question mark goes too where nothing is left behind it.
    """
    path, mark, query = target.partition(b"?")
    if not mark:
        return target, ()
    kept: list[bytes] = []
    value: bytes | None = None
    for part in query.split(b"&"):
        name, _, text = part.partition(b"=")
        if _decode(name) == parameter:
            value = _decode(text)
        else:
            kept.append(part)
    if value is None:
        return target, ()
    rest = path + mark + b"&".join(kept) if kept else path
    return rest, parse_algorithms(value, known)


def _decode(text: bytes) -> bytes:
    """application/x-www-form-urlencoded, as `URLSearchParams` writes it."""
    return unquote_to_bytes(text.replace(b"+", b" "))


def request_headers(headers: RawHeaders, *, opted_in: bool) -> RawHeaders:
    """What goes to the backend: `headers`, end to end ones, and the wish to upgrade.

    An opted-in client's extensions stay behind, so that the audio arrives plain.
    """
    if opted_in:
        headers = [header for header in headers if header[0].lower() != _EXTENSIONS]
    return [*headers, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]


def accept_of(key: bytes) -> bytes:
    """The `Sec-WebSocket-Accept` that answers a key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def check_switch(response: RawHeaders, key: bytes | None, *, opted_in: bool) -> None:
    """Check a 101 (RFC 6455 section 4.1). Raises BackendError where it does not hold."""
    lines: dict[bytes, list[bytes]] = {}
    for name, value in response:
        lines.setdefault(name.lower(), []).append(value)
    if listed(lines.get(b"upgrade", ())) != [b"websocket"]:
        raise BackendError("the backend's 101 does not upgrade to websocket")
    if b"upgrade" not in listed(lines.get(b"connection", ())):
        raise BackendError("the backend's 101 lacks Connection: Upgrade")
    if key is None or lines.get(b"sec-websocket-accept") != [accept_of(key)]:
        raise BackendError("the backend's 101 has a wrong Sec-WebSocket-Accept")
    if opted_in and _EXTENSIONS in lines:
        raise BackendError("the backend's 101 has an extension that was not offered")


def switch_head(reason: bytes, headers: RawHeaders, algorithms: Sequence[str]) -> bytes:
    """The 101 as the client gets it: the backend's, and what is in effect for who opted in."""
    lines = [b"HTTP/1.1 101 %b\r\n" % reason]
    lines += [b"%b: %b\r\n" % header for header in headers]
    if algorithms:
        lines = [line for line in lines if not line.lower().startswith(RESPONSE_HEADER.lower())]
        lines.append(b"%b: %b\r\n" % (RESPONSE_HEADER, ",".join(algorithms).encode("ascii")))
    return b"".join(lines) + b"\r\n"
