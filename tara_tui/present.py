"""Values as short plain text for narrow columns. Pure functions; what comes from data is cleaned here."""

import math
import time

from core.store.views import DomainView, JobView, Measurement, PhaseView
from core.text import NOT_MEASURED, clean

DECLARED_MARK = "*"  # after a value that a person typed, where a measured one could stand
STATE_KINDS = {
    "complete": "good",
    "succeeded": "good",
    "deployed": "good",
    "running": "busy",
    "starting": "busy",
    "training": "busy",
    "merging": "busy",
    "compressing": "busy",
    "stopping": "warn",
    "blocked": "warn",
    "paused": "warn",
    "interrupted": "warn",
    "cancelled": "warn",
    "failed": "bad",
}


def one_line(value: object) -> str:
    """Any value as one clean line: no control characters, runs of white space made one space."""
    return " ".join(clean(str(value)).split())


def kind_of(state: str) -> str:
    """The colour kind of a state: good, busy, warn, bad, or '' for the plain one."""
    return STATE_KINDS.get(state, "")


def span(seconds: float | None) -> str:
    """A duration in seconds in its two largest units, as in 45s, 12m, 3h05, 2d4h, whole days from ten; '-' for none."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}"
    if whole < 10 * 86400:
        return f"{whole // 86400}d{whole % 86400 // 3600}h"
    return f"{whole // 86400}d"


def size(count: float | None) -> str:
    """Bytes as 812B, 4.2K, 98M, 1.2G: decimal units, as in what commands say; '-' for none."""
    if count is None:
        return "-"
    value, unit = float(count), "B"
    for unit in ("B", "K", "M", "G", "T"):
        if value < 999.5 or unit == "T":
            break
        value /= 1000
    return f"{value:.1f}{unit}" if value < 9.95 and unit != "B" else f"{value:.0f}{unit}"


def figure(value: float | None) -> str:
    """A live figure with about four significant digits; '-' for none, nan and inf as they are."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if value and not 0.001 <= abs(value) < 100_000:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:.{digits}f}"


def moment(seconds: float | None) -> str:
    """A time of the epoch as local date and time; '-' for none."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def progress(job: JobView) -> str:
    """How far a job is: 120/400, bytes as 98M/110M, its step alone, or '-'."""
    if job.total and job.unit == "B":
        return f"{size(job.step or 0)}/{size(job.total)}"
    if job.total:
        return f"{job.step or 0}/{job.total}"
    return "-" if job.step is None else str(job.step)


def percent(job: JobView) -> str:
    """The share a job has done, '35%', or '' where it has not said."""
    return "" if job.fraction is None else f"{int(job.fraction * 100)}%"


def rate(job: JobView) -> str:
    """Units a second; for slow work, seconds a unit."""
    if not job.rate or not job.active:
        return "-"
    return f"{figure(job.rate)}/s" if job.rate >= 0.1 else f"{1 / job.rate:.3g}s/it"


def job_age(job: JobView, now: float) -> str:
    """How long it has run if it runs, took if it ended, or waited if it has not begun."""
    if job.started_at is None:
        return span((job.ended_at or now) - job.created_at)
    return span((job.ended_at or now) - job.started_at)


def measured(value: Measurement | None) -> str:
    """A measurement's value, marked where it was declared, or 'not measured'."""
    if value is None:
        return NOT_MEASURED
    text = one_line(value.value) if isinstance(value.value, str) else figure(value.value)
    return text + (DECLARED_MARK if value.method == "declared" else "")


def quality(domain: DomainView) -> str:
    """Token accuracy on held-out data as a percentage, or 'not measured'."""
    value = domain.measurements.get("quality")
    if value is None or isinstance(value.value, str) or not 0 <= value.value <= 1:
        return measured(value)
    return f"{value.value * 100:.1f}%" + (DECLARED_MARK if value.method == "declared" else "")


def losses(domain: DomainView) -> str:
    """Held-out loss of the base and of the tuned model, '2.31>1.20'; '-' where neither was measured."""
    before, after = domain.measurements.get("base_loss"), domain.measurements.get("tuned_loss")
    if before is None and after is None:
        return "-"
    return ">".join("?" if one is None else short_loss(one) for one in (before, after))


def short_loss(value: Measurement) -> str:
    """A loss with two decimals."""
    return f"{value.value:.2f}" if isinstance(value.value, float | int) else one_line(value.value)


def status(domain: DomainView) -> str:
    """A domain's status, marked where a person declared it."""
    return one_line(domain.status) + (DECLARED_MARK if domain.status_declared else "")


def release(phase: PhaseView) -> str:
    """The active release's version, or '-'."""
    active = next((one for one in phase.releases if one.active), None)
    return f"v{active.version}" if active else "-"


def phase_bytes(phase: PhaseView) -> int | None:
    """The size of what is deployed, else of the newest bundle."""
    active = next((one for one in phase.releases if one.active), None)
    return active.bytes if active else phase.bundle_bytes
