"""How messages may begin that are dealt with like the one before, without a look at each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.websocket.frames import run_length

MARK_SIZE = 5
"""Bytes of a payload that tell whether it may begin something else."""


@dataclass(frozen=True, slots=True)
class Openings:
    """A message that begins with one of `firsts`, or with none of `marks`, is more of the same."""

    firsts: bytes
    marks: re.Pattern[bytes]
    """Of at most `MARK_SIZE` bytes."""

    def fit(self, payload: bytes | bytearray) -> bool:
        """Whether a payload, or its first bytes, begins so."""
        return payload[:1] in self.firsts or not self.marks.match(payload)

    def count(self, data: bytes, at: int, body: int, step: int, most: int) -> int:
        """How many frames in a row, every `step` bytes, are like the one at `data[at]`, with equal
        headers, and begin so. At most `most`, whose first bytes are there; a payload is at `body`.
        """
        run = run_length(data, at, body - at, step, most)
        begin = data[body : body + run * step : step]
        run -= len(begin.lstrip(self.firsts))
        if run:
            return run
        return int(body + MARK_SIZE <= len(data) and not self.marks.match(data, body))


ANY = Openings(bytes(range(256)), re.compile(b"a^"))
