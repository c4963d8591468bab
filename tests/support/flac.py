"""FLAC pairs, read by libsndfile."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import soundfile


def decode_flac(data: bytes, extra: Mapping[str, Any]) -> bytes:
    """The original bytes: samples of 16 or 24 bits, and what stood around them."""
    samples, _ = soundfile.read(io.BytesIO(data), dtype="int32", always_2d=True)
    width = {"PCM_16": 2, "PCM_24": 3}[soundfile.info(io.BytesIO(data)).subtype]
    raw = samples.astype("<i4").reshape(-1, 1).view("u1")[:, 4 - width :].tobytes()
    prefix, suffix = (base64.b64decode(extra.get(name, "")) for name in ("prefix", "suffix"))
    return prefix + raw + suffix
