"""The machine's load: processor, memory, disk of the workspace, GPU where there is one."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core import devices
from tara_tui.present import size

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """All GPUs as one: the busiest one's use in percent, memory in bytes summed."""

    percent: int
    used: int
    total: int


@dataclass(frozen=True)
class Meters:
    """One sample; rounded as it is shown, so that equal samples repaint nothing."""

    cpu: int  # percent of all processors
    memory_used: str
    memory_total: str
    memory: int  # percent
    disk_free: str
    disk: int  # percent used
    gpu: Gpu | None = None

    def line(self, room: int) -> str:
        """The sample in at most `room` cells, or its most telling part."""
        gpu = f"gpu {self.gpu.percent}% {size(self.gpu.used)}/{size(self.gpu.total)}" if self.gpu else ""
        long = f"cpu {self.cpu}%  mem {self.memory_used}/{self.memory_total}  disk {self.disk_free} free"
        short = f"cpu {self.cpu}% mem {self.memory}% disk {self.disk}%"
        least = f"cpu {self.cpu}% mem {self.memory}%"
        brief_gpu = f" gpu {self.gpu.percent}%" if self.gpu else ""
        wide = f"{long}  {gpu}" if gpu else long
        forms = (wide, long + brief_gpu, short + brief_gpu, least + brief_gpu, least)
        return next((one for one in forms if len(one) <= room), "")


def memory_limit(root: Path = CGROUP) -> tuple[int, int] | None:
    """Bytes used and allowed by this process's control group (version 2, or 1), None where it is not limited.

    Reclaimable file cache is not counted as used.
    """
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file "),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file "),
    ):
        try:
            allowed = (root / limit).read_text().strip()
            now = int((root / used).read_text())
            stat = (root / used).with_name("memory.stat").read_text()
        except (OSError, ValueError):
            continue
        if not allowed.isdigit() or int(allowed) >= 1 << 60:
            return None
        reclaimable = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith(cache)), 0)
        return max(0, now - reclaimable), int(allowed)
    return None


def together(found: Sequence[devices.Gpu]) -> Gpu | None:
    """All GPUs as one; None where there is none that says how busy it is."""
    busy = [one.percent for one in found if one.percent is not None]
    if not busy:
        return None
    return Gpu(max(busy), sum(one.used for one in found), sum(one.total for one in found))


class Machine:
    """Takes samples; belongs to one thread. The GPU is asked on every third sample: that starts a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = devices.program()
        self._gpu: Gpu | None = None
        self._count = 0

    def sample(self) -> Meters:
        """Measure now. The processor's share is that since the last sample."""
        import psutil

        limits = memory_limit()
        machine = psutil.virtual_memory()
        used, total = machine.total - machine.available, machine.total
        if limits is not None and limits[1] < total:
            used, total = limits
        disk = shutil.disk_usage(self.folder)
        if self._program and self._count % 3 == 0:
            self._gpu = self._ask_gpu(self._program)
        self._count += 1
        return Meters(
            cpu=round(psutil.cpu_percent()),
            memory_used=size(used),
            memory_total=size(total),
            memory=round(100 * used / total),
            disk_free=size(disk.free),
            disk=round(100 * (disk.total - disk.free) / disk.total),
            gpu=self._gpu,
        )

    def _ask_gpu(self, program: str) -> Gpu | None:
        try:
            return together(devices.gpus(program))
        except (OSError, subprocess.TimeoutExpired):
            self._program = None  # broken or hung: not asked again, and no meter is shown
            return None
