"""The algorithms: those that the contract names, those that this installation has."""

from __future__ import annotations

from proxy.audio import flac, opus
from proxy.audio.codec import KNOWN, Codec
from proxy.audio.gzip import GZIP

LOSSLESS: dict[str, Codec] = {
    codec.name: codec
    for codec, installed in ((GZIP, True), (flac.FLAC, flac.INSTALLED))
    if installed
}
"""Those that give back what they got, by name, as far as they are installed."""

INSTALLED = tuple(
    name for name in KNOWN if name in LOSSLESS or (name == opus.NAME and opus.INSTALLED)
)
"""What can be offered."""

MISSING = {
    name: f"pip install 'audio-compression-proxy[{name}]'"
    for name in KNOWN
    if name not in INSTALLED
}
"""How to install the others."""
