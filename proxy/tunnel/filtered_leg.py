"""The backend's leg of an opted-in tunnel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

import structlog

from proxy.audio.counters import Tally
from proxy.tunnel.base_leg import OPEN, READ, State, now, speedups
from proxy.tunnel.encoder import Encoder, Result
from proxy.tunnel.leg import BackendLeg
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.jobs import Job
from proxy.websocket.segments import Buffer

log = structlog.get_logger(__name__)

ENCODING = 2
"""Why a leg's reading is paused, beside `PEER_FULL`."""


class FilteredLeg(BackendLeg):
    """The backend's leg of an opted-in tunnel: what it receives goes through the filter."""

    __slots__ = (
        "_encoder",
        "_filter",
        "_flush_after",
        "_heard",
        "_job",
        "_loop",
        "_over",
        "_read_at",
        "_timer",
        "_waits_since",
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
        # By `perf_counter`, in seconds; 0: never.
        self._read_at = 0.0
        self._waits_since: float | None = 0.0  # for our first audio; None: it has been sent
        if speedups is not None:
            self.repeater = speedups.Repeater(audio_filter, encoder)

    @property
    def tally(self) -> Tally:
        """What was sent on this connection by now."""
        self._filter.account()
        return self._filter.tally

    def filter(self, nbytes: int) -> None:
        """Bytes came: what the filter makes of them goes to the client."""
        peer = self.peer
        if peer.state is not OPEN:
            return
        data = bytes(READ[:nbytes])
        start = perf_counter()
        encoder = self._encoder
        if encoder.has_time:
            buffers = self._filter.feed_whole(data)
            if buffers is not None:
                encoder.spend(perf_counter() - start, 1)
                peer.writelines(buffers)
                self._filter.tally.total.gap_seconds.add(start - self.sent_at)
                self.sent_at = start
                return
        self._read_at = start
        self._feed(data)

    def receive(self, data: Buffer) -> None:
        """See `filter`."""
        self.heard = now()
        if self.peer.state is OPEN:
            self._read_at = perf_counter()
            self._feed(bytes(data))

    def leave(self) -> None:
        """See `Leg`."""
        super().leave()
        self._filter.leave()

    def _feed(self, data: bytes) -> None:
        self._deliver(*self._filter.feed(data))
        if self._timer is not None and self._filter.is_holding:
            self._heard = self._loop.time()

    @property
    def close_code(self) -> int | None:
        """See `BackendLeg`."""
        return self._filter.close_code

    def close_client(self, *, at_once: bool) -> bool:
        """See `BackendLeg`; what was said so far is sent to its end first."""
        if self.peer.state is not State.OPEN or self._filter.is_over:
            return True
        if self._filter.is_speaking and self._job is None:
            self._deliver(*self._filter.pause())
        if self._job is not None or self._filter.is_speaking:
            return False
        if not self._filter.is_between_frames or (self._filter.is_holding and not at_once):
            return False
        self.peer.say_goodbye()
        return True

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
            self._note_sent()
        if self._waits_since is not None:
            self._note_first_audio()
        if job is not None:
            self._job = job
            self.pause(ENCODING)
            self._encoder.submit(job, self._encoded)
            return
        if self._filter.is_speaking and self._timer is None:
            self._timer = self._loop.call_later(self._flush_after, self._notice_pause)
        while self._filter.warnings:
            log.warning(self._filter.warnings.pop())

    def _note_sent(self) -> None:
        """The client was sent something: how long after what came before it."""
        total, at = self._filter.tally.total, perf_counter()
        if self.sent_at:
            total.gap_seconds.add(at - self.sent_at)
        self.sent_at = at

    def _note_first_audio(self) -> None:
        """How long the first audio took on its way through here, once it has left."""
        began = self._waits_since
        if not began and self._filter.has_audio:
            began = self._waits_since = self._read_at
        if began and self._filter.tally.chunks and self.sent_at >= began:
            self._filter.tally.total.first_audio_seconds.add(self.sent_at - began)
            self._waits_since = None

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
