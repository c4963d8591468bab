"""Bytes of a backend's WebSocket stream in; segments out: bytes to pass, or one whole message."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Literal

from proxy.errors import FrameError
from proxy.websocket.frames import BINARY, CLOSE, CONTINUATION, FIN, TEXT, close_code, parse_header
from proxy.websocket.metadata import MARKER
from proxy.websocket.openings import ANY, MARK_SIZE, Openings
from proxy.websocket.segments import BOUNDARY, Boundary, Buffer, Message, Run, Segment, Verdict

_CONTROL = 0x08
_AT_HEADER = -1
_WHOLE = FIN | BINARY


class _Step(Enum):
    ENTERED = 0  # a frame's header has been read


HEAD_SIZE = 512
"""Bytes of a message's payload that its verdict may be based on."""


class Splitter:
    """Cuts a stream of unmasked frames into bytes to pass and binary messages to work on.

    `wants(size, head)` is asked once per binary message, at its first header: its payload in bytes,
    or None for a fragmented one, whose size is not known yet; and as many of its first `HEAD_SIZE`
    bytes as are there. What is not wanted passes as it comes, and so does everything else. What is
    larger than `max_size` passes behind a boundary; `skips(size)` is told of it. Not asked about is
    a binary message that follows a text message which names `audio_chunk_compressed`: it is the
    second half of the backend's own pair. Nor is asked about what `allow` lets pass, and what is
    lifted with another by `join`.

    A message is held up to `max_size` payload bytes (a fragmented one: its frame headers
    included); a larger one passes as it came. From a close frame on (`close_code` then is what it
    said), and from a frame that no server may send (`fault` then says which), everything passes.

    Use: `feed(data)`, then `next_segment()` until it returns None; `feed_eof()` at the end.
    """

    __slots__ = (
        "_allowed",
        "_at",
        "_bounded",
        "_data",
        "_first",
        "_held",
        "_left",
        "_marked",
        "_max_size",
        "_message",
        "_most",
        "_openings",
        "_passing",
        "_payload",
        "_skipped",
        "_skips",
        "_start",
        "_tail",
        "_verdict",
        "_wants",
        "close_code",
        "fault",
    )

    def __init__(
        self,
        wants: Callable[[int | None, bytes], Verdict],
        max_size: int,
        skips: Callable[[int | None], None] = lambda size: None,
    ) -> None:
        self._wants = wants
        self._skips = skips
        self._max_size = max_size
        self.fault: str | None = None
        self.close_code: int | None = None
        self._data = b""  # what came last; the bytes before _at are dealt with
        self._start = 0  # what stands between it and _at passes, and has not been given yet
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
        self._most = 0  # messages that may be lifted together, this one the first
        self._allowed = 0  # messages that pass unasked
        self._openings = ANY  # of those that pass unasked or are lifted together
        self._skipped = 0  # payload bytes of those that have

    @property
    def is_between(self) -> bool:
        """Whether a message of ours may stand behind what has passed: not within a frame, between
        the fragments of a message or between the two of the backend's own pair."""
        outside = self._held is not None or (self._left == _AT_HEADER and not self._message)
        return outside and not self._marked

    @property
    def is_between_frames(self) -> bool:
        """Whether what has passed ends with a frame, and more may be said."""
        return (self._held is not None or self._left == _AT_HEADER) and not self._passing

    @property
    def is_at_rest(self) -> bool:
        """Whether the next byte begins a frame that nothing is known of yet."""
        return self._left == _AT_HEADER and not (
            self._data
            or self._message
            or self._held is not None
            or self._marked
            or self._passing
            or self._verdict
            or self._allowed
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing is read any more: a close frame has come, or what cannot be read."""
        return self._passing

    @property
    def is_holding(self) -> bool:
        """Whether a message has begun and is held."""
        return self._held is not None

    def allow(self, count: int, openings: Openings = ANY) -> tuple[int, int]:
        """Let the next `count` whole messages pass unasked, up to one that begins otherwise.

        Returns what came of the last permission: how many messages it still covered, and the
        payload bytes of those that have passed by it.
        """
        before = self._allowed, self._skipped
        self._allowed, self._openings, self._skipped = count, openings, 0
        return before

    def join(self, most: int, openings: Openings) -> None:
        """If the message that is being asked about is held, lift it as a `Run`, together with those
        behind it that are alike, at most `most` in all; unless it begins otherwise."""
        self._most, self._openings = most, openings

    def feed(self, data: bytes) -> bool:
        """Take the next bytes of the stream. Returns whether all of them pass, unasked: then no
        segment comes of them."""
        if self._data:
            self._data = self._data[self._at :] + data
            self._start = self._at = 0
            return False
        self._data = data
        if not self._allowed:
            return False
        if self._left != _AT_HEADER and self._first == _WHOLE and self._take_payload():
            self._message = 0
        if self._left == _AT_HEADER:
            self._skim()
        if self._at < len(data):
            return False
        self._data, self._at = b"", 0
        return True

    def feed_eof(self) -> bytes:
        """The stream has ended: returns what was still kept back, as it came."""
        self._passing = True
        rest = bytes(self._held or b"") + self._data[self._at :]
        self._held = self._payload = None
        self._data, self._at = b"", 0
        return rest

    def leave(self) -> None:
        """Nothing more will be fed: who was asked is named no longer."""
        del self._wants, self._skips

    def next_segment(self) -> Segment | None:
        """The next bytes to pass, message to work on or boundary; None: more bytes are needed."""
        while True:
            if self._left == _AT_HEADER:
                segment = self._enter()
                if segment is not _Step.ENTERED:
                    return segment
            taken = self._take_payload()
            if self._held is not None and not self._first & _CONTROL:
                self._start = self._at
            if not taken:
                return self._passed()
            if self._first & FIN and not self._first & _CONTROL:
                self._message = 0
                if self._held is not None:
                    return self._lift()

    def _enter(self) -> Segment | Literal[_Step.ENTERED] | None:
        """Read the header at `_at`; what must come before it is done, or is returned."""
        if self._allowed:
            self._skim()
            if self._left != _AT_HEADER:
                return _Step.ENTERED
        header = None if self._passing else self._read_header(self._at)
        if self._passing:
            return self._pass_all()
        if header is None:
            return self._passed()
        first, header_size, size = header
        at, body = self._at, self._at + header_size
        is_whole = body + size <= len(self._data)
        if self._held is not None:
            if not first & _CONTROL:
                if at > self._start:
                    return self._passed()
                if len(self._held) + header_size + size > self._max_size:
                    return self._give_up()
                self._held += self._data[at:body]
            elif not is_whole:
                # Whole or not at all: were the stream to end inside it, the frames that are held
                # would have to go behind it, and would be read as its payload.
                return self._passed()
        elif first & 0x0F == BINARY:
            if self._verdict is None:
                self._verdict = self._ask(header)
            if self._verdict is not Verdict.PASS and at > self._start:
                return self._passed()
            if self._verdict is Verdict.BREAK:
                return self._bound()
            holds, self._verdict = self._verdict is Verdict.HOLD, None
            if holds and is_whole and first & FIN:
                return self._lift_whole(body, size)
            if holds:
                self._held = bytearray(self._data[at:body])
                self._payload = None if first & FIN else bytearray()
            self._message = BINARY
        elif first & 0x0F == TEXT:
            self._message, self._tail = TEXT, b""
        self._first, self._left, self._at = first, size, body
        return _Step.ENTERED

    def _take_payload(self) -> bool:
        """Take what is there of the current frame's payload. Returns whether that is all of it."""
        at, left = self._at, self._left
        stop = min(at + left, len(self._data))
        if not self._first & _CONTROL:
            if self._held is not None:
                self._hold(memoryview(self._data)[at:stop])
            elif self._message == TEXT:
                self._scan(at, stop)
        self._at = stop
        left -= stop - at
        self._left = left or _AT_HEADER
        return not left

    def _passed(self) -> Buffer | None:
        """What passes and has not been given yet."""
        data, start, at = self._data, self._start, self._at
        self._start = at
        if at == len(data):
            self._data = b""
            self._start = self._at = 0
        if at == start:
            return None
        return data if at - start == len(data) else memoryview(data)[start:at]

    def _pass_all(self) -> Segment | None:
        """Nothing is read any more: first comes a boundary, then all as it came."""
        if not self._bounded:
            if self._at > self._start:
                return self._passed()
            self._bounded = True
            return BOUNDARY
        if self._held is not None:
            return self._let_go()
        self._at = len(self._data)
        return self._passed()

    def _skim(self) -> None:
        """Walk over whole messages that are allowed to pass, up to one that is not."""
        if self._message or self._marked or self._passing or self._verdict:
            return
        data, at, allowed, skipped = self._data, self._at, self._allowed, self._skipped
        end = len(data)
        while allowed and at + 4 < end and data[at] == _WHOLE:
            size, body = data[at + 1], at + 2
            if size == 126:  # its size stands in 16 bits (RFC 6455 section 5.2)
                size, body = data[at + 2] << 8 | data[at + 3], at + 4
            elif size > 126:
                break
            step = body + size - at
            run = self._openings.count(
                data, at, body, step, min(allowed, (end - body - 1) // step + 1)
            )
            if not run:
                break
            allowed -= run
            skipped += run * size
            at += run * step
        self._allowed, self._skipped = allowed, skipped
        if at > end:
            self._first, self._message, self._left = _WHOLE, BINARY, at - end
        self._at = min(at, end)

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
            self.close_code = close_code(self._data[at:])
            return None
        return header

    def _ask(self, header: tuple[int, int, int]) -> Verdict:
        """What is to become of the binary message whose first header stands at `_at`."""
        first, header_size, size = header
        self._most = 0
        own_pair, self._marked = self._marked, False
        if own_pair:
            return Verdict.PASS
        if size > self._max_size:
            self._skips(size if first & FIN else None)
            return Verdict.BREAK
        body = self._at + header_size
        head = self._data[body : body + min(size, HEAD_SIZE)]
        return self._wants(size if first & FIN else None, head)

    def _bound(self) -> Boundary:
        """The boundary before what stands at `_at`."""
        self._verdict = Verdict.PASS
        return BOUNDARY

    def _give_up(self) -> Segment:
        """The message being held grows too large: behind a boundary, it passes."""
        if self._verdict is None:
            return self._bound()
        self._verdict = None
        self._skips(None)
        return self._let_go()

    def _hold(self, piece: memoryview) -> None:
        """Keep a piece of the payload back."""
        assert self._held is not None
        self._held += piece
        if self._payload is not None:
            self._payload += piece

    def _let_go(self) -> bytearray:
        """Hold the message in progress no longer. Returns its frames so far, as they came."""
        assert self._held is not None
        frames, self._held, self._payload = self._held, None, None
        return frames

    def _lift_whole(self, body: int, size: int) -> Message | Run:
        """The message at `_at` is all there, in one frame; perhaps with others behind it."""
        at, step, run = self._at, body + size - self._at, 0
        if self._most:
            most = min(self._most, (len(self._data) - at) // step)
            run = self._openings.count(self._data, at, body, step, most)
        end = self._start = self._at = at + step * max(1, run)
        view = memoryview(self._data)
        if run:
            return Run(view[at:end], body - at, run)
        return Message(view[body:end], view[at:end])

    def _lift(self) -> Message | Run:
        """The message being held is complete."""
        payload: Buffer | None = self._payload
        frames = self._let_go()
        if payload is not None:
            return Message(payload, frames)
        header = parse_header(frames, 0)
        assert header is not None
        body, view = header[1], memoryview(frames)
        if self._most and self._openings.fit(frames[body : body + MARK_SIZE]):
            return Run(view, body, 1)
        return Message(view[body:], frames)

    def _scan(self, start: int, stop: int) -> None:
        """Look for the marker in a piece of a text message, also across two pieces."""
        data = self._data
        edge = self._tail + data[start : min(stop, start + len(MARKER))]
        if data.find(MARKER, start, stop) >= 0 or MARKER in edge:
            self._marked = True
        self._tail = (edge if stop - start < len(MARKER) else data[stop - len(MARKER) : stop])[
            -len(MARKER) + 1 :
        ]
