from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import AudioFrameError
from proxy.websocket.metadata import Metadata, build, parse

SIZES = st.integers(0, 1 << 63)
GOOD = {
    "type": "audio_chunk_compressed",
    "algorithm": "gzip",
    "original_size": 4096,
    "compressed_size": 3312,
}


def test_it_is_the_contracts_text() -> None:
    assert build("gzip", 4096, 3312) == (
        b'{"type":"audio_chunk_compressed","algorithm":"gzip",'
        b'"original_size":4096,"compressed_size":3312}'
    )


def test_what_an_algorithm_adds_stands_behind_and_as_compact() -> None:
    extra = {"sample_rate": 48_000, "packet_sizes": [60, 3], "prefix": "UklGRg==", "samples": 0}
    assert build("opus", 4096, 63, extra) == (
        b'{"type":"audio_chunk_compressed","algorithm":"opus",'
        b'"original_size":4096,"compressed_size":63,'
        b'"sample_rate":48000,"packet_sizes":[60,3],"prefix":"UklGRg==","samples":0}'
    )
    assert build("gzip", 4096, 3312, {}) == build("gzip", 4096, 3312)


extras = st.dictionaries(
    st.text().filter(lambda key: key not in GOOD),
    st.integers() | st.text() | st.lists(st.integers(0, 5000)),
    max_size=4,
)


@settings(deadline=None)
@given(st.sampled_from(("gzip", "flac", "opus")), SIZES, SIZES, extras)
def test_what_is_built_is_parsed(
    algorithm: str, original: int, compressed: int, extra: dict[str, object]
) -> None:
    text = build(algorithm, original, compressed, extra).decode("ascii")
    assert parse(text) == Metadata(algorithm, original, compressed, extra)
    assert list(json.loads(text)) == [*GOOD, *extra]


def test_order_and_white_space_do_not_matter_and_other_keys_are_kept() -> None:
    record = {"prefix": "UklGRg==", **dict(reversed(GOOD.items())), "x": [{}]}
    extra = {"prefix": "UklGRg==", "x": [{}]}
    assert parse(json.dumps(record, indent=2)) == Metadata("gzip", 4096, 3312, extra)
    assert parse(json.dumps(GOOD)) == Metadata("gzip", 4096, 3312)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        '{"type":"answer","text":"audio_chunk_compressed"}',
        '"audio_chunk_compressed"',
        '["type","audio_chunk_compressed"]',
        '{"audio_chunk_compressed":true}',
        '{"type":["audio_chunk_compressed"]}',
        '{"type":"audio_chunk_compressed"',
        "what is an audio_chunk_compressed message?",
    ],
)
def test_other_texts_are_none(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize("key", ["original_size", "compressed_size"])
@pytest.mark.parametrize("value", [..., None, "4096", 4096.0, -1, True, [], {}])
def test_a_wrong_size_is_named(key: str, value: Any) -> None:
    check_named(key, value)


@pytest.mark.parametrize("value", [..., None, 1, ["gzip"], {}])
def test_a_wrong_algorithm_is_named(value: Any) -> None:
    check_named("algorithm", value)


def check_named(key: str, value: Any) -> None:
    """`...` stands for a key that is missing."""
    record: dict[str, Any] = {**GOOD, key: value}
    if value is ...:
        del record[key]
    with pytest.raises(AudioFrameError, match=f"'{key}'"):
        parse(json.dumps(record))


def test_nesting_beyond_reason_is_no_crash() -> None:
    """A backend may send any text; how deep a parser goes differs by Python version."""
    deep = "[" * 100_000 + "]" * 100_000
    text = json.dumps(GOOD)[:-1] + f',"x":{deep}}}'
    metadata = parse(text)
    assert metadata is None or metadata.original_size == 4096
