"""Lessons by the hundred, on bare sockets: tutors who speak in sentences, learners who miss none.

Everything that is said has a number: whose, of which sentence, which chunk of it.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from proxy.values import Address
from proxy.websocket.frames import BINARY, CLOSE, TEXT, build_header, parse_header
from tests.support import pcm
from tests.support.raw import masked, request, switch

_AUDIO = pcm()[40_000:44_096]
PACE = len(_AUDIO) / 48_000
"""Seconds between two chunks: speech of 24 kHz and 16 bits, as fast as it is spoken."""
_NUMBERS = struct.Struct(">III")
_END = b'{"type":"sentence_end"}'
_TARGET = re.compile(rb"GET /(\w+)/(\d+)")
_HELLO = _AUDIO[:100]
_HESITATION = 0.2
"""Seconds from a connection to the request on it, where the visitor is far away."""
_NORMAL = (1000).to_bytes(2, "big")


def _frame(opcode: int, payload: bytes) -> bytes:
    return build_header(opcode, len(payload)) + payload


_VISIT = _frame(BINARY, _HELLO) + _frame(CLOSE, _NORMAL)
"""What a tutor has to say to a visitor."""


@dataclass(frozen=True)
class Course:
    """How tutors speak."""

    chunks: int
    """Of a sentence."""
    pause: float
    """Seconds from a sentence's end to the next one."""


class _Tutor(asyncio.Protocol):
    """The backend's end of one connection."""

    transport: asyncio.Transport

    def __init__(self, school: School) -> None:
        self._school = school
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._timer: asyncio.TimerHandle | None = None
        self._number: int | None = None  # of the learner, once it is known
        self._is_endless = False
        self.sentence = self.chunk = 0
        """What it says next."""
        self.told: int | None = None
        """The close code that it got."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._number is None:
            self._head += data
            if self._head.endswith(b"\r\n\r\n"):
                self._begin()
        elif data[0] & 0x0F == CLOSE:  # learners say nothing else
            self.told = int.from_bytes(data[6:8], "big")
            self._stop()
            self.transport.close()

    def _begin(self) -> None:
        found = _TARGET.match(self._head)
        assert found is not None
        kind, self._number = found[1], int(found[2])
        self.transport.write(switch(self._head))
        if kind == b"visit":
            self.transport.write(_VISIT)
            return
        self._is_endless = kind == b"speech"
        self._school.tutors[self._number] = self
        self._speak()

    def _speak(self) -> None:
        assert self._number is not None
        if self.transport.is_closing():
            return
        course = self._school.course
        if self.chunk < course.chunks or self._is_endless:
            numbers = _NUMBERS.pack(self._number, self.sentence, self.chunk)
            self.transport.write(_frame(BINARY, numbers + _AUDIO[_NUMBERS.size :]))
            self.chunk += 1
            self._timer = self._loop.call_later(PACE, self._speak)
        else:
            self.transport.write(_frame(TEXT, _END))
            self.sentence, self.chunk = self.sentence + 1, 0
            self._timer = self._loop.call_later(course.pause, self._speak)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()


class _Frames(asyncio.Protocol):
    """A client's end of one connection, frame by frame."""

    transport: asyncio.Transport

    def __init__(self, target: str) -> None:
        self._target = target
        self._rest = b""
        self.is_answered = False
        """Whether a 101 has come."""
        self.port = 0
        """Its own."""
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """The code of the close frame that came before the connection was closed, if one did."""
        self.code: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.port = transport.get_extra_info("sockname")[1]
        self.ask()

    def ask(self) -> None:
        """Send the handshake."""
        if not self.transport.is_closing():
            self.transport.write(request(self._target.encode()))

    def data_received(self, data: bytes) -> None:
        try:
            self._read(self._rest + data)
        except Exception as error:  # noqa: BLE001  # whoever waits for the end is to see it
            if not self.ended.done():
                self.ended.set_exception(error)
            self.transport.abort()

    def _read(self, data: bytes) -> None:
        at = 0
        if not self.is_answered:
            head, blank, _ = data.partition(b"\r\n\r\n")
            if not blank:
                self._rest = data
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            self.is_answered = True
            at = len(head) + len(blank)
        while (header := parse_header(data, at)) is not None:
            first, header_size, size = header
            start, end = at + header_size, at + header_size + size
            if end > len(data):
                break
            assert self.code is None, "something came behind the close frame"
            if first & 0x0F == CLOSE:
                self.code = int.from_bytes(data[start : start + 2], "big")
                self.transport.write(masked(CLOSE, data[start:end]))
                self.closing()
            else:
                self.heard(first & 0x0F, data[start:end])
            at = end
        self._rest = data[at:]

    def heard(self, opcode: int, payload: bytes) -> None:
        raise NotImplementedError

    def closing(self) -> None:
        """A close frame has come."""

    def leave(self) -> None:
        """Close the connection, if there is one."""
        if self.port and not self.ended.done():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(self.code)


class Learner(_Frames):
    """Listens, and fails where anything is missing. Each second one has asked for gzip."""

    def __init__(self, school: School, number: int, *, endless: bool) -> None:
        kind, query = "speech" if endless else "lesson", "?audio_compression=gzip" * (number % 2)
        super().__init__(f"/{kind}/{number}{query}")
        self._school = school
        self._number = number
        self._is_paired = False
        self.sentence = self.chunk = 0
        """What it is to hear next."""
        self.pairs = 0
        self.closed_at = 0.0
        """When the close frame came, on the event loop's clock."""
        self.crossed = (0, 0)
        """What its tutor was to say next, then."""

    def heard(self, opcode: int, payload: bytes) -> None:
        if opcode == BINARY:
            if self._is_paired:
                payload, self._is_paired = gzip.decompress(payload), False
                self.pairs += 1
            numbers = self._number, self.sentence, self.chunk
            assert payload == _NUMBERS.pack(*numbers) + _AUDIO[_NUMBERS.size :], numbers
            self.chunk += 1
        elif payload == _END:
            assert self.chunk == self._school.course.chunks, "a sentence has lost its end"
            self.sentence, self.chunk = self.sentence + 1, 0
        else:
            assert b"audio_chunk_compressed" in payload, payload
            self._is_paired = True

    def closing(self) -> None:
        tutor = self._school.tutors[self._number]
        self.closed_at = asyncio.get_running_loop().time()
        self.crossed = tutor.sentence, tutor.chunk

    def check_goodbye(self) -> None:
        """It was sent away with 1001, between two sentences.

        A first chunk may have been said while the close frame was on its way: of that sentence
        nothing is heard.
        """
        assert self.code == 1001, self.code
        assert self.chunk == 0, f"cut in sentence {self.sentence}, before chunk {self.chunk}"
        assert self.crossed in ((self.sentence, 0), (self.sentence, 1)), self.crossed


class Visitor(_Frames):
    """Is told something, and that this was all. Each second one is far away."""

    def __init__(self, number: int) -> None:
        super().__init__(f"/visit/{number}")
        self._is_far = bool(number % 2)
        self._is_greeted = False

    def ask(self) -> None:
        if self._is_far:
            asyncio.get_running_loop().call_later(_HESITATION, super().ask)
        else:
            super().ask()

    def heard(self, opcode: int, payload: bytes) -> None:
        assert (opcode, payload, self._is_greeted) == (BINARY, _HELLO, False)
        self._is_greeted = True

    @property
    def is_served(self) -> bool:
        """Whether all is as it should be, up to the end."""
        return (
            self.ended.done()
            and self.ended.exception() is None
            and self._is_greeted
            and self.ended.result() == 1000
        )


class School:
    """A backend and its clients."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self.tutors: dict[int, _Tutor] = {}
        """By the number of their learner."""
        self.learners: list[Learner] = []
        self.visitors: list[Visitor] = []
        self.is_over = False
        """Whether who is sent away stays away."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        """Gives the backend's port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Tutor(self), "127.0.0.1", 0, backlog=4096)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    @property
    def present(self) -> list[Learner]:
        """The learners who are connected."""
        return [learner for learner in self.learners if not learner.ended.done()]

    @asynccontextmanager
    async def in_session(
        self, listen: Address, learners: int, per_second: int, left: Callable[[Learner], None]
    ) -> AsyncIterator[None]:
        """So many learners, each of whom comes again when he is sent away, and visitors.

        `left` is told of each learner who is sent away; what it raises ends the session.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._attend(listen, left)) for _ in range(learners)]
                tasks.append(group.create_task(self._visit(listen, per_second, group)))
                yield
                for task in tasks:
                    task.cancel()
        finally:
            for learner in self.present:
                learner.leave()
            for visitor in self.visitors:
                visitor.leave()

    async def _attend(self, listen: Address, left: Callable[[Learner], None]) -> None:
        while not self.is_over:
            learner = await self.join(listen)
            await asyncio.wait([learner.ended])  # who is cancelled here has not left
            learner.ended.result()
            left(learner)

    async def join(self, listen: Address, *, endless: bool = False) -> Learner:
        """One learner more. Raises OSError where he is refused."""
        learner = Learner(self, len(self.learners), endless=endless)
        self.learners.append(learner)
        await self._connect(listen, learner)
        return learner

    async def _visit(self, listen: Address, per_second: int, group: asyncio.TaskGroup) -> None:
        """Visitors come, whether those before are served or not."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            visitor = Visitor(len(self.visitors))
            self.visitors.append(visitor)
            group.create_task(self._let_in(listen, visitor))
            await asyncio.sleep(start + len(self.visitors) / per_second - loop.time())

    async def _let_in(self, listen: Address, visitor: Visitor) -> None:
        try:
            await self._connect(listen, visitor)
        except OSError as error:
            visitor.ended.set_exception(error)

    async def _connect(self, listen: Address, client: _Frames) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: client, listen.host, listen.port)
