from __future__ import annotations

import base64
import copy
import gzip
import io
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import av
import numpy
import pytest
import soundfile  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.audio.decoding import PairDecoder, PcmAudio, reason_against
from proxy.audio.flac import FLAC
from proxy.audio.flac_frames import crc8, crc16, stream_info, verbatim
from proxy.audio.stream import Stream
from proxy.errors import CodecError
from tests.support import pcm, speech

MEGABYTE = 1 << 20
RATE = 48_000
PCM = pcm()[100_000:]
CHUNK = PCM[:4096]


@dataclass(frozen=True)
class Pair:
    """Metadata, and the data behind it."""

    algorithm: str
    original_size: int
    data: bytes
    extra: dict[str, Any] = field(default_factory=dict)

    def saying(self, **changes: Any) -> Pair:
        """With other metadata; None leaves a key out."""
        extra = {**self.extra, **changes}
        return replace(
            self, extra={key: value for key, value in extra.items() if value is not None}
        )


def decode(pair: Pair, max_size: int | None = MEGABYTE, by: PairDecoder | None = None) -> bytes:
    return (by or PairDecoder()).decode(pair, pair.data, max_size)


def refuses(pair: Pair, says: str, max_size: int | None = MEGABYTE) -> None:
    with pytest.raises(CodecError, match=says):
        decode(pair, max_size)


# FLAC.


def interleaved(samples: Any, bits: int) -> bytes:
    """Samples as little-endian bytes."""
    wide: bytes = samples.astype("<i4").tobytes()
    return b"".join(wide[at : at + bits // 8] for at in range(0, len(wide), 4))


def by_libflac(samples: Any, bits: int, rate: int = 22_050) -> bytes:
    """A stream as libFLAC makes it: comments in its head, frames of 4096 numbered one by one."""
    file = io.BytesIO()
    shifted = (samples << (32 - bits)).astype("int32")
    soundfile.write(file, shifted, rate, format="FLAC", subtype=f"PCM_{bits}")
    return file.getvalue()


def by_us(chunk: bytes) -> Pair:
    """A pair as the proxy makes it of a WAV's first chunk."""
    encoded = FLAC.encode_chunk(Stream().recognise(chunk), 1)
    return Pair("flac", len(chunk), encoded.data, dict(encoded.extra or {}))


def quiet_frame(
    block: str = "7 fffe", rate: str = "0", channels: int = 0, number: str = "00"
) -> bytes:
    """Zeros of 16 bits. Block size and rate: their code, and what stands for it further on."""
    block, _, block_rest = block.partition(" ")
    rate, _, rate_rest = rate.partition(" ")
    head = bytes.fromhex(f"fff9{block}{rate}{channels:x}8{number}{block_rest}{rate_rest}")
    bits = 24 * (channels + 1) if channels < 8 else 24 + 25  # a side channel has one more
    frame = head + bytes((crc8(head),)) + bytes(-(-bits // 8))
    return frame + crc16(frame).to_bytes(2, "big")


def constant_frame(samples: int) -> bytes:
    """Any number of zeros in 13 bytes: mono."""
    return quiet_frame(f"7 {samples - 1:04x}")


def patched(data: bytes, at: int, change: int) -> bytes:
    """With some bits of a byte turned."""
    return data[:at] + bytes((data[at] ^ change,)) + data[at + 1 :]


def silence(frames: int, *, claimed: int, each: int = 65_535) -> Pair:
    """A stream of equal frames, whose head and metadata claim a number of samples."""
    data = stream_info([each], 22_050, 1, 16, claimed) + constant_frame(each) * frames
    return Pair("flac", 2 * claimed, data)


@pytest.mark.parametrize("size", [1, 17, 4096, 10_000])
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize("bits", [16, 24])
def test_flac_of_another_encoder_gives_its_samples(bits: int, channels: int, size: int) -> None:
    """Full scale, quiet and loud, with correlated channels: all ways in which frames are coded."""
    time = numpy.arange(size)[:, None]
    wave = numpy.sin(time * (0.01 + 0.001 * numpy.arange(channels)))
    samples = (wave * (2 ** (bits - 1) - 1)).astype("int64")
    samples[size // 2 :] >>= 9
    original = interleaved(samples, bits)
    pair = Pair("flac", len(original), by_libflac(samples, bits))
    decoded = decode(pair)
    assert type(decoded) is bytes
    assert (decoded == original) is True


def test_flac_of_the_proxy_gives_back_every_byte() -> None:
    """A WAV's header, the rest of a sample, several frames of different sizes in one stream."""
    wav = speech("speech-22050-s16.wav")
    for end in (100, 333, 5001, 78 + 2 * 2048, 78 + 2 * 2049, 33_333, 200_001):
        pair = by_us(wav[:end])
        assert "prefix" in pair.extra
        assert ("suffix" in pair.extra) is (end % 2 == 1)
        same = decode(pair) == wav[:end]
        assert same, end


def test_edges_alone_are_audio_too() -> None:
    data = stream_info([16], 8000, 1, 16, 0)
    pair = Pair("flac", 5, data, {"prefix": "AAEC", "suffix": "AwQ="})
    assert decode(pair) == bytes(range(5))


def test_much_silence_is_no_bomb() -> None:
    """A thousand times smaller than what it stands for, and right."""
    pair = silence(8, claimed=8 * 65_535)
    assert (decode(pair, None) == bytes(pair.original_size)) is True


@pytest.mark.parametrize(
    "decoy",
    [
        pytest.param(constant_frame(65_535)[:8], id="larger than any"),
        pytest.param(patched(constant_frame(4000)[:8], 7, 1), id="wrong checksum"),
    ],
)
def test_samples_that_look_like_frames_are_no_bomb(decoy: bytes) -> None:
    """The head of a frame, nearly, over and over, in plain samples: 4000 of them."""
    samples = numpy.frombuffer(1000 * decoy, ">i2").astype("<i2").tobytes()
    data = stream_info([4000], 22_050, 1, 16, 4000) + verbatim(samples, 0, 22_050, 1, 16)
    assert 1000 * decoy in data
    assert (decode(Pair("flac", len(samples), data)) == samples) is True


BLOCKS = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608} | {code: 1 << code for code in range(8, 16)}


@pytest.mark.parametrize(
    ("frame", "samples", "channels"),
    [
        *((quiet_frame(f"{code:x}"), size, 1) for code, size in BLOCKS.items()),
        (quiet_frame("6 c8"), 201, 1),
        *((quiet_frame(rate=rate), 65_535, 1) for rate in ("1", "b", "c 08", "d 1f40", "e 0320")),
        *((quiet_frame(channels=code), 65_535, code + 1) for code in range(8)),
        *((quiet_frame(channels=code), 65_535, 2) for code in (8, 9, 10)),
        (quiet_frame(number="7f"), 65_535, 1),
        (quiet_frame(number="dfbf"), 65_535, 1),
        (quiet_frame(number="fd" + 5 * "bf"), 65_535, 1),
        (quiet_frame("6 c8", "e 0320", number="fd" + 5 * "bf"), 201, 1),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else str(value),
)
def test_bombs_of_every_kind_of_frame_are_refused(
    frame: bytes, samples: int, channels: int
) -> None:
    """Where there are as many as their head says, they are decoded."""
    head = stream_info([65_535], 8000, channels, 16, 2 * samples)
    size = 2 * samples * channels * 2
    assert (decode(Pair("flac", size, head + 2 * frame), None) == bytes(size)) is True
    bomb = Pair("flac", size, head + (2 + (1 << 18) // (samples * channels) + 1) * frame)
    refuses(bomb, f"more frames than for the {2 * samples} samples", None)


WHOLE = by_us(speech("speech-22050-s16.wav")[:20_001])
DATA = WHOLE.data
HUGE = stream_info([2048], 22_050, 1, 16, (1 << 36) - 1) + DATA[42:]
BROKEN_FLAC = {
    "nothing": (replace(WHOLE, data=b""), "does not begin with STREAMINFO"),
    "a part of its head": (replace(WHOLE, data=DATA[:41]), "does not begin with STREAMINFO"),
    "no flac": (replace(WHOLE, data=CHUNK), "does not begin with STREAMINFO"),
    "another block first": (replace(WHOLE, data=patched(DATA, 4, 4)), "STREAMINFO"),
    "its head goes on": (replace(WHOLE, data=patched(DATA[:42], 4, 0x80)), "cut short in its head"),
    "its head alone": (replace(WHOLE, data=DATA[:42]), r"0 of 9961 samples"),
    "cut short": (replace(WHOLE, data=DATA[:-1]), "of 9961 samples; .* cut short or broken"),
    "a frame is missing": (
        Pair("flac", 64, stream_info([16], 8000, 1, 16, 32) + constant_frame(16)),
        "16 of 32 samples",
    ),
    "a frame too many": (
        Pair("flac", 32, stream_info([16], 8000, 1, 16, 16) + constant_frame(16) * 2),
        "32 of 16 samples",
    ),
    "wrong bits in a frame": (replace(WHOLE, data=patched(DATA, 300, 1)), "flac: .*Invalid data"),
    "wrong bits in the last": (replace(WHOLE, data=patched(DATA, -9, 1)), "of 9961 samples"),
    "stereo amid mono": (
        Pair(
            "flac",
            64,
            stream_info([16, 16], 8000, 1, 16, 32) + verbatim(bytes(64), 0, 8000, 2, 16),
        ),
        "a frame is unlike",
    ),
    "24 bits amid 16": (
        Pair("flac", 32, stream_info([16], 8000, 1, 16, 16) + verbatim(bytes(48), 0, 8000, 1, 24)),
        "flac: .*Invalid data",
    ),
    "20 bits": (
        Pair("flac", 40, stream_info([16], 8000, 1, 20, 16) + bytes(20)),
        "samples of 20 bits; 16 or 24",
    ),
    "more announced": (replace(WHOLE, original_size=20_002), "20001 bytes; metadata: 20002"),
    "less announced": (replace(WHOLE, original_size=20_000), "20001 bytes; metadata: 20000"),
    "no base64": (WHOLE.saying(prefix="****"), "'prefix' is no base64"),
    "a base64 of another alphabet": (WHOLE.saying(suffix="_w=="), "'suffix' is no base64"),
    "a number for base64": (WHOLE.saying(suffix=7), "'suffix' is no base64"),
    "letters beyond ASCII": (WHOLE.saying(suffix="Grüße"), "'suffix' is no base64"),
    "a prefix too much": (WHOLE.saying(prefix="AAAA" * 100), "metadata: 20001"),
    "2^36 samples": (replace(WHOLE, data=HUGE), r"137438953549 bytes; metadata: 20001"),
    "2^36 samples, announced": (
        replace(WHOLE, data=HUGE, original_size=137438953549),
        "stands for 137438953549 bytes; max_size is 1048576",
    ),
    "a bomb": (silence(40_000, claimed=1000), "more frames than for the 1000 samples"),
    "a bomb of many channels": (
        Pair(
            "flac",
            4096,
            stream_info([65_535], 8000, 1, 16, 2048) + verbatim(bytes(256), 0, 8000, 8, 16) * 3000,
        ),
        "more frames than",
    ),
    "frames larger than the head says": (
        Pair("flac", 2000, stream_info([100], 8000, 1, 16, 1000) + constant_frame(1000)),
        "flac: .*Invalid data",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FLAC)
def test_broken_flac_is_refused(name: str) -> None:
    refuses(*BROKEN_FLAC[name])


def test_a_head_that_claims_2_to_36_samples_is_refused_without_a_limit_too() -> None:
    refuses(replace(WHOLE, data=HUGE, original_size=137438953549), "9961 of 68719476735", None)


def test_a_flac_bomb_of_announced_size_is_refused_by_its_size() -> None:
    refuses(silence(100, claimed=100 * 65_535), "stands for 13107000 bytes; max_size is 1048576")


# Opus.


@dataclass(frozen=True)
class Spoken:
    """One segment: its packets, and what another decoder makes of them."""

    packets: list[bytes]
    pre_skip: int
    channels: int
    samples: int
    reference: Any

    def pair(self, first: int = 0, last: int | None = None) -> Pair:
        """Some of its packets."""
        packets = self.packets[first:last]
        before = max(0, 960 * first - self.pre_skip)
        samples = min(self.samples, 960 * (first + len(packets)) - self.pre_skip) - before
        extra = {
            "sample_rate": RATE,
            "channels": self.channels,
            "packet_sizes": [*map(len, packets)],
            "samples": max(0, samples),
        }
        if not first:
            extra["pre_skip"] = self.pre_skip
        return Pair("opus", 4096, b"".join(packets), extra)


@cache
def spoken(channels: int = 1, seconds: float = 1.003) -> Spoken:
    """Tones as Opus in Ogg, read by libsndfile: not by FFmpeg, and not by our rules."""
    time = numpy.arange(round(seconds * RATE))
    tones = [numpy.sin(time * 0.02 * (1 + channel)) * 9000 for channel in range(channels)]
    samples = numpy.stack(tones, axis=1).astype("int16")
    file, packets = io.BytesIO(), []
    with av.open(file, "w", format="ogg") as container:
        stream: Any = container.add_stream("libopus", rate=RATE)
        stream.layout = "mono" if channels == 1 else "stereo"
        stream.format = "s16"
        frames: list[Any] = []
        for at in range(0, len(samples), 960):
            piece = numpy.ascontiguousarray(samples[at : at + 960])
            frame = av.AudioFrame("s16", stream.layout.name, len(piece))
            frame.planes[0].update(piece.tobytes())
            frame.sample_rate, frame.pts = RATE, at
            frames.append(frame)
        for frame in [*frames, None]:
            for packet in stream.encode(frame):
                packets.append(bytes(packet))
                container.mux(packet)
        pre_skip = int.from_bytes(stream.codec_context.extradata[10:12], "little")
    file.seek(0)
    reference, _ = soundfile.read(file, dtype="int16", always_2d=True)
    return Spoken(packets, pre_skip, channels, len(samples), reference[: len(samples)])


def samples_of(audio: bytes, channels: int) -> Any:
    return numpy.frombuffer(audio, "<i2").reshape(-1, channels).astype(int)


@pytest.mark.parametrize("channels", [1, 2])
def test_opus_decodes_to_what_another_decoder_makes_of_it(channels: int) -> None:
    segment = spoken(channels)
    audio = decode(segment.pair())
    assert isinstance(audio, PcmAudio)
    assert (audio.sample_rate, audio.channels) == (RATE, channels)
    assert len(audio) == 2 * channels * segment.samples
    off = samples_of(audio, channels) - segment.reference
    assert numpy.abs(off).max() <= 2  # of 9000; it rounds otherwise


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(1, 51)), st.sampled_from([1, 2]))
def test_a_segment_is_the_same_however_it_is_cut(cuts: set[int], channels: int) -> None:
    segment, decoder = spoken(channels), PairDecoder()
    ends = [*sorted(cut for cut in cuts if cut < len(segment.packets)), len(segment.packets)]
    starts = [0, *ends[:-1]]
    pairs = [segment.pair(start, end) for start, end in zip(starts, ends, strict=True)]
    same = b"".join(decode(pair, by=decoder) for pair in pairs) == decode(segment.pair())
    assert same


def test_a_delay_longer_than_a_pair_goes_on_in_the_next() -> None:
    segment = replace(spoken(), pre_skip=2000)
    decoder = PairDecoder()
    pieces = [decode(segment.pair(at, at + 1), by=decoder) for at in range(4)]
    assert [len(piece) // 2 for piece in pieces] == [0, 0, 880, 960]
    assert all(isinstance(piece, PcmAudio) for piece in pieces)
    plain = decode(replace(segment, pre_skip=0).pair())
    assert (b"".join(pieces) == plain[4000 : 960 * 4 * 2]) is True


def test_every_segment_starts_anew() -> None:
    """The same packets sound the same, whatever was said before."""
    segment, decoder = spoken(), PairDecoder()
    first, *_, again = [decode(segment.pair(), by=decoder) for _ in range(3)]
    assert (first == again) is True


def test_pcm_audio_keeps_what_it_is() -> None:
    audio = PcmAudio(b"\1\2\3\4", 48_000, 2)
    for twin in (copy.copy(audio), copy.deepcopy(audio), pickle.loads(pickle.dumps(audio))):
        assert isinstance(twin, PcmAudio)
        assert (twin, twin.sample_rate, twin.channels) == (b"\1\2\3\4", 48_000, 2)


START = spoken().pair(0, 5)
SIZES = START.extra["packet_sizes"]
DTX = Pair("opus", 0, b"\x18" * 20_000, {**START.extra, "packet_sizes": [1] * 20_000})
BROKEN_OPUS = {
    "no sample_rate": (START.saying(sample_rate=None), "'sample_rate' .* 48000"),
    "another sample_rate": (START.saying(sample_rate=24_000), "'sample_rate' .* 48000"),
    "no channels": (START.saying(channels=None), "'channels' .* from 1 to 2"),
    "no channel": (START.saying(channels=0), "'channels' .* from 1 to 2"),
    "many channels": (START.saying(channels=1 << 40), "'channels' .* from 1 to 2"),
    "a switch for channels": (START.saying(channels=True), "'channels' .* from 1 to 2"),
    "a text for channels": (START.saying(channels="1"), "'channels' .* from 1 to 2"),
    "no samples": (START.saying(samples=None), "'samples' is missing"),
    "negative samples": (START.saying(samples=-1), "'samples'"),
    "a switch for samples": (START.saying(samples=True), "'samples'"),
    "a fraction of samples": (START.saying(samples=960.0), "'samples'"),
    "too many samples": (
        START.saying(samples=4489),
        "the packets have 4488 samples; metadata says 4489",
    ),
    "samples beyond reason": (START.saying(samples=1 << 35), "stands for 68719476736 bytes"),
    "negative pre_skip": (START.saying(pre_skip=-1), "'pre_skip' .* from 0 to 65535"),
    "a long pre_skip": (START.saying(pre_skip=65_536), "'pre_skip' .* from 0 to 65535"),
    "a list for pre_skip": (START.saying(pre_skip=[]), "'pre_skip'"),
    "all is skipped": (START.saying(pre_skip=65_535), "have 0 samples; metadata says 4488"),
    "no packet_sizes": (START.saying(packet_sizes=None), "'packet_sizes' is missing"),
    "a number for packet_sizes": (START.saying(packet_sizes=5), "'packet_sizes'"),
    "an object for packet_sizes": (START.saying(packet_sizes={"0": 5}), "'packet_sizes'"),
    "an empty packet": (START.saying(packet_sizes=[0, *SIZES]), "'packet_sizes'"),
    "a negative size": (START.saying(packet_sizes=[-1, 1, *SIZES]), "'packet_sizes'"),
    "a switch for a size": (START.saying(packet_sizes=[True, *SIZES]), "'packet_sizes'"),
    "a packet less": (START.saying(packet_sizes=SIZES[1:]), "do not add up"),
    "a packet more": (START.saying(packet_sizes=[*SIZES, 1]), "do not add up"),
    "no packets": (START.saying(packet_sizes=[]), "do not add up"),
    "no packets and no data": (
        replace(START.saying(packet_sizes=[]), data=b""),
        "have 0 samples",
    ),
    "packets that are none": (
        replace(START, data=b"\xff" * len(START.data)),
        "opus: .*Invalid data",
    ),
    "a bomb": (DTX.saying(samples=10), "more than 10 samples"),
    "a bomb that says how large it is": (
        DTX.saying(samples=2880 * 20_000 - 312),
        "stands for 115199376 bytes; max_size is 1048576",
    ),
    "the middle of a segment": (spoken().pair(5, 10), "the start of its segment"),
}


@pytest.mark.parametrize("name", BROKEN_OPUS)
def test_broken_opus_is_refused_up_to_the_next_segment(name: str) -> None:
    """Amid a segment too: what goes on behind a gap is not taken for the speech that it was."""
    pair, says = BROKEN_OPUS[name]
    refuses(pair, says)
    decoder, segment = PairDecoder(), spoken()
    decode(segment.pair(0, 5), by=decoder)
    if "pre_skip" in pair.extra:
        with pytest.raises(CodecError, match=says):
            decode(pair, by=decoder)
        with pytest.raises(CodecError, match="the start of its segment, or a part of it, was miss"):
            decode(segment.pair(5, 10), by=decoder)
    assert (decode(segment.pair(), by=decoder) == decode(segment.pair())) is True


def test_channels_do_not_change_amid_a_segment() -> None:
    decoder = PairDecoder()
    decode(spoken(1).pair(0, 5), by=decoder)
    with pytest.raises(CodecError, match="'channels' is 2 amid a segment of 1"):
        decode(spoken(2).pair(5, 10), by=decoder)


def test_what_goes_on_behind_a_forgotten_pair_is_refused() -> None:
    decoder = PairDecoder()
    decode(spoken().pair(0, 5), by=decoder)
    decoder.forget()
    with pytest.raises(CodecError, match="the start of its segment"):
        decode(spoken().pair(5, 10), by=decoder)


# All of them.


ZIPPED = Pair("gzip", len(CHUNK), gzip.compress(CHUNK))


@pytest.mark.parametrize(
    ("pair", "size"),
    [
        (ZIPPED, 4096),
        (WHOLE, 20_001),
        (spoken(1).pair(), 2 * spoken(1).samples),
        (spoken(2).pair(), 4 * spoken(2).samples),
    ],
)
def test_the_limit_holds_for_what_is_given(pair: Pair, size: int) -> None:
    assert len(decode(pair, size)) == len(decode(pair, None)) == size
    refuses(pair, f"^stands for {size} bytes; max_size is {size - 1}$", size - 1)


def test_an_empty_original_is_given_as_such() -> None:
    assert decode(Pair("gzip", 0, gzip.compress(b""))) == b""
    assert decode(Pair("flac", 0, stream_info([16], 8000, 1, 16, 0))) == b""


@pytest.mark.parametrize("name", ["lzma", "", "GZIP"])
def test_an_unknown_algorithm_is_refused(name: str) -> None:
    refuses(replace(ZIPPED, algorithm=name), f"no decoder for {name!r}; there are gzip, flac, opus")


def test_keys_that_are_not_known_are_ignored() -> None:
    for pair in (ZIPPED, WHOLE, START):
        assert (decode(pair.saying(mood="merry", level=[1])) == decode(pair)) is True
    assert decode(ZIPPED.saying(prefix="****", samples=-1, pre_skip="x")) == CHUNK


def test_without_the_extras_gzip_works_and_the_others_say_what_to_install() -> None:
    script = """
import json, sys
sys.modules["av"] = None  # as where it is not installed
from proxy.audio.decoding import reason_against
print(json.dumps([reason_against(name) for name in ("gzip", "flac", "opus")]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout) == [
        None,
        "no decoder for 'flac' is installed: pip install 'audio-compression-proxy[flac]'",
        "no decoder for 'opus' is installed: pip install 'audio-compression-proxy[opus]'",
    ]
    assert [reason_against(name) for name in ("gzip", "flac", "opus")] == [None] * 3


# Whatever comes.


FIELDS = ("prefix", "suffix", "sample_rate", "channels", "packet_sizes", "samples", "pre_skip")
numbers = st.integers() | st.sampled_from([0, 1, 2, 960, 65_535, 1 << 31, 1 << 36, 1 << 64])
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
values = json_values | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
RIGHT = [ZIPPED, WHOLE, START, spoken().pair(5, 8), spoken(2).pair(0, 3)]


@st.composite
def nearly_right(draw: st.DrawFn) -> Pair:
    """A pair with some of it changed."""
    pair = draw(st.sampled_from(RIGHT))
    extra = {**pair.extra, **draw(st.dictionaries(st.sampled_from(FIELDS), values, max_size=2))}
    for name in draw(st.sets(st.sampled_from(FIELDS), max_size=1)):
        extra.pop(name, None)
    data = bytearray(pair.data)
    for at, byte in draw(
        st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4)
    ):
        data[at] = byte
    cut = draw(st.just(0) | st.integers(0, len(data)))
    data = data[: len(data) - cut] + draw(st.just(b"") | st.binary(max_size=30))
    if "packet_sizes" in extra and draw(st.booleans()):
        extra["packet_sizes"] = [len(data)]
    size = draw(st.just(pair.original_size) | st.integers(0, 1 << 70))
    algorithm = draw(st.just(pair.algorithm) | st.sampled_from(["gzip", "flac", "opus"]))
    return Pair(algorithm, size, bytes(data), extra)


@settings(deadline=None, max_examples=150)
@given(st.lists(nearly_right(), max_size=4), st.sampled_from([None, MEGABYTE, 5000]))
def test_whatever_comes_is_audio_of_the_right_size_or_refused(
    pairs: list[Pair], max_size: int | None
) -> None:
    decoder = PairDecoder()
    decode(START, by=decoder)
    for pair in pairs:
        try:
            audio = decode(pair, max_size, by=decoder)
        except CodecError:
            continue
        assert max_size is None or len(audio) <= max_size
        if isinstance(audio, PcmAudio):
            assert len(audio) == 2 * pair.extra["samples"] * audio.channels
        else:
            assert len(audio) == pair.original_size
    for pair in (ZIPPED, WHOLE, START):
        assert (decode(pair, by=decoder) == decode(pair)) is True
