"""FLAC chunks: the bytes that come back, who can read them, what they save."""

from __future__ import annotations

import base64
import io
import random
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from threading import Event
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.audio import flac
from proxy.audio.codec import Encoded
from proxy.audio.counters import Counters
from proxy.audio.flac import FLAC, Flac
from proxy.audio.formats import Format
from proxy.audio.pcm import PcmLayout
from proxy.audio.settings import AudioSettings
from proxy.audio.stream import Chunk, Stream
from proxy.control.flags import Flags, LiveFlags
from proxy.errors import CodecError
from proxy.websocket import metadata
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.frames import BINARY, TEXT, build_header
from tests.support import ffmpeg, pcm, speech
from tests.websocket.strategies import read_frames

SPEECH = np.frombuffer(pcm(), "<i2")
LIVELY = SPEECH[100_000:]
WAV = speech("speech-22050-s16.wav")
INTEGERS = [
    PcmLayout(encoding, 22_050, channels) for encoding in ("s16le", "s24le") for channels in (1, 2)
]
FLOATS = [PcmLayout("f32le", 22_050, channels) for channels in (1, 2)]
LAYOUTS = [*INTEGERS, *FLOATS]
NAMED = INTEGERS[0]
LEVEL = Flags().level
HEAD = 42  # bytes of a stream's mark and STREAMINFO
BITS = {"s16le": 16, "s24le": 24, "f32le": 16}
"""Of the samples in the FLAC stream: floats are taken where they were 16 bits before."""


def packed(samples: np.ndarray, layout: PcmLayout) -> bytes:
    """16-bit samples in a layout's encoding; the lowest byte of 24 bits is noise."""
    if layout.encoding == "s16le":
        return samples.astype("<i2").tobytes()
    if layout.encoding == "f32le":
        return (samples / np.float32(0x8000)).astype("<f4").tobytes()
    noise = np.random.default_rng(24).integers(0, 256, len(samples), "<i4")
    wide = (samples.astype("<i4") << 8 | noise).astype("<i4")
    return wide.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def wav_header(layout: PcmLayout, size: int) -> bytes:
    """Of a WAV with so many bytes of samples."""
    fmt = struct.pack(
        *("<HHIIHH", 3 if layout.encoding == "f32le" else 1, layout.channels, layout.sample_rate),
        *(layout.byte_rate, layout.frame_size, 8 * layout.sample_size),
    )
    chunks = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", len(chunks) + size) + chunks


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size


# What a client does: the samples that libFLAC reads, between prefix and suffix.


@lru_cache(maxsize=256)
def samples_of(stream: bytes) -> bytes:
    """Little-endian, as wide as the stream says that they are."""
    with soundfile.SoundFile(io.BytesIO(stream)) as file:
        width = {"PCM_16": 2, "PCM_24": 3}[file.subtype]
        samples = file.read(dtype="int16" if width == 2 else "int32", always_2d=True)
        assert len(samples) == file.frames, "total_samples is wrong"
    if width == 2:
        return samples.tobytes()
    return samples.reshape(-1).view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()


def original(encoded: Encoded) -> bytes:
    extra = encoded.extra or {}
    assert set(extra) <= {"prefix", "suffix", "sample_format"}
    assert all(extra.values()), "an empty edge is not worth its key"
    prefix, suffix = (
        base64.b64decode(str(extra.get(name, "")), validate=True) for name in ("prefix", "suffix")
    )
    samples = samples_of(encoded.data)
    if "sample_format" in extra:
        assert extra["sample_format"] == "f32le"
        samples = (np.frombuffer(samples, "<i2") / np.float32(0x8000)).astype("<f4").tobytes()
    return prefix + samples + suffix


def named(data: bytes, layout: PcmLayout = NAMED) -> Chunk:
    """A chunk that is whole samples."""
    return Stream(layout).recognise(data)


def assert_exact(codec: Flac, data: bytes, layout: PcmLayout = NAMED, level: int = LEVEL) -> None:
    encoded = codec.encode_chunk(named(data, layout), level)
    same = original(encoded) == data
    assert same, (len(data), str(layout), level)


# The same bytes, whatever comes.


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_speech_at_every_level(layout: PcmLayout, level: int) -> None:
    audio = packed(LIVELY[:100_000], layout)
    for size in (1, 2, 3, 11, 12, 95, 96, 511, 512, 1023, 1024, 2048, 4096, 12_288, 65_536):
        for at in range(0, 4 * size, size):
            at -= at % layout.frame_size
            if size >= layout.frame_size:
                assert_exact(FLAC, audio[at : at + size], layout, level)


@pytest.mark.parametrize("layout", INTEGERS, ids=str)
def test_every_chunk_size(layout: PcmLayout) -> None:
    """From 1 to 4097 bytes: as WAV, its header before the first; raw, where the layout is named.

    Sizes that follow each other share encoders, so that frames of every size are encoded whole.
    """
    audio = packed(LIVELY[:10_000], layout)
    wrong = []
    for size in range(1, 4098):
        for stream, head in (
            (Stream(), wav_header(layout, len(audio))),
            (Stream(layout), b""),
        ):
            first, second = cut(audio[: 2 * size], [size] * 2)
            for data in (head + first, second):
                chunk = stream.recognise(data)
                if FLAC.takes(chunk):
                    if original(FLAC.encode_chunk(chunk, LEVEL)) != data:
                        wrong.append((size, bool(head)))
                else:
                    assert chunk.stop - chunk.start < layout.frame_size
                assert chunk.layout == layout
    assert not wrong


def signals(size: int) -> dict[str, bytes]:
    """What may come where samples are expected: audio, extremes, and what is no audio."""
    step = np.arange(size)
    return {
        "speech": np.resize(LIVELY, size).tobytes()[:size],
        "silence": bytes(size),
        "noise": random.Random(size).randbytes(size),
        "a constant": b"\x34\x12\x7f" * (size // 3 + 1),
        "all ones": b"\xff" * size,
        "the lowest 16": b"\x00\x80" * (size // 2),
        "the lowest 24": b"\x00\x00\x80" * (size // 3),
        "alternating 16": b"\xff\x7f\x00\x80" * (size // 4),
        "alternating 24": b"\xff\xff\x7f\x00\x00\x80" * (size // 6),
        "alternating pairs 16": (b"\xff\x7f" * 2 + b"\x00\x80" * 2) * (size // 8),
        "alternating pairs 24": (b"\xff\xff\x7f" * 2 + b"\x00\x00\x80" * 2) * (size // 12),
        "a square wave 16": np.where(step // 50 % 2, 0x7FFF, -0x8000).astype("<i2").tobytes(),
        "a square wave 24": (b"\xff\xff\x7f" * 50 + b"\x00\x00\x80" * 50) * (size // 300),
        "one click": bytes(size // 2) + b"\xff\x7f" + bytes(size // 2),
        "text": b'{"type":"word","text":"Great job!","at":12.25}\r\n' * (size // 48),
        "mp3": speech("speech-24000-48k.mp3")[:size],
        "ogg": speech("speech-24k.ogg")[:size],
    }


@pytest.mark.parametrize("signal", signals(0))
@pytest.mark.parametrize("layout", INTEGERS, ids=str)
def test_signals_that_are_named_so(layout: PcmLayout, signal: str) -> None:
    """Also what is no audio at all, where the operator named a layout."""
    for size in (600, 4096, 13_001):
        data = signals(size)[signal]
        chunk = Chunk(
            data, Format.PCM, layout, 0, len(data) // layout.frame_size * layout.frame_size
        )
        for level in range(4):
            same = original(FLAC.encode_chunk(chunk, level)) == data
            assert same, (size, level)


@pytest.mark.parametrize("layout", INTEGERS, ids=str)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_samples_of_extremes(layout: PcmLayout, data: st.DataObject) -> None:
    """Predictions overshoot most where samples jump from one end of the scale to the other."""
    width = layout.sample_size
    top = (1 << 8 * width - 1) - 1
    values = st.sampled_from([top, -top - 1, 0, -1, top // 2])
    pattern = data.draw(st.lists(values, min_size=1, max_size=40))
    samples = b"".join(value.to_bytes(width, "little", signed=True) for value in pattern)
    audio = samples * (2000 * layout.channels // len(pattern) + 1)
    audio = audio[: len(audio) // layout.frame_size * layout.frame_size]
    assert_exact(FLAC, audio, layout, data.draw(st.integers(0, 3)))


streams = st.tuples(
    st.sampled_from(LAYOUTS),
    st.sampled_from(["speech", "noise", "silence", "alternating 16", "alternating 24", "text"]),
    st.sampled_from(["wav", "wav, size unknown", "named"]),
    st.lists(st.integers(1, 40) | st.integers(1, 9000) | st.just(4097), min_size=1, max_size=6),
    st.integers(0, 3),
)


@given(streams)
@example((INTEGERS[3], "speech", "wav", [1000, 1], 1))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_streams_cut_at_random_places(drawn: tuple[PcmLayout, str, str, list[int], int]) -> None:
    """The alignment is carried from chunk to chunk, and every byte comes back."""
    layout, signal, kind, sizes, level = drawn
    audio = signals(20_000)[signal]
    if layout in FLOATS:
        audio = packed(np.frombuffer(audio[: len(audio) // 2 * 2], "<i2"), layout)
    header = b""
    if kind != "named":
        header = wav_header(layout, len(audio) if kind == "wav" else 0)
    stream = Stream(layout if kind == "named" else None)
    at = -len(header)
    for data in cut(header + audio, [len(header) + sizes[0], *islice(cycle(sizes), 1, 40)]):
        chunk = stream.recognise(data)
        assert chunk.layout == layout
        assert (at + chunk.start) % layout.frame_size == 0 or chunk.start == chunk.stop
        if FLAC.takes(chunk):
            encoded = FLAC.encode_chunk(chunk, level)
            same = original(encoded) == data
            assert same
            assert len(data) - chunk.stop < layout.frame_size
            assert chunk.start - max(0, -at) < layout.frame_size
        else:
            assert len(data) - max(0, -at) < 2 * layout.frame_size
        at += len(data)


@given(st.binary(min_size=1, max_size=5000), st.sampled_from(INTEGERS), st.integers(0, 3))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes(data: bytes, layout: PcmLayout, level: int) -> None:
    """Named or guessed, nothing that is taken is ever changed."""
    for stream in (Stream(layout), Stream()):
        chunk = stream.recognise(data)
        if FLAC.takes(chunk) and chunk.layout not in FLOATS:
            same = original(FLAC.encode_chunk(chunk, level)) == data
            assert same


# Floats, which are taken where they were 16 bits before, and only there.


@pytest.mark.parametrize("layout", FLOATS, ids=str)
def test_all_floats_that_were_16_bits(layout: PcmLayout) -> None:
    assert_exact(FLAC, packed(np.arange(-0x8000, 0x8000), layout), layout)


@pytest.mark.parametrize(
    "bad", [1.0, -1.5, -0.0, 1 / 0x10000, 0.1, 1e-40, float("inf"), float("nan")]
)
@pytest.mark.parametrize("at", [0, 999, 1999])
def test_one_float_that_was_not_is_enough(bad: float, at: int) -> None:
    samples = (LIVELY[:2000] / np.float32(0x8000)).astype("<f4")
    samples[at] = bad
    chunk = named(samples.tobytes(), FLOATS[0])
    if FLAC.takes(chunk):
        with pytest.raises(CodecError):
            FLAC.encode_chunk(chunk, LEVEL)


@pytest.mark.parametrize(
    "scale", [np.float32(0x8001), np.float32(0x10000), np.float32(0x7FFF)], ids=str
)
def test_floats_that_were_not_16_bits_are_no_failure_of_the_codec(scale: np.float32) -> None:
    """They pass as they came; `filtered` looks that nothing is counted as an error."""
    audio = (SPEECH / scale).astype("<f4").tobytes()
    share, messages = filtered(audio, cycle([4096]), FLOATS[0])
    same = messages == list(cut(audio, cycle([4096])))
    assert same
    assert share >= 0


@given(st.lists(st.floats(width=32) | st.integers(-0x8000, 0x7FFF).map(lambda n: n / 0x8000)))
def test_any_floats_are_exact_or_refused(values: list[float]) -> None:
    data = struct.pack(f"<{len(values)}f", *values)
    chunk = Chunk(data, Format.PCM, FLOATS[0], 0, len(data))
    were_integers = [value for value in values if (value * 0x8000).is_integer() and -1 <= value < 1]
    if FLAC.takes(chunk):
        try:
            same = original(FLAC.encode_chunk(chunk, LEVEL)) == data
        except CodecError:
            same = True
            assert were_integers != values or "-0.0" in map(str, values)
        assert same
    else:
        assert were_integers != values or not values or "-0.0" in map(str, values)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer(make: Any) -> None:
    data = LIVELY[:2003].tobytes() + b"\1"
    expected = Flac().encode_chunk(named(data), LEVEL)
    assert Flac().encode_chunk(named(make(data)), LEVEL) == expected
    assert expected.extra == {"suffix": base64.b64encode(b"\1").decode()}


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 192_000])
def test_the_rate_is_what_the_layout_says(rate: int) -> None:
    chunk = named(LIVELY[:2500].tobytes(), PcmLayout("s16le", rate, 1))
    encoded = FLAC.encode_chunk(chunk, LEVEL)
    assert soundfile.info(io.BytesIO(encoded.data)).samplerate == rate
    with av.open(io.BytesIO(encoded.data)) as container:
        rates = {frame.sample_rate for frame in container.decode(audio=0)}
    assert rates == {rate}


# What it takes, and what it says no to.


@pytest.mark.parametrize(
    ("layout", "start", "stop", "taken"),
    [
        (PcmLayout("s16le", 24_000, 1), 0, 2, True),
        (PcmLayout("s24le", 192_000, 2), 1, 7, True),
        (PcmLayout("s16le", (1 << 20) - 1, 2), 0, 4, True),
        (PcmLayout("s16le", 1 << 20, 1), 0, 2, False),  # a rate has 20 bits in STREAMINFO
        (PcmLayout("s16le", 48_000, 3), 0, 6, False),
        (PcmLayout("s16le", 24_000, 1), 1, 1, False),  # no whole sample
        (PcmLayout("u8", 24_000, 1), 0, 8, False),
        (PcmLayout("s32le", 24_000, 1), 0, 8, False),
        (PcmLayout("f32le", 24_000, 2), 0, 8, True),
        (PcmLayout("mulaw", 8000, 1), 0, 8, False),
        (PcmLayout("alaw", 8000, 1), 0, 8, False),
        (None, 0, 8, False),
    ],
)
def test_what_it_takes(layout: PcmLayout | None, start: int, stop: int, taken: bool) -> None:
    chunk = Chunk(bytes(8), Format.PCM, layout, start, stop)
    assert FLAC.takes(chunk) is taken
    if taken:
        assert original(FLAC.encode_chunk(chunk, LEVEL)) == bytes(8)


def test_a_level_that_there_is_not_is_a_codec_error() -> None:
    codec = Flac()
    with pytest.raises(CodecError, match="flac of 4096 bytes of s16le/22050/1 failed"):
        codec.encode_chunk(named(bytes(4096)), 4)
    assert_exact(codec, bytes(4096))


# The head: nothing but STREAMINFO.


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("count", [1, 7, 16, 255, 1000, 2048, 2049, 5000, 100_000])
def test_the_head_is_streaminfo_and_frames_follow(layout: PcmLayout, count: int) -> None:
    data = packed(np.resize(LIVELY, count * layout.channels), layout)
    for _ in range(3):  # the third time, there may be an encoder for just this size
        stream = FLAC.encode_chunk(named(data, layout), LEVEL).data
        assert stream[:8] == b"fLaC" + bytes((0x80, 0, 0, 34))  # type 0, the last block, 34 bytes
        info = int.from_bytes(stream[18:26], "big")  # RFC 9639, 8.2
        assert info >> 44 == layout.sample_rate
        assert (info >> 41 & 7) + 1 == layout.channels
        assert (info >> 36 & 31) + 1 == BITS[layout.encoding]
        assert info & (1 << 36) - 1 == count
        assert stream[HEAD : HEAD + 2] == b"\xff\xf9"
        with av.open(io.BytesIO(stream)) as container:
            frames = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
        assert stream[HEAD:] == b"".join(frames)
        smallest, largest = struct.unpack(">HH", stream[8:12])
        blocks = block_sizes(stream)
        assert len(blocks) == len(frames)
        assert sum(blocks) == count
        assert largest == max(16, *blocks)
        # RFC 9639, 8.2 and 9.1.1: only the last block may have less than 16 samples.
        assert 16 <= smallest <= min(blocks[:-1], default=largest)


def block_sizes(stream: bytes) -> list[int]:
    """Samples of each frame, as FFmpeg decodes them."""
    with av.open(io.BytesIO(stream)) as container:
        return [frame.samples for frame in container.decode(audio=0)]


# Encoders kept.


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What encoders were opened for."""
    keys: list[tuple[int, ...]] = []
    open_encoder = flac._open_encoder

    def spy(*key: int) -> Any:
        keys.append(key)
        return open_encoder(*key)

    monkeypatch.setattr(flac, "_open_encoder", spy)
    return keys


def test_a_stream_of_equal_chunks_has_one_encoder(opened: list[tuple[int, ...]]) -> None:
    codec = Flac()
    for data in cut(LIVELY.tobytes(), [4096] * 50):
        assert_exact(codec, data)
    assert len(opened) == 1


def test_a_size_that_comes_again_gets_an_encoder_of_its_own(opened: list[tuple[int, ...]]) -> None:
    """Once it is seen for the third time; then less of its end goes as it is."""
    codec = Flac()
    chunks = list(cut(LIVELY.tobytes(), [3990] * 20))
    sizes = [len(codec.encode_chunk(named(chunks[0]), LEVEL).data) for _ in range(20)]
    assert sizes[0] == sizes[1] > sizes[2] == sizes[19]
    assert len(opened) == 2
    for chunk in chunks:
        assert_exact(codec, chunk)
    assert len(opened) == 2


def test_more_sizes_than_encoders_are_kept(opened: list[tuple[int, ...]]) -> None:
    """Those not used lately are evicted and made anew, and no chunk notices."""
    codec = Flac()
    audio = cut(LIVELY.tobytes() * 8, cycle([4096]))
    for _ in range(2):
        opened.clear()
        for size in range(600, 4000, 264):
            for _ in range(6):
                assert_exact(codec, next(audio)[:size])
        own = [samples for _, _, samples, _ in opened if samples % 256]
        assert len(own) == len(set(own)) == 13
        kept = len(codec._idle)
        assert kept <= flac._ENCODERS


def test_sizes_that_never_come_again_share_the_encoders_of_a_grid(
    opened: list[tuple[int, ...]],
) -> None:
    codec = Flac()
    sizes = random.Random(3).sample(range(1024, 8192, 2), 120)
    for data in cut(LIVELY.tobytes() * 3, sizes):
        assert_exact(codec, data)
    assert len(opened) <= flac._ENCODERS
    kept = len(codec._idle)
    assert kept <= flac._ENCODERS


def test_many_threads_at_once() -> None:
    """On one codec, so that they want the same encoders, of which not all are kept."""
    codec = Flac()
    work = []
    for number in range(1000):
        layout = INTEGERS[number % 4]
        at, count = number * 97 % 1000, (256, 2048, 300)[number // 4 % 3]
        work.append((packed(LIVELY[at:][: count * layout.channels], layout), layout))
    with ThreadPoolExecutor(8) as pool:
        encoded = list(pool.map(lambda item: codec.encode_chunk(named(*item), LEVEL), work))
    wrong = [item[1] for item, got in zip(work, encoded, strict=True) if original(got) != item[0]]
    assert not wrong
    kept = len(codec._idle)
    assert kept <= flac._ENCODERS


class Threads:
    """Encodes chunks of so many samples on one codec, in threads that stop amid it."""

    def __init__(self, codec: Flac, pool: ThreadPoolExecutor) -> None:
        self._codec = codec
        self._pool = pool
        self._gates: dict[int, list[tuple[Event, Event]]] = defaultdict(list)

    def encode(self, samples: int, level: int = LEVEL) -> None:
        assert_exact(self._codec, LIVELY[:samples].tobytes(), level=level)
        kept = len(self._codec._idle)
        assert kept <= flac._ENCODERS

    def begin(self, samples: int, level: int = LEVEL) -> Callable[[], None]:
        """Returns when a thread is amid it; let it finish by calling what is returned."""
        entered, leave = gate = Event(), Event()
        self._gates[samples].append(gate)
        future = self._pool.submit(self.encode, samples, level)
        assert entered.wait(10)

        def finish() -> None:
            leave.set()
            future.result(10)

        return finish

    def pass_gate(self, samples: int) -> None:
        if self._gates[samples]:
            entered, leave = self._gates[samples].pop()
            entered.set()
            assert leave.wait(10)


def test_an_encoder_is_given_up_while_another_thread_takes_its_twin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two threads bring back encoders for one size, of which one is kept. At the other's end a
    third thread runs, as any may where Python finalises something, and takes the one kept."""
    open_encoder = flac._open_encoder
    taken: list[Callable[[], None]] = []

    class Watched:
        def __init__(self, *key: int) -> None:
            self._samples = key[2]
            self._encoder = open_encoder(*key)

        def _send_frame_and_recv(self, frame: Any) -> Any:
            threads.pass_gate(self._samples)
            return self._encoder._send_frame_and_recv(frame)

        def __del__(self) -> None:
            if self._samples == 256 and not taken:
                taken.append(threads.begin(256))

    monkeypatch.setattr(flac, "_open_encoder", Watched)
    others = range(512, 2049, 256)
    with ThreadPoolExecutor(4) as pool:
        threads = Threads(Flac(), pool)
        for samples in others:
            threads.encode(samples)
        later = [threads.begin(samples, level=0) for samples in others[:2]]
        twin = threads.begin(256)
        threads.encode(256)
        twin()
        for samples in others:
            threads.encode(samples)
        for finish in (*later, *taken):
            finish()
        threads.encode(256)
    assert len(taken) == 1


# What it saves, through the filter: metadata and frame headers are paid for.


def filtered(
    audio: bytes, sizes: Iterable[int], layout: PcmLayout | None = NAMED, **flags: Any
) -> tuple[float, list[bytes]]:
    """The share saved of a stream, and its messages as a client gets them back."""
    counters = Counters()
    audio_filter = AudioFilter(
        ("flac",), LiveFlags(Flags(**flags)), counters, AudioSettings(pcm_layout=layout)
    )
    sent, out = 0, []
    for data in cut(audio, sizes):
        frame = build_header(BINARY, len(data)) + data
        buffers, job = audio_filter.feed(frame)
        out += buffers
        if job is not None:
            buffers, job = audio_filter.complete(job, job.run())
            assert job is None
            out += buffers
        sent += len(frame)
    wire = b"".join([*out, *audio_filter.feed_eof()])
    assert (counters.wire_original_bytes, counters.wire_bytes) == (sent, len(wire))
    assert counters.errors == 0
    return 1 - len(wire) / sent, list(received(wire))


def received(wire: bytes) -> Iterator[bytes]:
    record = None
    for frame in read_frames(wire):
        if frame.opcode == TEXT:
            record = metadata.parse(bytes(frame.data).decode())
            assert record is not None
            assert record.algorithm == "flac"
            continue
        data = bytes(frame.data)
        if record is not None:
            assert record.compressed_size == len(data)
            data = original(Encoded(data, record.extra))
            assert record.original_size == len(data)
        record = None
        yield data


SAVED = {4096: 0.45, 16_384: 0.46}
"""What must be saved at least, by the size of chunks."""


@pytest.mark.parametrize("layout", [NAMED, None], ids=["named", "guessed"])
@pytest.mark.parametrize("size", SAVED)
def test_saved_of_raw_speech(size: int, layout: PcmLayout | None) -> None:
    share, messages = filtered(SPEECH.tobytes(), cycle([size]), layout)
    assert share >= SAVED[size]
    same = messages == list(cut(SPEECH.tobytes(), cycle([size])))
    assert same


@pytest.mark.parametrize("size", SAVED)
def test_saved_of_a_wav(size: int) -> None:
    share, messages = filtered(WAV, cycle([size]), None)
    assert share >= SAVED[size]
    same = messages == list(cut(WAV, cycle([size])))
    assert same


def test_saved_where_chunks_have_an_odd_number_of_samples() -> None:
    """Which FLAC cannot partition: encoded whole, they save 6 % less."""
    share, _ = filtered(SPEECH.tobytes(), cycle([4018]))
    assert share >= 0.44


@pytest.mark.parametrize("layout", [NAMED, None], ids=["named", "guessed"])
def test_saved_of_a_stream_cut_at_odd_bytes(layout: PcmLayout | None) -> None:
    """Every other chunk begins in mid-sample; a prefix or suffix costs 20 bytes or so."""
    share, messages = filtered(SPEECH.tobytes(), cycle([4097]), layout)
    assert share >= 0.44
    same = messages == list(cut(SPEECH.tobytes(), cycle([4097])))
    assert same


def test_each_level_saves_no_less_than_the_one_before() -> None:
    shares = [filtered(SPEECH.tobytes(), cycle([4096]), level=level)[0] for level in range(4)]
    assert shares == sorted(shares)
    assert len(set(shares)) == 4


@pytest.mark.parametrize(("least", "most", "share"), [(1024, 2048, 0.29), (2050, 8192, 0.41)])
@pytest.mark.parametrize("seed", range(3))
def test_saved_where_no_size_comes_twice(seed: int, least: int, most: int, share: float) -> None:
    sizes = random.Random(seed).sample(range(least, most), min(most - least, 500))
    audio = SPEECH.tobytes()[: sum(sizes)]
    saved, messages = filtered(audio, sizes)
    assert saved >= share
    same = messages == list(cut(audio, sizes))
    assert same


# Other readers.


@pytest.mark.parametrize("size", SAVED)
def test_soundfile_reads_every_chunk_of_the_recording(size: int) -> None:
    for data in cut(SPEECH.tobytes(), cycle([size])):
        encoded = FLAC.encode_chunk(named(data), LEVEL)
        samples, rate = soundfile.read(io.BytesIO(encoded.data), dtype="int16")
        same = samples.tobytes() == data
        assert same
        assert (rate, encoded.extra) == (22_050, None)


@pytest.mark.parametrize("layout", INTEGERS, ids=str)
def test_the_ffmpeg_program_reads_every_chunk_of_the_recording(
    layout: PcmLayout, tmp_path: Path
) -> None:
    """4 KiB of mono in 16 bits, and as many samples of the others; and the shortest chunks.

    24 files a process, each an input of its own.
    """
    audio = packed(SPEECH, layout)
    size = 4096 * layout.sample_size // 2
    chunks = list(cut(audio, cycle([size])))
    chunks += [audio[-count * layout.frame_size :] for count in (1, 2, 7, 15, 16, 17, 100)]
    files = []
    for number, data in enumerate(chunks):
        files.append(tmp_path / f"{number}.flac")
        files[-1].write_bytes(FLAC.encode_chunk(named(data, layout), LEVEL).data)
    batches = [files[at : at + 24] for at in range(0, len(files), 24)]
    with ThreadPoolExecutor(2) as pool:
        read = [
            samples
            for batch in pool.map(lambda batch: ffmpeg.read_each(batch, layout.encoding), batches)
            for samples in batch
        ]
    assert len(read) == len(chunks) == -(-len(audio) // size) + 7
    wrong = [
        number for number, pair in enumerate(zip(read, chunks, strict=True)) if pair[0] != pair[1]
    ]
    assert not wrong
