from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.audio import gzip


@pytest.fixture(autouse=True, scope="module")
def one_encoder() -> Iterator[None]:
    """The model of the filter (strategies.py) knows sizes by `Gzip.encode`, and no layouts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip, "huffman", None)
        yield
