"""Speech played through an AudioFilter, read back by FFmpeg's libraries, compared by ear.

Frames are read by `websockets` and packets decoded by PyAV, so that our own code is not its own
judge.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import wave
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from pesq import pesq  # type: ignore[import-untyped]
from websockets.frames import Opcode

from proxy.audio.counters import Counters
from proxy.audio.pcm import parse_layout
from proxy.audio.settings import AudioSettings
from proxy.control.flags import Flags, LiveFlags
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.jobs import Job
from proxy.websocket.segments import Buffer
from tests.support import pcm, speech
from tests.support.ffmpeg import FFMPEG
from tests.websocket.strategies import binary, events_of, message, read_frames, wire_of

Samples = NDArray[np.int16]

RATE = 48_000
"""Hz, of everything that is decoded here."""
PCM_RATE = 22_050
PCM = pcm()
RAW = AudioSettings(pcm_layout=parse_layout("s16le/22050/1"), opus_raw=True)
"""Of an operator who named the layout of `PCM` and lets it become Opus."""

SOURCES = {
    "pcm": PCM,
    "wav": speech("speech-22050-s16.wav"),
    "mp3-48k": speech("speech-24000-48k.mp3"),
    "mp3-128k": speech("speech-44100-128k.mp3"),
    "aac": speech("speech-48k.aac"),
}
"""Twelve seconds each."""

_MOST_JOBS = 4
"""For one message: to end what was said, to take it, to see that it does not go on, to encode it
without loss."""


# Playing.


def settings_for(source: str) -> AudioSettings:
    """Those by which a source becomes Opus."""
    return RAW if source == "pcm" else AudioSettings()


def cut(audio: bytes, size: int) -> list[bytes]:
    return [audio[at : at + size] for at in range(0, len(audio), size)]


def wav(samples: bytes, rate: int = PCM_RATE, channels: int = 1, width: int = 2) -> bytes:
    """A whole WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, width, rate, 0, "NONE", ""))
        writer.writeframes(samples)
    return file.getvalue()


def streamed_wav(samples: bytes, rate: int = PCM_RATE) -> bytes:
    """That of a writer who does not know the size yet."""
    whole = bytearray(wav(samples, rate))
    struct.pack_into("<I", whole, 40, 0xFFFFFFFF)
    return bytes(whole)


class Talk:
    """Plays messages through a filter, as a leg does, and keeps what comes out."""

    def __init__(
        self,
        settings: AudioSettings | None = None,
        accepted: Sequence[str] = ("opus",),
        flags: Flags | None = None,
    ) -> None:
        self.flags = LiveFlags(flags or Flags())
        self.counters = Counters()
        self.filter = AudioFilter(accepted, self.flags, self.counters, settings or AudioSettings())
        self.sent = bytearray()
        self._buffers: list[Buffer] = []

    @property
    def out(self) -> bytes:
        return b"".join(self._buffers)

    def feed(self, wire: bytes) -> None:
        self.sent += wire
        self._finish(*self.filter.feed(wire))

    def say(self, payload: bytes) -> None:
        """A binary message."""
        self.feed(binary(payload).wire)

    def tell(self, text: str) -> None:
        self.feed(message(Opcode.TEXT, text.encode()).wire)

    def pause(self) -> None:
        """Time passes without audio."""
        self._finish(*self.filter.pause())

    def set(self, **changes: Any) -> None:
        """The operator changes flags."""
        self.flags.current = self.flags.current.updated(changes)

    def eof(self) -> list[Heard]:
        """End the stream. Returns all that is heard; what was counted must be what came."""
        self._buffers += self.filter.feed_eof()
        assert not self.filter.is_speaking
        assert self.counters.wire_bytes == len(self.out)
        assert self.counters.wire_original_bytes == len(self.sent)
        return hear(self.out)

    def _finish(self, buffers: list[Buffer], job: Job | None) -> None:
        self._buffers += buffers
        waiting: Any = None
        jobs = 0
        while job is not None:
            message = getattr(job, "message", None)  # of a run of several there is none
            jobs = jobs + 1 if message is waiting else 1
            waiting = message
            assert jobs <= _MOST_JOBS, "a message is worked on for ever"
            more, job = self.filter.complete(job, job.run())
            self._buffers += more


def play(
    chunks: Iterable[bytes],
    settings: AudioSettings | None = None,
    *,
    text: bool = False,
    pause: bool = False,
) -> Talk:
    """Each chunk as a message; on demand, a text before it and a pause behind it."""
    talk = Talk(settings)
    for n, chunk in enumerate(chunks):
        if text:
            talk.tell(f"word {n}")
        talk.say(chunk)
        if pause:
            talk.pause()
    return talk


# Hearing.


class Heard(NamedTuple):
    """A message or a control frame; a pair stands as the binary message that it replaces."""

    opcode: Opcode
    payload: bytes
    """Of a pair: its packets, or what else is encoded."""
    info: dict[str, Any] | None = None
    """The metadata of a pair."""
    samples: Samples | None = None
    """The speech of an Opus pair: a row for each instant."""

    @property
    def is_opus(self) -> bool:
        return self.samples is not None


def hear(out: bytes) -> list[Heard]:
    """All that a client reads, Opus decoded. What is no pair of ours is left as it is."""
    frames = read_frames(out)
    whole = wire_of(frames) == out
    assert whole, "a frame is cut short"
    heard: list[Heard] = []
    reader = PairReader()
    info: dict[str, Any] | None = None
    for opcode, payload in events_of(frames):
        if info is not None:
            assert opcode is Opcode.BINARY, "something stands within a pair"
            assert info["compressed_size"] == len(payload)
            samples = reader.read(info, payload) if info["algorithm"] == "opus" else None
            heard.append(Heard(opcode, payload, info, samples))
            info = None
        elif opcode is Opcode.TEXT and payload.startswith(b'{"type":"audio_chunk_compressed"'):
            info = json.loads(payload)
            if info is not None and info["algorithm"] == "own":
                heard.append(Heard(opcode, payload))
                info = None
        else:
            heard.append(Heard(opcode, payload))
    assert info is None
    return heard


class PairReader:
    """Decodes Opus as the contract says, and believes nothing."""

    def __init__(self) -> None:
        self._decoder: Any = None
        self._skip = 0
        self._is_over = True

    def read(self, info: dict[str, Any], data: bytes) -> Samples:
        assert info["sample_rate"] == RATE
        assert sum(info["packet_sizes"]) == len(data)
        channels = info["channels"]
        if "pre_skip" in info:
            self._decoder = av.CodecContext.create("libopus", "r")
            self._decoder.sample_rate = RATE
            self._decoder.layout = "mono" if channels == 1 else "stereo"
            self._skip, self._is_over = info["pre_skip"], False
        assert not self._is_over, "a segment goes on behind its padding"
        pieces, at = [], 0
        for size in info["packet_sizes"]:
            frames = self._decoder.decode(av.Packet(data[at : at + size]))
            pieces += [frame.to_ndarray().reshape(-1, channels) for frame in frames]
            at += size
        decoded = np.concatenate(pieces)
        skipped = min(self._skip, len(decoded))
        self._skip -= skipped
        decoded = decoded[skipped:]
        assert 0 <= info["samples"] <= len(decoded), "more is promised than there is"
        self._is_over = info["samples"] < len(decoded)
        return decoded[: info["samples"]]


def opus_of(heard: Iterable[Heard]) -> Samples:
    """All that was said by Opus, of mono speech."""
    pieces = [item.samples for item in heard if item.samples is not None]
    return np.concatenate([np.zeros((0, 1), np.int16), *pieces])[:, 0]


def plain_of(heard: Iterable[Heard]) -> list[bytes]:
    """The binary messages that passed."""
    return [item.payload for item in heard if item.opcode is Opcode.BINARY and item.info is None]


def texts_of(heard: Iterable[Heard]) -> list[str]:
    return [item.payload.decode() for item in heard if item.opcode is Opcode.TEXT]


def segments_of(heard: Iterable[Heard]) -> int:
    return sum(item.is_opus and "pre_skip" in (item.info or {}) for item in heard)


def seconds(samples: Samples) -> float:
    return len(samples) / RATE


# Comparing.


def ffmpeg(data: bytes, *arguments: str) -> bytes:
    """Pipe audio through the ffmpeg program."""
    command = [FFMPEG, "-nostdin", "-v", "error", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout


def _raw(rate: int) -> tuple[str, ...]:
    return "-f", "s16le", "-ar", str(rate), "-ac", "1"


@lru_cache(maxsize=32)
def decoded(audio: bytes, rate: int = RATE, *, raw: int | None = None) -> Samples:
    """Mono, by the ffmpeg program. `raw`: the rate of s16le; else what it is, is in it."""
    source = _raw(raw) if raw else ()
    return np.frombuffer(ffmpeg(audio, *source, "-i", "-", *_raw(rate), "-"), np.int16)


@lru_cache(maxsize=8)
def converted(audio: bytes, bit_rate: int = 24_000) -> bytes:
    """Ogg Opus, by the ffmpeg program's own conversion."""
    return ffmpeg(audio, "-i", "-", "-c:a", "libopus", "-b:a", str(bit_rate), "-f", "ogg", "-")


_JUDGED = 16_000
"""Hz. Wide-band PESQ takes no other."""
_WINDOW, _HOP, _BANDS = 512, 160, 40


def _log_mel(samples: Samples) -> NDArray[np.float64]:
    """In dB: a row each 10 ms, a column for each of 40 bands from 50 to 8000 Hz."""
    windows = np.lib.stride_tricks.sliding_window_view(samples.astype(float), _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW))) ** 2
    low, high = 2595 * np.log10(1 + np.array([50, 8000]) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, _BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_WINDOW, 1 / _JUDGED)
    left, mid, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.maximum(0, np.minimum((bins - left) / (mid - left), (right - bins) / (right - mid)))
    result: NDArray[np.float64] = 10 * np.log10(power @ bank.T + 1e3)
    return result


class Likeness(NamedTuple):
    """How near speech is to what it was made of."""

    distance: float
    """Mean difference of log-mel spectra, in dB."""
    pesq: float
    """Wide band, 1 to 4.6."""


def likeness(original: bytes, heard: Samples | bytes) -> Likeness:
    """Of speech at 48 kHz, or of a file, to the file that it was made of."""
    one = decoded(original, _JUDGED)
    if isinstance(heard, bytes):
        other = decoded(heard, _JUDGED)
    else:
        other = decoded(heard.tobytes(), _JUDGED, raw=RATE)
    size = min(len(one), len(other))
    one, other = one[:size], other[:size]
    distance = float(np.abs(_log_mel(one) - _log_mel(other)).mean())
    return Likeness(distance, float(pesq(_JUDGED, one, other, "wb")))
