"""The other workers and machines: what this one asks them, and what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from proxy.config import Settings
from proxy.control.flags import Flags
from proxy.control.reporting import MACHINE, Reporting
from proxy.control.siblings import Siblings
from proxy.control.store import FileStore, FlagStore
from proxy.errors import QueryError
from proxy.tunnel.listing import Selection, index, merge, row_of
from proxy.tunnel.lull import lull_after
from proxy.tunnel.registry import Tunnels

if TYPE_CHECKING:
    from proxy.control.redis_fleet import RedisFleet

log = structlog.get_logger(__name__)

Json = dict[str, Any]

_NOT_OPTED_IN = "it did not opt in: nothing is compressed on it"


def open_store(settings: Settings, first: Flags, *, tells: bool) -> FlagStore:
    """Where the flags are kept. Raises ConfigError where the library for that is missing.

    `first`: what is in force where nothing is kept yet. `tells`: see `FileStore`.
    """
    if settings.store is None:
        return FileStore(settings.flags_file, first, tells=tells, sleep=lull_after)
    from proxy.control.redis_store import RedisStore

    cache = settings.state_dir / "redis-flags.json"
    return RedisStore(settings.store.get_secret_value(), cache, first, tells=tells)


class Fleet:
    """Answers for all workers: those of this machine, asked through their sockets, and those of
    others, asked through Redis. No address of a client leaves its machine."""

    def __init__(self, settings: Settings, tunnels: Tunnels, reporting: Reporting) -> None:
        self._settings = settings
        self._tunnels = tunnels
        self._reporting = reporting
        self._siblings: Siblings | None = None
        self._redis: RedisFleet | None = None

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Be there for questions; what `stack` undoes at the end."""
        roster, store = self._reporting.roster, self._settings.store
        if roster is not None:
            siblings = Siblings(roster.folder, self._answer)
            stack.push_async_callback(siblings.stop)
            try:
                await siblings.start()
            except OSError as error:  # not every file system has sockets
                log.warning("connections of other workers are not shown", error=str(error))
            else:
                self._siblings = siblings
        if store is not None:
            from proxy.control.redis_fleet import RedisFleet

            url = store.get_secret_value()
            self._redis = RedisFleet(url, self._reporting.run, MACHINE)
            self._reporting.others = self._redis.machines
            watching = asyncio.create_task(self._redis.watch(self._answer_far))
            stack.push_async_callback(self._stop, watching)

    async def _stop(self, watching: asyncio.Task[None]) -> None:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        if self._redis is not None:
            roster = self._reporting.roster
            if roster is None or roster.is_draining:  # else others go on in its place
                await self._redis.retire()
            await self._redis.close()

    def publish(self) -> None:
        """Tell the other machines what this one has counted; one worker does."""
        if self._redis is not None and self._speaks_for_all():
            self._redis.publish(self._reporting.machine())

    def _speaks_for_all(self) -> bool:
        roster = self._reporting.roster
        if roster is None:
            return True
        pids = [worker["pid"] for worker in roster.read().workers]
        return os.getpid() == min(pids, default=os.getpid())

    async def connections(self, query: Mapping[str, str]) -> Json:
        """A page of all that are open. Raises QueryError."""
        selection = Selection.parse(query)
        question = {"about": "index", "selection": selection.as_record()}
        own, answers = await asyncio.gather(self._index(selection), self._ask(question))
        total, names = merge([own, *answers], selection)
        found = {row["id"]: row for row in self._rows(names)}
        if missing := [name for name in names if name not in found]:
            for answer in await self._ask({"about": "rows", "ids": missing}):
                found.update((row["id"], row) for row in answer["rows"])
        rows = [found[name] for name in names if name in found]
        # Once more, by what they show: it may have changed since they were chosen.
        rows.sort(key=selection.order_of_row, reverse=selection.descending)
        return {
            "total": total,
            "offset": selection.offset,
            "limit": selection.limit,
            "unreachable": await self._silent(answers),
            "connections": rows,
        }

    async def switch(self, name: str, on: bool) -> Json | None:
        """Switch a connection off or on: its row; None where nobody holds it.

        Raises QueryError where it did not opt in.
        """
        rows = self._switch(name, on)
        if not rows:
            for answer in await self._ask({"about": "switch", "id": name, "enabled": on}):
                rows += answer["rows"]
        row = rows[0] if rows else None
        if row is not None and not row["opted_in"]:
            raise QueryError(f"{name}: {_NOT_OPTED_IN}")
        return row

    async def _ask(self, question: Json) -> list[Json]:
        """What all other workers answer."""
        asked = []
        if self._siblings is not None:
            asked.append(self._siblings.ask(question))
        if self._redis is not None:
            asked.append(self._redis.ask(question))
        return [answer for answers in await asyncio.gather(*asked) for answer in answers]

    async def _silent(self, answers: list[Json]) -> list[str]:
        """The machines of which a worker has not answered."""
        heard = Counter(answer["run"] for answer in answers)
        expected = {}
        if self._reporting.roster is not None:
            expected[self._reporting.run] = MACHINE, len(self._reporting.roster.read().workers) - 1
        for each in await self._redis.machines() if self._redis is not None else ():
            expected[each["run"]] = each["machine"], len(each["workers"])
        return sorted(name for run, (name, workers) in expected.items() if heard[run] < workers)

    async def _answer(self, question: Json) -> Json | None:
        """What this worker says to a question of another."""
        match question:
            case {"about": "index", "selection": selection}:
                return await self._index(Selection(**selection))
            case {"about": "rows", "ids": names}:
                return {"rows": self._rows(names)}
            case {"about": "switch", "id": name, "enabled": on}:
                return {"rows": self._switch(name, on)}
        return None

    async def _answer_far(self, question: Json) -> Json | None:
        """The same to another machine, which learns no address."""
        answer = await self._answer(question)
        for row in (answer or {}).get("rows", ()):
            row["address"] = None
        return answer

    async def _index(self, selection: Selection) -> Json:
        return {**await index(self._tunnels, selection), "run": self._reporting.run}

    def _rows(self, names: Iterable[str]) -> list[Json]:
        """Those that are here, of an operator's page."""
        about: Json = {"machine": MACHINE, "worker": os.getpid()}
        if not self._settings.show_addresses:
            about["address"] = None
        found = ((name, self._tunnels.find(name)) for name in names)
        return [{"id": name, **row_of(one), **about} for name, one in found if one is not None]

    def _switch(self, name: str, on: bool) -> list[Json]:
        """Switch a connection, where it is here. Returns its row."""
        tunnel = self._tunnels.find(name)
        if tunnel is not None and tunnel.switch is not None:
            tunnel.switch.switch(on=on)
        return self._rows([name])
