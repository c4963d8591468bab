"""Follows a stream that passes unread, to know where its frames end."""

from __future__ import annotations

from proxy.websocket.frames import CLOSE, run_length


class FrameWalker:
    """Walks over a server's frames, of any extension: none is judged, all bytes have passed.

    `feed` every byte. From a close frame on nothing is followed any more.
    """

    __slots__ = ("_head", "_left", "closed")

    def __init__(self) -> None:
        self._left = 0  # payload bytes of the current frame still to come
        self._head = b""  # a header that has begun
        self.closed = False
        """A close frame has begun."""

    @property
    def is_between(self) -> bool:
        """Whether the stream stands between two frames: others may be put there."""
        return not self._left and not self._head and not self.closed

    def feed(self, data: bytes | bytearray, end: int) -> None:
        """Take the next bytes of the stream, those of `data` before `end`."""
        at = self._left
        if at >= end:
            self._left = at - end
            return
        if self._head:
            data = self._head + data[:end]
            end = len(data)
            self._head = b""
        while at + 1 < end:
            if data[at] & 0x0F == CLOSE:
                self.closed = True
                at = end
                break
            size, body = data[at + 1] & 0x7F, at + 2
            if size >= 126:
                body += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : body], "big")
            if data[at + 1] & 0x80:  # no server may mask; the key would belong to the header
                body += 4
            if body > end:
                break
            step = body + size - at
            at += step * run_length(data, at, body - at, step, (end - body) // step + 1)
        if at < end:
            self._head = bytes(data[at:end])
        self._left = max(0, at - end)
