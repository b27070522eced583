"""The parent of one job: standard library only, in its own session, alive when runner, console and shell are gone.

It holds the run folder's lock while the job lives (the job inherits it, so the lock outlives a killed shim), writes
who it is to `shim.json`, starts the job in a process group of its own with its output straight to `log`, and leaves
the true exit in `exit.json`. Usage: python -m core.runner.shim RUN_DIR [LOCK_DESCRIPTOR]

Whoever starts it may hand over the lock, held: then there is no moment in which the job is started and not locked.

A job waits until this process is up, so what it loads is chosen: no pathlib, typing or subprocess (together three times
what Python itself takes), and json only once the job has been started.
"""

import errno
import fcntl
import os
import resource
import signal
import sys
import time

from core.memory import available_memory, oom_kills, resident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

LOCK = "job.lock"
STOP_GRACE_S = 10.0
REFUSED_DOUBLE = 75
ROOM_POLL_S = 1.0
SAMPLE_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
KILLED_FIRST = b"500"  # oom_score_adj of a job: where memory runs out it goes before runner, console and login
_TAKEN = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def main(run_dir: "Path | str", lock: int | None = None) -> int:
    """Run the job of a folder to its end. Returns 0 when its exit was recorded, 75 where it runs already or is over."""
    run_dir = os.fspath(run_dir)
    if lock is None and (lock := take_lock(run_dir)) is None:
        return REFUSED_DOUBLE
    if os.path.exists(f"{run_dir}/exit.json"):
        return REFUSED_DOUBLE
    os.set_inheritable(lock, True)
    stopped = False
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Blocked until the job exists, then taken with sigtimedwait: a stop that comes early is not lost.
    before_me = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
    started = time.time()
    # Written before the job exists too: its session is this process's, so it can be found whatever happens next. Not
    # flushed, as the next is a moment later: what it says is of use only while the machine runs.
    me = _plain({**identity(os.getpid()), "started": started})
    _replace_when_there_is_room(f"{run_dir}/shim.json", f"{{{me}}}", flush=False)
    pid = _start(run_dir, before_me - _TAKEN)
    whole = f'{{{me}, "job": {{{_plain(identity(pid))}}}}}'
    told = _replace_where_there_is_room(f"{run_dir}/shim.json", whole)
    grace = _grace(run_dir)
    kill_at: float | None = None
    # The kernel's counters as they were one look ago and at the last one: a kill counts for this job only where it came
    # with its end, not where some other process was killed hours before.
    before = latest = oom_kills()
    memory = _memory(pid)
    while (code := _ended(pid)) is None:
        told = told or _replace_where_there_is_room(f"{run_dir}/shim.json", whole)
        before, latest = latest, oom_kills()
        memory = _memory(pid) or memory  # what it held just before it ended
        wait = SAMPLE_S if kill_at is None else min(SAMPLE_S, max(0.05, kill_at - time.monotonic()))
        got = signal.sigtimedwait(_TAKEN, wait)
        if got is not None and got.si_signo in (signal.SIGTERM, signal.SIGINT) and not stopped:
            stopped = True
            kill_at = time.monotonic() + grace
            _signal_group(pid, signal.SIGTERM)
        elif kill_at is not None and time.monotonic() >= kill_at:
            _signal_group(pid, signal.SIGKILL)
            kill_at = time.monotonic() + 1.0
    kill_session(os.getpid())  # what the job left behind, in its group or in others
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    _write(
        f"{run_dir}/exit.json",
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
    )
    return 0


def _start(run_dir: str, mask: "set[int | signal.Signals]") -> int:
    """Start the job in a process group of its own, with `mask` of signals blocked; its process id."""
    log = _log(f"{run_dir}/log")
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-u", "-m", "core.tasks", run_dir],
        os.environ,
        file_actions=(
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ),
        setpgroup=0,
        setsigmask=mask,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them for itself
    )
    os.close(log)
    try:
        with open(f"/proc/{pid}/oom_score_adj", "wb") as stream:
            stream.write(KILLED_FIRST)
    except OSError:
        pass  # not allowed in this container, or over already: then the kernel chooses by size alone
    return pid


def _log(path: str) -> int:
    """The job's log, to be appended to; a full disk is waited for."""
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in _FULL:
                raise
        time.sleep(ROOM_POLL_S)


def _ended(pid: int) -> int | None:
    """How the job ended: its exit code, or the number of its signal below zero; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _grace(run_dir: str) -> float:
    """Seconds the job has to stop by itself, as its spec says."""
    import json

    try:
        with open(f"{run_dir}/spec.json", encoding="utf-8") as stream:
            return float(json.load(stream).get("stop_grace_s", STOP_GRACE_S))
    except (OSError, ValueError, AttributeError):
        return STOP_GRACE_S


def take_lock(run_dir: "Path | str") -> int | None:
    """The held lock of a run folder, or None where a shim or a job holds it."""
    lock = os.open(f"{os.fspath(run_dir)}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def identity(pid: int) -> "dict[str, Any]":
    """What tells a process from a later one of the same number: pid, start time in clock ticks, boot."""
    return {"pid": pid, "start_ticks": int(stat_of(pid)[19]), "boot_id": boot_id()}


def boot_id() -> str:
    """What the kernel calls this start of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as stream:
        return stream.read().strip()


def kill_session(leader: int) -> list[int]:
    """Kill every process of the leader's session but the leader itself; those that were asked to die."""
    members = []
    for pid, _ in session_of(leader):
        try:
            if pid != leader:
                os.kill(pid, signal.SIGKILL)
                members.append(pid)
        except ProcessLookupError:
            continue  # it ended while we looked
    return members


def session_of(leader: int) -> "list[tuple[int, list[bytes]]]":
    """The processes of a session with what `stat_of` says of each."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int((fields := stat_of(int(name)))[3]) == leader:
                found.append((int(name), fields))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def stat_of(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat behind the name: state, ppid, pgrp, session, …"""
    with open(f"/proc/{pid}/stat", "rb") as stream:
        return stream.read().rpartition(b")")[2].split()


def _memory(pid: int) -> "dict[str, Any] | None":
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


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # the group is empty


def _plain(record: "dict[str, Any]") -> str:
    """The inside of a JSON object of numbers and of words that need no escapes, such as a boot's."""
    return ", ".join(
        f'"{name}": ' + (f'"{one}"' if isinstance(one, str) else repr(one)) for name, one in record.items()
    )


def _write(path: str, content: "dict[str, Any]") -> None:
    """Write a whole file of JSON; a full disk is waited for: how a job ended is not to be lost."""
    import json

    _replace_when_there_is_room(path, json.dumps(content))


def _replace_when_there_is_room(path: str, text: str, *, flush: bool = True) -> None:
    """As `_replace`; a full disk is waited for."""
    while not _replace_where_there_is_room(path, text, flush=flush):
        time.sleep(ROOM_POLL_S)


def _replace_where_there_is_room(path: str, text: str, *, flush: bool = True) -> bool:
    """As `_replace`; False where the disk has no room for it now."""
    try:
        _replace(path, text, flush=flush)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return False
    return True


def _replace(path: str, text: str, *, flush: bool = True) -> None:
    """A whole file under its name at once, and, with `flush`, on the disk."""
    folder, name = os.path.split(path)
    temporary = f"{folder}/.tmp-{name}"
    with open(temporary, "w") as stream:
        stream.write(text)
        stream.flush()
        if flush:
            os.fsync(stream.fileno())
    os.replace(temporary, path)
    if flush:
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None))
