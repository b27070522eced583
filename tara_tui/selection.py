"""What the console's keys act on, worked out from the last snapshot. Pure."""

from dataclasses import dataclass

from core.store.views import DomainView, JobView, PhaseView, ReleaseView, Snapshot
from tara_tui.backend import Bundle

NOTICED_S = 10.0  # a job that took less is over before anybody looked away
MODES = ("dashboard", "jobs", "logs", "chat")


@dataclass(frozen=True)
class Selection:
    """The things under the cursors, and what the chat is doing."""

    mode: str = "dashboard"
    phase: PhaseView | None = None
    domain: DomainView | None = None
    job: JobView | None = None
    bundle: Bundle | None = None
    generating: bool = False


def bundles(phase: PhaseView | None) -> list[Bundle]:
    """What of a phase can be talked to: the active releases, the newest verified bundle, older releases."""
    if phase is None:
        return []
    found: dict[str, Bundle] = {}
    for release in sorted(phase.releases, key=lambda one: (not one.active, -one.version)):
        if release.active:
            found.setdefault(release.bundle, released(release))
    if phase.bundle_path:
        label = f"phase {phase.number} newest bundle"
        found.setdefault(phase.bundle_path, Bundle(phase.bundle_path, label, phase=phase.number))
    for release in sorted(phase.releases, key=lambda one: -one.version):
        found.setdefault(release.bundle, released(release))
    return list(found.values())


def released(release: ReleaseView) -> Bundle:
    """A release as something to talk to."""
    label = f"phase {release.phase} v{release.version}{'' if release.active else ' (old)'}"
    return Bundle(release.bundle, label, release.target, release.version, phase=release.phase)


def active_release(phase: PhaseView) -> ReleaseView | None:
    """The release of a phase that serves now."""
    return next((one for one in phase.releases if one.active), None)


def earlier_release(phase: PhaseView) -> ReleaseView | None:
    """The release a roll back goes to: the newest one before the active one, at the same target."""
    active = active_release(phase)
    if active is None:
        return None
    earlier = [one for one in phase.releases if one.target == active.target and one.version < active.version]
    return max(earlier, key=lambda one: one.version, default=None)


def cause(snapshot: Snapshot, job: JobView) -> JobView:
    """The job that keeps a blocked one from going on: the one whose log and retry help. Any other job is itself."""
    seen = {job.id}
    while job.state == "blocked":
        needed = [snapshot.job(number) for number in job.depends_on if number not in seen]
        stuck = [one for one in needed if one is not None and one.state != "succeeded"]
        if not stuck:
            break
        job = stuck[0]
        seen.add(job.id)
    return job


def phase_job(snapshot: Snapshot, number: int) -> JobView | None:
    """The job of a phase one would look at: the one that runs, else the newest that began, else the newest."""
    mine = [job for job in snapshot.jobs if job.phase == number]
    for test in (lambda job: job.state in ("running", "starting", "stopping"), lambda job: job.started_at is not None):
        found = [job for job in mine if test(job)]
        if found:
            return max(found, key=lambda job: job.started_at or 0.0)
    return mine[0] if mine else None


def ended_meanwhile(before: Snapshot | None, now: Snapshot) -> list[JobView]:
    """Jobs that were at work in the snapshot before, ran for at least NOTICED_S, and are over; newest first."""
    if before is None:
        return []
    working = {job.id for job in before.jobs if job.state in ("starting", "running", "stopping")}
    return [
        job
        for job in now.jobs
        if job.id in working
        and not job.active
        and (job.ended_at or 0) - (job.started_at or job.ended_at or 0) >= NOTICED_S
    ]
