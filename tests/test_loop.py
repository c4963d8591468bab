"""What the process is told that the event loop runs in."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HEAPS = """
import asyncio, ctypes, sys, threading
from proxy.loop import run_loop

async def main():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    both = threading.Barrier(3)

    def allocate():
        both.wait()  # at once: who comes later takes over what another has left
        libc.malloc(1000)
        both.wait()

    threads = [threading.Thread(target=allocate) for _ in range(2)]
    for thread in threads:
        thread.start()
    both.wait()
    both.wait()
    for thread in threads:
        thread.join()
    stdout = ctypes.c_void_p.in_dll(libc, "stdout")
    libc.malloc_info(0, stdout)
    libc.fflush(stdout)

if sys.argv[1] == "ours":
    run_loop(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["ours", "plain"])
def test_threads_share_one_heap(how: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _HEAPS, how], capture_output=True, text=True, check=True, timeout=60
    )
    assert (told.stdout.count("<heap nr=") == 1) == (how == "ours")
