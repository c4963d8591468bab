"""PyAV, FFmpeg's libraries, where an extra has installed it; what it does at too great a cost."""

from __future__ import annotations

import importlib
from typing import Any

av: Any
"""The package, or None."""
try:
    av = importlib.import_module("av")
except ImportError:
    av = None


def has_codec(name: str, mode: str) -> bool:
    """Whether FFmpeg's encoder (`mode` "w") or decoder ("r") `name` is there."""
    if av is None:
        return False
    try:
        av.Codec(name, mode)
    except ValueError:  # UnknownCodecError: a build without it
        return False
    return True


def encode(encoder: Any, frame: Any) -> list[bytes]:
    """The packets that a frame of exactly `encoder.frame_size` samples completes; None: the last.

    `encoder.encode` first puts every frame through a filter graph of the encoder's own, which has a
    thread for each core. Of a 4 KiB chunk as FLAC that was 25 of 88 us.
    """
    return [bytes(packet) for packet in encoder._send_frame_and_recv(frame)]


class Converter:
    """Frames of samples in another format, layout and rate.

    As `av.AudioResampler`, but for its threads: one for each core, and each converter.
    """

    def __init__(self, source: Any, encoding: str, layout: str, rate: int) -> None:
        """For frames like `source`; nothing is done where they are as they shall be."""
        self._graph: Any = None
        if (source.format.name, source.layout.name, source.sample_rate) == (encoding, layout, rate):
            return
        self._graph = graph = av.filter.Graph()
        graph.threads = 1
        graph.link_nodes(
            graph.add_abuffer(
                sample_rate=source.sample_rate, format=source.format, layout=source.layout
            ),
            graph.add(
                "aformat", sample_fmts=encoding, channel_layouts=layout, sample_rates=f"{rate}"
            ),
            graph.add("abuffersink"),
        ).configure()

    def convert(self, frame: Any) -> list[Any]:
        """What is there of the frames so far, and of this one; None: their end."""
        if self._graph is None:
            return [] if frame is None else [frame]
        self._graph.push(frame)
        converted = []
        while True:
            try:
                converted.append(self._graph.pull())
            except (EOFError, BlockingIOError):
                return converted
