"""What waiting processes cost: processor time, wake-ups and memory."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

SETTLE_S = 3.0


@dataclass(frozen=True)
class Idle:
    """Processor in percent of one core, wake-ups a second, and bytes: resident, and unique to the processes (what
    their end would free), with `processes` counted."""

    cpu_percent: float
    wakeups_per_s: float
    rss_bytes: int
    uss_bytes: int
    processes: int


def idle_cost(pids: Sequence[int], seconds: float) -> list[Idle]:
    """What each process and its children cost over the same `seconds` in which nobody asks anything of them."""
    time.sleep(SETTLE_S)  # what the last job left to do is done
    families = [[psutil.Process(pid), *psutil.Process(pid).children(recursive=True)] for pid in pids]
    started = time.monotonic()
    before = [(_cpu(family), _wakeups(family)) for family in families]
    time.sleep(seconds)
    after = [(_cpu(family), _wakeups(family)) for family in families]
    passed = time.monotonic() - started
    found = []
    for family, first, last in zip(families, before, after, strict=True):
        memory = [process.memory_full_info() for process in family]
        found.append(
            Idle(
                cpu_percent=(last[0] - first[0]) / passed * 100,
                wakeups_per_s=(last[1] - first[1]) / passed,
                rss_bytes=sum(one.rss for one in memory),
                uss_bytes=sum(one.uss for one in memory),
                processes=len(family),
            )
        )
    return found


def _cpu(family: list[psutil.Process]) -> float:
    """Seconds of processor used so far: by the kernel's clock of each process, which counts nanoseconds, where the
    figures in /proc count hundredths of a second."""
    return sum(time.clock_gettime((~process.pid << 3) | 2) for process in family)  # clock_getcpuclockid(3)


def _wakeups(family: list[psutil.Process]) -> int:
    return sum(process.num_ctx_switches().voluntary for process in family)
