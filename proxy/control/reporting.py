"""What is told of this worker, its machine and the fleet."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from proxy.audio.counters import Counters
from proxy.control.roster import Counted, Roster
from proxy.control.stats import report, worker_totals
from proxy.control.store import FlagStore

log = structlog.get_logger(__name__)

MACHINE = socket.gethostname()
_SUMS = ("tunnels", "connections", "backlog_bytes")


@dataclass
class Reporting:
    """Reads the counters when somebody asks."""

    counters: Counters
    store: FlagStore
    gauges: Callable[[], dict[str, Any]]
    """What is so now: tunnels, connections, open (by algorithm), backlog_bytes, draining."""
    number: int
    """The worker's."""
    started: float
    """When the run was, on the monotonic clock."""
    roster: Roster | None
    """Of the other workers of this machine; None: there are none."""
    run: str
    version: str
    others: Callable[[], Awaitable[list[dict[str, Any]]]] | None = None
    """The records of the fleet's other machines."""
    price_per_gb: float | None = None
    currency: str = "USD"

    def __post_init__(self) -> None:
        self._born = time.monotonic()
        self._is_silent = False  # statistics could not be published, and the log says so
        self._unread: set[object] = set()  # runs whose records are not understood, told once

    def publish(self) -> None:
        """Tell the other workers what this one has counted."""
        if self.roster is None:
            return
        try:
            self.roster.publish(os.getpid(), self._record())
        except OSError as error:
            if not self._is_silent:
                log.error("statistics cannot be shared", error=str(error))
            self._is_silent = True
        else:
            self._is_silent = False

    def machine(self) -> dict[str, Any]:
        """What all workers of this machine have counted, for another machine."""
        counted = Counted(self.counters, [self._record()], 0)
        if self.roster is not None:
            self.publish()
            if not self._is_silent:
                counted = self.roster.read()
        counters, records, restarts = counted.total, counted.workers, counted.restarts
        now = time.monotonic()
        by_algorithm: dict[str, int] = {}
        for record in records:
            for name, count in record["open"].items():
                by_algorithm[name] = by_algorithm.get(name, 0) + count
        return {
            "machine": MACHINE,
            "run": self.run,
            "version": self.version,
            "counters": counters.as_record(),
            "open": by_algorithm,
            "worker_restarts": restarts,
            "uptime_seconds": round(now - self.started, 3),
            "store": "connected" if self.store.is_connected else "disconnected",
            "flags_revision": self.store.live.revision,
            "workers": [_worker(record, now) for record in records],
        }

    async def fleet(self) -> dict[str, Any]:
        """The body of `/stats`: all machines together."""
        own = self.machine()
        others = await self.others() if self.others is not None else []
        return self._overview([own, *filter(self._is_readable, others)])

    def local(self) -> dict[str, Any]:
        """The same of this machine alone."""
        return self._overview([self.machine()])

    def _overview(self, machines: list[dict[str, Any]]) -> dict[str, Any]:
        own, total = machines[0], Counters()
        by_algorithm: dict[str, int] = {"none": 0}
        for each in machines:
            total.add(Counters.from_record(each["counters"]))
            for name, count in each["open"].items():
                by_algorithm[name] = by_algorithm.get(name, 0) + count
        workers = [worker for each in machines for worker in each["workers"]]
        store = self.store
        return {
            **report(total, store.live.current.min_size),
            **{name: sum(worker[name] for worker in workers) for name in _SUMS},
            "open": by_algorithm,
            "uptime_seconds": own["uptime_seconds"],
            "version": self.version,
            "flags_error": store.error,
            "flags_revision": store.live.revision,
            "store": {"kind": store.kind, "state": own["store"], "error": store.error},
            "worker_restarts": sum(each["worker_restarts"] for each in machines),
            "price_per_gb": self.price_per_gb,
            "currency": self.currency,
            "workers": workers,
            "machines": [_machine(each, is_self=each is own) for each in machines],
        }

    def _is_readable(self, record: dict[str, Any]) -> bool:
        """Whether another machine's record is of the kind that this version writes."""
        try:
            Counters.from_record(record["counters"])
            _machine(record, is_self=False)
            readable = all(name in worker for worker in record["workers"] for name in _SUMS)
        except (KeyError, TypeError, ValueError, AttributeError):
            readable = False
        if not readable and record.get("run") not in self._unread:
            self._unread.add(record.get("run"))
            log.warning(
                "a machine's statistics are not counted: it runs another version",
                machine=record.get("machine"),
                version=record.get("version"),
            )
        return readable

    def _record(self) -> dict[str, Any]:
        """What this worker has to say of itself."""
        return {
            "pid": os.getpid(),
            "number": self.number,
            "started": self._born,
            **self.gauges(),
            "counters": self.counters.as_record(),
        }


def _worker(record: dict[str, Any], now: float) -> dict[str, Any]:
    return {
        "machine": MACHINE,
        "pid": record["pid"],
        "number": record["number"],
        **{name: record[name] for name in (*_SUMS, "draining")},
        "uptime_seconds": round(now - record["started"], 3),
        **worker_totals(Counters.from_record(record["counters"])),
    }


def _machine(record: dict[str, Any], *, is_self: bool) -> dict[str, Any]:
    """`age_seconds` is said by who brought it, by one clock: those of two machines differ."""
    workers = record["workers"]
    return {
        "machine": record["machine"],
        "run": record["run"],
        "is_self": is_self,
        "age_seconds": round(record.get("age_seconds", 0.0), 3),
        "workers": len(workers),
        **{name: sum(worker[name] for worker in workers) for name in _SUMS},
        "draining": any(worker["draining"] for worker in workers),
        **{
            name: record[name]
            for name in ("worker_restarts", "store", "flags_revision", "version", "uptime_seconds")
        },
        **worker_totals(Counters.from_record(record["counters"])),
    }
