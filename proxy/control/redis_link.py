"""The way to a Redis server: nothing waits for ever on it, and each failure is a StoreError."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from proxy.errors import AudioProxyError, ConfigError, StoreError

try:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.connection import parse_url
    from redis.exceptions import RedisError, ResponseError
except ImportError as error:
    raise ConfigError(
        "store: a Redis server needs redis-py: "
        f"pip install 'audio-compression-proxy[redis]' ({error})"
    ) from error

log = structlog.get_logger(__name__)

LIMIT = 1.5
"""Seconds for one operation, the connection's making included."""
SILENCE = 3.0
"""Seconds without an answer after which a subscription is dead: TCP itself would take minutes."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two attempts to subscribe."""

_OPTIONS = {
    # RESP 2 is what every version speaks, with and without HELLO.
    "protocol": 2,
    "decode_responses": False,
    # `Link.limit` is the limit. With one of its own, redis-py calls asyncio.wait_for, which may
    # swallow a cancellation before Python 3.12.
    "socket_timeout": None,
    "socket_connect_timeout": None,
    # One subscribes, the others are for operations; those that find none wait, within their time.
    "max_connections": 8,
    "timeout": None,
}

Client = Any
"""redis.asyncio.Redis: what it says of its types is not true of every version and option."""
Hear = Callable[[str, bytes], Awaitable[None]]
"""Takes a channel's name and a message."""


class RefusedError(StoreError):
    """Redis has answered that it will not do it."""


class Trouble:
    """What is wrong with one thing: told of in the log once, not at each attempt."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._error: str | None = None

    def set(self, error: str | None) -> None:
        """None: all is well."""
        if error is not None and error != self._error:
            log.error(self._event, error=error)
        self._error = error


class Link:
    """A server that may be away, come back, hang or answer nonsense."""

    def __init__(self, url: str) -> None:
        """`url`: redis://, rediss:// or unix://, as redis-py reads it. Raises ConfigError."""
        try:
            options: dict[str, Any] = {**parse_url(url), **_OPTIONS}
            if url.startswith("rediss:"):
                options.setdefault("ssl_check_hostname", True)  # not by itself before redis-py 6
            pool: Any = BlockingConnectionPool(**options)
            pool.make_connection()  # only this finds options that there are not
        except (ValueError, TypeError, RedisError):
            # What these say may show a part of the password.
            raise ConfigError(
                "store: not a URL of a Redis server, such as redis://:PASSWORD@HOST:PORT/0, "
                "rediss://HOST?ssl_ca_certs=FILE or unix://PATH; signs such as / ? # @ in a "
                "password are written as %2F %3F %23 %40"
            ) from None
        self._redis: Client = Redis.from_pool(pool)
        self._secrets = [options[name] for name in ("password", "ssl_password") if name in options]
        self._database = int(options.get("db", 0))
        self.address: str = options.get("path") or (
            f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        )
        """Of the server, to be shown."""

    def channel(self, name: str) -> str:
        """The name of a channel of this database: Redis itself has them for all in common."""
        return f"{name}:{self._database}" if self._database else name

    async def close(self) -> None:
        """Close all connections."""
        with suppress(StoreError):
            async with self.limit(LIMIT):
                await self._redis.aclose()

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[Client]:
        """Use the server, for so many seconds at most. Raises StoreError; errors of ours pass."""
        try:
            async with asyncio.timeout(seconds):
                yield self._redis
        except AudioProxyError:
            raise
        except TimeoutError:
            raise StoreError(f"Redis at {self.address}: no answer in time") from None
        except ResponseError as error:
            raise RefusedError(self._explain(error)) from None
        except Exception as error:  # noqa: BLE001  # redis-py raises many over what is not Redis
            raise StoreError(self._explain(error)) from None

    async def follow(
        self,
        channels: Sequence[str],
        hear: Hear,
        look: Callable[[], Awaitable[None]],
        beat: float,
    ) -> None:
        """Subscribe, for ever, again wherever the connection is lost.

        `hear` gets each message. `look` is called whenever some may have been missed, and every
        `beat` seconds as long as the server is there; neither may raise.
        """
        refused = Trouble("Redis does not let this proxy subscribe")
        loop = asyncio.get_running_loop()
        pauses = back_off()
        while True:
            began = loop.time()
            try:
                async with self._subscribed(channels) as pubsub:
                    refused.set(None)
                    await look()
                    await self._listen(pubsub, hear, look, beat)
            except RefusedError as error:
                refused.set(str(error))
            except StoreError:
                pass  # why, is told of by who looks
            await look()
            if loop.time() - began > 2 * (LIMIT + beat):  # it did work for a while
                pauses = back_off()
            await asyncio.sleep(next(pauses))

    @asynccontextmanager
    async def _subscribed(self, channels: Sequence[str]) -> AsyncIterator[Any]:
        """Entered once Redis has confirmed: whatever is published from then on is heard."""
        pubsub = self._redis.pubsub()
        try:
            async with self.limit(LIMIT):
                await pubsub.subscribe(*channels)
                left = len(channels)
                while left:
                    message = await pubsub.get_message(timeout=LIMIT)
                    left -= message is not None and message["type"] == "subscribe"
            yield pubsub
        finally:
            with suppress(StoreError):  # whatever ended it counts, a cancellation above all
                async with self.limit(LIMIT):
                    await pubsub.aclose()

    async def _listen(
        self, pubsub: Any, hear: Hear, look: Callable[[], Awaitable[None]], beat: float
    ) -> None:
        """Until the connection is lost, which is a StoreError."""
        loop = asyncio.get_running_loop()
        end = loop.time() + beat
        unanswered = 0  # beats: however long this process was halted, that is one
        while True:
            left = max(end - loop.time(), 0)
            async with self.limit(left + LIMIT):
                message = await pubsub.get_message(timeout=left)
            if message is not None:
                unanswered = 0
                if message["type"] == "message":
                    await hear(message["channel"].decode(errors="replace"), message["data"])
            if loop.time() >= end:
                if unanswered * beat >= SILENCE:
                    raise StoreError(f"Redis at {self.address}: the subscription is silent")
                unanswered += 1
                async with self.limit(LIMIT):
                    await pubsub.ping()
                await look()
                end = loop.time() + beat

    def _explain(self, error: Exception) -> str:
        """What to say of an error, the password left out wherever it came from."""
        reason = str(error) or type(error).__name__
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return f"Redis at {self.address}: {reason}"


def back_off() -> Iterator[float]:
    """Seconds to wait before each attempt; at random, that a fleet does not return all at once."""
    pause = FIRST_PAUSE
    while True:
        yield random.uniform(pause / 2, pause)
        pause = min(2 * pause, LONGEST_PAUSE)
