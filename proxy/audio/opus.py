"""Opus (RFC 6716): a connection's speech, segment by segment, in packets of 20 ms.

A segment has an encoder of its own, which is flushed at the segment's end: nothing is cut off, and
what was added is told, so that the decoded speech is as long as what came in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from proxy.audio import libopus
from proxy.audio.codec import Encoded
from proxy.audio.decoder import Decoder, byte_rate, open_decoder, starts
from proxy.audio.formats import Format
from proxy.audio.libopus import Encoder
from proxy.audio.pyav import Converter
from proxy.audio.settings import AudioSettings
from proxy.audio.stream import Chunk
from proxy.errors import CodecError, DiscontinuityError

NAME = "opus"
INSTALLED = libopus.INSTALLED

RATE = 48_000
"""Hz. Opus decodes to this rate whatever went in (RFC 7845 section 5.1), and all counts of samples
are told in it."""

_ENCODER_RATES = (8000, 12_000, 16_000, 24_000, RATE)
_PACKETS_PER_SECOND = 50

# 10 is what FFmpeg takes. Mean log-mel distance from the original, in dB, of three recordings: by
# FFmpeg's own conversion 1.74 to 1.76, here 1.68 to 1.72 by 10, 1.73 to 1.77 by 6, 1.78 to 1.82 by
# 5. CPU a second of audio, at least: 14.7 to 15.4 ms by 10, 11.1 to 11.6 by 6.
_COMPLEXITY = 6

_PREROLL = 1
"""Frames of samples, of about 20 ms, that a segment has from the one before. Where the backend
pauses after every 93 ms, PESQ (wide band, 1 to 4.6) is 3.4 with one, 3.0 with none."""

_PAIR_SIZE = 200
"""Bytes of a pair without its packets, about: metadata and two frame headers."""
_SIZES_RATE = 4 * _PACKETS_PER_SECOND
"""Bytes a second for the packets' sizes in the metadata."""


class Spoken(NamedTuple):
    """What became of a chunk, or of a segment's end."""

    pair: Encoded | None
    """Its packets, where it completed any."""
    original_size: int
    """Bytes of audio that the pair stands for."""
    rest: bytes
    """What was taken earlier and cannot become speech any more: to be sent as it came, behind the
    pair."""
    refused: bool
    """The chunk was not taken: it is to be sent as it came, behind `rest`."""
    error: str | None = None
    """Why, where the codec failed."""


class _Segment:
    """One encoder, from its first sample to its last packet. Its verbs raise CodecError."""

    def __init__(self, frame: Any, bit_rate: int, preroll: int, remainder: int) -> None:
        """For frames of samples like `frame`.

        `preroll`: samples at the start of what comes that are to be dropped. `remainder`: what the
        segment before left of a sample at `RATE`, in parts of the source's rate.
        """
        self._source_rate = source = frame.sample_rate
        rate = next((rate for rate in _ENCODER_RATES if rate >= source), RATE)
        layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
        self._channels = 1 if layout == "mono" else 2
        with _as_codec_error():
            self._converter = Converter(frame, "s16", layout, rate)
            self._encoder = Encoder(
                rate, self._channels, bit_rate, _COMPLEXITY, _PACKETS_PER_SECOND
            )
        self._samples = b""  # at the encoder's rate, and no whole packet yet
        self._pre_skip: int = self._encoder.lookahead * RATE // rate + preroll * RATE // source
        self._taken: int = -preroll  # samples of speech, at the source's rate
        self._remainder = remainder
        self._told = 0  # samples at RATE that were told of in `samples`
        self._decoded: int = 0  # samples at RATE that the packets so far decode to
        self._is_first = True

    def encode(self, frames: list[Any]) -> Encoded | None:
        """The packets that these frames of samples complete."""
        with _as_codec_error():
            packets = []
            for frame in frames:
                self._taken += frame.samples
                packets += self._encode(self._converter.convert(frame))
        return self._pair(packets, self._decoded_by(packets)) if packets else None

    def flush(self) -> tuple[Encoded, int]:
        """The last packets, and the remainder. Nothing can be encoded after it."""
        with _as_codec_error():
            packets = self._encode(self._converter.convert(None), is_last=True)
        # What was taken, exactly: rounded for each segment by itself, it would grow from pause to
        # pause. Behind it stands silence, to fill the last packet.
        taken, remainder = divmod(self._taken * RATE + self._remainder, self._source_rate)
        speech = min(taken, self._decoded_by(packets))
        remainder += (taken - speech) * self._source_rate  # the next segment has room for it
        return self._pair(packets, speech), remainder

    def _encode(self, frames: list[Any], *, is_last: bool = False) -> list[bytes]:
        size, sample_size = self._encoder.frame_size, 2 * self._channels
        pieces = [bytes(frame.planes[0])[: frame.samples * sample_size] for frame in frames]
        samples = b"".join([self._samples, *pieces])
        if is_last:  # behind it silence, until the encoder has given all of it back
            missing = -(len(samples) + self._encoder.lookahead * sample_size) % size
            samples += bytes(self._encoder.lookahead * sample_size + missing)
        whole = len(samples) - len(samples) % size
        self._samples = samples[whole:]
        return self._encoder.encode(samples[:whole])

    def _decoded_by(self, packets: list[bytes]) -> int:
        """Samples that all packets, up to these, decode to, without those that are dropped."""
        self._decoded += len(packets) * (RATE // _PACKETS_PER_SECOND)
        return self._decoded - self._pre_skip

    def _pair(self, packets: list[bytes], speech: int) -> Encoded:
        """Packets as they are sent; with them, `speech` samples have been sent in all."""
        samples = max(0, speech - self._told)
        self._told += samples
        extra: dict[str, object] = {
            "sample_rate": RATE,
            "channels": self._channels,
            "packet_sizes": [len(packet) for packet in packets],
            "samples": samples,
        }
        if self._is_first:
            extra["pre_skip"] = self._pre_skip
            self._is_first = False
        return Encoded(b"".join(packets), extra)


@contextmanager
def _as_codec_error() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise CodecError(f"opus: {error}") from error


class Speech:
    """The speech of one connection. Its verbs take long: they are for a thread, one at a time."""

    __slots__ = ("_decoder", "_recent", "_remainder", "_segment", "_settings", "_taken")

    def __init__(self, settings: AudioSettings) -> None:
        self._settings = settings
        self._decoder: Decoder | None = None
        self._segment: _Segment | None = None
        self._taken = 0  # bytes of audio that no pair stands for yet
        self._remainder = 0  # of a sample, see _Segment
        self._recent: deque[Any] = deque(maxlen=_PREROLL)  # the last frames of samples

    @property
    def is_open(self) -> bool:
        """Whether a segment is: its end must be sent."""
        return self._segment is not None

    @property
    def holds(self) -> bool:
        """Whether anything is held that must be sent before what does not go through here."""
        return self._segment is not None or len(self.carry) > 0

    @property
    def carry(self) -> bytes:
        """What was taken and is no whole frame yet."""
        return self._decoder.carry if self._decoder is not None else b""

    def continues(self, chunk: Chunk) -> bool:
        """Whether a chunk may be more of what was taken so far."""
        return self._decoder is not None and self._decoder.continues(chunk)

    def starts(self, chunk: Chunk) -> bool:
        """Whether speech that can be encoded begins with this chunk."""
        return starts(chunk) and (chunk.format is not Format.PCM or self._settings.opus_raw)

    def expected_size(self, chunk: Chunk) -> float:
        """Bytes on the wire of what a chunk becomes, about, where a pause follows it."""
        rate = self._decoder.byte_rate if self._decoder is not None else byte_rate(chunk)
        if not rate:
            return 0.0
        seconds = len(chunk.data) / rate
        return 2 * _PAIR_SIZE + seconds * (self._settings.opus_bitrate / 8 + _SIZES_RATE)

    def forget(self) -> None:
        """What comes next does not go on where the last chunk ended; nothing is held."""
        self._decoder = None
        self._recent.clear()
        self._remainder = 0

    def abandon(self) -> None:
        """What was said cannot be sent to its end."""
        self._segment, self._taken = None, 0
        self.forget()

    def feed(self, chunk: Chunk) -> Spoken:
        """Take a chunk that continues or starts what is decoded."""
        try:
            if self._decoder is None:
                self._decoder = open_decoder(chunk)
            carry = self._decoder.carry
            frames = self._decoder.decode(chunk)
        except DiscontinuityError:
            return self.finish()._replace(refused=True)
        except CodecError as error:
            return self.finish()._replace(refused=True, error=str(error))
        self._taken += len(carry) + len(chunk.data) - len(self._decoder.carry)
        try:
            pair = self._encode(frames)
        except CodecError as error:
            self.abandon()
            return Spoken(None, 0, carry, refused=True, error=str(error))
        return self._spoken(pair)

    def pause(self) -> Spoken:
        """End the segment; the next chunk may go on where this one ended."""
        segment, self._segment = self._segment, None
        if segment is None:
            return Spoken(None, 0, b"", refused=False)
        try:
            pair, self._remainder = segment.flush()
        except CodecError as error:
            return Spoken(None, 0, b"", refused=False, error=str(error))
        return self._spoken(pair)

    def finish(self) -> Spoken:
        """End the segment, and give back what is no whole frame: nothing will follow it."""
        spoken = self.pause()._replace(rest=self.carry)
        self.forget()
        return spoken

    def _encode(self, frames: list[Any]) -> Encoded | None:
        if self._segment is None:
            if not frames:
                return None
            # Samples that were sent before bring encoder and decoder to where they had been.
            preroll = sum(frame.samples for frame in self._recent)
            frames = [*self._recent, *frames]
            self._segment = _Segment(
                frames[0], self._settings.opus_bitrate, preroll, self._remainder
            )
        self._recent.extend(frames)
        return self._segment.encode(frames)

    def _spoken(self, pair: Encoded | None) -> Spoken:
        if pair is None:
            return Spoken(None, 0, b"", refused=False)
        taken, self._taken = self._taken, 0
        return Spoken(pair, taken, b"", refused=False)
