"""Where a fleet keeps its flags: a key in Redis, and a channel that tells of each change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from proxy.control.flags import Flags, LiveFlags, Revision, differences
from proxy.control.redis_link import LIMIT, Client, Link, RefusedError, Trouble
from proxy.control.store import replace_file, tell_change, tell_untold
from proxy.errors import FlagsError, StoreError

log = structlog.get_logger(__name__)

KEY = "audio-proxy:flags"
"""What is stored; also the name of the channel."""
LOOK_INTERVAL = 2.0
"""Seconds between two looks at what is stored: a message that was lost is made good by then."""
START_LIMIT = 2.0
"""Seconds that the proxy waits for Redis when it starts."""
CHANGE_LIMIT = 2.0
"""Seconds for a change."""

# What was read is replaced, if it is what is stored still. A script that Redis comes to only when
# whoever sent it has given up, as one that was halted does, changes nothing: by Redis's own clock.
_REPLACE = """
local time = redis.call('TIME')
if time[1] + time[2] / 1000000 > tonumber(ARGV[3]) then return 'late' end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 'changed' end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 'done'
"""


class RedisStore:
    """The flags in Redis, and what is in force of them in `live`; see `FlagStore`.

    The last good ones are also in the file `cache`, for a start while Redis is away. Where Redis
    has lost them, those in force are put back.
    """

    kind = "redis"

    def __init__(self, url: str, cache: Path, first: Flags, *, tells: bool = True) -> None:
        """`tells`: see `FlagStore`. Raises ConfigError."""
        self._link = Link(url)
        self._channel = self._link.channel(KEY)
        self._cache = cache
        self._first = first
        self.tells = tells
        self._good = Revision(first)
        """What is put into an empty Redis, and in the end into the cache."""
        self._asking = asyncio.Lock()
        """An answer is taken before the next question is asked: the flags never go back."""
        self._keeping = asyncio.Lock()
        self._broken = Trouble("flags not taken; the last good ones stay in force")
        self._unkept = Trouble("flags cannot be kept for a start without Redis")
        self._told_connected: bool | None = None
        self.live = LiveFlags(first)
        self.error: str | None = None
        """Why what is stored is not in force, or cannot be seen; or None."""
        self.is_connected = False

    async def start(self) -> None:
        """See `FlagStore`."""
        kept = await asyncio.to_thread(self._read_cache)
        if kept is not None:
            self._good = kept
        tells, self.tells = self.tells, False  # what was so before is no change
        await self._look(START_LIMIT)
        if kept is not None and self.error is not None:
            self._take(kept)
        self.tells = tells

    async def watch(self) -> None:
        """See `FlagStore`."""

        async def hear(_channel: str, _message: bytes) -> None:
            await self._look(LIMIT)

        await self._link.follow(
            (self._channel,), hear, lambda: self._look(LIMIT), beat=LOOK_INTERVAL
        )

    async def close(self) -> None:
        """Let go of Redis. Whoever watches is to be cancelled before."""
        await self._link.close()

    async def read(self) -> Revision:
        """What is stored. Raises StoreError, also where nothing is, and FlagsError."""
        async with self._link.limit(LIMIT) as redis:
            data = await redis.get(KEY)
        if data is None:
            raise StoreError(f"Redis at {self._link.address}: no flags are stored")
        return self._parse(data)

    async def change(
        self, changes: Mapping[str, Any], by: str, expected: int | None = None
    ) -> Revision:
        """See `FlagStore`. Broken flags are replaced, the changes made to those in force.

        One thing cannot be known: where the connection breaks after the change was sent, Redis may
        have made it. Then `watch` sees it.
        """
        async with self._link.limit(CHANGE_LIMIT) as redis, self._asking:
            outcome = b"changed"
            while outcome == b"changed":
                before = redis.pipeline(transaction=False).get(KEY).time()
                stored, (seconds, microseconds) = await before.execute()
                former = self._stored_or_good(stored)
                after = former.changed(changes, by, expected)
                deadline = seconds + microseconds / 1e6 + CHANGE_LIMIT
                arguments = (stored or b"", after.to_json(), deadline)
                about = (self._channel, after.number)
                outcome = await redis.eval(_REPLACE, 1, KEY, *arguments, *about)
            if outcome != b"done":
                raise StoreError(f"Redis at {self._link.address}: too late, nothing is changed")
            self._take(after)
        tell_change(differences(former.flags, after.flags), after, by)
        await self._keep()
        return after

    async def _look(self, limit: float) -> None:
        """Put in force what is stored, or store what is in force where nothing is."""
        try:
            async with self._link.limit(limit) as redis, self._asking:
                stored = await redis.get(KEY)
                self._take(self._parse(await self._put_back(redis) if stored is None else stored))
        except FlagsError as error:
            self._tell(error)
        else:
            self._tell(None)
            await self._keep()

    async def _put_back(self, redis: Client) -> bytes:
        """Store what is in force, unless another proxy was faster. Returns what is stored then."""
        good = self._good.to_json()
        if await redis.set(KEY, good, nx=True):
            log.info("no flags were stored; those in force are now", revision=self._good.number)
            return good
        stored: bytes | None = await redis.get(KEY)
        return good if stored is None else stored

    def _parse(self, data: bytes) -> Revision:
        try:
            return Revision.parse(data, self._first)
        except FlagsError as error:
            raise FlagsError(f"Redis at {self._link.address}: {KEY}: {error}") from error

    def _stored_or_good(self, stored: bytes | None) -> Revision:
        """What changes are made to."""
        try:
            return self._good if stored is None else self._parse(stored)
        except FlagsError:
            return Revision(self.live.current, self.live.revision)

    def _take(self, revision: Revision) -> None:
        """Put good flags in force."""
        self._good = revision
        before = self.live.revision
        changes = self.live.take(revision)
        if self.tells:
            tell_untold(changes, revision, before)

    def _tell(self, error: FlagsError | None) -> None:
        """How the last look went: in the log there is a line where it is not as it was."""
        is_away = isinstance(error, StoreError) and not isinstance(error, RefusedError)
        self.error = str(error) if error is not None else None
        self.is_connected = not is_away
        if self.is_connected != self._told_connected:
            self._told_connected = self.is_connected
            if is_away:
                log.warning("store disconnected; the flags stay as they are", error=self.error)
            else:
                log.info("store connected", address=self._link.address)
        if not is_away:
            self._broken.set(self.error)

    def _read_cache(self) -> Revision | None:
        try:
            return Revision.parse(self._cache.read_bytes(), self._first)
        except FileNotFoundError:
            return None
        except (OSError, FlagsError) as error:
            log.warning("kept flags not taken", path=str(self._cache), error=str(error))
            return None

    async def _keep(self) -> None:
        """Write the last good flags to the cache, where it has others."""
        async with self._keeping:
            try:
                await asyncio.to_thread(_write, self._cache, self._good.to_json())
            except OSError as error:
                self._unkept.set(f"{self._cache}: {error.strerror}")
            else:
                self._unkept.set(None)


def _write(path: Path, data: bytes) -> None:
    """Replace a file, where its content is another. Raises OSError."""
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data)
