"""Shadow mode, through a real proxy: the client's bytes are the backend's, and what would be saved
is what the same lesson saves with compression on."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.websocket.frames import BINARY, CLOSE, TEXT
from tests.conftest import Proxy
from tests.control.test_admin import fetch, frame, hold_lesson, operator, read_frames
from tests.support import pcm, speech
from tests.support.raw import Peer, raw_backend, switch

LESSONS = {
    "gzip": pcm(),
    "flac": speech("speech-22050-s16.wav"),
    "opus": speech("speech-24000-48k.mp3"),
}


def lesson_bytes(audio: bytes) -> bytes:
    """Speech in chunks of 4 KiB, a text between two."""
    parts = []
    for at in range(0, len(audio), 4096):
        parts += [frame(TEXT, b"word"), frame(BINARY, audio[at : at + 4096])]
    return b"".join([*parts, frame(CLOSE, b"\x03\xe8")])


@pytest.mark.parametrize("algorithm", LESSONS)
async def test_a_client_in_shadow_gets_what_was_sent_and_the_savings_are_real(
    algorithm: str, proxy: Proxy
) -> None:
    sent = lesson_bytes(LESSONS[algorithm])
    target = f"/?audio_compression={algorithm}".encode()

    async def lesson(peer: Peer) -> None:
        await peer.send(switch(await peer.head()) + sent)

    async def saved(shadow: bool) -> tuple[bytes, Any]:
        async with raw_backend(lesson) as port, proxy(port) as app, operator(app) as session:
            assert (await fetch(session, "/flags", "PATCH", json={"shadow": shadow}))[0] == 200
            received = await hold_lesson(app, target)
            return received, (await fetch(session, "/stats"))[1]

    in_shadow, counted = await saved(shadow=True)
    assert in_shadow == sent
    assert counted["wire_bytes"] == counted["wire_original_bytes"] == len(sent)
    assert counted["total_compressed"] == 0

    received, real = await saved(shadow=False)
    assert len(read_frames(received)) > len(read_frames(sent))
    assert real["shadow_saved_bytes"] == 0
    assert len(sent) - len(received) > 0.05 * len(sent)
    assert counted["shadow_saved_bytes"] == pytest.approx(len(sent) - len(received), rel=0.01)
