"""The sample tutor."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from proxy.demo import backend
from proxy.demo.measure import ask
from tests.demo.conftest import FORMATS, nothing, question, tutor


@pytest.mark.parametrize("audio_format", FORMATS)
async def test_an_answer_is_the_recording_with_each_chunk_announced(audio_format: str) -> None:
    data = FORMATS[audio_format]
    async with tutor() as connection:
        answer = await ask(connection, audio_format, nothing)

    texts = [json.loads(message) for message in answer.messages if isinstance(message, str)]
    chunks = [message for message in answer.messages if isinstance(message, bytes)]
    assert answer.audio == data
    assert {len(chunk) for chunk in chunks[:-1]} == {4096}
    assert [type(message) for message in answer.messages[1:-1]] == [str, bytes] * len(chunks)
    start, *announced, end = texts
    assert start["type"] == "answer_start"
    assert (start["format"], start["channels"]) == (audio_format, 1)
    assert start["sample_rate"] == (44_100 if audio_format == "mp3" else 22_050)
    assert end == {
        "type": "answer_end",
        "chunks": len(chunks),
        "bytes": len(data),
        "seconds": 12.0,
    }
    assert [text["sequence"] for text in announced] == list(range(len(chunks)))


async def test_no_chunk_is_sent_before_its_time() -> None:
    pace = 40.0
    async with tutor(pace) as connection:
        asked = time.monotonic()
        answer = await ask(connection, "pcm", nothing)

    sent_at = [
        json.loads(message)["sent_at"]
        for message in answer.messages
        if isinstance(message, str) and "sent_at" in message
    ]
    step = backend.CHUNK_SIZE / (2 * 22_050) / pace
    early = 0.002  # uvloop's timers count whole milliseconds
    assert all(at >= asked + n * step - early for n, at in enumerate(sent_at))
    assert all(delay > 0 for delay in answer.delays)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\0\1", "a question is a text message"),
        ("hello", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ("[]", '"type": "question"'),
        (question(type="answer"), '"type": "question"'),
        (question(text=7), '"text" is missing'),
        (question(text=" "), '"text" is missing'),
        (question(format="ogg"), '"format" is none of pcm, wav, mp3'),
        (question(format=["pcm"]), '"format" is none of'),
    ],
)
async def test_what_is_no_question_is_told_so_and_the_next_one_is_answered(
    message: str | bytes, reason: str
) -> None:
    async with tutor() as connection:
        await connection.send(message)
        error = json.loads(await connection.recv())
        answer = await ask(connection, "mp3", nothing)

    assert error["type"] == "error"
    assert reason in error["message"]
    assert answer.audio == FORMATS["mp3"]


async def test_questions_are_answered_one_after_the_other() -> None:
    async with tutor() as connection:
        for message in (question(), "no question", question(format="mp3")):
            await connection.send(message)
        kinds = []
        while kinds.count("answer_end") < 2:
            message = await connection.recv()
            if isinstance(message, str):
                kinds.append(json.loads(message)["type"])

    assert [kind for kind in kinds if kind != "audio"] == [
        "answer_start",
        "answer_end",
        "error",
        "answer_start",
        "answer_end",
    ]


async def test_too_many_questions_end_the_connection() -> None:
    async with tutor(pace=0.01) as connection:
        for _ in range(backend.MAX_WAITING + 2):
            await connection.send(question())
        await connection.wait_closed()

    assert (connection.close_code, connection.close_reason) == (1013, "too many questions")


async def test_a_client_that_leaves_in_mid_answer_is_let_go() -> None:
    before = asyncio.all_tasks()
    async with tutor(pace=0.01) as connection:
        await connection.send(question())
        await connection.recv()
        await connection.close()
        assert connection.close_code == 1000  # answered at once, not after the answer

    assert asyncio.all_tasks() == before
