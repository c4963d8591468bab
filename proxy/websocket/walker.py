"""Follows a stream that passes unread, to know where its frames end."""

from __future__ import annotations

from proxy.websocket.frames import CLOSE, close_code, run_length


class FrameWalker:
    """Walks over frames, of any extension: none is judged, all bytes have passed.

    `feed` every byte. From a close frame on nothing is followed any more.
    """

    __slots__ = ("_head", "_last", "_left", "_step", "close_code", "closed")

    def __init__(self) -> None:
        # The header, without its key, and the bytes of the last frame that was fed alone.
        self._last = b""
        self._step = 0
        self._left = 0  # payload bytes of the current frame still to come
        self._head = b""  # a header that has begun
        self.closed = False
        """A close frame has begun."""
        self.close_code: int | None = None
        """What it said; `NO_CODE` where it said none, or did not come in one piece."""

    @property
    def is_between(self) -> bool:
        """Whether the stream stands between two frames: others may be put there."""
        return not self._left and not self._head and not self.closed

    def feed(self, data: bytes | bytearray, end: int) -> None:
        """Take the next bytes of the stream, those of `data` before `end`."""
        at = self._left
        if end == self._step and not at and not self._head and data.startswith(self._last):
            return
        if at >= end:
            self._left = at - end
            return
        if self.closed:
            return
        if self._head:
            data = self._head + data[:end]
            end = len(data)
            self._head = b""
        while at + 1 < end:
            if data[at] & 0x0F == CLOSE:
                self.closed = True
                self.close_code = close_code(bytes(data[at:end]))
                at = end
                break
            size, body = data[at + 1] & 0x7F, at + 2
            if size >= 126:
                body += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : body], "big")
            same = body
            if data[at + 1] & 0x80:  # a client's: the key belongs to the header
                body += 4
            if body > end:
                break
            step = body + size - at
            if step == end and not at:
                self._last, self._step = bytes(data[:same]), step
                return
            at += step * run_length(data, at, body - at, step, (end - body) // step + 1)
        if at < end:
            self._head = bytes(data[at:end])
        self._left = max(0, at - end)
