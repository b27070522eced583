"""Whether a workspace's runner lives: an advisory lock that the kernel drops with the process, never a pid file."""

import fcntl
import os
import stat
import struct
import sys
from pathlib import Path

import core
from core.workspace import Workspace

CODE = Path(core.__file__).parents[1]  # where `core` is found; not the workspace, whose files could hide modules
_FLOCK = "@hhqqi"  # struct flock: type, whence, start, len, pid


def runner_command(workspace: Workspace) -> list[str]:
    """What starts a workspace's runner, in the folder CODE."""
    return [sys.executable, "-m", "core.runner", str(workspace.root)]


def lock_path(workspace: Workspace) -> Path:
    """The file whose lock the runner holds."""
    return workspace.runs / "runner.lock"


def wake_path(workspace: Workspace) -> Path:
    """The pipe that wakes the runner."""
    return workspace.runs / "runner.wake"


def stopped_mark(workspace: Workspace) -> Path:
    """There while a person has stopped the runner: then nobody starts it who only wants to look."""
    return workspace.runs / "runner.stopped"


def looked_mark(workspace: Workspace) -> Path:
    """There once the runner has gone over all jobs since it came up."""
    return workspace.runs / "runner.looked"


def unclean_mark(workspace: Workspace) -> Path:
    """There from when a runner has the store open until it leaves of its own accord: found at a start, the one before
    was killed, or the machine went down."""
    return workspace.runs / "runner.open"


def hold(workspace: Workspace) -> int | None:
    """Take the runner's lock; the descriptor to keep open, or None where another process has it.

    A record lock, because a reader can ask for its holder without taking it. The kernel drops it when the process
    closes any descriptor of the file: nothing else in the runner may open it.
    """
    workspace.runs.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock_path(workspace), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def still_held(workspace: Workspace, descriptor: int) -> bool:
    """Whether the lock held by `descriptor` is still the workspace's: not where somebody removed or replaced its file,
    for then another runner may have come up beside this one."""
    try:
        found = os.stat(lock_path(workspace))
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def runner_pid(workspace: Workspace) -> int | None:
    """The process that holds the runner's lock, or None. Not to be called inside the runner itself."""
    try:
        descriptor = os.open(lock_path(workspace), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        return pid if kind != fcntl.F_UNLCK else None
    finally:
        os.close(descriptor)


def wake(workspace: Workspace) -> bool:
    """Tell the runner to look at the queue now; False where none listens."""
    try:
        descriptor = os.open(wake_path(workspace), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return False  # a copied workspace has a file there until its runner has come up
        os.write(descriptor, b"w")
    except BlockingIOError:
        pass  # the pipe is full: it will wake anyway
    except BrokenPipeError:
        return False  # the runner has left since the pipe was opened
    finally:
        os.close(descriptor)
    return True
