"""Where jobs run: one interface, and the local machine as its implementation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Exit:
    """How a job ended. `code` or `signal` is set; neither where its record was lost with its processes."""

    code: int | None
    signal: int | None
    stopped: bool
    started: float | None
    ended: float
    peak_rss_bytes: int | None = None
    rss_bytes: int | None = None  # held just before the end, about
    available_bytes: int | None = None  # free on the machine, or in its control group, just before the end
    oom_kills_group: int | None = None  # processes the kernel killed for memory meanwhile, in the job's control group
    oom_kills_machine: int | None = None  # and on the whole machine
    rebooted: bool = False  # the machine has started anew since
    why_killed: str | None = None  # why the runner itself killed it: memory, hung


class Executor(Protocol):
    """What the runner needs of a place where jobs run. A run folder is the job's identity: submitting it twice
    never makes a second copy."""

    def submit(self, run_dir: Path) -> None:
        """Start the job of a prepared run folder."""

    def alive(self, run_dir: Path) -> bool:
        """Whether any process of the job is alive."""

    def exit_of(self, run_dir: Path) -> Exit | None:
        """How it ended, or None while it has not, or nobody knows."""

    def stop(self, run_dir: Path, *, force: bool = False) -> bool:
        """Ask the job to end: terminate its group, kill it after a grace period; with `force`, kill all of it. Returns
        at once; False where it could not be asked yet."""
