from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxy.analyze.explain import format_of, why
from proxy.analyze.measure import Measurement, Played, measure
from proxy.analyze.options import Options
from proxy.audio.counters import Counters
from proxy.audio.settings import AudioSettings
from proxy.control.flags import Flags, LiveFlags
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.frames import BINARY, build_header
from tests.support import SPEECH, pcm, speech

NAMED = "*.pcm=s16le/22050/1,*.ulaw=mulaw/8000/1"


def options(**given: Any) -> Options:
    usual = {
        "chunk_size": (4096,),
        "accept": "flac,gzip",
        "opus_bitrate": 24_000,
        "opus_raw": False,
    }
    return Options.parse(**usual | given)


def measure_one(path: Path, given: Options) -> Measurement:
    (measurement,) = measure(path, given, lambda _: None)
    return measurement


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "speech.pcm"
    path.write_bytes(pcm())
    return path


def sent(audio: bytes, size: int, accepted: tuple[str, ...]) -> tuple[int, int]:
    """Bytes that the filter writes and that it was fed, by its buffers, not by its counters."""
    audio_filter = AudioFilter(accepted, LiveFlags(Flags()), Counters(), AudioSettings())
    fed = 0
    written = []
    for at in range(0, len(audio), size):
        chunk = audio[at : at + size]
        frame = build_header(BINARY, len(chunk)) + chunk
        fed += len(frame)
        buffers, job = audio_filter.feed(frame)
        written += buffers
        while job is not None:
            buffers, job = audio_filter.complete(job, job.run())
            written += buffers
    written += audio_filter.feed_eof()
    return fed, sum(map(len, written))


@pytest.mark.parametrize("name", SPEECH)
def test_sizes_are_those_of_what_a_client_gets(name: str) -> None:
    measurement = measure_one(SPEECH[name], options(chunk_size=(2000,)))
    audio = speech(name)
    assert measurement.survey.size == len(audio)
    assert measurement.survey.chunks == -(-len(audio) // 2000)
    for accepted, played in [
        *(((name,), played) for name, played in measurement.alone.items()),
        (("flac", "gzip"), measurement.accepted),
    ]:
        fed, written = sent(audio, 2000, accepted)
        assert measurement.survey.wire_original_bytes == fed
        assert played.saved == pytest.approx(1 - written / fed, abs=0.002)
        assert played.cpu.total() == measurement.survey.chunks


def test_one_measurement_for_each_size_of_chunks_and_every_reading_is_told_of(raw: Path) -> None:
    given = options(chunk_size=(4096, 1000, 4096))
    read: list[int] = []
    measurements = measure(raw, given, read.append)
    assert [one.chunk_size for one in measurements] == [4096, 1000]
    assert sum(read) == given.readings * len(pcm())


def test_an_empty_file_has_nothing_to_measure(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert measure(tmp_path / "empty", options(), lambda _: None) == []


def test_a_file_that_changes_meanwhile_is_not_measured(raw: Path) -> None:
    size = len(pcm())
    read = 0

    def cut_after_the_first_reading(count: int) -> None:
        nonlocal read
        read += count
        if read == size:
            os.truncate(raw, 100_000)

    with pytest.raises(OSError, match="changed while it was read"):
        measure(raw, options(), cut_after_the_first_reading)


def test_a_file_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(Random(1).randbytes(16 * 1024 * 1024))
    tracemalloc.start()
    try:
        measure(path, options(chunk_size=(65536,)), lambda _: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 1024 * 1024


def test_percentiles() -> None:
    played = Played(cpu=Counter({40: 49, 50: 49, 7000: 2}))
    assert (played.cpu_at(0.49), played.cpu_at(0.5)) == (40, 50)
    assert (played.cpu_at(0.98), played.cpu_at(0.99), played.cpu_at(1)) == (50, 7000, 7000)
    assert Played(cpu=Counter({3: 1})).cpu_at(0.99) == 3


def test_a_codec_that_works_takes_time(raw: Path) -> None:
    measurement = measure_one(raw, options(pcm_layout=NAMED, opus_raw=True))
    opus, gzip = measurement.alone["opus"], measurement.alone["gzip"]
    assert 0 < gzip.cpu_at(0.99) < opus.cpu_at(0.5) <= opus.cpu_at(0.99)
    # It rests on most of the chunks, and then takes none.
    mp3 = measure_one(SPEECH["speech-44100-128k.mp3"], options()).alone["gzip"]
    assert mp3.cpu_at(0.5) == 0 < mp3.cpu_at(1)


COMPRESSED = "is compressed already: nothing gains 3%"
LOSSY = "opus gains, but is lossy and not accepted"


@pytest.mark.parametrize(
    ("name", "given", "described", "pick", "reason"),
    [
        ("speech-22050-s16.wav", {}, "WAV s16le/22050/1", "flac", "raw samples, 16 bit"),
        ("speech.pcm", {}, "PCM s16le/?/1, guessed", "flac", "raw samples, 16 bit, guessed"),
        (
            "speech.pcm",
            {"pcm_layout": NAMED},
            "PCM s16le/22050/1",
            "flac",
            "raw samples, 16 bit",
        ),
        (
            "speech-22050-s16.wav",
            {"accept": "gzip", "chunk_size": (16384,)},
            "WAV s16le/22050/1",
            "gzip",
            "raw samples, 16 bit",
        ),
        (
            "speech-22050-s16.wav",
            {"accept": "opus,flac"},
            "WAV s16le/22050/1",
            "opus",
            "WAV s16le/22050/1: smaller with loss, which is accepted",
        ),
        (
            "speech-22050-s16.wav",
            {"chunk_size": (1023,)},
            "WAV s16le/22050/1",
            None,
            f"raw samples, 16 bit: chunks of less than 1,024 bytes; {LOSSY}",
        ),
        (
            "speech.pcm",
            {"accept": "opus", "pcm_layout": NAMED},
            "PCM s16le/22050/1",
            None,
            "raw samples, 16 bit: opus takes raw samples only with --pcm-layout and --opus-raw",
        ),
        (
            "speech.pcm",
            {"accept": "opus", "opus_raw": True},
            "PCM s16le/?/1, guessed",
            None,
            "raw samples, 16 bit, guessed: opus takes raw samples only with --pcm-layout and "
            "--opus-raw",
        ),
        (
            "speech.pcm",
            {"accept": "opus", "opus_raw": True, "pcm_layout": NAMED},
            "PCM s16le/22050/1",
            "opus",
            "PCM s16le/22050/1: smaller with loss, which is accepted",
        ),
        (
            "speech-8000.ulaw",
            {"chunk_size": (16384,)},
            "no audio recognised",
            "gzip",
            "no audio recognised",
        ),
        (
            "speech-8000.ulaw",
            {"accept": "flac"},
            "no audio recognised",
            None,
            "no audio recognised: nothing accepted takes it",
        ),
        (
            "speech-8000.ulaw",
            {"chunk_size": (16384,), "pcm_layout": NAMED},
            "PCM mulaw/8000/1",
            "gzip",
            "raw samples, µ-law; flac takes no µ-law",
        ),
        ("speech-24000-48k.mp3", {}, "MP3", None, f"MP3 {COMPRESSED}; {LOSSY}"),
        (
            "speech-44100-128k.mp3",
            {},
            "MP3",
            None,
            f"MP3 is compressed already: saves 0.1%, less than 3%; {LOSSY}",
        ),
        ("speech-48k.aac", {}, "AAC", None, f"AAC {COMPRESSED}; {LOSSY}"),
        ("speech-24k.ogg", {}, "Ogg Opus", None, f"Ogg Opus {COMPRESSED}"),
        ("speech-24k.ogg", {"accept": "opus"}, "Ogg Opus", None, f"Ogg Opus {COMPRESSED}"),
        (
            "speech-24000-48k.mp3",
            {"accept": "flac,opus"},
            "MP3",
            "opus",
            "MP3: smaller with loss, which is accepted",
        ),
    ],
)
def test_what_is_picked_and_why(
    raw: Path, name: str, given: dict[str, Any], described: str, pick: str | None, reason: str
) -> None:
    path = raw if name == raw.name else SPEECH[name]
    measurement = measure_one(path, options(**given))
    assert format_of(measurement.survey.sample) == described
    assert measurement.pick == pick
    assert why(measurement, options(**given)) == reason


def test_a_part_that_gains_is_told(raw: Path) -> None:
    noise = Random(1).randbytes(len(pcm()) // 3)
    raw.write_bytes(pcm() + noise)
    measurement = measure_one(raw, options(pcm_layout=NAMED))
    assert measurement.pick == "flac"
    assert measurement.share("flac") == pytest.approx(0.75, abs=0.02)
    share = f"{measurement.share('flac'):.0%}"
    assert why(measurement, options()) == f"raw samples, 16 bit; flac gains in {share} of it"


def test_a_codec_that_fails_is_told(tmp_path: Path) -> None:
    """AAC in frames of 512 bytes that hold nothing which could be decoded."""
    header = bytearray(speech("speech-48k.aac")[:7])
    header[3] &= 0xFC
    header[4], header[5] = 512 >> 3, header[5] & 0x1F
    random = Random(1)
    audio = b"".join(bytes(header) + random.randbytes(512 - 7) for _ in range(80))
    (tmp_path / "broken.aac").write_bytes(audio)
    measurement = measure_one(tmp_path / "broken.aac", options(accept="opus"))
    assert measurement.accepted.counters.errors == 3
    assert measurement.pick is None
    reason = why(measurement, options(accept="opus"))
    assert reason.startswith(f"AAC {COMPRESSED}; opus is off for this connection: ")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x/lesson.pcm", "s16le/24000/1"),
        ("calls/x.raw", "mulaw/8000/1"),
        ("x/lesson.mp3", "None"),
    ],
)
def test_layouts_are_named_by_pattern(name: str, expected: str) -> None:
    given = options(pcm_layout="*.pcm=s16le/24000/1,*calls/*=mulaw/8000/1")
    assert str(given.settings(Path(name)).pcm_layout) == expected


def test_settings_are_handed_on() -> None:
    settings = options(opus_bitrate=64_000, opus_raw=True, pcm_layout="f32le/48000/2").settings(
        Path("x")
    )
    assert (settings.opus_bitrate, settings.opus_raw) == (64_000, True)
    assert str(settings.pcm_layout) == "f32le/48000/2"
