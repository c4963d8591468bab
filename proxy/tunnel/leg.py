"""One of a tunnel's two sockets: flow control, endings, time limits."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable

from proxy.tunnel.base_leg import OPEN, BaseLeg, State, now
from proxy.websocket.frames import CLOSE, build_header
from proxy.websocket.segments import Buffer

_GOING_AWAY = build_header(CLOSE, 2) + (1001).to_bytes(2, "big")  # RFC 6455, 7.4.1

PEER_FULL = 1
"""Why a leg's reading is paused; each reason is a bit of its own."""

_MOST_BUFFERS = 1024
"""That one system call takes: IOV_MAX."""

_NOBODY = asyncio.Protocol()


class Leg(BaseLeg, asyncio.BufferedProtocol):
    """One of a tunnel's two sockets. What it receives is written to its peer as it is."""

    __slots__ = (
        "_accepted",
        "_eof",
        "_on_lost",
        "_pauses",
        "_progress",
        "ended_at",
        "pauses",
    )

    peer: Leg

    def __init__(self, transport: asyncio.Transport, on_lost: Callable[[], None]) -> None:
        self.transport = transport
        self.state = State.OPEN
        self._on_lost = on_lost
        self.heard = 0
        self.ended_at = 0
        """When its other end had ended, by the same clock; 0: not yet."""
        self.pauses = 0
        """How often its peer was not read further because this side was slow. For the reader to
        take."""
        self._pauses = 0
        self._eof = False  # received
        self.file = -1
        self.waits = True
        self.written = 0
        self.walker = None
        self.sent_at = 0.0
        # Bytes of `written` that the system had taken at the last check that saw more wait, or when
        # this leg began to end; and the time at which that was seen first.
        self._accepted: int | None = None
        self._progress = 0.0

    def attach(self, write_buffer: int) -> None:
        """Become the transport's protocol. Its reading is paused until `start`.

        `write_buffer`: bytes that may wait here before the peer is read no further.
        """
        # uvloop keeps a method of the last plain protocol, and so aiohttp's objects: 2.4 KiB.
        self.transport.set_protocol(_NOBODY)
        self.transport.set_protocol(self)
        self.transport.set_write_buffer_limits(high=write_buffer)
        # Event loops close a socket behind `connection_lost`: until then it keeps its number.
        # (tests/tunnel/test_leg.py sees to it.)
        plain = self.transport.get_extra_info("sslcontext") is None
        if plain and not self.transport.is_closing():
            self.file = self.transport.get_extra_info("socket").fileno()

    def start(self, early: bytes, *, ended: bool = False) -> None:
        """Begin with what has been read already; `ended`: and nothing more will come."""
        if early:
            self.receive(early)
        if ended:
            self.eof_received()
        elif not self._pauses:
            self.transport.resume_reading()

    def replay(self, said: bytes) -> None:
        """Stand for a connection that is closed already; `said` is all that came of it."""
        self.state = State.LOST
        self.receive(said)
        self.connection_lost(None)

    # What asyncio calls.

    def receive(self, data: Buffer) -> None:
        """Bytes came: they go to the peer, or nowhere where it is gone.

        `data` is to be used during the call only.
        """
        if self.walker is not None:
            self.walker.feed(bytes(data), len(data))
        self.heard = now()
        peer = self.peer
        if peer.state is OPEN:
            peer.write(data)

    def eof_received(self) -> bool:
        """The other end has ended; it may still be written to, but for TLS."""
        self._eof = True
        self.ended_at = self.ended_at or now()
        keep_open = self.transport.can_write_eof()
        if not keep_open:
            self._begin_to_end()
        elif self.state is State.ENDING:
            self._close()  # both directions are done
        self.source_ended()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.state = State.LOST
        self.file = -1
        self.ended_at = self.ended_at or now()
        try:
            if isinstance(exc, TimeoutError):
                self.peer.abort()  # TCP_USER_TIMEOUT: the kernel's word for what `overdue` watches
            self.peer.resume(PEER_FULL)
            self.source_ended()
        finally:
            self._on_lost()

    def pause_writing(self) -> None:
        """Enough waits to be sent."""
        self.pauses += 1
        self.peer.pause(PEER_FULL)

    def resume_writing(self) -> None:
        """It has been sent."""
        self.peer.resume(PEER_FULL)
        if self.state is State.ENDING and not self.transport.can_write_eof():
            self._close()

    # What the peer and the tunnel call.

    def writelines(self, buffers: list[Buffer]) -> None:
        """Send bytes in one write; see `write`."""
        if len(buffers) > _MOST_BUFFERS or not self.is_direct():
            self.write(b"".join(buffers))
            return
        size = sum(map(len, buffers))
        self.written += size
        try:
            sent = os.writev(self.file, buffers)
        except OSError:
            sent = 0
        if sent < size:
            self.waits = True
            self.transport.write(b"".join(buffers)[sent:])

    def pause(self, reason: int) -> None:
        """Stop reading."""
        if not self._pauses and self.state is not State.LOST:
            self.transport.pause_reading()
        self._pauses |= reason

    def resume(self, reason: int) -> None:
        """Read on, unless there is another reason not to."""
        if self._pauses & reason:
            self._pauses &= ~reason
            if not self._pauses and not self._eof and not self.transport.is_closing():
                self.transport.resume_reading()

    def source_ended(self) -> None:
        """Nothing more will come of this socket for the peer."""
        self.peer.finish()

    def finish(self) -> None:
        """The peer has ended: write out what is held, then end this side too."""
        if self.state not in (State.OPEN, State.CLOSING):
            return
        self._begin_to_end()
        transport = self.transport
        if transport.is_closing():
            return
        if transport.can_write_eof():
            if self._eof:
                self._close()  # both directions are done
                return
            try:
                transport.write_eof()
            except OSError:  # reset, which asyncio has not noticed yet
                transport.abort()
        else:
            # TLS has no half-close in asyncio: close when everything is written.
            transport.set_write_buffer_limits(high=1)  # so that `resume_writing` means empty
            if not transport.get_write_buffer_size():
                self._close()

    @property
    def backlog(self) -> int:
        """Bytes that wait here to be sent."""
        return self.transport.get_write_buffer_size()

    @property
    def is_paused(self) -> bool:
        """Whether it is not read: more may have come than `heard` knows."""
        return bool(self._pauses)

    @property
    def is_sending(self) -> bool:
        """Whether something is still on its way to the other end."""
        return self.transport.get_write_buffer_size() + self._in_kernel() > 0

    def say_goodbye(self) -> None:
        """Close this side's WebSocket: what was sent on it ends with a frame."""
        self.write(_GOING_AWAY)
        self.state = State.CLOSING

    def leave(self) -> None:
        """The tunnel has ended: nobody is named any more who names this leg, so that all of it is
        freed without a garbage collection."""
        self.peer, self._on_lost = _GONE, _nothing

    def abort(self) -> None:
        """Close the socket at once."""
        if self.state is not State.LOST:
            self.transport.abort()

    def overdue(self, now: float, stall_timeout: float, close_timeout: float) -> bool:
        """Whether the other end has let a time limit pass. To be asked every now and then, `now`
        by the monotonic clock.

        While bytes wait to be sent, some must be taken every `stall_timeout` seconds. Once this
        leg is ending and everything is sent, it must be closed within `close_timeout`.
        """
        if self.state is OPEN and not self.waits:  # nearly all; a transport's answer takes 0.1 us
            return False
        if self.state is State.LOST:
            return False
        waiting = self.transport.get_write_buffer_size()
        self.waits = waiting > 0
        if self.state is State.ENDING:
            if self._pauses:  # it is kept from its end by us, and the peer has its own clock
                self._progress = now
                return False
            waiting += self._in_kernel()
        elif not waiting:
            return False
        if self.written - waiting != self._accepted:
            self._accepted, self._progress = self.written - waiting, now
            return False
        return now - self._progress >= (stall_timeout if waiting else close_timeout)

    def _begin_to_end(self) -> None:
        """From now on the other end's time to close counts; see `overdue`."""
        if self.state is not State.ENDING:
            self.state = State.ENDING
            self._accepted, self._progress = self.written, time.monotonic()

    def _close(self) -> None:
        """Close the socket once what waits is written."""
        if not self.transport.is_closing():  # asyncio's TLS transport bears no second close()
            self.transport.close()

    def _in_kernel(self) -> int:
        """Bytes that the kernel has not seen acknowledged: speech that is still on its way."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return 0
        try:
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except OSError:  # not this kind of socket
            return 0
        size: int = struct.unpack("i", answer)[0]
        return size


def _nothing() -> None:
    pass


_GONE = Leg(asyncio.Transport(), _nothing)
_GONE.state = State.LOST


class BackendLeg(Leg):
    """The backend's leg, which knows where the frames end that come of it."""

    __slots__ = ()

    @property
    def close_code(self) -> int | None:
        """What the backend's close frame said, `NO_CODE` if nothing; None: there was none."""
        raise NotImplementedError

    def close_client(self, *, at_once: bool) -> bool:
        """Close the client's WebSocket, unless the backend has. False: not now, within a frame.

        `at_once`: a message of which nothing has been sent is not waited for.
        """
        raise NotImplementedError
