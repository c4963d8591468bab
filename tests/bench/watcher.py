"""An operator's tools: `python -m tests.bench.watcher PORT` reads all of an admin port."""

from __future__ import annotations

import http.client
import itertools
import sys
import time

INTERVAL = 0.1
"""Seconds between two readings."""
PATHS = ("/stats", "/metrics", "/connections?sort=saved_bytes&limit=100")


def main() -> None:
    """Read for ever; a line for each that succeeded. Fails where one does not."""
    port = int(sys.argv[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    start = time.monotonic()
    for number in itertools.count(1):
        for path in PATHS:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != 200 or not response.read():
                sys.exit(f"{path}: {response.status}")
        print(number, flush=True)
        time.sleep(max(0.0, start + number * INTERVAL - time.monotonic()))


if __name__ == "__main__":
    main()
