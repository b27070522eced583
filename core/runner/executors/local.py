"""Jobs on this machine, each under a shim in its own session."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.runner.events import all_events
from core.runner.executors import Exit
from core.runner.presence import CODE
from core.runner.shim import LOCK, boot_id, identity, kill_session, take_lock

KILLED = "killed.json"  # written before the runner kills a job of its own accord


class LocalExecutor:
    """Starts shims and reads what they leave; holds no state that a restart would miss."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self._ends: dict[Path, int | None] = {}  # a descriptor that reads as ready once the shim is over; None: it is

    def submit(self, run_dir: Path) -> None:
        """Start a shim, detached from this process's session, with the folder's lock in its hands from the start."""
        lock = take_lock(run_dir)
        if lock is None:
            return  # a copy lives
        try:
            with open(run_dir / "shim.err", "ab") as errors:
                child = subprocess.Popen(
                    # Without `site`: the shim needs no package, and looking for them takes longer than Python's start.
                    [sys.executable, "-S", "-m", "core.runner.shim", str(run_dir), str(lock)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(lock,),
                    cwd=CODE,
                    start_new_session=True,
                )
            self._children.append(child)
            self._ends[run_dir] = os.pidfd_open(child.pid)
        finally:
            os.close(lock)  # the shim's copy holds it on

    def reap(self) -> None:
        """Collect shims that ended, so that none stays a zombie."""
        self._children = [child for child in self._children if child.poll() is None]

    def ends(self, run_dirs: Sequence[Path]) -> list[int]:
        """Descriptors that become readable when a shim of these run folders is over, so that nobody has to look again
        and again. One that was readable is not given a second time: its job may live on without it."""
        for run_dir in [one for one in self._ends if one not in run_dirs]:
            _close(self._ends.pop(run_dir))
        for run_dir in run_dirs:
            if run_dir not in self._ends:
                self._ends[run_dir] = _open_end(run_dir)
        return [descriptor for descriptor in self._ends.values() if descriptor is not None]

    def seen_end(self, descriptor: int) -> None:
        """A descriptor of `ends` was readable."""
        for run_dir, known in self._ends.items():
            if known == descriptor:
                os.close(descriptor)
                self._ends[run_dir] = None

    def alive(self, run_dir: Path) -> bool:
        """Whether shim or job holds the run folder's lock."""
        if not (run_dir / LOCK).exists():
            return False
        lock = take_lock(run_dir)
        if lock is None:
            return True
        os.close(lock)
        return False

    def exit_of(self, run_dir: Path) -> Exit | None:
        """The exit record, once there; without one, when all processes are gone, the task's own last word; without
        that, an exit that nobody knows."""
        record = run_dir / "exit.json"
        if not record.is_file() and self.alive(run_dir):
            return None
        try:
            found = json.loads(record.read_text())
            memory, kills = found.get("memory") or {}, found.get("oom_kills") or {}
            return Exit(
                found["code"],
                found["signal"],
                found["stopped"],
                found["started"],
                found["ended"],
                found.get("peak_rss_bytes"),
                memory.get("rss_bytes"),
                memory.get("available_bytes"),
                kills.get("group"),
                kills.get("machine"),
                why_killed=why_killed(run_dir),
            )
        except (FileNotFoundError, ValueError, KeyError):  # killed before it was written, or lost with the power
            return _last_word(run_dir)

    def stop(self, run_dir: Path, *, force: bool = False) -> bool:
        """Ask the shim, which terminates its job's group and kills it after a grace period; where the shim is gone and
        its job lives on, terminate that group. `force` kills all processes of the job."""
        who = processes_of(run_dir)
        if who is None:
            return False  # it is just starting
        if force:
            if who["boot_id"] == identity(os.getpid())["boot_id"] and self.alive(run_dir):
                kill_session(who["pid"])
        elif not _signal(who, signal.SIGTERM) and "job" in who and _is_still(who["job"]):
            os.killpg(who["job"]["pid"], signal.SIGTERM)
        return True


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _open_end(run_dir: Path) -> int | None:
    """A descriptor of the recorded shim's end, where it lives."""
    who = processes_of(run_dir)
    if who is None:
        return None
    try:
        descriptor = os.pidfd_open(who["pid"])
    except ProcessLookupError:
        return None
    if _is_still(who):
        return descriptor
    os.close(descriptor)
    return None


def _last_word(run_dir: Path) -> Exit:
    """What the task said of its own end, where its shim was killed and nobody else saw it."""
    for event in all_events(run_dir / "events.jsonl"):
        if event.get("event") == "end":
            return Exit(event["code"], None, False, None, event["t"])
    return Exit(None, None, False, None, time.time(), rebooted=_another_boot(run_dir), why_killed=why_killed(run_dir))


def why_killed(run_dir: Path) -> str | None:
    """Why the runner killed this job, where it did."""
    try:
        return str(json.loads((run_dir / KILLED).read_text("utf-8"))["why"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def processes_of(run_dir: Path) -> dict[str, Any] | None:
    """Who shim and (under `job`) job of a run folder are; None where that is not written yet, or damaged."""
    try:
        found: dict[str, Any] = json.loads((run_dir / "shim.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def _another_boot(run_dir: Path) -> bool:
    who = processes_of(run_dir)
    return who is not None and who["boot_id"] != boot_id()


def _signal(recorded: dict[str, Any], number: int) -> bool:
    """Signal the recorded process, and no later one of its number; False where it is gone."""
    try:
        descriptor = os.pidfd_open(recorded["pid"])
    except ProcessLookupError:
        return False
    try:
        if not _is_still(recorded):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def _is_still(recorded: dict[str, Any]) -> bool:
    """Whether the recorded process is the one that has its number now."""
    try:
        now = identity(recorded["pid"])
    except (FileNotFoundError, ProcessLookupError):
        return False
    return all(now[name] == recorded[name] for name in ("pid", "start_ticks", "boot_id"))
