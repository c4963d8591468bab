"""What a recording is, and why the proxy does with it what it does: in words, from facts."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.analyze.measure import FLAGS, Measurement
from proxy.analyze.options import Options
from proxy.audio.algorithms import LOSSLESS, MISSING
from proxy.audio.formats import Format
from proxy.audio.stream import Chunk

NAMES = {
    Format.WAV: "WAV",
    Format.PCM: "PCM",
    Format.MP3: "MP3",
    Format.AAC: "AAC",
    Format.OPUS: "Ogg Opus",
    Format.VORBIS: "Ogg Vorbis",
    Format.OGG: "Ogg",
    Format.FLAC: "FLAC",
    Format.WEBM: "WebM",
    Format.UNKNOWN: "no audio recognised",
}

_SAMPLES = {
    "u8": "8 bit",
    "s16le": "16 bit",
    "s24le": "24 bit",
    "s32le": "32 bit",
    "f32le": "32-bit floats",
    "mulaw": "µ-law",
    "alaw": "A-law",
}

_ALL = 0.95
"""Of a recording; its last chunk may be a small one."""
_MOST = 0.5


def format_of(chunk: Chunk) -> str:
    """A format's name, and how its samples stand. Those that are guessed do not tell their rate."""
    name = NAMES[chunk.format]
    if chunk.layout is None:
        return name
    if chunk.guessed:
        return f"{name} {chunk.layout.encoding}/?/{chunk.layout.channels}, guessed"
    return f"{name} {chunk.layout}"


def why(measurement: Measurement, options: Options) -> str:
    """Why the proxy picks what it picks for a client that accepts what the options say."""
    accepted = options.accept
    chunk, name = measurement.survey.sample, measurement.pick
    share = 0.0 if name is None else measurement.share(name)
    reasons = [_audio(chunk)]
    if name is None:
        reasons[0] += f": {_why_none(measurement, options)}"
    elif name == "opus":
        reasons = [f"{format_of(chunk)}: smaller with loss, which is accepted"]
    elif name == "gzip" and chunk.layout is not None and _usable("flac", accepted):
        takes = LOSSLESS["flac"].takes(chunk)
        samples = _SAMPLES[chunk.layout.encoding]
        reasons.append("flac gains less" if takes else f"flac takes no {samples}")
    if 0 < share < _ALL:
        reasons.append(f"{name} gains in {share:.0%} of it")
    # Of what is not installed, FLAC would be of use for samples only.
    missing = [name for name in accepted if name in MISSING]
    reasons += [
        f"{name} is not installed" for name in missing if name != "flac" or chunk.layout is not None
    ]
    if share < _MOST and "opus" not in accepted and _gains("opus", measurement):
        reasons.append("opus gains, but is lossy and not accepted")
    return "; ".join([*reasons, *measurement.accepted.warnings])


def _audio(chunk: Chunk) -> str:
    if chunk.format.is_compressed:
        return f"{NAMES[chunk.format]} is compressed already"
    if chunk.layout is not None:
        guessed = ", guessed" if chunk.guessed else ""
        return f"raw samples, {_SAMPLES[chunk.layout.encoding]}{guessed}"
    if chunk.format is Format.WAV:
        return "WAV, its samples' layout not known"
    return NAMES[chunk.format]


def _why_none(measurement: Measurement, options: Options) -> str:
    chunk, played = measurement.survey.sample, measurement.accepted
    raw = chunk.guessed or (chunk.format is Format.PCM and not options.opus_raw)
    speaks = _usable("opus", options.accept) and chunk.layout is not None
    least = f"{FLAGS.min_gain:.0%}"
    if any(one.chunks for one in played.counters.by_algorithm.values()):
        return f"saves {played.saved:.1%}, less than {least}"
    if played.jobs or chunk.format.is_compressed or (speaks and not raw):
        return f"nothing gains {least}"
    if speaks:
        return "opus takes raw samples only with --pcm-layout and --opus-raw"
    if min(measurement.chunk_size, measurement.survey.size) < FLAGS.min_size:
        return f"chunks of less than {FLAGS.min_size:,} bytes"
    return "nothing accepted takes it"


def _usable(name: str, accepted: Sequence[str]) -> bool:
    return name in accepted and name not in MISSING


def _gains(name: str, measurement: Measurement) -> bool:
    """Whether an algorithm pays for clients that accept no other."""
    played = measurement.alone.get(name)
    return played is not None and played.saved >= FLAGS.min_gain
