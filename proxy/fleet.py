"""The other workers and machines: what this one asks them, and what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxy.config import Settings
from proxy.control.flags import Flags
from proxy.control.reporting import MACHINE, Reporting
from proxy.control.siblings import Siblings
from proxy.control.store import FileStore, FlagStore
from proxy.errors import QueryError
from proxy.tunnel.listing import Selection, merge, page, row_of
from proxy.tunnel.registry import Tunnels

if TYPE_CHECKING:
    from proxy.control.redis_fleet import RedisFleet

Json = dict[str, Any]

_NOT_OPTED_IN = "it did not opt in: nothing is compressed on it"


def open_store(settings: Settings, first: Flags, *, tells: bool) -> FlagStore:
    """Where the flags are kept. Raises ConfigError where the library for that is missing.

    `first`: what is in force where nothing is kept yet. `tells`: see `FileStore`.
    """
    if settings.store is None:
        return FileStore(settings.flags_file, first, tells=tells)
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
            self._siblings = Siblings(roster.folder, self._answer)
            await self._siblings.start()
            stack.push_async_callback(self._siblings.stop)
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
            await self._redis.close()

    def publish(self) -> None:
        """Tell the other machines what this one has counted; one worker does."""
        if self._redis is not None and self._speaks_for_all():
            self._redis.publish(self._reporting.machine())

    def _speaks_for_all(self) -> bool:
        roster = self._reporting.roster
        if roster is None:
            return True
        least: int = min(worker["pid"] for worker in roster.read().workers)
        return os.getpid() == least

    async def connections(self, query: Mapping[str, str]) -> Json:
        """A page of all that are open. Raises QueryError."""
        selection = Selection.parse(query)
        question = {"about": "connections", "selection": selection.as_record()}
        own, answers, others = await asyncio.gather(
            self._page(selection), self._ask(question), self._others()
        )
        heard = {answer["run"] for answer in answers}
        silent = [machine for run, machine in others.items() if run not in heard]
        return {**merge([own, *answers], selection), "unreachable": sorted(silent)}

    async def switch(self, name: str, on: bool) -> Json | None:
        """Switch a connection off or on: its row; None where nobody holds it.

        Raises QueryError where it did not opt in.
        """
        row = self._switch(name, on)
        if row is None:
            for answer in await self._ask({"about": "switch", "id": name, "enabled": on}):
                row = answer["row"] or row
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

    async def _others(self) -> dict[str, str]:
        """The other machines, of which answers are expected: their names by their runs."""
        others = await self._redis.machines() if self._redis is not None else []
        return {each["run"]: each["machine"] for each in others}

    async def _answer(self, question: Json) -> Json | None:
        """What this worker says to a question of another."""
        if question.get("about") == "connections":
            return await self._page(Selection(**question["selection"]))
        if question.get("about") == "switch":
            return {"row": self._switch(question["id"], question["enabled"])}
        return None

    async def _answer_far(self, question: Json) -> Json | None:
        """The same to another machine, which learns no address."""
        answer = await self._answer(question)
        if answer is not None:
            for row in (*answer.get("connections", ()), *filter(None, [answer.get("row")])):
                row["address"] = None
        return answer

    async def _page(self, selection: Selection) -> Json:
        found = await page(self._tunnels, self._about(), selection)
        return {**found, "run": self._reporting.run}

    def _switch(self, name: str, on: bool) -> Json | None:
        tunnel = self._tunnels.find(name)
        if tunnel is None:
            return None
        if tunnel.switch is not None:
            tunnel.switch.switch(on=on)
        return {"id": name, **row_of(tunnel), **self._about()}

    def _about(self) -> Json:
        """What rows say of this worker."""
        about: Json = {"machine": MACHINE, "worker": os.getpid()}
        if not self._settings.show_addresses:
            about["address"] = None
        return about
