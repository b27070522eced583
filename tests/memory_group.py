"""A memory control group of the kernel, version 1 or 2: a limit that is enforced, and what is held below it."""

import os
import time
from pathlib import Path


class MemoryGroup:
    """A group for one process tree, below the one that the root of the hierarchy is. Raises OSError where the kernel
    does not allow one."""

    def __init__(self, name: str, limit: int | None) -> None:
        old = Path("/sys/fs/cgroup/memory")
        self.folder = (old if old.is_dir() else Path("/sys/fs/cgroup")) / name
        self._anonymous = "total_rss" if old.is_dir() else "anon"
        self.folder.mkdir()
        try:
            if limit is not None:
                file = "memory.limit_in_bytes" if old.is_dir() else "memory.max"
                (self.folder / file).write_text(str(limit))
            self.anonymous()
        except OSError:
            self.folder.rmdir()
            raise

    def enter(self) -> None:
        """Move the calling process in."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def leave(self) -> None:
        """Move the calling process out again."""
        (self.folder.parent / "cgroup.procs").write_text(str(os.getpid()))

    def anonymous(self) -> int:
        """Bytes of anonymous memory that the group holds now."""
        for line in (self.folder / "memory.stat").read_text().splitlines():
            name, value = line.split()
            if name == self._anonymous:
                return int(value)
        raise OSError(f"{self.folder / 'memory.stat'} has no {self._anonymous}")

    def remove(self) -> None:
        """Take the empty group away."""
        for _ in range(100):
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.05)  # what was in it is still being taken away
