"""The engine processes: one a base, started when first needed; the one not used for longest goes where memory is short.

No native library is loaded here.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import psutil

from core.chat.holdings import Base
from core.chat.process import EngineProcess
from core.chat.protocol import EngineClosed, EngineError, LowMemory
from core.errors import InvalidInput
from core.gguf.cache import cache_bytes, kept_bytes
from core.gguf.inspect import inspect_gguf
from core.memory import available_memory

MOST_THREADS = 8
PROCESS_BYTES = 150 * 10**6  # an engine process before its model: measured 130 MB, rounded up


def available_bytes() -> int:
    """Memory a new process may take."""
    return available_memory()[0]


def idle_cores() -> int:
    """Cores this process may use that nothing else is busy on, from 1 to MOST_THREADS.

    Where one of the engine's threads has to share its core, all wait for it. Busy is what was busy over a tenth of a
    second just now; a load average would still count a training that ended a minute ago.
    """
    cores = len(os.sched_getaffinity(0))
    busy = round(psutil.cpu_percent(interval=0.1) / 100 * (os.cpu_count() or 1))
    return max(1, min(MOST_THREADS, cores - busy))


class Pool:
    """Processes by base, least recently used first. `budget` is what they may hold together in bytes, mapped files
    included; None: whatever the machine has."""

    def __init__(self, threads: int | None, available: Callable[[], int], budget: int | None = None) -> None:
        self._threads = threads
        self._available = available
        self._budget = budget
        self._processes: OrderedDict[str, EngineProcess] = OrderedDict()
        # As many threads as before, for the numbers depend on it: an answer that a crash broke off goes on the same.
        self._threads_of: dict[str, int] = {}
        self._needed: dict[tuple[Path, int, int, int], tuple[int, int]] = {}
        self._lock = threading.RLock()
        self._closed = False

    def resident(self) -> tuple[str, ...]:
        """The bases that are loaded, the one used last at the end."""
        with self._lock:
            return tuple(name for name, process in self._processes.items() if process.alive)

    def pids(self) -> dict[str, int]:
        """The process of each base that has one."""
        with self._lock:
            return {name: process.pid for name, process in self._processes.items() if process.alive}

    def get(
        self, base: Base, n_ctx: int, watched: Callable[[EngineProcess], None] = lambda _process: None
    ) -> tuple[EngineProcess, float | None]:
        """A base's process with at least this context, and the seconds its start took; None where it was there.

        `watched` is told of a process before its base is loaded, so that it can be ended meanwhile. Raises EngineError:
        LowMemory, EngineClosed, or with the engine's own reason.
        """
        with self._lock:
            if self._closed:
                raise EngineClosed("the engine is closed", "open the chat again")
            process = self._processes.get(base.name)
            if process is not None and process.alive and process.n_ctx >= n_ctx:
                self._processes.move_to_end(base.name)
                return process, None
            if process is not None:
                self.drop(base.name)
            needed, kept = self._needs(base, n_ctx)
            self._make_room(base, needed)
            started = time.monotonic()
            if base.name not in self._threads_of:
                self._threads_of[base.name] = self._threads or idle_cores()
            threads = self._threads_of[base.name]
            process = EngineProcess(base.path, n_ctx=n_ctx, threads=threads, kept_bytes=kept)
            self._processes[base.name] = process
        try:
            watched(process)
            process.start()
        except EngineError:
            self.drop(base.name)
            raise
        return process, time.monotonic() - started

    def shortage(self, base: Base, n_ctx: int) -> str | None:
        """Why a base could not be loaded now, were all others let go for it; None where it could, or is loaded."""
        with self._lock:
            process = self._processes.get(base.name)
            if process is not None and process.alive and process.n_ctx >= n_ctx:
                return None
        try:
            needed, _ = self._needs(base, n_ctx)
        except InvalidInput as error:
            return error.message
        except OSError as error:
            return f"{base.path.name} cannot be read: {error.strerror}"
        room = self._room() + self.held()
        return None if room >= needed else self._too_much(base, needed, room)

    def _needs(self, base: Base, n_ctx: int) -> tuple[int, int]:
        """Bytes that a base must have in memory beside its mapped file, and how many of them keep what adapters
        computed. Of a state of a file its header is read once. Raises InvalidInput for a file that is no model."""
        status = base.path.stat()
        key = (base.path, status.st_mtime_ns, status.st_size, n_ctx)
        if key not in self._needed:
            info = inspect_gguf(base.path)
            kept = kept_bytes(info, n_ctx)
            self._needed[key] = PROCESS_BYTES + cache_bytes(info, n_ctx) + kept, kept
        return self._needed[key]

    def held(self) -> int:
        """Bytes the processes hold, with the pages of their mapped files that are in memory."""
        total = 0
        for pid in self.pids().values():
            try:
                total += int(psutil.Process(pid).memory_info().rss)
            except psutil.NoSuchProcess:  # it died just now
                continue
        return total

    def _room(self) -> int:
        free = self._available()
        return free if self._budget is None else min(free, self._budget - self.held())

    def _make_room(self, base: Base, needed: int) -> None:
        """Let other bases go until this one fits. Only what must be in memory, the `needed` bytes, can be a reason to
        refuse: the file itself is mapped, and is read again from the disk where memory is short."""
        mapped = base.path.stat().st_size
        # Nobody is sent away where even that would not help.
        if self._room() + self.held() >= needed:
            while self._processes and self._room() < mapped + needed:
                self.drop(next(iter(self._processes)))
        room = self._room()
        if room < needed:
            raise LowMemory(self._too_much(base, needed, room), "end other programs, or choose a shorter context")

    def _too_much(self, base: Base, needed: int, room: int) -> str:
        what = "are free" if self._budget is None else "are left of what the chat may hold (chat.memory_mb)"
        need = f"{base.path.name} needs {needed / 1e6:.0f} MB beside its mapped file"
        return f"{need}, {max(0, room) / 1e6:.0f} MB {what}"

    def drop(self, name: str) -> None:
        """End a base's process, where there is one."""
        with self._lock:
            process = self._processes.pop(name, None)
        if process is not None:
            process.close()

    def close(self, busy: EngineProcess | None = None) -> None:
        """End all; `busy` is in the middle of an answer and is killed. More than once is once."""
        with self._lock:
            self._closed = True
            processes, self._processes = list(self._processes.values()), OrderedDict()
        for process in processes:
            process.close(kill=process is busy)
