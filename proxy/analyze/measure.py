"""A recording played through the proxy's filter, chunk by chunk, once for each algorithm."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import thread_time_ns

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from proxy.analyze.options import Options
from proxy.audio.algorithms import INSTALLED
from proxy.audio.counters import Counters
from proxy.audio.formats import Format
from proxy.audio.settings import AudioSettings
from proxy.audio.stream import Chunk, Stream
from proxy.control.flags import Flags, LiveFlags
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.frames import BINARY, build_header

FLAGS = Flags()
"""What an operator has who changed none."""


@dataclass(slots=True)
class Played:
    """What became of a recording whose client accepts certain algorithms."""

    counters: Counters = field(default_factory=Counters)
    jobs: int = 0
    """Chunks that a codec was tried on, and ends of segments."""
    cpu: Counter[int] = field(default_factory=Counter)
    """How many chunks took so many microseconds of encoding: as many numbers as there are
    different times, however long the recording is."""
    warnings: list[str] = field(default_factory=list)

    @property
    def saved(self) -> float:
        """Share of the bytes on the wire."""
        return saved(self.counters.wire_original_bytes, self.counters.wire_bytes)

    def cpu_at(self, share: float) -> int:
        """The microseconds that at least this share of the chunks took no more of."""
        rank = math.ceil(share * self.cpu.total())
        for time in sorted(self.cpu):
            rank -= self.cpu[time]
            if rank <= 0:
                return time
        raise ValueError("nothing was played")


@dataclass(frozen=True, slots=True)
class Survey:
    """What a recording is, and what another remedy makes of it."""

    chunks: int
    size: int
    """Bytes."""
    sample: Chunk
    """The first chunk of which is known what it is, else the last one; without its data."""
    wire_original_bytes: int
    deflated_bytes: int
    """On the wire with permessage-deflate."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One recording in chunks of one size."""

    path: Path
    chunk_size: int
    survey: Survey
    alone: dict[str, Played]
    """By algorithm: what a client gets who accepts no other."""
    accepted: Played
    """What a client gets who accepts what the options say."""

    @property
    def deflate_saved(self) -> float:
        """Share that permessage-deflate saves of the bytes on the wire."""
        return saved(self.survey.wire_original_bytes, self.survey.deflated_bytes)

    @property
    def pick(self) -> str | None:
        """The algorithm that most of the audio got; None: all in all it did not pay."""
        if self.accepted.saved < FLAGS.min_gain:
            return None
        by_algorithm = self.accepted.counters.by_algorithm
        return max(by_algorithm, key=lambda name: by_algorithm[name].original_bytes)

    def share(self, name: str) -> float:
        """How much of the audio an accepted algorithm got."""
        return self.accepted.counters.algorithm(name).original_bytes / self.survey.size


def saved(original: int, size: int) -> float:
    """Share that `size` is less than `original`."""
    return 1 - size / original


def measure(path: Path, options: Options, on_read: Callable[[int], None]) -> list[Measurement]:
    """Play a file in chunks of each size; none, where it is empty. Raises OSError.

    `on_read` is called with the number of bytes that were read, of all readings together.
    """
    settings = options.settings(path)
    measurements = []
    for chunk_size in options.chunk_sizes:

        def chunks(size: int = chunk_size) -> Iterator[bytes]:
            with path.open("rb") as file:
                while chunk := file.read(size):
                    yield chunk
                    on_read(len(chunk))

        found = survey(chunks(), settings)
        if found is None:
            return []
        alone = {name: play(chunks(), (name,), settings) for name in INSTALLED}
        accepted = play(chunks(), options.accept, settings)
        for played in (*alone.values(), accepted):
            if played.counters.wire_original_bytes != found.wire_original_bytes:
                raise OSError("changed while it was read")
        measurements.append(Measurement(path, chunk_size, found, alone, accepted))
    return measurements


def survey(chunks: Iterator[bytes], settings: AudioSettings) -> Survey | None:
    """Tell what chunks are, and what permessage-deflate saves of them; None: there are none.

    It is `websockets`' own, with what it negotiates by default: 12-bit windows, carried from
    message to message.
    """
    deflate = PerMessageDeflate(False, False, 12, 12, {"memLevel": 5})
    stream = Stream(settings.pcm_layout)
    sample: Chunk | None = None
    count = size = original = deflated = 0
    for data in chunks:
        if sample is None or sample.format is Format.UNKNOWN:
            sample = replace(stream.recognise(data), data=b"")
        count += 1
        size += len(data)
        frame = Frame(Opcode.BINARY, data)
        original += len(frame.serialize(mask=False))
        deflated += len(frame.serialize(mask=False, extensions=[deflate]))
    return None if sample is None else Survey(count, size, sample, original, deflated)


def play(chunks: Iterator[bytes], accepted: Sequence[str], settings: AudioSettings) -> Played:
    """Send chunks, each one message, to a client that accepts these algorithms."""
    played = Played()
    audio_filter = AudioFilter(accepted, LiveFlags(FLAGS), played.counters, settings)
    for chunk in chunks:
        spent = 0
        _, job = audio_filter.feed(build_header(BINARY, len(chunk)) + chunk)
        while job is not None:
            start = thread_time_ns()
            result = job.run()
            spent += thread_time_ns() - start
            played.jobs += 1
            _, job = audio_filter.complete(job, result)
        played.cpu[round(spent / 1000)] += 1
    audio_filter.feed_eof()
    played.warnings = audio_filter.warnings
    return played
