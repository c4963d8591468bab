"""The browser's side: the README's code, the player, and the page, in Chromium."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect
from websockets.asyncio.server import ServerConnection, serve

from proxy.audio import gzip
from proxy.demo.backend import CHUNK_SIZE, PAGE, TEXT
from proxy.websocket import metadata
from tests.demo.conftest import FORMATS, Staging, question
from tests.support import pcm

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one Chromium for all

CLIENT = PAGE / "tutor-audio.js"
README = Path(__file__).parents[2] / "README.md"

# Imports a module's text and lets it receive what comes until the socket closes. Gives all
# callbacks in their order: audio as its size and SHA-256.
RECEIVE = """async ([code, url, question, algorithms]) => {
  const blob = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const { openAudioSocket } = await import(blob);
  const events = [];
  const audio = [];
  await new Promise((done) => {
    const socket = openAudioSocket(url, {
      ...(algorithms === null ? {} : { algorithms }),
      onText: (text) => {
        events.push(["text", text]);
        if (text.includes('"answer_end"')) socket.close();
      },
      onAudio: (chunk) => {
        events.push(["audio", chunk.byteLength]);
        audio.push(chunk);
      },
      onError: (error) => events.push(["error", error.message]),
      onClose: () => done(),
    });
    socket.onopen = () => socket.send(question);
  });
  const bytes = await new Blob(audio).arrayBuffer();
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [events, Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("")];
}"""


def websocket_url(url: str) -> str:
    return url.replace("http", "ws", 1) + "/ws/tutor"


async def test_readme_shows_the_code_that_the_page_uses() -> None:
    (block,) = re.findall(r"^```js\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)

    assert block == CLIENT.read_text()


@pytest.mark.parametrize("audio_format", ["pcm", "wav", "mp3"])
@pytest.mark.parametrize("algorithms", [None, ""])
async def test_the_client_code_gives_text_and_audio_as_the_backend_sent_them(
    stage: Staging, page: Page, audio_format: str, algorithms: str | None
) -> None:
    data = FORMATS[audio_format]
    async with stage() as running:
        await page.goto(running.url)
        events, digest = await page.evaluate(
            RECEIVE,
            [
                CLIENT.read_text(),
                websocket_url(running.url),
                question(format=audio_format),
                algorithms,
            ],
        )
        by_algorithm = running.app.counters.by_algorithm
        algorithms_used = {name for name, one in by_algorithm.items() if one.chunks}

    assert digest == hashlib.sha256(data).hexdigest()
    kinds = [json.loads(what)["type"] if kind == "text" else what for kind, what in events]
    pairs = []
    for at in range(0, len(data), CHUNK_SIZE):
        pairs += ["audio", min(CHUNK_SIZE, len(data) - at)]
    assert kinds == ["answer_start", *pairs, "answer_end"]
    assert algorithms_used == ({"gzip"} if algorithms is None else set())


@asynccontextmanager
async def scripted(*messages: str | bytes) -> AsyncIterator[str]:
    """A server that sends `messages` and closes; gives its URL."""

    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        for message in messages:
            await socket.send(message)

    async with serve(handle, "127.0.0.1", 0, max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/?lesson=1"


def pair(audio: bytes, **changes: Any) -> tuple[str, bytes]:
    encoded = gzip.GZIP.encode(audio, 1)
    record = json.loads(metadata.build("gzip", len(audio), len(encoded))) | changes
    return json.dumps(record, separators=(",", ":")), encoded


async def receive(page: Page, stage: Staging, *messages: str | bytes) -> list[list[Any]]:
    async with stage() as running, scripted(*messages) as url:
        await page.goto(running.url)
        events, _ = await page.evaluate(RECEIVE, [CLIENT.read_text(), url, "go", None])
    return events


async def test_the_client_code_keeps_the_order_while_a_large_chunk_is_decoded(
    stage: Staging, page: Page
) -> None:
    large = pcm() * 20
    small = pcm()[:2048]

    events = await receive(
        page, stage, *pair(large), "after it", small, *pair(small), "the end", pcm()[:100]
    )

    assert events == [
        ["audio", len(large)],
        ["text", "after it"],
        ["audio", 2048],
        ["audio", 2048],
        ["text", "the end"],
        ["audio", 100],
    ]


async def test_the_client_code_reports_broken_pairs_in_their_place_and_goes_on(
    stage: Staging, page: Page
) -> None:
    audio = pcm()[:4096]
    announced, encoded = pair(audio)

    events = await receive(
        page,
        stage,
        *(announced, encoded[:-20]),  # cut short
        "1",
        *pair(audio, original_size=4095),
        "2",
        *pair(audio, algorithm="flac"),
        *(announced, "3"),  # the binary message is missing
        audio,
        announced,  # so is this one's: the connection closes
    )

    assert [kind for kind, _ in events] == [
        "error",
        "text",
        "error",
        "text",
        "error",
        "error",
        "text",
        "audio",
        "error",
    ]
    errors = [what for kind, what in events if kind == "error"]
    assert errors[1:] == [
        "the audio has a wrong size",
        "no decoder for flac",
        "audio is missing",
        "audio is missing",
    ]


# Plays chunks of the given sizes into a buffer, and gives its samples as 16-bit integers.
RENDER = """async ([bytes, sizes, rate, channels]) => {
  const { PcmPlayer } = await import("/static/player.js");
  const data = new Uint8Array(bytes);
  const frames = data.length / 2 / channels;
  const context = new OfflineAudioContext(channels, frames, rate);
  const player = new PcmPlayer(context, channels, 0);
  let at = 0;
  for (let n = 0; at < data.length; n += 1) {
    const size = sizes[n % sizes.length];
    player.play(data.slice(at, at + size).buffer);
    at += size;
  }
  const buffer = await context.startRendering();
  const samples = new Array(frames * channels);
  for (let channel = 0; channel < channels; channel += 1) {
    buffer.getChannelData(channel).forEach((sample, frame) => {
      samples[frame * channels + channel] = Math.round(sample * 32768);
    });
  }
  return samples;
}"""


@pytest.mark.parametrize("channels", [1, 2])
async def test_the_player_plays_every_sample_without_a_gap(
    stage: Staging, page: Page, channels: int
) -> None:
    audio = pcm()[: 4 * 22_050]  # two seconds in mono
    samples = list(memoryview(audio).cast("h"))  # this machine is little-endian, as the audio is
    async with stage() as running:
        await page.goto(running.url)
        played = await page.evaluate(
            RENDER, [list(audio), [4096, 1, 333, 2, 1024], 22_050, channels]
        )

    assert played == samples


async def text_of(page: Page, element: str) -> str:
    text = await page.text_content(f"#{element}")
    assert text is not None
    return text


async def number_in(page: Page, element: str) -> int:
    return int((await text_of(page, element)).replace(",", ""))


async def test_the_page_by_keyboard_alone(stage: Staging, page: Page) -> None:
    async with stage() as running:
        await page.goto(running.url)
        await page.keyboard.press("Tab")
        await expect(page.get_by_label("Question", exact=True)).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("ArrowRight")
        await expect(page.get_by_role("radio", name="WAV")).to_be_checked()
        await page.keyboard.press("ArrowLeft")
        await expect(page.get_by_role("radio", name="PCM")).to_be_checked()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Space")
        await expect(page.get_by_role("switch")).not_to_be_checked()
        await page.keyboard.press("Space")
        await expect(page.get_by_role("switch")).to_be_checked()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text(
            "130 chunks, 12.0 s of speech. Playing."
        )
        assert await text_of(page, "answer") == TEXT
        saved = float((await text_of(page, "saved")).removesuffix(" %"))
        assert 5 < saved < 25
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text("Stopped.")
        await expect(page.get_by_role("button", name="Ask")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")  # Stop is disabled, so this is Play again
        await expect(page.get_by_role("status")).to_have_text(
            "130 chunks, 12.0 s of speech. Playing."
        )


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("audio_format", ["pcm", "wav", "mp3"])
async def test_the_page_counts_what_the_proxy_counts_and_plays(
    stage: Staging, page: Page, audio_format: str, compress: bool
) -> None:
    data = FORMATS[audio_format]
    async with stage() as running:
        await page.goto(running.url)
        await page.get_by_role("radio", name=audio_format.upper()).check()
        await page.get_by_role("switch").set_checked(compress)
        await page.get_by_role("button", name="Ask").click()
        await expect(page.get_by_role("status")).to_have_text(re.compile(r"Playing\.$"))
        received = await number_in(page, "received")
        original = await number_in(page, "original")
        counted = running.app.counters
        deflate = page.get_by_text("This connection uses permessage-deflate")
        if compress:
            # 4: the close frame, which may have passed already
            assert counted.wire_bytes - received in (0, 4)
            assert counted.wire_original_bytes - original in (0, 4)
            compressed = counted.by_algorithm["gzip"].chunks
            assert (await text_of(page, "chunks")).startswith(f"{compressed} of ")
            assert received < original
            await expect(deflate).to_be_hidden()
        else:
            assert received == original
            await expect(deflate).to_be_visible()
        assert original > len(data)
        chunks = -(-len(data) // CHUNK_SIZE)
        assert await page.locator("#columns i").count() == chunks
        await expect(page.locator("#messages .text")).to_have_count(chunks + 2)


async def test_the_page_shows_a_flag_that_flips(stage: Staging, page: Page) -> None:
    compressed = page.locator("#messages .compressed")
    # While the flag is on, no more than three chunks in a row are not worth compressing.
    eight_plain = page.locator("#messages " + " + ".join([".plain", ".text"] * 8))
    async with stage(pace=1) as running:
        await page.goto(running.url)
        await page.get_by_role("button", name="Ask").click()
        await expect(compressed.nth(3)).to_be_attached()
        running.app.store.set({"enabled": False})
        await expect(eight_plain.first).to_be_attached()
        count = await compressed.count()
        running.app.store.set({"enabled": True})
        await expect(compressed.nth(count)).to_be_attached()


async def test_the_page_says_what_went_wrong(stage: Staging, page: Page) -> None:
    async with stage() as running:
        await page.goto(running.url)
        await page.get_by_label("Question", exact=True).fill("   ")
        await page.get_by_role("button", name="Ask").click()
        await expect(page.get_by_role("status")).to_have_text(
            'The tutor says: "text" is missing or empty'
        )
        await expect(page.get_by_role("button", name="Stop")).to_be_disabled()


async def test_the_page_stops_an_answer_and_asks_anew(stage: Staging, page: Page) -> None:
    async with stage(pace=0.5) as running:
        await page.goto(running.url)
        await page.get_by_role("button", name="Ask").click()
        await expect(page.locator("#messages .text").nth(1)).to_be_attached()
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_role("status")).to_have_text("Stopped.")
        await page.get_by_role("button", name="Ask").click()
        await expect(page.get_by_role("status")).to_have_text("The tutor answers…")


# The lowest contrast (WCAG 2, 1.4.3) of any visible text with what is behind it.
CONTRAST = """() => {
  const channel = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = (color) => color.match(/[0-9.]+/g).map(Number);
  const luminance = (color) => {
    const [red, green, blue] = parse(color).map((value) => channel(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (parse(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  let lowest = 21;
  for (const element of document.querySelectorAll("body *")) {
    const own = Array.from(element.childNodes).some((n) => n.nodeType === 3 && n.data.trim());
    if (!(own || element.id === "question") || !element.checkVisibility()) continue;
    if (element.disabled) continue;
    const values = [luminance(getComputedStyle(element).color), luminance(behind(element))];
    lowest = Math.min(lowest, (Math.max(...values) + 0.05) / (Math.min(...values) + 0.05));
  }
  return lowest;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_the_page_fits_and_can_be_read(
    stage: Staging, page: Page, scheme: Any, width: int
) -> None:
    async with stage() as running:
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size({"width": width, "height": 800})
        await page.goto(running.url)
        await page.get_by_role("switch").uncheck()  # the note is shown too
        await page.get_by_role("button", name="Ask").click()
        await expect(page.get_by_role("status")).to_have_text(re.compile(r"Playing\.$"))
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.evaluate(CONTRAST) >= 4.5
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 3 * 128) == (scheme == "dark")
