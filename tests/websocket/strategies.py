"""What a backend may send, and how the outcome is judged.

Frames are written and read by `websockets`, so that our own code is not its own judge.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from proxy.audio.counters import Counters
from proxy.audio.gzip import GZIP
from proxy.audio.settings import AudioSettings
from proxy.control.flags import Flags, LiveFlags
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.jobs import Job, LosslessJob, RunJob
from proxy.websocket.segments import Buffer
from tests.support import pcm

MAX = 70_000
"""`max_audio_bytes` in these tests: just above the largest length that takes two bytes."""

MARKER = b"audio_chunk_compressed"

Event = tuple[Opcode, bytes]
"""A control frame, or a message as soon as it is complete."""

PCM = pcm()
_EDGES = (0, 1, 2, 125, 126, 127, 1023, 1024, 1025, 4096, 65535, 65536, MAX - 1, MAX, MAX + 1)


def wire_of(frames: Iterable[Frame]) -> bytes:
    """Frames, as a server sends them."""
    return b"".join(frame.serialize(mask=False) for frame in frames)


def is_control(frame: Frame) -> bool:
    return frame.opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE)


class Item:
    """A message with the control frames between its fragments, or one control frame."""

    def __init__(self, *frames: Frame) -> None:
        self.frames = frames

    def __repr__(self) -> str:
        """Sizes say more than payloads, and Hypothesis warns of long ones."""
        return "+".join(f"{frame.opcode.name}({len(frame.data)})" for frame in self.frames)

    @property
    def opcode(self) -> Opcode:
        return self.frames[0].opcode

    @property
    def wire(self) -> bytes:
        return wire_of(self.frames)

    @property
    def data_wire(self) -> bytes:
        """The same without control frames."""
        return wire_of(frame for frame in self.frames if not is_control(frame))

    @property
    def payload(self) -> bytes:
        """Of the message; nothing of control frames."""
        return b"".join(bytes(frame.data) for frame in self.frames if not is_control(frame))


def message(opcode: Opcode, payload: bytes) -> Item:
    """An unfragmented message, or a control frame."""
    return Item(Frame(opcode, payload))


def binary(payload: bytes) -> Item:
    return message(Opcode.BINARY, payload)


def fragmented(opcode: Opcode, pieces: Sequence[bytes], between: Sequence[Frame] = ()) -> Item:
    """A message in several frames; `between` stands in front of its last one."""
    frames = [
        Frame(opcode if i == 0 else Opcode.CONT, piece, fin=i == len(pieces) - 1)
        for i, piece in enumerate(pieces)
    ]
    return Item(*frames[:-1], *between, frames[-1])


# What Hypothesis draws.


def examples(count: int) -> settings:
    """So many examples, however slow the machine is: nothing is timed here."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Speech, silence or noise of a size where something changes, or of any small one."""
    size = draw(st.sampled_from(_EDGES) | st.integers(1000, 6000))
    kind = draw(st.sampled_from(("speech", "silence", "speech", "noise")))
    if kind == "silence":
        return bytes(size)
    where = draw(st.integers(0, len(PCM) - size))
    return PCM[where : where + size] if kind == "speech" else random.Random(where).randbytes(size)


texts = (
    st.text(max_size=200).map(str.encode)
    | st.integers(0, 70_000).map(lambda size: b"x" * size)
    | st.integers(0, 50).map(lambda size: b" " * size + MARKER + b" " * size)
)
controls = st.builds(Frame, st.sampled_from((Opcode.PING, Opcode.PONG)), st.binary(max_size=125))
closes = st.just(b"") | st.text(max_size=30).map(lambda reason: b"\x03\xe8" + reason.encode())


@st.composite
def messages(draw: st.DrawFn, opcode: Opcode) -> Item:
    """A text or binary message, of one frame or several."""
    payload = draw(payloads() if opcode is Opcode.BINARY else texts)
    cuts = draw(st.just([]) | st.lists(st.integers(0, len(payload)), max_size=4).map(sorted))
    edges = [0, *cuts, len(payload)]
    frames: list[Frame] = []
    for start, stop in pairwise(edges):
        if frames:
            frames += draw(st.lists(controls, max_size=2))
        frames.append(Frame(Opcode.CONT if frames else opcode, payload[start:stop], fin=False))
    frames[-1].fin = True
    return Item(*frames)


items = st.sampled_from((*[Opcode.BINARY] * 5, Opcode.TEXT, Opcode.PING)).flatmap(
    lambda opcode: controls.map(Item) if opcode is Opcode.PING else messages(opcode)
)
streams = st.tuples(
    st.lists(items, min_size=2, max_size=8),
    st.none() | closes.map(lambda payload: message(Opcode.CLOSE, payload)),
).map(lambda drawn: [*drawn[0], *(drawn[1:] if drawn[1] is not None else ())])
"""A backend's whole life: messages and control frames, and perhaps a close frame at the end."""

read_sizes = st.lists(
    st.sampled_from((1, 2, 3, 7, 126, 4096, 65536, 10**6)), min_size=1, max_size=5
)
"""How a stream is cut into reads; the sizes are used over and over."""

lags = st.lists(st.integers(0, 3), min_size=1, max_size=4)
"""How many reads come while a job is out."""

policies = st.builds(
    Flags,
    enabled=st.sampled_from((True, True, True, False)),
    min_size=st.sampled_from((1024, 126, 0, 4096)),
    min_gain=st.sampled_from((0.03, 0.0, 0.1, 0.9)),
    level=st.integers(0, 3),
)


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """`data` in reads of these sizes, over and over."""
    at = 0
    for size in cycle(sizes):
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size


# The filter, played.


class Player:
    """Plays a stream through an AudioFilter as a leg does, and keeps what comes out."""

    def __init__(
        self, flags: Flags | None = None, accepted: Sequence[str] = ("gzip",), live: Any = None
    ) -> None:
        """`live`: in place of `flags`, another holder of a record."""
        self.flags = live or LiveFlags(flags or Flags())
        self.counters = Counters()
        settings = AudioSettings(max_audio_bytes=MAX)
        self.filter = AudioFilter(accepted, self.flags, self.counters, settings)
        self.fed = 0
        self.repeated = 0
        """Messages that were dealt with like the one before."""
        self.tried: list[tuple[str, ...]] = []
        """By which algorithms each chunk so far was encoded, of those that were."""
        # Joined late, as a transport does: a buffer that changes behind our back is seen.
        self._buffers: list[Buffer] = []
        self._job: Job | None = None
        self._lag = 0

    @property
    def out(self) -> bytes:
        return b"".join(self._buffers)

    @property
    def held(self) -> int:
        """Bytes that came and have not left."""
        return self.fed - self.counters.wire_original_bytes

    def feed(self, data: bytes, lag: int = 0) -> None:
        """Take a read; a job that it brings is done `lag` reads later."""
        self.fed += len(data)
        whole = self.filter.feed_whole(data) if self._job is None else None
        if whole is not None:
            self._buffers += whole
            self.repeated += 1
            return
        buffers, job = self.filter.feed(data)
        if self._job is None:
            self._take(buffers, job, lag)
        else:
            assert (buffers, job) == ([], None)
            self._lag -= 1
        while self._job is not None and self._lag <= 0:
            self._complete(lag)
        if self._job is None:
            # A whole message with the longest header, and a header that is not complete yet.
            assert self.held <= MAX + 10 + 9

    def pause(self) -> None:
        """Time passes without audio."""
        if self._job is None:
            self._take(*self.filter.pause(), 0)
        while self._job is not None:
            self._complete(0)

    def eof(self) -> bytes:
        """End the stream. Returns all that came out."""
        while self._job is not None:
            self._complete(0)
        self._buffers += self.filter.feed_eof()
        assert self.held == 0
        assert self.counters.wire_bytes == len(self.out)
        return self.out

    def _complete(self, lag: int) -> None:
        assert self._job is not None
        if isinstance(self._job, LosslessJob):
            self.tried.append(tuple(trial.name for trial in self._job.trials))
        elif isinstance(self._job, RunJob):
            self.tried += [(self._job.trial.name,)] * self._job.segment.count
        self._take(*self.filter.complete(self._job, self._job.run()), lag)

    def _take(self, buffers: list[Buffer], job: Job | None, lag: int) -> None:
        self._buffers += buffers
        self._job, self._lag = job, lag


def play(
    data: bytes,
    flags: Flags | None = None,
    sizes: Sequence[int] = (10**9,),
    lags: Sequence[int] = (0,),
) -> tuple[bytes, Counters]:
    """A whole stream through a filter: what comes out, and what was counted."""
    player = Player(flags)
    for read, lag in zip(cut(data, sizes), cycle(lags), strict=False):
        player.feed(read, lag)
    return player.eof(), player.counters


# The judge.


def read_frames(data: bytes) -> list[Frame]:
    """The frames that `websockets` reads; what is incomplete at the end is left out."""
    protocol = ClientProtocol(parse_uri("ws://test/"), state=State.OPEN, max_size=None)
    protocol.receive_data(data)
    assert protocol.parser_exc is None, protocol.parser_exc
    return [event for event in protocol.events_received() if isinstance(event, Frame)]


def events_of(frames: Iterable[Frame]) -> list[Event]:
    """Control frames, and messages where their last frame stands."""
    events: list[Event] = []
    opcode, payload = Opcode.CONT, b""
    for frame in frames:
        if is_control(frame):
            events.append((frame.opcode, bytes(frame.data)))
            continue
        if frame.opcode is not Opcode.CONT:
            opcode, payload = frame.opcode, b""
        payload += frame.data
        if frame.fin:
            events.append((opcode, payload))
    return events


def data_frames(frames: Iterable[Frame]) -> list[tuple[Opcode, bool, bytes]]:
    """The frames of messages."""
    return [(f.opcode, f.fin, bytes(f.data)) for f in frames if not is_control(f)]


def pair_of(payload: bytes, flags: Flags) -> tuple[Frame, Frame]:
    """The pair that stands for a chunk, paying or not."""
    encoded = GZIP.encode(payload, flags.level)
    assert gzip.decompress(encoded) == payload
    record = {
        "type": "audio_chunk_compressed",
        "algorithm": "gzip",
        "original_size": len(payload),
        "compressed_size": len(encoded),
    }
    text = json.dumps(record, separators=(",", ":")).encode()
    return Frame(Opcode.TEXT, text), Frame(Opcode.BINARY, encoded)


def pays(item: Item, flags: Flags) -> bool:
    """Whether the contract asks for a pair in place of this binary message."""
    if not is_tried(item, flags):
        return False
    original, sent = len(item.data_wire), len(wire_of(pair_of(item.payload, flags)))
    return sent < original and original - sent >= flags.min_gain * original


def is_tried(item: Item, flags: Flags) -> bool:
    """Whether gzip is tried on this binary message, unless it rests."""
    size, original = len(item.payload), len(item.data_wire)
    fits = (size if len(item.frames) == 1 else original) <= MAX
    return flags.enabled and size >= flags.min_size and fits


@dataclass
class Outcome:
    """What the client is to read."""

    frames: list[Frame] = field(default_factory=list)
    """Control frames and fragments stand as they were sent; see `assert_same`."""
    paired: list[Item] = field(default_factory=list)
    """The messages that pairs stand for."""
    misses: int = 0
    """Chunks without gain, in a row."""
    rested: bool = False
    """Whether gzip may have rested: then chunks may pass that a pair would pay for."""


def outcome(sent: Iterable[tuple[Item, Flags]], out: bytes) -> Outcome:
    """What is to come of messages, each sent under its flags, by gzip alone.

    `out` is what came. It is believed in one thing: once three chunks in a row have gained nothing,
    whether gzip is at work again. How long it rests is for other tests to count.
    """
    came = [frame for frame in read_frames(out) if not is_control(frame)]
    at = 0
    expected = Outcome()
    marked = closed = False
    for item, flags in sent:
        is_pair = False
        if item.opcode is Opcode.BINARY and not marked and not closed and is_tried(item, flags):
            is_pair = pays(item, flags)
            may_rest = expected.misses >= 3
            expected.rested = expected.rested or may_rest
            if is_pair and may_rest:
                is_pair = came[at : at + 1] == [pair_of(item.payload, flags)[0]]
            expected.misses = 0 if is_pair else expected.misses + 1
        if is_pair:
            expected.frames += [frame for frame in item.frames if is_control(frame)]
            frames: Sequence[Frame] = pair_of(item.payload, flags)
            expected.paired.append(item)
        else:
            frames = item.frames
        expected.frames += frames
        at += sum(not is_control(frame) for frame in frames)
        if item.opcode is Opcode.TEXT:
            marked = marked or MARKER in item.payload
        elif item.opcode is Opcode.BINARY:
            marked = False
        closed = closed or item.opcode is Opcode.CLOSE
    return expected


def same(one: bytes, other: bytes) -> bool:
    """Whether two streams are alike, for an `assert` that shows neither."""
    return one == other


def assert_same(out: bytes, expected: list[Frame]) -> None:
    """Every message is made of the expected frames, and everything is in the expected order.

    Only a control frame that came between fragments may have overtaken fragments of its message.
    """
    frames = read_frames(out)
    assert wire_of(frames) == out
    assert data_frames(frames) == data_frames(expected)
    assert events_of(frames) == events_of(expected)
