"""Settings of audio: which layout raw samples have on which path, and what Opus may do."""

from __future__ import annotations

import pytest

from proxy.audio.pcm import PcmLayout
from proxy.audio.settings import AudioSettings
from proxy.config import Settings
from proxy.errors import ConfigError
from tests.test_config import Toml, no_settings_from_outside, read, toml

__all__ = ["no_settings_from_outside", "toml"]  # fixtures

S16, MULAW = PcmLayout("s16le", 24_000, 1), PcmLayout("mulaw", 8000, 1)


def layout(settings: Settings, path: str) -> PcmLayout | None:
    """Of raw samples on a path."""
    return settings.audio_settings(path).pcm_layout


def test_first_values() -> None:
    assert read().audio_settings("/any") == AudioSettings(4 * 1024 * 1024, None, 24_000, False)
    assert read().opus_flush_ms == 60


def test_what_a_connection_needs_is_handed_on() -> None:
    settings = read(
        max_audio_bytes="2048", pcm_layout="s16le/24000/1", opus_bitrate="32000", opus_raw="yes"
    )
    assert settings.audio_settings("/any") == AudioSettings(2048, S16, 32_000, True)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/ws/call", MULAW),
        ("/ws/call/7", MULAW),
        ("/ws/calls", MULAW),
        ("/ws/speak", S16),
        ("/WS/speak", None),
        ("/", None),
        ("/other/ws/speak", None),
    ],
)
def test_the_first_pattern_that_matches_counts(path: str, expected: PcmLayout | None) -> None:
    settings = read(pcm_layout="/ws/call*=mulaw/8000/1, /ws/*=s16le/24000/1")
    assert layout(settings, path) == expected
    for_all_others = read(pcm_layout="/ws/call*=mulaw/8000/1,s16le/24000/1")
    assert layout(for_all_others, path) == (MULAW if "call" in path else S16)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*", "/", True),
        ("*/speak", "/de/speak", True),
        ("*/speak", "/de/speak/", False),
        ("/v?/speak", "/v2/speak", True),
        ("/v[12]/speak", "/v3/speak", False),
        ("/a=b", "/a=b", True),
    ],
)
def test_patterns_are_those_of_file_names(pattern: str, path: str, matches: bool) -> None:
    settings = read(pcm_layout=f"{pattern}=s16le/24000/1")
    assert (layout(settings, path) is not None) is matches


def test_a_file_may_have_a_list_or_a_text(toml: Toml) -> None:
    for text in ('"/a=mulaw/8000/1, s16le/24000/1"', '["/a=mulaw/8000/1", "s16le/24000/1"]'):
        settings = read(**toml(f"pcm_layout = {text}"))
        assert (layout(settings, "/a"), layout(settings, "/b")) == (MULAW, S16)
        assert [str(rule) for rule in settings.pcm_layout] == ["/a=mulaw/8000/1", "*=s16le/24000/1"]
    assert read(**toml("pcm_layout = []")).pcm_layout == ()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("s16le/24000", "'s16le/24000'"),
        ("s16be/24000/1", "s16le, s24le"),
        ("s16le/24000/3", "1 or 2 channels"),
        ("s16le/4000/1", "8000 to 192000"),
        ("s16le/24000/1,", "''"),
        ("/ws=", "''"),
        ("ws/*=s16le/24000/1", "'ws/*' is no pattern"),
        ("=s16le/24000/1", "is no pattern"),
        ("/a=s16le/24000/1,b=s16le/24000/1", "'b' is no pattern"),
        ("s16le/24000/1/a", "'s16le/24000/1/a'"),
    ],
)
def test_what_is_wrong_with_a_layout_is_said(value: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(pcm_layout=value)
    assert str(caught.value).startswith("pcm_layout (--pcm-layout, AUDIO_PROXY_PCM_LAYOUT): ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "least", "most"), [("opus_bitrate", 6000, 256_000), ("opus_flush_ms", 1, 10_000)]
)
def test_bounds(name: str, least: int, most: int) -> None:
    for value in (least, most):
        assert getattr(read(**{name: str(value)}), name) == value
    for value in (least - 1, most + 1, "1.5", "many"):
        with pytest.raises(ConfigError, match=f"^{name} "):
            read(**{name: str(value)})
