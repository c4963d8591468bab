"""What the operating system has counted for a process and its children."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MEMORY = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children so far, on all their threads, to the nanosecond."""
    return _scheduled(pid, 0)


def waiting_seconds(pid: int) -> float:
    """Time for which those threads could have run, and somebody else had the core."""
    return _scheduled(pid, 1)


def _scheduled(pid: int, field: int) -> float:
    total = 0
    for each in family(pid):
        for task in Path(f"/proc/{each}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[field])
    return total / 1e9


def resident_bytes(pid: int) -> int:
    """Memory of a process and its children."""
    total = 0
    for each in family(pid):
        found = _MEMORY.search(Path(f"/proc/{each}/status").read_text())
        assert found is not None, f"process {each} has no memory"
        total += int(found[1]) * 1024
    return total


def cores() -> tuple[int, int]:
    """The core for the peers and the one for the load. Raises RuntimeError where there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise RuntimeError("the benchmark needs two cores: one for the proxies, one for the load")
    return allowed[0], allowed[-1]
