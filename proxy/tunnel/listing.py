"""Which connections are open, as an operator looks at them: filtered, sorted, a page at a time."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from heapq import nlargest, nsmallest
from typing import Any

from proxy.errors import QueryError
from proxy.tunnel.filtered_leg import FilteredLeg
from proxy.tunnel.registry import Tunnels
from proxy.tunnel.tunnel import Tunnel

MOST = 500
"""Rows of a page: as JSON, 7 ms of the event loop."""
_FARTHEST = 20_000
"""Rows before it: of each a worker tells some 40 bytes."""
SORTS = (
    *("since", "path", "address", "algorithm", "format", "chunks", "compressed"),
    *("original_bytes", "wire_bytes", "saved_bytes", "last_chunk", "backlog_bytes", "rtt_ms"),
)
_SWITCH = {"true": True, "false": False}


@dataclass(frozen=True)
class Selection:
    """What is asked for; None: all."""

    sort: str = "since"
    descending: bool = True
    offset: int = 0
    limit: int = 100
    opted_in: bool | None = None
    enabled: bool | None = None
    algorithm: str | None = None
    format: str | None = None
    path: str | None = None
    """A pattern."""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Selection:
        """Read a request's parameters. Raises QueryError, which names the one that is wrong."""
        known = {"sort", "order", "offset", "limit", *_OF_ROWS}
        for name in query:
            if name not in known:
                raise QueryError(f"{name}: there is no such parameter: {', '.join(sorted(known))}")
        sort, order = query.get("sort", "since"), query.get("order", "desc")
        if sort not in SORTS:
            raise QueryError(f"sort: {sort!r} is none of {', '.join(SORTS)}")
        if order not in ("asc", "desc"):
            raise QueryError(f"order: {order!r} is neither asc nor desc")
        return cls(
            sort,
            order == "desc",
            _number(query, "offset", 0, 0, _FARTHEST),
            _number(query, "limit", 100, 1, MOST),
            _switch(query, "opted_in"),
            _switch(query, "enabled"),
            query.get("algorithm"),
            query.get("format"),
            query.get("path"),
        )

    def as_record(self) -> dict[str, Any]:
        """For another worker."""
        return asdict(self)

    def takes(self, tunnel: Tunnel) -> bool:
        """Whether a tunnel is asked for."""
        for name in _OF_ROWS:
            wanted = getattr(self, name)
            if wanted is None:
                continue
            found = _COLUMNS[name](tunnel)
            if found != wanted and not (name == "path" and fnmatchcase(found, wanted)):
                return False
        return True

    def order(self, value: Any) -> list[Any]:
        """What tunnels are sorted by. Those that have no such value are last, either way."""
        if value is None:
            return [0 if self.descending else 1, 0, ""]
        known = 1 if self.descending else 0
        return [known, 0, value] if isinstance(value, str) else [known, value, ""]

    def order_of_row(self, row: Mapping[str, Any]) -> list[Any]:
        """The same of a row that is shown."""
        return [self.order(row[self.sort]), row["id"]]


_OF_ROWS = ("opted_in", "enabled", "algorithm", "format", "path")


async def index(tunnels: Tunnels, selection: Selection) -> dict[str, Any]:
    """How many tunnels of a worker are asked for (`total`), and which may be on the page or before
    it (`first`): what they are sorted by, and their id."""
    value_of, most = _COLUMNS[selection.sort], selection.offset + selection.limit
    total, found = 0, []
    async for tunnel in tunnels.each():
        if selection.takes(tunnel):
            total += 1
            found.append([selection.order(value_of(tunnel)), tunnels.id_of(tunnel)])
            if len(found) >= 2 * most:  # who is not kept is let go before a collector looks at it
                found = _first(found, selection)
    return {"total": total, "first": _first(found, selection)}


def merge(indexes: Sequence[Mapping[str, Any]], selection: Selection) -> tuple[int, list[str]]:
    """Of several workers: how many there are, and the ids of the page."""
    found = _first([each for index in indexes for each in index["first"]], selection)
    return sum(index["total"] for index in indexes), [name for _, name in found[selection.offset :]]


def _first(found: list[list[Any]], selection: Selection) -> list[list[Any]]:
    first = nlargest if selection.descending else nsmallest
    return first(selection.offset + selection.limit, found)


def row_of(tunnel: Tunnel) -> dict[str, Any]:
    """What an operator sees of a tunnel."""
    return {name: value_of(tunnel) for name, value_of in _COLUMNS.items()}


def _of_tally(name: str) -> Callable[[Tunnel], Any]:
    def value_of(tunnel: Tunnel) -> Any:
        tally = tunnel.tally
        return getattr(tally, name) if tally is not None else None

    return value_of


def _of_wire(name: str) -> Callable[[Tunnel], int]:
    def value_of(tunnel: Tunnel) -> int:
        tally = tunnel.tally
        return getattr(tally, name) if tally is not None else tunnel.client.written

    return value_of


_original, _wire = _of_wire("original_bytes"), _of_wire("wire_bytes")


def _last_chunk(tunnel: Tunnel) -> float | None:
    backend = tunnel.backend
    last = backend.sent_at if isinstance(backend, FilteredLeg) else 0.0
    return round(time.time() - time.perf_counter() + last, 3) if last else None


def _rtt_ms(tunnel: Tunnel) -> float | None:
    """The round-trip time to the client that the kernel has smoothed, in milliseconds; None where
    the system does not tell, or it is no TCP."""
    sock = tunnel.client.transport.get_extra_info("socket")
    if not hasattr(socket, "TCP_INFO") or sock is None or sock.family == socket.AF_UNIX:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except (OSError, ValueError):  # closed; uvloop's has no descriptor then
        return None
    if len(info) < _TCP_INFO.size:
        return None
    microseconds: int = _TCP_INFO.unpack(info)[-1]
    return microseconds / 1000


# Of struct tcp_info, linux/tcp.h: 8 bytes, 15 words, and then tcpi_rtt.
_TCP_INFO = struct.Struct("=8x60xI")


_COLUMNS: dict[str, Callable[[Tunnel], Any]] = {
    "since": lambda tunnel: round(tunnel.since, 3),
    "path": lambda tunnel: tunnel.path,
    "address": lambda tunnel: tunnel.address,
    "opted_in": lambda tunnel: bool(tunnel.algorithms),
    "algorithms": lambda tunnel: list(tunnel.algorithms),
    "algorithm": _of_tally("algorithm"),
    "format": _of_tally("format"),
    "chunks": _of_tally("chunks"),
    "compressed": _of_tally("compressed"),
    "original_bytes": _original,
    "wire_bytes": _wire,
    "saved_bytes": lambda tunnel: _original(tunnel) - _wire(tunnel),
    "last_chunk": _last_chunk,
    "backlog_bytes": lambda tunnel: tunnel.backlog,
    "rtt_ms": _rtt_ms,
    "enabled": lambda tunnel: tunnel.switch.is_on if tunnel.switch is not None else None,
    "in_rollout": lambda tunnel: tunnel.switch.in_rollout if tunnel.switch is not None else None,
}


def _number(query: Mapping[str, str], name: str, usual: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return usual
    if not (text.isascii() and text.isdigit() and len(text) < 9 and least <= int(text) <= most):
        raise QueryError(f"{name}: {text!r} is no number from {least} to {most}")
    return int(text)


def _switch(query: Mapping[str, str], name: str) -> bool | None:
    text = query.get(name)
    if text is not None and text not in _SWITCH:
        raise QueryError(f"{name}: {text!r} is neither true nor false")
    return _SWITCH[text] if text is not None else None
