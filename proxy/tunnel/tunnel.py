"""Two legs, each with the other as its peer: flow control, endings, time limits."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable
from enum import Enum

import structlog

from proxy.tunnel.encoder import Encoder, Result
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.jobs import Job
from proxy.websocket.splitter import Buffer

log = structlog.get_logger(__name__)

WRITE_BUFFER = 64 * 1024
"""Bytes that may wait in a leg before its peer's reading is paused."""


class State(Enum):
    """Of a leg. OPEN -> ENDING -> LOST, or OPEN -> LOST."""

    OPEN = 0
    ENDING = 1
    """Its peer has ended: it writes out what it holds, ends, and reads on until it is closed."""
    LOST = 2


# Why a leg's reading is paused; one bit each.
PEER_FULL = 1
ENCODING = 2


class Leg(asyncio.Protocol):
    """One of a tunnel's two sockets. What it receives is written to its peer as it is."""

    __slots__ = (
        "_accepted",
        "_eof",
        "_on_lost",
        "_pauses",
        "_progress",
        "_written",
        "peer",
        "state",
        "transport",
    )

    peer: Leg

    def __init__(self, transport: asyncio.Transport, on_lost: Callable[[], None]) -> None:
        self.transport = transport
        self.state = State.OPEN
        self._on_lost = on_lost
        self._pauses = 0
        self._eof = False  # received
        self._written = 0  # bytes given to the transport
        self._accepted = 0  # of these, those that the system had taken at the last check
        # Time of the last check that saw progress, or nothing to send.
        self._progress = asyncio.get_running_loop().time()

    def attach(self) -> None:
        """Become the transport's protocol. Its reading is paused until `start`."""
        self.transport.set_protocol(self)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)

    def start(self, early: bytes, *, ended: bool = False) -> None:
        """Begin with what has been read already; `ended`: and nothing more will come."""
        if early:
            self.data_received(early)
        if ended:
            self.eof_received()
        elif not self._pauses:
            self.transport.resume_reading()

    def replay(self, said: bytes) -> None:
        """Stand for a connection that is closed already; `said` is all that came of it."""
        self.state = State.LOST
        self.data_received(said)
        self.connection_lost(None)

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        """Bytes came: they go to the peer, or nowhere where it is gone."""
        peer = self.peer
        if peer.state is State.OPEN:
            peer.write(data)

    def eof_received(self) -> bool:
        """The other end has ended; it may still be written to, but for TLS."""
        self._eof = True
        keep_open = self.transport.can_write_eof()
        if not keep_open:
            self.state = State.ENDING
        elif self.state is State.ENDING:
            self._close()  # both directions are done
        self.source_ended()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.state = State.LOST
        try:
            if isinstance(exc, TimeoutError):
                self.peer.abort()  # TCP_USER_TIMEOUT: the kernel's word for what `overdue` watches
            self.peer.resume(PEER_FULL)
            self.source_ended()
        finally:
            self._on_lost()

    def pause_writing(self) -> None:
        """Enough waits to be sent."""
        self.peer.pause(PEER_FULL)

    def resume_writing(self) -> None:
        """It has been sent."""
        self.peer.resume(PEER_FULL)
        if self.state is State.ENDING and not self.transport.can_write_eof():
            self._close()

    # What the peer and the tunnel call.

    def write(self, data: Buffer) -> None:
        """Send bytes."""
        self._written += len(data)
        self.transport.write(data)

    def writelines(self, buffers: list[Buffer]) -> None:
        """Send bytes in one write."""
        self._written += sum(map(len, buffers))
        self.transport.writelines(buffers)

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
        if self.state is not State.OPEN:
            return
        self.state = State.ENDING
        self._progress = asyncio.get_running_loop().time()
        transport = self.transport
        if transport.is_closing():
            return
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:  # reset, which asyncio has not noticed yet
                transport.abort()
            if self._eof:
                self._close()
        else:
            # TLS has no half-close in asyncio: close when everything is written.
            transport.set_write_buffer_limits(high=1)  # so that `resume_writing` means empty
            if not transport.get_write_buffer_size():
                self._close()

    def abort(self) -> None:
        """Close the socket at once."""
        if self.state is not State.LOST:
            self.transport.abort()

    def overdue(self, now: float, stall_timeout: float, close_timeout: float) -> bool:
        """Whether the other end has let a time limit pass. To be asked every now and then.

        While bytes wait to be sent, some must be taken every `stall_timeout` seconds. Once this
        leg is ending and everything is sent, it must be closed within `close_timeout`.
        """
        if self.state is State.LOST:
            return False
        waiting = self.transport.get_write_buffer_size()
        if self.state is State.ENDING:
            if self._pauses:  # it is kept from its end by us, and the peer has its own clock
                self._progress = now
                return False
            waiting += self._in_kernel()
        elif not waiting:
            self._accepted, self._progress = self._written, now
            return False
        if self._written - waiting != self._accepted:
            self._accepted, self._progress = self._written - waiting, now
            return False
        return now - self._progress >= (stall_timeout if waiting else close_timeout)

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


class FilteredLeg(Leg):
    """The backend's leg of an opted-in tunnel: what it receives goes through the filter."""

    __slots__ = (
        "_encoder",
        "_filter",
        "_flush_after",
        "_heard",
        "_job",
        "_loop",
        "_over",
        "_timer",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        on_lost: Callable[[], None],
        audio_filter: AudioFilter,
        encoder: Encoder,
        flush_after: float,
    ) -> None:
        """`flush_after`: seconds without audio after which the end of what was said is sent."""
        super().__init__(transport, on_lost)
        self._loop = asyncio.get_running_loop()
        self._flush_after = flush_after
        self._heard = 0.0  # time at which the backend's last audio was dealt with
        self._timer: asyncio.TimerHandle | None = None
        self._filter = audio_filter
        self._encoder = encoder
        self._job: Job | None = None  # with the encoder
        self._over = False  # the backend's stream has ended

    def data_received(self, data: bytes) -> None:
        """Bytes came: what the filter makes of them goes to the client."""
        if self.peer.state is State.OPEN:
            self._deliver(*self._filter.feed(data))
            if self._timer is not None and self._filter.is_holding:
                self._heard = self._loop.time()

    def _deliver(self, buffers: list[Buffer], job: Job | None) -> None:
        """Write what can be written; see that the job is done."""
        while job is not None and self._encoder.run_now(job):
            more, job = self._filter.complete(job, self._encoder.run(job))
            buffers += more
        peer = self.peer
        if buffers and peer.state is State.OPEN:
            if len(buffers) == 1:
                peer.write(buffers[0])
            else:
                peer.writelines(buffers)
        if job is not None:
            self._job = job
            self.pause(ENCODING)
            self._encoder.submit(job, self._encoded)
            return
        if self._filter.is_speaking and self._timer is None:
            self._timer = self._loop.call_later(self._flush_after, self._notice_pause)
        while self._filter.warnings:
            log.warning(self._filter.warnings.pop())

    def _notice_pause(self) -> None:
        """Where the backend has paused, send the end of what was said."""
        self._timer = None
        if not self._filter.is_speaking or self.peer.state is not State.OPEN:
            return
        wait = self._heard + self._flush_after - self._loop.time()
        if self._pauses:  # it is we who do not read
            wait = self._flush_after
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._notice_pause)
        else:
            self._deliver(*self._filter.pause())

    def _encoded(self, job: Job, result: Result) -> None:
        """The encoder is done with a job that it was given."""
        self._job = None
        self._heard = self._loop.time()
        if self.peer.state is State.OPEN:
            self._deliver(*self._filter.complete(job, result))
        if self._job is None:
            self.resume(ENCODING)
            if self._over:
                self.source_ended()

    def source_ended(self) -> None:
        """Nothing more will come: what is held leaves as it came, after the job that is out."""
        self._over = True
        if self._job is not None:
            return
        if self.peer.state is State.OPEN and (buffers := self._filter.feed_eof()):
            self.peer.writelines(buffers)
        self.peer.finish()


class Tunnel:
    """One client's WebSocket through the proxy."""

    __slots__ = ("_on_end", "backend", "client")

    def __init__(self, on_end: Callable[[Tunnel], None]) -> None:
        self._on_end = on_end
        self.client: Leg
        self.backend: Leg

    def join(self, client: Leg, backend: Leg) -> None:
        """Make the two legs each other's peer."""
        self.client, self.backend = client, backend
        client.peer, backend.peer = backend, client

    def leg_lost(self) -> None:
        """A leg is closed."""
        if self.client.state is State.LOST and self.backend.state is State.LOST:
            self._on_end(self)

    def overdue(self, now: float, stall_timeout: float, close_timeout: float) -> bool:
        """Whether one of its sides has let a time limit pass; see `Leg.overdue`."""
        # Both are asked: each keeps its own account of what it saw last.
        client = self.client.overdue(now, stall_timeout, close_timeout)
        return self.backend.overdue(now, stall_timeout, close_timeout) or client

    def finish(self) -> None:
        """End both sides, with all that is held written out."""
        self.backend.source_ended()
        self.client.source_ended()

    def abort(self) -> None:
        """Close both sockets at once."""
        self.client.abort()
        self.backend.abort()
