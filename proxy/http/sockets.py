"""What every TCP socket of ours is told."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import stat
from functools import cache

from proxy.values import Address

RECEIVE_BUFFER = 512 * 1024
NOT_SENT = 256 * 1024
KEEP_IDLE = 30
"""Seconds of silence after which the other end is asked whether it is there, at most."""


_PROBE_AFTER: int | None = getattr(socket, "TCP_KEEPIDLE", None)


@cache
def _options(stall_timeout: float) -> list[tuple[int, int, int]]:
    """Level, option and value of what every socket is told."""
    options = [
        (socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    for name, value in (
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 3),
        ("TCP_NOTSENT_LOWAT", NOT_SENT),
        ("TCP_USER_TIMEOUT", max(1, round(stall_timeout * 1000))),
    ):
        option = getattr(socket, name, None)  # not every system has them all
        if option is not None:
            options.append((socket.IPPROTO_TCP, option, value))
    return options


def tune(sock: socket.SocketType, stall_timeout: float) -> None:
    """Bound what the kernel keeps for a TCP connection, and notice peers that are gone.

    Sockets that a listening one accepts inherit all of it. The kernel doubles the size of the
    buffer (bytes), and keeps up to 1.4 MiB of both of a tunnel's sockets while the client does not
    read; unbounded, 6 MiB and more. With half the buffer it would be 0.8 MiB, but in bulk a
    connection takes 1.2 times the CPU. What waits to be sent is bounded by NOT_SENT: SO_SNDBUF
    would count what is under way too, and costs 1.3 times the CPU. TCP_NODELAY is the event
    loop's to set.
    """
    for level, option, value in _options(stall_timeout):
        sock.setsockopt(level, option, value)
    _spread_probes(sock)


def tune_transport(transport: asyncio.BaseTransport, stall_timeout: float) -> None:
    """`tune` the socket of a transport. Raises OSError."""
    sock = _socket_of(transport)
    try:
        tune(sock, stall_timeout)
    finally:
        sock.detach()


def spread_probes(transport: asyncio.BaseTransport) -> None:
    """Let a TCP socket that was accepted be probed at a time of its own. Raises OSError.

    Of 8,000 that were opened together, all were probed together, which the loopback's queue of
    1,000 packets lost again and again: 40 were taken for dead within two minutes.
    """
    sock = _socket_of(transport)
    try:
        _spread_probes(sock)
    finally:
        sock.detach()


def _spread_probes(sock: socket.SocketType) -> None:
    if _PROBE_AFTER is not None:
        idle = KEEP_IDLE - int(random.random() * (KEEP_IDLE // 2 + 1))
        sock.setsockopt(socket.IPPROTO_TCP, _PROBE_AFTER, idle)


def _socket_of(transport: asyncio.BaseTransport) -> socket.SocketType:
    """A TCP socket, to set options of and to detach.

    uvloop's stand-in makes a real one for each option, and `socket.socket` asks the system what
    it is: all options of a tunnel's two sockets take 14 us in this way, 20 in the latter.
    """
    number = transport.get_extra_info("socket").fileno()
    if number < 0:
        raise ConnectionResetError("it is closed already")
    return socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, number)


def bound(sock: socket.socket, address: Address) -> Address:
    """Where a socket listens that was opened for `address`: the system may have chosen the port."""
    if address.path is not None:
        return address
    return Address(address.host, sock.getsockname()[1])


def listen_in_slots(
    address: Address, stall_timeout: float, count: int
) -> list[list[socket.socket]]:
    """Sockets for each of `count` processes, among whom the system spreads the connections.

    A Unix socket is the same for all. Raises OSError.
    """
    sockets = listen(address, stall_timeout)
    if address.path is not None or count == 1:
        return [sockets] * count
    # Only now it is known that nobody else listens there: SO_REUSEPORT would share with anybody.
    address = bound(sockets[0], address)
    for sock in sockets:
        sock.close()
    return [listen(address, stall_timeout, reuse_port=True) for _ in range(count)]


def listen(
    address: Address, stall_timeout: float, *, reuse_port: bool = False
) -> list[socket.socket]:
    """Sockets that listen at `address`, one per address family. Raises OSError."""
    if address.path is not None:
        return [_listen_unix(address.path)]
    infos = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, where in dict.fromkeys(infos):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tune(sock, stall_timeout)
            if not address.port and len(sockets) > 1:  # both families, one port
                where = (where[0], sockets[0].getsockname()[1], *where[2:])
            sock.bind(where)
            sock.listen(4096)
            sock.setblocking(False)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(path)
        except OSError:
            _remove_dead(path)
            sock.bind(path)
        sock.listen(4096)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_dead(path: str) -> None:
    """Remove the socket that a killed process left. Raises OSError where it is in use or none."""
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise OSError(f"{path} is in use: it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(f"{path} is in use")
