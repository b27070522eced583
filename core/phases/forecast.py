"""What a job will take and why one thinks so, whether it fits, how far predictions were off: pure functions."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from core.phases.probe import Speed, seconds_by_speed, startup_of
from core.runner.admission import Device, Need
from core.store.views import PastJob

MEASURED, ESTIMATED, PROBE, UNKNOWN = "measured", "estimated", "probe", "not known"
NEWEST = 5  # jobs a median is taken of
SAME_WORK = 0.02  # by this share the work of two jobs may differ and count as the same amount
FAR = 10.0  # jobs more unlike in their work than by this factor say nothing of one another

FITS, LATER, OTHERS, NEVER, AT_WORK = "fits", "when jobs end", "when freed", "does not fit", "at work"


@dataclass(frozen=True)
class Expected:
    """What is predicted of a job: bytes of memory and seconds (None: not known), each with what it is based on."""

    memory: int
    memory_by: str
    seconds: float | None
    seconds_by: str


@dataclass(frozen=True)
class Machine:
    """What there is, in bytes. `free` counts no reserve; `held` is what running jobs of the workspace hold, `owed` what
    they were promised beyond that; disk `promised` to running jobs that are not of the plan."""

    memory_free: int
    memory_held: int
    memory_owed: int
    memory_total: int
    memory_reserve: int
    memory_of: str
    disk_free: int
    disk_promised: int
    disk_reserve: int
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether a job fits, in a word, and where it does not, why, with the numbers."""

    word: str
    why: str = ""
    lacks: str = ""  # memory, disk or device

    @property
    def never(self) -> bool:
        """Whether this machine cannot run the job."""
        return self.word == NEVER


def expect_seconds(
    kind: str,
    work: float,
    *,
    same: Sequence[PastJob],
    like: Sequence[PastJob],
    from_gguf: bool = False,
    on_device: bool = False,
    threads: int = 1,
    speed: Callable[[], Speed] | None = None,
) -> tuple[float | None, str]:
    """Seconds and what they are based on. `same` are finished jobs of the footprint, `like` of the kind, newest first.

    Attempts that began in the middle or ran smaller count for nothing. What has no past goes by the machine's `speed`;
    on a device, of which that says nothing, it is not known.
    """
    again = [one.seconds for one in _usable(same, on_device, from_gguf) if _near(one.work, work, 1 + SAME_WORK)][
        :NEWEST
    ]
    if again:
        return median(again), MEASURED
    others = [one for one in _usable(like, on_device, from_gguf) if _near(one.work, work, FAR)][:NEWEST]
    if others:
        startup = min(startup_of(kind), *(one.seconds for one in others))
        rate = median((one.seconds - startup) / one.work for one in others if one.work)
        return startup + rate * work, f"scaled from {len(others)} job{'s' * (len(others) > 1)}"
    found = (
        None
        if speed is None or on_device
        else seconds_by_speed(kind, work, speed(), threads=threads, from_gguf=from_gguf)
    )
    return (None, UNKNOWN) if found is None else (found, PROBE)


def _usable(jobs: Iterable[PastJob], on_device: bool, from_gguf: bool) -> list[PastJob]:
    return [one for one in jobs if one.whole and one.on_device == on_device and one.from_gguf == from_gguf]


def _near(done: float | None, wanted: float, factor: float) -> bool:
    return done is not None and done > 0 and wanted > 0 and 1 / factor <= done / wanted <= factor


def judge(need: Need, machine: Machine, disk_before: int, *, slack: float, measured: int | None) -> Verdict:
    """Whether a job fits, as admission would see it: what was `measured` counts with `slack`. `disk_before` is what the
    jobs before it leave on the disk."""
    on_device = need.device and bool(machine.devices)
    memory = int(measured * slack) if measured is not None else need.beside_device if on_device else need.memory
    of_memory = _judge_memory(memory, machine)
    if of_memory.never:
        return of_memory
    if on_device and need.device_memory > (largest := max(device.total for device in machine.devices)):
        return Verdict(NEVER, f"device: needs {_mb(need.device_memory)}, the largest has {_mb(largest)}", "device")
    disk = need.disk + disk_before
    if disk > machine.disk_free - machine.disk_promised - machine.disk_reserve:
        beside = f", {_mb(machine.disk_promised)} of that promised to running jobs" if machine.disk_promised else ""
        before = f" ({_mb(disk_before)} by jobs before it)" if disk_before else ""
        why = f"disk: needs {_mb(disk)}{before}, there is {_mb(machine.disk_free)}{beside}"
        return Verdict(NEVER, f"{why}, reserve {_mb(machine.disk_reserve)}", "disk")
    return of_memory


def _judge_memory(memory: int, machine: Machine) -> Verdict:
    needs, reserve = f"memory: needs {_mb(memory)}", machine.memory_reserve
    free, total, kept = machine.memory_free, machine.memory_total, f"reserve {_mb(reserve)}"
    if memory <= free - machine.memory_owed - reserve:
        return Verdict(FITS)
    if memory <= free + machine.memory_held - reserve:
        return Verdict(LATER, f"{needs}, there is {_mb(free)} ({machine.memory_of}), {kept}", "memory")
    if memory <= total - reserve:
        beside = f"{_mb(free + machine.memory_held)} of {_mb(total)} beside other programs"
        return Verdict(OTHERS, f"{needs}, there is {beside}, {kept}", "memory")
    return Verdict(NEVER, f"{needs}, there is {_mb(total)} in all, {kept}", "memory")


@dataclass(frozen=True)
class Error:
    """How far a prediction was off: real over predicted, less one. Absent where one of the two is."""

    job: PastJob
    memory: float | None
    seconds: float | None


def error_of(job: PastJob) -> Error:
    """What was predicted of a job against what it took. Seconds are compared for whole attempts alone."""
    return Error(
        job,
        _off(job.peak_bytes, job.predicted_memory_bytes) if job.whole else None,
        _off(job.seconds, job.predicted_seconds) if job.whole else None,
    )


def _off(real: float | None, predicted: float | None) -> float | None:
    return None if real is None or not predicted else real / predicted - 1


@dataclass(frozen=True)
class KindError:
    """The medians of a kind's errors, without their signs, and of how many jobs."""

    kind: str
    jobs: int
    memory: float | None
    seconds: float | None


def errors_by_kind(errors: Sequence[Error]) -> list[KindError]:
    """The median error of each kind, in the order of first appearance."""
    found = []
    for kind in dict.fromkeys(one.job.kind for one in errors):
        of = [one for one in errors if one.job.kind == kind]
        memory = [abs(one.memory) for one in of if one.memory is not None]
        seconds = [abs(one.seconds) for one in of if one.seconds is not None]
        found.append(KindError(kind, len(of), median(memory) if memory else None, median(seconds) if seconds else None))
    return found


def _mb(size: int) -> str:
    return f"{max(0, size) / 1e6:.0f} MB"
