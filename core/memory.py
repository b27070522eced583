"""The machine's memory as a process may use it: what is free, what a process holds, and what the kernel had to kill.

Standard library only and no state: the shim of every job asks here once a second. Nor pathlib: the shim would wait for
it before each job's start.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
CGROUP = "/sys/fs/cgroup"
MEMBERSHIP = "/proc/self/cgroup"
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def machine_available() -> int:
    """Bytes the machine can still give out without swapping (MemAvailable of /proc/meminfo)."""
    with open("/proc/meminfo") as stream:
        for line in stream:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def resident(pid: int) -> int | None:
    """Bytes of a process that are in memory now; None where there is none."""
    try:
        with open(f"/proc/{pid}/statm") as stream:
            return int(stream.read().split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None


def oom_kills(root: "Path | str" = CGROUP, membership: "Path | str" = MEMBERSHIP) -> tuple[int | None, int | None]:
    """How many processes the kernel's out-of-memory killer has ended so far: in this process's control group, and on
    the whole machine. None where it is not counted."""
    counts = (
        _field(f"{folder}/{'memory.events' if version == 2 else 'memory.oom_control'}", "oom_kill")
        for folder, version in _memory_groups(root, membership)
    )
    return next((count for count in counts if count is not None), None), _field("/proc/vmstat", "oom_kill")


def available_memory() -> tuple[int, str]:
    """Bytes a process may still take, and what sets that limit: the machine, or its control group."""
    free = machine_available()
    group = cgroup_available()
    if group is not None and group < free:
        return group, "the memory limit of this process's control group"
    return free, "the machine's available memory"


def total_memory(root: "Path | str" = CGROUP, membership: "Path | str" = MEMBERSHIP) -> int:
    """Bytes this process could take were nobody else there: the machine's memory, or the tightest limit of its control
    groups."""
    total = 0
    with open("/proc/meminfo") as stream:
        for line in stream:
            if line.startswith("MemTotal:"):
                total = int(line.split()[1]) * 1024
    limits = [_limit(folder, _FILES[version][0]) for folder, version in _memory_groups(root, membership)]
    return min([total, *(limit for limit in limits if limit is not None)])


def cgroup_available(root: "Path | str" = CGROUP, membership: "Path | str" = MEMBERSHIP) -> int | None:
    """Bytes left under the tightest memory limit of this process's control groups (version 2, else 1); None where
    there is no limit. Cached file pages count as free: the kernel drops them first."""
    left = [free for folder, version in _memory_groups(root, membership) if (free := _left(folder, _FILES[version]))]
    return min(left) if left else None


def _memory_groups(root: "Path | str", membership: "Path | str") -> list[tuple[str, int]]:
    """The folders of this process's memory control groups, innermost first, each with the version it speaks."""
    try:
        lines = _text(os.fspath(membership)).splitlines()
    except OSError:
        return []
    found: list[tuple[str, int]] = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            top, version = os.fspath(root), 2
        elif "memory" in controllers.split(","):
            top, version = f"{os.fspath(root)}/memory", 1
        else:
            continue
        names = [name for name in path.split("/") if name]
        found += [("/".join((top, *names[:depth])), version) for depth in range(len(names), -1, -1)]
    return found


def _field(file: str, name: str) -> int | None:
    """The number behind a name in a file of `name number` lines."""
    try:
        for line in _text(file).splitlines():
            first, _, rest = line.partition(" ")
            if first == name:
                return int(rest)
    except (OSError, ValueError):
        return None
    return None


def _left(folder: str, names: tuple[str, str, str]) -> int | None:
    limit, current, cached = names
    try:
        most = _text(f"{folder}/{limit}").strip()
        used = int(_text(f"{folder}/{current}"))
        statistics = dict(line.split() for line in _text(f"{folder}/memory.stat").splitlines())
    except (OSError, ValueError):
        return None  # this level has no limit of its own (the root), or is not visible from here
    if most == "max" or int(most) >= 1 << 60:
        return None
    return max(1, int(most) - used + int(statistics.get(cached, 0)))


def _limit(folder: str, name: str) -> int | None:
    """A control group's own limit; None where it has none, or is not visible from here."""
    try:
        most = _text(f"{folder}/{name}").strip()
        return None if most == "max" or int(most) >= 1 << 60 else int(most)
    except (OSError, ValueError):
        return None


def _text(file: str) -> str:
    with open(file, encoding="utf-8") as stream:
        return stream.read()
