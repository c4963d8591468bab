"""The README's savings table, measured: `python -m tests.support.savings` prints it.

What a client receives of a recording cut into chunks, each one message: frame headers and
metadata included. permessage-deflate is `websockets`' own, with what it negotiates by default
(12-bit windows, carried from message to message).
"""

from __future__ import annotations

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from proxy.audio.counters import Counters
from proxy.control.flags import Flags, LiveFlags
from proxy.websocket.audio_filter import AudioFilter
from proxy.websocket.frames import BINARY, build_header
from tests.support import pcm, speech

ROWS = {
    "PCM, 16 bit, 22.05 kHz": pcm,
    "WAV, the same": lambda: speech("speech-22050-s16.wav"),
    "µ-law, 8 kHz": lambda: speech("speech-8000.ulaw"),
    "MP3, 48 kb/s": lambda: speech("speech-24000-48k.mp3"),
    "MP3, 128 kb/s": lambda: speech("speech-44100-128k.mp3"),
    "AAC, ADTS": lambda: speech("speech-48k.aac"),
    "Ogg Opus, 24 kb/s": lambda: speech("speech-24k.ogg"),
}
SIZES = (4096, 16384)


def gzip_saves(audio: bytes, size: int) -> float:
    """Share that the proxy saves by gzip."""
    counters = Counters()
    audio_filter = AudioFilter(("gzip",), LiveFlags(Flags()), counters, 1 << 22)
    for at in range(0, len(audio), size):
        chunk = audio[at : at + size]
        _, job = audio_filter.feed(build_header(BINARY, len(chunk)) + chunk)
        if job is not None:
            audio_filter.complete(job, job.run())
    return 1 - counters.wire_bytes / counters.wire_original_bytes


def deflate_saves(audio: bytes, size: int) -> float:
    """Share that permessage-deflate saves."""
    deflate = PerMessageDeflate(False, False, 12, 12, {"memLevel": 5})
    original = deflated = 0
    for at in range(0, len(audio), size):
        frame = Frame(Opcode.BINARY, audio[at : at + size])
        original += len(frame.serialize(mask=False))
        deflated += len(frame.serialize(mask=False, extensions=[deflate]))
    return 1 - deflated / original


def table() -> str:
    """The table, as Markdown."""
    lines = [
        "| speech | gzip, 4 KiB | gzip, 16 KiB | permessage-deflate, 4 KiB | 16 KiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, read in ROWS.items():
        audio = read()
        shares = [gzip_saves(audio, size) for size in SIZES]
        shares += [deflate_saves(audio, size) for size in SIZES]
        lines.append(f"| {name} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
    return "\n".join(lines).replace("%", " %")


if __name__ == "__main__":
    print(table())
