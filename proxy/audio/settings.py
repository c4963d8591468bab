"""What is decided about a connection's audio, once."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.audio.pcm import PcmLayout


@dataclass(frozen=True, slots=True)
class AudioSettings:
    """The operator's settings, as far as they concern one connection."""

    max_audio_bytes: int = 4 * 1024 * 1024
    """The largest message that is held."""
    pcm_layout: PcmLayout | None = None
    """Of raw samples, where the operator named it."""
    opus_bitrate: int = 24_000
    """Bits a second, of all channels."""
    opus_raw: bool = False
    """Whether raw PCM whose layout was named becomes Opus, too."""
