"""N processes on one port: replaced when they die, one by one on SIGHUP, ended together.

The parent opens the sockets and keeps them, one SO_REUSEPORT socket for each slot: connections that
wait in the queue of a worker that is gone are served by the one that follows. It serves nothing
itself, has no event loop, and forks: a worker starts with all code loaded.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from proxy import __version__
from proxy.app import Place, serve
from proxy.audio.algorithms import MISSING
from proxy.audio.gzip import huffman
from proxy.config import Settings
from proxy.control.roster import Roster
from proxy.errors import AudioProxyError, ConfigError
from proxy.http.sockets import bound, listen, listen_in_slots
from proxy.loop import run_loop
from proxy.tunnel.base_leg import BUILD, speedups

log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_READY = b"r"

_SHORT_LIFE = 10.0
"""Seconds; who died sooner is replaced later each time."""
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 10.0
_MOST_FAILURES = 5
"""Starts in a row that fail, with nobody serving, before the parent gives up."""
_OTHER_FILES = 64
"""Besides two for each connection: listeners, pipes, a few requests at once."""
_KILL_AFTER = 5.0
"""Seconds beyond `drain_timeout` and `close_timeout` that a worker has to end."""


@dataclass
class _Worker:
    pid: int
    pipe: int
    """Says when it is ready; ends when it does."""
    started: float
    ready: bool = False
    kill_at: float | None = None
    """It was told to end; by then it must have."""


@dataclass
class _Slot:
    """One worker's place: its sockets, and who serves there."""

    sockets: list[socket.socket]
    current: _Worker | None = None
    next: _Worker | None = None
    """Starts, to take the place of `current`."""
    leaving: list[_Worker] = field(default_factory=list)
    failures: int = 0
    start_at: float | None = None

    @property
    def workers(self) -> list[_Worker]:
        return [each for each in (self.current, self.next, *self.leaving) if each is not None]


class Supervisor:
    """The parent. `reload` reads the settings again; it raises ConfigError."""

    def __init__(self, settings: Settings, reload: Callable[[], Settings]) -> None:
        self._settings = settings
        self._reload = reload
        self._selector = selectors.DefaultSelector()
        self._rolling: deque[_Slot] = deque()
        self._stopping = False
        self._status = 0
        self._slots: list[_Slot] = []
        self._admin: list[socket.socket] = []
        self._roster: Roster
        self._life: tuple[int, int]
        self._restarts = 0
        self._started = time.monotonic()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit status; raises ConfigError."""
        settings = self._settings
        _check_files(settings)
        with contextlib.ExitStack() as stack:
            for setting, address in (("listen", settings.listen), ("admin", settings.admin)):
                try:
                    if setting == "listen":
                        opened = listen_in_slots(address, settings.stall_timeout, settings.workers)
                        self._slots = [_Slot(sockets) for sockets in opened]
                    else:
                        opened = [listen(address, settings.stall_timeout)]
                        self._admin = opened[0]
                except OSError as error:
                    raise ConfigError(f"{setting}: cannot listen on {address}: {error}") from error
                for sockets in opened:
                    for sock in sockets:
                        stack.callback(sock.close)
            for name, remedy in MISSING.items():
                log.warning(f"{name} is not offered: it is not installed", remedy=remedy)
            if speedups is None or huffman is None:
                log.warning("chunks cost more CPU: the part in C is not installed", remedy=BUILD)
            _raise_file_limit(settings.max_connections)
            self._roster = Roster.open(settings.state_dir)
            stack.callback(self._roster.close)
            self._life = os.pipe()
            gc.collect()
            gc.freeze()  # pages that no collection touches are shared with the workers
            self._watch_signals(stack)
            for slot in self._slots:
                slot.current = self._start(slot)
            self._loop()
        return self._status

    def _watch_signals(self, stack: contextlib.ExitStack) -> None:
        wake, self._wakeup = socket.socketpair()
        for end in (wake, self._wakeup):
            end.setblocking(False)
            stack.callback(end.close)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, -1)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
            # Told once more while it ends, the process would else die of that.
            stack.callback(signal.signal, number, signal.SIG_IGN)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        stack.callback(self._selector.close)

    # The loop.

    def _loop(self) -> None:
        told = False
        while any(slot.workers or slot.start_at is not None for slot in self._slots):
            for key, _ in self._selector.select(self._until_next()):
                if key.fileobj is self._wakeup:
                    for number in self._wakeup.recv(4096):
                        self._take(signal.Signals(number))
                else:
                    self._hear(key.data[0], key.data[1])
            self._reap()
            self._keep_time()
            if not told and all(slot.current and slot.current.ready for slot in self._slots):
                told = True
                self._tell()

    def _tell(self) -> None:
        settings = self._settings
        log.info(
            "serving",
            listen=str(bound(self._slots[0].sockets[0], settings.listen)),
            backend=settings.backend,
            admin=str(bound(self._admin[0], settings.admin)),
            flags=str(settings.flags_file),
            workers=len(self._slots),
            version=__version__,
        )

    def _take(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop()
        elif number == signal.SIGHUP and not self._stopping:
            self._begin_rolling()

    def _until_next(self) -> float | None:
        times = [slot.start_at for slot in self._slots if slot.start_at is not None]
        for slot in self._slots:
            times += [each.kill_at for each in slot.workers if each.kill_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _keep_time(self) -> None:
        """Start who waited long enough; kill who was told to end and did not."""
        now = time.monotonic()
        for slot in self._slots:
            if slot.start_at is not None and now >= slot.start_at:
                slot.start_at = None
                slot.current = self._start(slot)
            for worker in slot.workers:
                if worker.kill_at is not None and now >= worker.kill_at:
                    log.error("a worker did not end in time and is killed", pid=worker.pid)
                    worker.kill_at = None
                    os.kill(worker.pid, signal.SIGKILL)

    # Workers.

    def _start(self, slot: _Slot) -> _Worker:
        """Fork a worker for a slot."""
        ours, theirs = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            self._become_worker(slot, theirs, parent)
        os.close(theirs)
        os.set_blocking(ours, False)
        worker = _Worker(pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, (slot, worker))
        return worker

    def _become_worker(self, slot: _Slot, ready: int, parent: int) -> None:
        """In the child: serve, and exit."""
        status = 1

        def drain_all() -> None:
            if os.getppid() == parent:  # else it is gone, and so are we soon
                os.kill(parent, signal.SIGTERM)

        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: see _stop
            self._selector.close()
            os.close(self._life[1])
            for other in self._slots:
                for sock in other.sockets:
                    if sock not in slot.sockets:
                        sock.close()
            place = Place(
                slot.sockets,
                self._admin,
                self._roster,
                lambda: os.write(ready, _READY),
                drain_all,
                self._life[0],
                self._slots.index(slot),
                self._started,
            )
            run_loop(serve(self._settings, place))
            status = 0
        except AudioProxyError as error:
            for line in str(error).splitlines():
                print(f"audio-proxy: {line}", file=sys.stderr)
            status = 2
        except BaseException:
            log.exception("a worker failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _hear(self, slot: _Slot, worker: _Worker) -> None:
        """A worker is ready, or gone."""
        if os.read(worker.pipe, 1) != _READY:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            return
        worker.ready = True
        if worker is slot.next:
            old, slot.current, slot.next = slot.current, worker, None
            if old is not None:
                slot.leaving.append(old)
                self._end(old)
            self._roll()
        slot.failures = 0

    def _end(self, worker: _Worker) -> None:
        """Tell a worker to end."""
        settings = self._settings
        patience = settings.drain_timeout + settings.close_timeout + _KILL_AFTER
        worker.kill_at = time.monotonic() + patience
        os.kill(worker.pid, signal.SIGTERM)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for slot in self._slots:
                for worker in slot.workers:
                    if worker.pid == pid:
                        self._gone(slot, worker, os.waitstatus_to_exitcode(status))

    def _gone(self, slot: _Slot, worker: _Worker, status: int) -> None:
        """A worker has ended."""
        self._roster.retire(worker.pid, died=worker is slot.current and not self._stopping)
        if worker in slot.leaving:
            slot.leaving.remove(worker)
            self._roll()
        elif worker is slot.next:
            slot.next = None
            log.error("a new worker does not start: the old ones stay", status=status)
            self._rolling.clear()
        elif self._stopping:
            slot.current = None
        else:
            slot.current = None
            self._replace(slot, worker, status)

    def _replace(self, slot: _Slot, worker: _Worker, status: int) -> None:
        """A worker has died."""
        lived = time.monotonic() - worker.started
        slot.failures = slot.failures + 1 if lived < _SHORT_LIFE else 0
        serving = any(each.current and each.current.ready for each in self._slots)
        is_first = not worker.ready and not self._restarts and not serving
        if is_first or (slot.failures > _MOST_FAILURES and not worker.ready and not serving):
            if status != 2:  # it has said why
                log.error("no worker can start", status=status)
            self._status = status if status > 0 else 1
            self._stop()
            return
        self._restarts += 1
        if slot.next is not None:
            return  # who was to follow serves already, or will
        delay = 0.0
        if slot.failures > 1:
            delay = min(_FIRST_DELAY * 2 ** (slot.failures - 2), _LONGEST_DELAY)
        log.error("a worker died and is replaced", pid=worker.pid, status=status, after=delay)
        slot.start_at = time.monotonic() + delay

    def _stop(self) -> None:
        """End all workers, after their lessons; told again, at once."""
        if not self._stopping:
            log.info("stopping")
            self._roster.drain()
        self._stopping = True
        self._rolling.clear()
        for slot in self._slots:
            slot.start_at = None
            for sock in slot.sockets:
                sock.close()
            for worker in slot.workers:
                self._end(worker)

    # One by one.

    def _begin_rolling(self) -> None:
        try:
            settings = self._reload()
            _check_files(settings)
        except ConfigError as error:
            log.error("configuration not taken; the workers stay", error=str(error))
            return
        for name in ("listen", "admin", "workers", "state_dir"):
            if getattr(settings, name) != getattr(self._settings, name):
                log.warning(f"{name} changes only when the proxy is started anew")
        keep = {name: getattr(self._settings, name) for name in ("listen", "admin", "state_dir")}
        self._settings = settings.model_copy(update=keep)
        _raise_file_limit(settings.max_connections)
        log.info("replacing the workers one by one")
        is_rolling = bool(self._rolling)
        self._rolling = deque(self._slots)
        if not is_rolling:
            self._roll()

    def _roll(self) -> None:
        """Replace the next one, once nobody is leaving."""
        if self._rolling and not any(slot.leaving or slot.next for slot in self._slots):
            slot = self._rolling.popleft()
            slot.next = self._start(slot)
            if not self._rolling:
                log.info("the last worker is being replaced")


def _raise_file_limit(max_connections: int) -> None:
    """As many open files as `max_connections` need, two sockets each, where the system allows it;
    else say how many there can be."""
    needed = 2 * max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # macOS has a limit below the one that it tells
        most = soft
    if most < needed:
        log.warning(
            "max_connections cannot be reached: too few open files are allowed",
            max_connections=max_connections,
            open_files=most,
            enough_for=max(0, most - _OTHER_FILES) // 2,
            remedy=f"allow {needed}: ulimit -n, or LimitNOFILE= of systemd",
        )


def _check_files(settings: Settings) -> None:
    """Raises ConfigError where files that are named cannot be used."""
    settings.server_tls()
    settings.backend_tls()
