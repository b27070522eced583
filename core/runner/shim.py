"""The parent of one job: standard library only, in its own session, alive when runner, console and shell are gone.

It holds the run folder's lock while the job lives (the job inherits it, so the lock outlives a killed shim), writes
who it is to `shim.json`, starts the job in a process group of its own with its output straight to `log`, and leaves
the true exit in `exit.json`. Usage: python -m core.runner.shim RUN_DIR [LOCK_DESCRIPTOR]

Whoever starts it may hand over the lock, held: then there is no moment in which the job is started and not locked.
"""

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from core.memory import available_memory, oom_kills, resident

LOCK = "job.lock"
STOP_GRACE_S = 10.0
REFUSED_DOUBLE = 75
ROOM_POLL_S = 1.0
SAMPLE_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
KILLED_FIRST = b"500"  # oom_score_adj of a job: where memory runs out it goes before runner, console and login


def main(run_dir: Path, lock: int | None = None) -> int:
    """Run the job of a folder to its end. Returns 0 when its exit was recorded, 75 where it runs already or is over."""
    if lock is None and (lock := take_lock(run_dir)) is None:
        return REFUSED_DOUBLE
    if (run_dir / "exit.json").exists():
        return REFUSED_DOUBLE
    os.set_inheritable(lock, True)
    stopped = False
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Blocked until the job exists, then taken with sigtimedwait: a stop that comes early is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    started = time.time()
    # Written before the job exists too: its session is this process's, so it can be found whatever happens next.
    me = {**identity(os.getpid()), "started": started}
    _write(run_dir / "shim.json", me, wait_for_room=True)
    with _log(run_dir / "log") as log:
        job = subprocess.Popen(
            [sys.executable, "-u", "-m", "core.tasks", str(run_dir)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            process_group=0,
            preexec_fn=_prepare,
        )
    whole = {**me, "job": identity(job.pid)}
    told = _write_where_there_is_room(run_dir / "shim.json", whole)
    grace = _grace(run_dir)
    kill_at: float | None = None
    # The kernel's counters as they were one look ago and at the last one: a kill counts for this job only where it came
    # with its end, not where some other process was killed hours before.
    before = latest = oom_kills()
    memory = _memory(job.pid)
    while job.poll() is None:
        told = told or _write_where_there_is_room(run_dir / "shim.json", whole)
        before, latest = latest, oom_kills()
        memory = _memory(job.pid) or memory  # what it held just before it ended
        wait = SAMPLE_S if kill_at is None else min(SAMPLE_S, max(0.05, kill_at - time.monotonic()))
        got = signal.sigtimedwait({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}, wait)
        if got is not None and got.si_signo in (signal.SIGTERM, signal.SIGINT) and not stopped:
            stopped = True
            kill_at = time.monotonic() + grace
            _signal_group(job.pid, signal.SIGTERM)
        elif kill_at is not None and time.monotonic() >= kill_at:
            _signal_group(job.pid, signal.SIGKILL)
            kill_at = time.monotonic() + 1.0
    kill_session(os.getpid())  # what the job left behind, in its group or in others
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = job.returncode
    _write(
        run_dir / "exit.json",
        {
            "code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "stopped": stopped,
            "started": started,
            "ended": time.time(),
            "peak_rss_bytes": usage.ru_maxrss * 1024,
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
            "memory": memory,
            "oom_kills": _grown(before, oom_kills()),
        },
        wait_for_room=True,
    )
    return 0


def _grace(run_dir: Path) -> float:
    """Seconds the job has to stop by itself, as its spec says."""
    try:
        return float(json.loads((run_dir / "spec.json").read_text("utf-8")).get("stop_grace_s", STOP_GRACE_S))
    except (OSError, ValueError, AttributeError):
        return STOP_GRACE_S


def take_lock(run_dir: Path) -> int | None:
    """The held lock of a run folder, or None where a shim or a job holds it."""
    lock = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def identity(pid: int) -> dict[str, Any]:
    """What tells a process from a later one of the same number: pid, start time in clock ticks, boot."""
    return {"pid": pid, "start_ticks": int(stat_of(pid)[19]), "boot_id": boot_id()}


def boot_id() -> str:
    """What the kernel calls this start of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as stream:
        return stream.read().strip()


def kill_session(leader: int) -> list[int]:
    """Kill every process of the leader's session but the leader itself; those that were asked to die."""
    members = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(name) != leader and int(stat_of(int(name))[3]) == leader:
                os.kill(int(name), signal.SIGKILL)
                members.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return members


def stat_of(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat behind the name: state, ppid, pgrp, session, …"""
    with open(f"/proc/{pid}/stat", "rb") as stream:
        return stream.read().rpartition(b")")[2].split()


def _memory(pid: int) -> dict[str, Any] | None:
    """What the job holds and what is still free, in bytes; None where it is over."""
    held = resident(pid)
    if not held:
        return None
    free, limited_by = available_memory()
    return {"rss_bytes": held, "available_bytes": free, "limited_by": limited_by}


def _grown(before: tuple[int | None, int | None], after: tuple[int | None, int | None]) -> dict[str, int | None]:
    """How many processes the kernel killed for memory meanwhile, in the job's control group and on the machine."""
    group, machine = (
        None if first is None or last is None else last - first for first, last in zip(before, after, strict=True)
    )
    return {"group": group, "machine": machine}


def _prepare() -> None:
    """In the job's process, before it becomes the job."""
    try:
        with open("/proc/self/oom_score_adj", "wb") as stream:
            stream.write(KILLED_FIRST)
    except OSError:
        pass  # not allowed in this container: then the kernel chooses by size alone
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # the group is empty


def _log(path: Path) -> IO[bytes]:
    """The job's log, to be appended to; a full disk is waited for."""
    while True:
        try:
            return open(path, "ab", buffering=0)
        except OSError as error:
            if error.errno not in _FULL:
                raise
        time.sleep(ROOM_POLL_S)


def _write_where_there_is_room(path: Path, content: dict[str, Any]) -> bool:
    """Write a whole file, or see that there is no room for it now."""
    try:
        _write(path, content)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return False
    return True


def _write(path: Path, content: dict[str, Any], *, wait_for_room: bool = False) -> None:
    """Write a whole file. With `wait_for_room` a full disk is waited for: how a job ended is not to be lost."""
    temporary = path.with_name(f".tmp-{path.name}")
    while True:
        try:
            with open(temporary, "w") as stream:
                json.dump(content, stream)
                stream.flush()
                os.fsync(stream.fileno())
            break
        except OSError as error:
            if not wait_for_room or error.errno not in _FULL:
                raise
            time.sleep(ROOM_POLL_S)
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
