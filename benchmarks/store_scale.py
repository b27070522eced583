"""What a store with thousands of finished jobs costs beside one without: commands, snapshots, the runner's turn."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trivial_jobs import NotMeasured

from core.runner.presence import hold
from core.runner.supervisor import Supervisor
from core.store.engine import open_store
from core.store.reads import open_reader
from core.workspace import Workspace


@dataclass
class Compared:
    """Seconds of one thing on the empty and on the full store."""

    name: str
    empty: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)


def compare(empty: Workspace, full: Workspace, phase: int, runs: int) -> list[Compared]:
    """Time everything `runs` times on both stores in turn (what takes no process ten times as often). No runner may
    be up: the turns are taken here."""
    tara = str(Path(sys.executable).with_name("tara"))
    found = [
        Compared("tara list-phases --json"),
        Compared("tara jobs list --json"),
        Compared(f"tara show-phase {phase} --json"),
    ]
    arguments = (["list-phases", "--json"], ["jobs", "list", "--json"], ["show-phase", str(phase), "--json"])
    for number in range(runs + 1):  # the first fills the caches
        for one, asked in zip(found, arguments, strict=True):
            for workspace, times in ((empty, one.empty), (full, one.full)):
                seconds = _command([tara, "--root", str(workspace.root), *asked])
                if number:
                    times.append(seconds)
    return [*found, _snapshots(empty, full, runs * 10), _turns(empty, full, runs * 10)]


def _command(argv: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise NotMeasured(f"{' '.join(argv[3:])} ended with {done.returncode}: {done.stderr.strip()}")
    return seconds


def _snapshots(empty: Workspace, full: Workspace, runs: int) -> Compared:
    with open_reader(empty) as first, open_reader(full) as second:
        return _in_turn("Reader.snapshot(), newest 200 jobs", first.snapshot, second.snapshot, runs)


def _turns(empty: Workspace, full: Workspace, runs: int) -> Compared:
    locks = [lock for workspace in (empty, full) if (lock := hold(workspace)) is not None]
    if len(locks) < 2:
        raise NotMeasured("a runner holds a workspace")
    stores = [open_store(workspace, keep=True) for workspace in (empty, full)]
    try:
        first, second = Supervisor(empty, stores[0], locks[0]), Supervisor(full, stores[1], locks[1])
        return _in_turn("the runner's turn, nothing to do", first.turn, second.turn, runs)
    finally:
        for store, lock in zip(stores, locks, strict=True):
            store.close()
            os.close(lock)


def _in_turn(name: str, empty: Callable[[], object], full: Callable[[], object], runs: int) -> Compared:
    found = Compared(name)
    for number in range(runs + 1):
        for act, times in ((empty, found.empty), (full, found.full)):
            started = time.perf_counter()
            act()
            if number:
                times.append(time.perf_counter() - started)
    return found
