"""A splitter that is fed, and what the contract asks it for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from typing import Any

from websockets.frames import Opcode

from proxy.websocket.segments import Boundary, Message, Run, Verdict
from proxy.websocket.splitter import Splitter
from tests.websocket.strategies import MARKER, MAX, Item, is_control

HOLD, PASS, BREAK = Verdict

Step = tuple[Any, ...]
"""("passes", bytes), ("message", payload, frames) or ("boundary",)."""


def messages_of(run: Run) -> list[Message]:
    """What the run would have been, had its messages been lifted one by one."""
    frames = [run.frames[at : at + run.step] for at in range(0, len(run.frames), run.step)]
    return [Message(*pair) for pair in zip(run.payloads(), frames, strict=True)]


class Splits:
    """Feeds a splitter and keeps its segments; `verdicts` answer it, over and over."""

    def __init__(
        self, verdicts: Sequence[Verdict] = (HOLD,), max_size: int = MAX, **more: Any
    ) -> None:
        self.asked: list[int | None] = []
        self.heads: list[bytes] = []
        self.held = 0
        """How often the answer was to hold."""
        self.segments: list[bytes | Message | Boundary] = []
        self.runs: list[Run] = []
        """Those of the messages that were lifted together, or might have been."""
        self._verdicts = cycle(verdicts)
        self.splitter = Splitter(self.wants, max_size, **more)

    def wants(self, size: int | None, head: bytes) -> Verdict:
        """Answer the splitter."""
        self.asked.append(size)
        self.heads.append(bytes(head))
        verdict = next(self._verdicts)
        self.held += verdict is HOLD
        return verdict

    def feed(self, data: bytes) -> Splits:
        if self.splitter.feed(data):
            self.segments.append(data)
        while (segment := self.splitter.next_segment()) is not None:
            if isinstance(segment, Run):
                self.runs.append(segment)
                self.segments += messages_of(segment)
            elif isinstance(segment, Message | Boundary):
                self.segments.append(segment)
            else:
                self.segments.append(bytes(segment))
        assert self.splitter.next_segment() is None
        return self

    @property
    def messages(self) -> list[Message]:
        return [segment for segment in self.segments if isinstance(segment, Message)]

    def passed_since(self, seen: int) -> int:
        """Bytes that passed behind the first `seen` segments."""
        return sum(len(segment) for segment in self.segments[seen:] if isinstance(segment, bytes))

    @property
    def joined(self) -> bytes:
        """All segments, as they came."""
        return b"".join(
            bytes(segment.frames) if isinstance(segment, Message) else segment
            for segment in self.segments
            if not isinstance(segment, Boundary)
        )

    @property
    def steps(self) -> list[Step]:
        """All segments, however finely what passes was cut."""
        script = Script()
        for segment in self.segments:
            if isinstance(segment, Boundary):
                script.bound()
            elif isinstance(segment, Message):
                script.lift(bytes(segment.payload), bytes(segment.frames))
            else:
                script.let_pass(segment)
        return script.steps


class Script:
    """What is to come out, in order."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def let_pass(self, data: bytes) -> None:
        if self.steps and self.steps[-1][0] == "passes":
            data = self.steps.pop()[1] + data
        self.steps.append(("passes", data))

    def lift(self, payload: bytes, frames: bytes) -> None:
        self.steps.append(("message", payload, frames))

    def bound(self) -> None:
        self.steps.append(("boundary",))

    def hold(self, item: Item) -> None:
        """Lift a message, or let it go at the frame that makes it too large."""
        held: bytes | None = b""
        for frame in item.frames:
            wire = frame.serialize(mask=False)
            if is_control(frame) or held is None:
                self.let_pass(wire)
            elif held and len(held) + len(wire) > MAX:
                self.bound()
                self.let_pass(held + wire)
                held = None
            else:
                held += wire
        if held is not None:
            self.lift(item.payload, held)


def script_of(sent: Iterable[Item], verdict_of: Callable[[Item], Verdict]) -> list[Step]:
    """What the contract asks for: `verdict_of` is asked once for each message, in order."""
    script = Script()
    marked = closed = False
    for item in sent:
        if item.opcode is Opcode.BINARY and not closed:
            if marked:  # the second half of the backend's own pair
                verdict = PASS
            elif len(item.frames[0].data) > MAX:
                verdict = BREAK
            else:
                verdict = verdict_of(item)
            marked = False
            if verdict is HOLD:
                script.hold(item)
                continue
            if verdict is BREAK:
                script.bound()
        elif item.opcode is Opcode.CLOSE and not closed:
            script.bound()
            closed = True
        elif item.opcode is Opcode.TEXT:
            marked = marked or MARKER in item.payload
        script.let_pass(item.wire)
    return script.steps
