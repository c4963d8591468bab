"""Flow control: a client that does not read slows its own backend and costs little."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from proxy.websocket.frames import BINARY, TEXT
from tests.conftest import Proxy
from tests.support import pcm, until
from tests.support.process import Process, proxy_process, socket_memory
from tests.support.raw import Peer, parse_frames, raw_backend, raw_client, request, switch
from tests.tunnel.test_tunnel import CHUNK, TARGETS, frame, tunnel

STALLED = 8
MIB = 1 << 20


class Offering:
    """A backend that offers 200 MiB to every client, one chunk after the other."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self._seen = (0, 0)

    async def script(self, peer: Peer) -> None:
        """For `raw_backend`. Who sends `X-Reads` gets one chunk."""
        head = await peer.head()
        await peer.send(switch(head))
        if b"X-Reads" in head:
            await peer.send(frame(BINARY, CHUNK))
            await peer.ended()
            return
        index = len(self.taken)
        self.taken.append(0)
        with pytest.raises(ConnectionError):
            await self._offer(peer, index)

    async def _offer(self, peer: Peer, index: int) -> None:
        for _ in range(200 * MIB // len(CHUNK)):
            await peer.send(frame(BINARY, CHUNK))
            self.taken[index] += len(CHUNK)

    def nothing_more_is_taken(self) -> bool:
        """Whether the last hundred times that this was asked gave the same answer."""
        total, times = self._seen
        same = len(self.taken) == STALLED and sum(self.taken) == total
        self._seen = (sum(self.taken), times + 1 if same else 0)
        return times >= 100


async def one_chunk(proxy: Process, target: bytes) -> None:
    """A lesson beside the others."""
    async with raw_client(proxy.listen) as client, asyncio.timeout(2):
        await client.send(request(target, b"X-Reads: 1"))
        await client.head()
        await client.read(1000)


@TARGETS
@pytest.mark.asyncio(loop_factories=["uvloop"])  # the proxy's own process has its own loop
async def test_a_client_that_stops_reading(target: bytes, tmp_path: Path) -> None:
    """Bounded memory, in the process and in the kernel; nobody else waits; let go in time."""
    backend = Offering()
    async with (
        raw_backend(backend.script) as port,
        proxy_process(port, tmp_path, "--stall-timeout", "4") as proxy,
        contextlib.AsyncExitStack() as clients,
    ):
        sockets = proxy.sockets()
        await one_chunk(proxy, target)
        await until(lambda: proxy.sockets() <= sockets)
        memory = proxy.memory()
        for _ in range(STALLED):
            client = await clients.enter_async_context(raw_client(proxy.listen, limit=1000))
            await client.send(request(target))
        await until(backend.nothing_more_is_taken)
        in_process = (proxy.memory() - memory) / STALLED
        to_clients = await socket_memory(f"sport = :{proxy.listen.port}")
        to_backend = await socket_memory(f"dport = :{port}")
        in_kernel = [sum(pair) for pair in zip(to_clients, to_backend, strict=True)]
        print(f"KiB a connection: {in_process / 1024:.0f}, in its queues {max(in_kernel) / 1024}")
        assert len(to_clients) == len(to_backend) == STALLED
        assert in_process < MIB
        assert max(in_kernel) < 1.5 * MIB
        await one_chunk(proxy, target)
        await until(lambda: proxy.sockets() <= sockets, seconds=4 + 5)


@pytest.mark.parametrize("size", [256 * 1024, MIB])
async def test_order_holds_while_a_chunk_is_encoded_in_a_thread(proxy: Proxy, size: int) -> None:
    """Text and small chunks behind a large one; the client drains in the meantime."""
    audio = (pcm() * 3)[:size]
    stream = [
        step
        for n in range(20)
        for step in ((TEXT, str(n).encode()), (BINARY, audio), (BINARY, CHUNK), (BINARY, b"tiny"))
    ]

    async def script(peer: Peer) -> None:
        await peer.send(switch(await peer.head()))
        for opcode, data in stream:
            await peer.send(frame(opcode, data))
        peer.writer.write_eof()
        await peer.ended()

    async with (
        raw_backend(script) as port,
        proxy(port) as app,
        tunnel(app, b"/?audio_compression=gzip") as client,
    ):
        received = parse_frames(await client.rest())
        assert app.counters.algorithm("gzip").chunks == 40
    assert received == stream
