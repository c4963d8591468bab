"""Audio as a backend streams it, made samples: cut into frames, the last bytes kept for later."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

from proxy.audio import mpeg
from proxy.audio.formats import Format
from proxy.audio.pcm import PcmLayout
from proxy.audio.pyav import av
from proxy.audio.stream import Chunk
from proxy.errors import CodecError, DiscontinuityError

_PCM_CODECS = {
    "u8": "pcm_u8",
    "s16le": "pcm_s16le",
    "s24le": "pcm_s24le",
    "s32le": "pcm_s32le",
    "f32le": "pcm_f32le",
    "mulaw": "pcm_mulaw",
    "alaw": "pcm_alaw",
}
_MOST_CHANNELS = 2
_RATES = range(1000, 384_001)
"""Hz."""
_PARSERS = {Format.MP3: mpeg.parse_mp3_header, Format.AAC: mpeg.parse_adts_header}
_LARGE_PIECES = 5
_SMALL_PIECES = 50
"""A second. Raw samples are cut coarsely, so that a large chunk is not thousands of objects to
collect, and the last of them as finely as codecs cut theirs."""
_ID3V1_SIZE = 128
_ID3_HEADER_SIZE = 10
_HEADER_SIZE = 7
"""Bytes in which a frame's header ends, of MP3 and of ADTS."""
_DECODER_DELAY = 529
"""Samples that every MP3 decoder is late by."""


class Decoder(Protocol):
    """Decodes one stream of audio, chunk by chunk."""

    carry: bytes
    """The end of the last chunk, which is no whole frame yet."""
    byte_rate: float
    """Bytes of the stream a second."""

    def continues(self, chunk: Chunk) -> bool:
        """Whether a chunk may be more of this stream: cheap, and sure only where it says no."""
        ...

    def decode(self, chunk: Chunk) -> list[Any]:
        """The frames of samples (`av.AudioFrame`) that a chunk completes.

        Raises DiscontinuityError where it is no continuation, CodecError where it cannot be
        decoded; then nothing of it counts, and `carry` is as before.
        """
        ...


def starts(chunk: Chunk) -> bool:
    """Whether a stream that can be decoded from its first byte begins with this chunk."""
    if chunk.layout is not None:
        return chunk.start < chunk.stop and _is_plain(chunk)
    if not chunk.announced or chunk.format not in (Format.MP3, Format.AAC):
        return False
    # A frame that needs bytes of earlier ones would come out mute.
    return chunk.format is Format.AAC or mpeg.main_data_begin(chunk.data) == 0


def _is_plain(chunk: Chunk) -> bool:
    """Whether a chunk of PCM is what we know to decode, and has nothing else behind its samples."""
    layout = chunk.layout
    return (
        layout is not None
        and not chunk.guessed
        and layout.channels <= _MOST_CHANNELS
        and layout.sample_rate in _RATES
        and chunk.end == len(chunk.data)
    )


def byte_rate(chunk: Chunk) -> float:
    """Bytes a second of the stream that `chunk` starts; 0 where that cannot be told."""
    if chunk.layout is not None:
        return chunk.layout.byte_rate
    parse = _PARSERS[chunk.format]
    at = mpeg.id3_size(chunk.data) or 0
    header = parse(chunk.data, at)
    if header is not None and mpeg.is_info_frame(chunk.data, at):
        header = parse(chunk.data, at + header.size) or header
    return header.size * header.sample_rate / header.samples if header is not None else 0.0


def open_decoder(chunk: Chunk) -> Decoder:
    """A decoder for the stream that `chunk` starts. Raises CodecError."""
    return PcmDecoder(chunk.layout) if chunk.layout is not None else MpegDecoder(chunk)


class PcmDecoder:
    """Raw samples, of a WAV or of a layout that the operator named."""

    def __init__(self, layout: PcmLayout) -> None:
        self._layout = layout
        self.byte_rate = float(layout.byte_rate)
        self.carry = b""
        self._codec = _open(_PCM_CODECS[layout.encoding])
        self._codec.sample_rate = layout.sample_rate
        self._codec.layout = "mono" if layout.channels == 1 else "stereo"

    def continues(self, chunk: Chunk) -> bool:
        """Samples of the same layout, named or announced, and nothing else."""
        return chunk.layout == self._layout and _is_plain(chunk)

    def decode(self, chunk: Chunk) -> list[Any]:
        """See `Decoder`."""
        size = self._layout.frame_size
        # A carried part of a sample goes on at the chunk's first byte. Without one, the part of a
        # sample that it may begin with went elsewhere.
        begin = 0 if self.carry and not chunk.announced else chunk.start
        carry = b"" if chunk.announced else self.carry
        carried = len(carry)
        view = memoryview(chunk.data)[begin : chunk.end]

        def piece(start: int, stop: int) -> bytes:
            return carry[start:stop] + view[max(0, start - carried) : max(0, stop - carried)]

        total = carried + len(view)
        whole = total - total % size
        rate = self._layout.sample_rate
        last = max(0, whole - size * max(1, rate // _SMALL_PIECES))
        cuts = [*range(0, last, size * max(1, rate // _LARGE_PIECES)), last, whole]
        frames = [
            frame
            for start, stop in pairwise(cuts)
            if start < stop
            for frame in _decode(self._codec, piece(start, stop))
        ]
        self.carry = piece(whole, total)
        return frames


class MpegDecoder:
    """MP3, and AAC in ADTS."""

    def __init__(self, first: Chunk) -> None:
        self._format = first.format
        self._parse = _PARSERS[first.format]
        self._codec = _open("mp3float" if first.format is Format.MP3 else "aac")
        self.byte_rate = byte_rate(first)
        self.carry = b""
        self._skip = 0  # bytes of a tag still to come
        self._drop = 0  # samples, per channel, that the encoder put before the first one
        self._header: mpeg.FrameHeader | None = None  # of the last frame

    def continues(self, chunk: Chunk) -> bool:
        """The same format, announced or in mid-stream."""
        return chunk.format is self._format and (chunk.announced or not chunk.start)

    def decode(self, chunk: Chunk) -> list[Any]:
        """See `Decoder`."""
        data = b"".join((self.carry, chunk.data))
        if len(data) <= self._skip:
            self._skip -= len(data)
            return []
        frames, end, header, drop = self._split(data)
        decoded = []
        for frame in frames:
            for samples in _decode(self._codec, frame):
                dropped = min(drop, samples.samples)
                drop -= dropped
                if dropped < samples.samples:
                    decoded.append(_without_first(samples, dropped))
        self._skip, self.carry = max(0, end - len(data)), data[end:]
        self._header, self._drop = header, drop
        return decoded

    def _split(self, data: bytes) -> tuple[list[bytes], int, mpeg.FrameHeader | None, int]:
        """The frames of `data`, where the last one ends, its header, the samples to drop.

        Raises DiscontinuityError where anything else than frames and tags stands in it, or where
        nothing in it tells that it is audio.
        """
        frames: list[bytes] = []
        at, header, drop = self._skip, self._header, self._drop
        is_known = at > 0
        while len(data) - at >= _HEADER_SIZE:
            found = self._parse(data, at)
            if found is None:
                head = data[at : at + _ID3_HEADER_SIZE]
                if head[:3] == b"ID3" and len(head) < _ID3_HEADER_SIZE:
                    break
                size = _tag_size(head)
                if size is None:
                    raise DiscontinuityError(f"{self._format}: no frame begins at byte {at}")
                at += size
                is_known = True
                continue
            if header is not None and not found.agrees_with(header):
                raise DiscontinuityError(f"{self._format}: a frame is unlike those before it")
            # A frame that was carried is known only by the one that follows, or by its own end.
            is_known = is_known or at > 0 or not self.carry
            if at + found.size > len(data):
                break
            frame = data[at : at + found.size]
            at += found.size
            is_known = True
            if self._format is Format.MP3 and mpeg.is_info_frame(frame):
                drop = _decoding_delay(frame)
            else:
                header = found
                frames.append(frame)
        if not is_known or data[at : at + 1] not in (b"", b"\xff", b"T", b"I"):
            raise DiscontinuityError(f"{self._format}: nothing tells that this goes on")
        return frames, at, header, drop


def _without_first(frame: Any, count: int) -> Any:
    """A frame of samples without the first `count` of each channel."""
    if not count:
        return frame
    left = frame.samples - count
    rest = av.AudioFrame(frame.format, frame.layout, left)
    rest.sample_rate = frame.sample_rate
    width = frame.format.bytes * (1 if frame.format.is_planar else frame.layout.nb_channels)
    for plane, source in zip(rest.planes, frame.planes, strict=True):
        plane.update(bytes(source)[count * width : frame.samples * width])
    return rest


def _decoding_delay(frame: bytes) -> int:
    """Samples to drop at a stream's start, by the table in its info frame; 0 where it says none.

    The table is Xing's, the delay LAME's addition to it
    (http://gabriel.mp3-tech.org/mp3infotag.html), which FFmpeg writes too.
    """
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 8:
        return 0
    fields = frame[at + 7]
    for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)):
        at += size if fields & bit else 0
    tag = frame[at + 8 : at + 32]
    if len(tag) < 24 or tag[:1] != b"L":
        return 0
    return (tag[21] << 4 | tag[22] >> 4) + _DECODER_DELAY


def _tag_size(head: bytes) -> int | None:
    """Bytes of the tag that stands where a frame might; None: no tag."""
    return _ID3V1_SIZE if head[:3] == b"TAG" else mpeg.id3_size(head)


def _open(name: str) -> Any:
    try:
        codec = av.CodecContext.create(av.Codec(name, "r"))
    except Exception as error:
        raise CodecError(f"{name}: {error}") from error
    codec.thread_count = 1
    return codec


def _decode(codec: Any, data: bytes) -> list[Any]:
    try:
        frames: list[Any] = codec.decode(av.Packet(data))
    except Exception as error:
        raise CodecError(f"{codec.name}: {error}") from error
    return frames
