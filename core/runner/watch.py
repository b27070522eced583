"""Watching running jobs from outside: which takes the last memory, which hangs, and whether the machine slept."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.catalog import Settings
from core.memory import available_memory, resident
from core.runner.executors.local import processes_of
from core.runner.shim import stat_of

TICK = os.sysconf("SC_CLK_TCK")
NOTICED_SLEEP_S = 5.0
RELIEF_S = 5.0  # until what a killed job held is free again: the next one is not the cause


@dataclass
class _Seen:
    """When a job last gave a sign, and what it looked like then."""

    sign: tuple[int, int, float]
    at: float


class Watch:
    """Remembers what jobs looked like; one for the life of a runner."""

    def __init__(self) -> None:
        self._seen: dict[Path, _Seen] = {}
        self._asleep = _asleep()
        self._ended_for_memory = float("-inf")

    def look(self, run_dirs: list[Path], settings: Settings) -> list[tuple[Path, str, dict[str, Any]]]:
        """The jobs that must be ended: folder, why (memory or hung), and the figures that say so."""
        now, asleep = time.monotonic(), _asleep()
        if asleep - self._asleep > NOTICED_SLEEP_S:
            for seen in self._seen.values():  # the machine slept: silence meanwhile says nothing of a job
                seen.at = now
        self._asleep = asleep
        doomed: list[tuple[Path, str, dict[str, Any]]] = []
        held: dict[Path, int] = {}
        for run_dir in run_dirs:
            pid = _job_pid(run_dir)
            memory = resident(pid) if pid is not None else None
            if pid is None or memory is None:
                continue
            held[run_dir] = memory
            silent = self._silent_for(run_dir, pid, now)
            if 0 < settings.hang_after_s < silent:
                doomed.append((run_dir, "hung", {"silent_s": round(silent)}))
        free, limited_by = available_memory()
        missing = settings.memory_reserve_mb * 10**6 / 2 - free
        if held and missing > 0 and now - self._ended_for_memory > RELIEF_S:
            biggest = max(held, key=lambda one: held[one])
            figures = {"rss_bytes": held[biggest], "available_bytes": free, "limited_by": limited_by}
            doomed = [one for one in doomed if one[0] != biggest]
            # One that holds less than what is missing is not the cause, and its end would help nobody.
            if held[biggest] > missing:
                doomed.append((biggest, "memory", figures))
                self._ended_for_memory = now
        return doomed

    def forget(self, run_dir: Path) -> None:
        """The job is over."""
        self._seen.pop(run_dir, None)

    def _silent_for(self, run_dir: Path, pid: int, now: float) -> float:
        """Seconds since a job last wrote an event or a line of log, or computed; 0 for one that was stopped on
        purpose (SIGSTOP), which cannot give a sign."""
        state, computed = _process(pid)
        sign = (_size(run_dir / "events.jsonl"), _size(run_dir / "log"), computed)
        seen = self._seen.get(run_dir)
        if seen is None or sign != seen.sign or state in ("T", "t", ""):
            self._seen[run_dir] = _Seen(sign, now)
            return 0.0
        return now - seen.at


def _asleep() -> float:
    """Seconds the machine has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


def _job_pid(run_dir: Path) -> int | None:
    who = processes_of(run_dir)
    return int(who["job"]["pid"]) if who is not None and "job" in who else None


def _process(pid: int) -> tuple[str, float]:
    """A process's state letter and the seconds of computing time it has used, rounded to what counts as a sign."""
    try:
        fields = stat_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return "", 0.0
    return fields[0].decode(), round((int(fields[11]) + int(fields[12])) / TICK)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
