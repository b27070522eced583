"""What happened to a job that did not succeed, and whether it is started again: pure functions, one table."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.runner.executors import Exit

LITTLE_MEMORY = 300_000_000  # bytes free just before a kill nobody explains: then memory is the likely reason
_OUTSIDE = (signal.SIGTERM, 128 + signal.SIGTERM)  # a signal or status that says: told to end, by somebody
_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)


@dataclass(frozen=True)
class Verdict:
    """What happened: its class (a key of POLICY) and a sentence for the person."""

    failure: str
    error: str


@dataclass(frozen=True)
class Policy:
    """How often a job is started again by itself after such an end, the first wait in multiples of the configured
    delay, and the state it is left in when that is used up."""

    retries: int
    delays: float
    left: str


POLICY: Mapping[str, Policy] = {
    "reboot": Policy(100, 0, "interrupted"),
    "lost": Policy(3, 1, "interrupted"),
    "killed": Policy(3, 1, "interrupted"),
    "memory": Policy(8, 1, "failed"),  # each time smaller; ends before where nothing smaller is left
    "hung": Policy(1, 2, "failed"),
    "fault": Policy(1, 2, "failed"),
    "disk": Policy(20, 6, "failed"),
    "error": Policy(0, 0, "failed"),
}
GROWTH = 3.0
LONGEST_S = 600.0


def judge(ended: Exit, told: str | None, told_class: str | None) -> Verdict:
    """Why a job ended without success that nobody asked to stop. `told` and `told_class` are the task's own words."""
    held = _figures(ended)
    if ended.why_killed == "memory":
        return Verdict("memory", f"out of memory: TARA ended it before the machine had none left{held}")
    if ended.why_killed == "hung":
        return Verdict("hung", "it hung: no event, no line of log and no computing time for too long")
    if ended.code is None and ended.signal is None:
        if ended.rebooted:
            return Verdict("reboot", "the machine was restarted while it ran")
        return Verdict("lost", "its processes vanished without an exit record (killed)")
    if ended.signal == signal.SIGKILL and not ended.stopped:
        if ended.oom_kills_group:
            return Verdict("memory", f"out of memory: the kernel killed it{held}")
        if ended.oom_kills_machine:
            return Verdict("memory", f"killed as the kernel ended a process of this machine for lack of memory{held}")
        if ended.available_bytes is not None and ended.available_bytes < LITTLE_MEMORY:
            return Verdict("memory", f"killed, probably for lack of memory{held}")
        return Verdict("killed", f"killed by signal 9 from outside{held}")
    if ended.stopped or ended.signal in _OUTSIDE or ended.code in _OUTSIDE:
        return Verdict("killed", "stopped from outside (the machine going down?)")
    if ended.signal is not None:
        name = signal.Signals(ended.signal).name if ended.signal in set(signal.Signals) else "unknown"
        if ended.signal in _FAULTS:
            return Verdict("fault", f"it crashed in native code: signal {ended.signal} ({name})")
        return Verdict("killed", f"killed by signal {ended.signal} ({name})")
    if told_class is not None and told_class in POLICY:
        return Verdict(told_class, told or f"exit status {ended.code}")
    return Verdict("error", told or f"exit status {ended.code}")


def wait_before_retry(failure: str, before: Sequence[str], delay_s: float) -> float | None:
    """Seconds to wait until a job is started again by itself; None where it is not.

    `before` are the failures of the attempts since the job last got anywhere, the newest last, this one included.
    """
    policy = POLICY[failure]
    times = sum(one == failure for one in before)
    if times > policy.retries:
        return None
    return min(LONGEST_S, policy.delays * delay_s * GROWTH ** (times - 1))


def _figures(ended: Exit) -> str:
    """What the job held and what was free, where it is known."""
    parts = []
    peak = max(ended.peak_rss_bytes or 0, ended.rss_bytes or 0)
    if peak:
        parts.append(f"it held {peak / 1e6:.0f} MB")
    if ended.available_bytes is not None:
        parts.append(f"{ended.available_bytes / 1e6:.0f} MB were free")
    return f" ({', '.join(parts)})" if parts else ""
