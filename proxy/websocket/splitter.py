"""Bytes of a backend's WebSocket stream in; segments out: bytes to pass, or one whole message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from proxy.errors import FrameError
from proxy.websocket.frames import BINARY, CLOSE, CONTINUATION, FIN, TEXT, parse_header
from proxy.websocket.metadata import MARKER

Buffer = bytes | bytearray | memoryview

_CONTROL = 0x08
_AT_HEADER = -1


@dataclass(slots=True)
class Message:
    """One whole binary message, lifted out of the stream.

    `payload` is its fragments joined. `frames` is what came, header and payload of each of its
    frames, without the control frames that stood between them: those have passed already.
    """

    payload: Buffer
    frames: Buffer


class Verdict(Enum):
    """What is to become of a binary message."""

    HOLD = 0
    PASS = 1
    BREAK = 2
    """Pass, with a `Boundary` before it."""


class Boundary:
    """Stands before what ends a stretch of audio that is being encoded: a binary message that
    passes, a close frame, bytes that cannot be read."""


BOUNDARY = Boundary()

HEAD_SIZE = 40
"""Bytes of a message's payload that its verdict may be based on."""


class Splitter:
    """Cuts a stream of unmasked frames into bytes to pass and binary messages to work on.

    `wants(size, head)` is asked once per binary message, at its first header: its payload in bytes,
    or None for a fragmented one, whose size is not known yet; and as many of its first `HEAD_SIZE`
    bytes as are there. What is not wanted passes as it comes, and so does everything else. What is
    larger than `max_size` passes behind a boundary; `skips(size)` is told of it. Not asked about is
    a binary message that follows a text message which names `audio_chunk_compressed`: it is the
    second half of the backend's own pair. Nor is asked about what `passes(size, first)`, a whole
    message by its size and first byte: the way for those that need no more than a glance.

    A message is held up to `max_size` payload bytes (a fragmented one: its frame headers
    included); a larger one passes as it came. From a close frame on, and from a frame that no
    server may send (`fault` then says which), everything passes.

    Use: `feed(data)`, then `next_segment()` until it returns None; `feed_eof()` at the end.
    """

    __slots__ = (
        "_at",
        "_bounded",
        "_data",
        "_first",
        "_held",
        "_left",
        "_marked",
        "_max_size",
        "_message",
        "_passes",
        "_passing",
        "_payload",
        "_skips",
        "_tail",
        "_verdict",
        "_wants",
        "fault",
    )

    def __init__(
        self,
        wants: Callable[[int | None, bytes], Verdict],
        max_size: int,
        passes: Callable[[int, int], bool] = lambda size, first: False,
        skips: Callable[[int | None], None] = lambda size: None,
    ) -> None:
        self._wants = wants
        self._skips = skips
        self._passes = passes
        self._max_size = max_size
        self.fault: str | None = None
        self._data = b""  # what came last; the bytes before _at are dealt with
        self._at = 0
        self._first = 0  # first byte of the current frame
        self._left = _AT_HEADER  # payload bytes of the current frame still to come
        self._message = 0  # TEXT or BINARY while such a message is in progress
        self._held: bytearray | None = None  # frames of the message being held, as they came
        self._payload: bytearray | None = None  # its fragments joined, where it has several
        self._marked = False  # the next binary message is the backend's own pair
        self._tail = b""  # the end of a text's last piece: the marker may have begun in it
        self._passing = False  # nothing is read any more
        self._bounded = False  # the boundary before that has been given
        self._verdict: Verdict | None = None  # on the message at the next header, where asked for

    @property
    def is_between(self) -> bool:
        """Whether a message of ours may stand behind what has passed: not within a frame, between
        the fragments of a message or between the two of the backend's own pair."""
        outside = self._held is not None or (self._left == _AT_HEADER and not self._message)
        return outside and not self._marked

    @property
    def is_holding(self) -> bool:
        """Whether a message has begun and is held."""
        return self._held is not None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._data = self._data[self._at :] + data if self._data else data
        self._at = 0

    def feed_eof(self) -> bytes:
        """The stream has ended: returns what was still kept back, as it came."""
        self._passing = True
        rest = bytes(self._held or b"") + self._data[self._at :]
        self._held = self._payload = None
        self._data, self._at = b"", 0
        return rest

    def next_segment(self) -> Buffer | Message | Boundary | None:
        """The next bytes to pass, message to work on or boundary; None: more bytes are needed."""
        data = self._data
        start = at = self._at  # what stands between them passes
        end = len(data)
        while True:
            if self._left == _AT_HEADER:
                if not (self._message or self._marked or self._passing or self._verdict):
                    at = self._skim(at)
                    if self._left != _AT_HEADER:
                        break
                header = None if self._passing else self._read_header(at)
                if self._passing:
                    if at > start and not self._bounded:
                        break  # what stands before the boundary goes first
                    if not self._bounded:
                        self._at, self._bounded = at, True
                        return BOUNDARY
                    if self._held is not None:
                        return self._let_go(at)
                    at = end
                if header is None:
                    break
                if self._held is not None and header[0] & _CONTROL:
                    # Whole or not at all: were the stream to end inside it, the frames that are
                    # held would have to go behind it, and would be read as its payload.
                    if at + header[1] + header[2] > end:
                        break
                elif self._too_large(header[1] + header[2]):
                    if at > start:
                        break  # what stands before it goes first
                    if self._verdict is None:
                        return self._bound(at)
                    self._verdict = None
                    self._skips(None)
                    return self._let_go(at)
                opcode = header[0] & 0x0F
                if opcode == BINARY:
                    if self._verdict is None:
                        self._verdict = self._ask(at, header)
                    if self._verdict is Verdict.BREAK:
                        if at > start:
                            break
                        return self._bound(at)
                    self._begin(header)
                self._first, header_size, self._left = header
                if opcode == TEXT:
                    self._message, self._tail = TEXT, b""
                body = at + header_size
                if self._held is not None and not self._first & _CONTROL:
                    self._held += data[at:body]
                    if at > start:  # what stands before it goes first
                        self._at = body
                        return memoryview(data)[start:at]
                    start = body
                at = body
            size = min(self._left, end - at)
            if not self._first & _CONTROL:
                if self._held is not None:
                    self._hold(data[at : at + size])
                    start += size
                elif self._message == TEXT:
                    self._scan(at, at + size)
            at += size
            self._left -= size
            if self._left:
                break
            self._left = _AT_HEADER
            if self._first & FIN and not self._first & _CONTROL:
                self._message = 0
                if self._held is not None:
                    return self._lift(at)
        self._at = at
        if at == end:
            self._data, self._at = b"", 0
        if at == start:
            return None
        return data if at - start == end else memoryview(data)[start:at]

    def _skim(self, at: int) -> int:
        """Walk over whole binary messages that pass at a glance, up to one that does not."""
        data, passes = self._data, self._passes
        end = len(data)
        while at + 4 < end and data[at] == FIN | BINARY:
            size, body = data[at + 1], at + 2
            if size == 126:  # its size stands in 16 bits (RFC 6455 section 5.2)
                size, body = data[at + 2] << 8 | data[at + 3], at + 4
                if size < 126:
                    break
            elif size > 126:
                break
            if not passes(size, data[body]):
                break
            at = body + size
            if at > end:
                self._first, self._message, self._left = FIN | BINARY, BINARY, at - end
                return end
        return at

    def _read_header(self, at: int) -> tuple[int, int, int] | None:
        """The header at `at`; None while it is incomplete, or when it ends the reading."""
        try:
            header = parse_header(self._data, at)
            if header is None:
                return None
            opcode = header[0] & 0x0F
            if opcode == CONTINUATION:
                if not self._message:
                    raise FrameError("a continuation frame continues nothing")
            elif self._message and not opcode & _CONTROL:
                raise FrameError("a message began inside another")
        except FrameError as error:
            self.fault = str(error)
            self._passing = True
            return None
        if opcode == CLOSE:
            self._passing = True
            return None
        return header

    def _ask(self, at: int, header: tuple[int, int, int]) -> Verdict:
        """What is to become of the binary message whose first header stands at `at`."""
        first, header_size, size = header
        own_pair, self._marked = self._marked, False
        if own_pair:
            return Verdict.PASS
        if size > self._max_size:
            self._skips(size if first & FIN else None)
            return Verdict.BREAK
        body = at + header_size
        head = self._data[body : body + min(size, HEAD_SIZE)]
        return self._wants(size if first & FIN else None, head)

    def _bound(self, at: int) -> Boundary:
        """The boundary before what stands at `at`."""
        self._at, self._verdict = at, Verdict.PASS
        return BOUNDARY

    def _begin(self, header: tuple[int, int, int]) -> None:
        """A binary message begins: hold it, or let it pass."""
        self._message = BINARY
        if self._verdict is Verdict.HOLD:
            self._held = bytearray()
            self._payload = None if header[0] & FIN else bytearray()
        self._verdict = None

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of the payload back."""
        assert self._held is not None
        self._held += piece
        if self._payload is not None:
            self._payload += piece

    def _too_large(self, size: int) -> bool:
        """Whether the message being held would grow past `max_size` with this frame."""
        return self._held is not None and len(self._held) + size > self._max_size

    def _let_go(self, at: int) -> bytearray:
        """Hold the message in progress no longer. Returns its frames so far, as they came."""
        assert self._held is not None
        frames, self._held, self._payload = self._held, None, None
        self._at = at
        return frames

    def _lift(self, at: int) -> Message:
        """The message being held is complete."""
        payload: Buffer | None = self._payload
        frames = self._let_go(at)
        if payload is None:
            header = parse_header(frames, 0)
            assert header is not None
            payload = memoryview(frames)[header[1] :]
        return Message(payload, frames)

    def _scan(self, start: int, stop: int) -> None:
        """Look for the marker in a piece of a text message, also across two pieces."""
        data = self._data
        edge = self._tail + data[start : min(stop, start + len(MARKER))]
        if data.find(MARKER, start, stop) >= 0 or MARKER in edge:
            self._marked = True
        self._tail = (edge if stop - start < len(MARKER) else data[stop - len(MARKER) : stop])[
            -len(MARKER) + 1 :
        ]
