"""What the runner writes into the store: claims, events read, results. Each function is one transaction."""

import json
import logging
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, delete, select

from core.runner.events import all_events, read_events
from core.runner.executors import Exit
from core.store.engine import Store, dump
from core.store.tables import (
    Artifact,
    ArtifactParent,
    Deployment,
    Job,
    JobAttempt,
    JobDependency,
    Measurement,
    Metric,
    Release,
)

log = logging.getLogger("tara.runner")

MAX_ATTEMPTS_LOST = 2  # a job whose processes vanished is started once more by itself
_BAD = ("failed", "cancelled", "interrupted")
_HOW = {"failed": "failed", "cancelled": "was cancelled", "interrupted": "was interrupted"}
_OUTSIDE = (signal.SIGTERM, 128 + signal.SIGTERM)  # a signal or status that says: told to end, by somebody


def claim(store: Store, job_id: int) -> Job | None:
    """Move a queued job to `starting` and open its next attempt; None where it is not queued any more."""
    with store.write() as session:
        job = session.get(Job, job_id)
        if job is None or job.state != "queued":
            return None
        job.attempt += 1
        while (run_dir := store.workspace.run_folder(job_id, job.attempt)).exists():
            job.attempt += 1  # a folder of an earlier store: its exit and its events are not this job's
        job.state, job.started_at, job.ended_at = "starting", time.time(), None
        job.run_dir, job.events_offset = store.workspace.relative(run_dir), 0
        job.step = job.total = job.rate = job.eta_s = job.error = job.hint = None
        job.exit_code = job.exit_signal = job.stop_requested_at = None
        job.metrics, job.message, job.result = "{}", "", "{}"
        session.add(JobAttempt(job_id=job_id, number=job.attempt, run_dir=job.run_dir, started_at=job.started_at))
        return job


def mark_running(store: Store, job_id: int) -> None:
    """The job's processes are there."""
    with store.write() as session:
        job = session.get(Job, job_id)
        if job is not None and job.state == "starting":
            job.state = "running"


def take_events(store: Store, job_id: int) -> bool:
    """Read what a job has said since the last time, and where it stands; offset and effect in one transaction.

    Returns whether there was anything; a long file takes several calls.
    """
    with store.write() as session:
        job = session.get(Job, job_id)
        if job is None or job.run_dir is None:
            return False
        folder = store.workspace.absolute(job.run_dir)
        events, offset = read_events(folder / "events.jsonl", job.events_offset)
        if offset == job.events_offset:
            return False
        for event in events:
            try:
                _digest(session, job, event)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                log.warning("job %s: an event cannot be used (%r): %.200s", job_id, error, event)
        job.events_offset = offset
        return True


def pending_events(store: Store, job: Job) -> bool:
    """Whether a job's event file has grown past what was read."""
    try:
        size = (store.workspace.absolute(job.run_dir or "") / "events.jsonl").stat().st_size
    except FileNotFoundError:
        return False
    return size > job.events_offset


def finish(store: Store, job_id: int, exit_: Exit) -> str:
    """Record how a job ended, with its artifact, measurements and release where it succeeded. Returns its state."""
    while take_events(store, job_id):
        pass
    with store.write() as session:
        job = session.get(Job, job_id)
        assert job is not None
        assert job.run_dir is not None
        folder = store.workspace.absolute(job.run_dir)
        job.ended_at, job.exit_code, job.exit_signal = exit_.ended, exit_.code, exit_.signal
        job.eta_s = None
        wanted = job.stop_requested_at is not None
        outside = exit_.stopped or exit_.signal in _OUTSIDE or exit_.code in _OUTSIDE
        if exit_.code == 0:
            job.state, job.error, job.hint = "succeeded", None, None
            _record_results(session, store, job, list(all_events(folder / "events.jsonl")))
        elif wanted:
            job.state, job.error, job.hint = "cancelled", "stopped on request", f"tara jobs retry {job_id}"
        elif outside or (exit_.code is None and exit_.signal is None):
            again = job.attempt < MAX_ATTEMPTS_LOST
            job.state = "queued" if again else "interrupted"
            job.ended_at = None if again else exit_.ended
            job.error = (
                "stopped from outside (the machine going down?)"
                if outside
                else "its processes vanished without an exit record (machine restarted, or killed)"
            )
            job.hint = "started again by itself" if again else f"tara jobs retry {job_id}"
        else:
            job.state = "failed"
            if exit_.signal is not None:
                job.error = f"killed by signal {exit_.signal}" + (" (out of memory?)" if exit_.signal == 9 else "")
                job.hint = "see the log"
            elif job.error is None:
                job.error, job.hint = f"exit status {exit_.code}", "see the log"
        attempt = session.get(JobAttempt, (job_id, job.attempt))
        if attempt is not None:
            attempt.ended_at = exit_.ended
            attempt.outcome = "interrupted" if job.state == "queued" else job.state
            attempt.exit_code, attempt.exit_signal = exit_.code, exit_.signal
        if job.state in _BAD:
            block_dependents(session, job)
        return job.state


def fail(store: Store, job_id: int, error: str, hint: str) -> str:
    """End a job that cannot be started, or whose end cannot be recorded, with the reason. Returns its state."""
    with store.write() as session:
        job = session.get(Job, job_id)
        assert job is not None
        if job.state not in ("queued", "starting", "running", "stopping"):
            return job.state
        attempt = session.get(JobAttempt, (job_id, job.attempt)) if job.state != "queued" else None
        job.state, job.error, job.hint, job.ended_at = "failed", error, hint, time.time()
        if attempt is not None:
            attempt.ended_at, attempt.outcome = job.ended_at, job.state
        block_dependents(session, job)
        return job.state


def never_started(store: Store, job_id: int) -> None:
    """Put a claimed job back whose runner died before anything was started; one that was to stop is cancelled."""
    with store.write() as session:
        job = session.get(Job, job_id)
        if job is not None and job.state == "starting":
            job.state = "queued"
        elif job is not None and job.state == "stopping":
            job.state, job.error, job.ended_at = "cancelled", "stopped on request", time.time()
            job.hint = f"tara jobs retry {job_id}"
            block_dependents(session, job)


def block_dependents(session: Session, failed: Job) -> None:
    """Block what waits for a job that did not succeed, directly or through others; siblings go on."""
    waiting = [failed]
    while waiting:
        parent = waiting.pop()
        children = session.exec(
            select(Job)
            .join(JobDependency, col(JobDependency.job_id) == Job.id)
            .where(JobDependency.needs_id == parent.id, col(Job.state).in_(("queued", "blocked")))
        ).all()
        for child in children:
            if child.state == "queued":
                _block(child, failed)
            else:
                block_where_needed(session, child)  # it may have waited for another one until now
            waiting.append(child)


def unblock_dependents(session: Session, job_id: int) -> None:
    """Queue again what was blocked by a job, where nothing else blocks it."""
    waiting = [job_id]
    while waiting:
        parent = waiting.pop()
        children = session.exec(
            select(Job)
            .join(JobDependency, col(JobDependency.job_id) == Job.id)
            .where(JobDependency.needs_id == parent, Job.state == "blocked")
        ).all()
        for child in children:
            assert child.id is not None
            if not block_where_needed(session, child):
                child.state, child.error, child.hint, child.ended_at = "queued", None, None, None
                waiting.append(child.id)


def block_where_needed(session: Session, job: Job) -> bool:
    """Block a job, naming why, where something it needs did not succeed; whether that is so."""
    parents = session.exec(
        select(Job)
        .join(JobDependency, col(JobDependency.needs_id) == Job.id)
        .where(JobDependency.job_id == job.id, col(Job.state).in_((*_BAD, "blocked")))
        .order_by(col(Job.id))
    ).all()
    ended = next((parent for parent in parents if parent.state in _BAD), None)
    if ended is not None:
        _block(job, ended)
    elif parents:
        job.state, job.error, job.hint = "blocked", parents[0].error, parents[0].hint  # what holds that one up
    return bool(parents)


def ready_jobs(session: Session) -> list[Job]:
    """Queued jobs whose needs all succeeded, most urgent first, oldest first among equals."""
    undone = (
        select(JobDependency.job_id).join(Job, col(Job.id) == JobDependency.needs_id).where(Job.state != "succeeded")
    )
    return list(
        session.exec(
            select(Job)
            .where(Job.state == "queued", col(Job.id).not_in(undone))
            .order_by(col(Job.priority).desc(), col(Job.id))
        ).all()
    )


def _block(job: Job, culprit: Job) -> None:
    job.state, job.error = "blocked", f"waits for job {culprit.id} ({culprit.title}), which {_HOW[culprit.state]}"
    job.hint = f"tara jobs retry {culprit.id}"


def _digest(session: Session, job: Job, event: dict[str, Any]) -> None:
    kind = event.get("event")
    if job.state == "starting":
        job.state = "running"
    if kind == "progress":
        job.step, job.total = event.get("step"), event.get("total")
        job.unit, job.message = str(event.get("unit", "")), str(event.get("message", ""))
        job.rate, job.eta_s = event.get("rate"), event.get("eta_s")
    elif kind == "metrics":
        values = {name: float(value) for name, value in event["values"].items() if value is not None}
        job.metrics = dump({**json.loads(job.metrics), **values})
        assert job.id is not None
        for name, value in values.items():
            session.add(
                Metric(
                    job_id=job.id, attempt=job.attempt, step=int(event["step"]), name=name, value=value, at=event["t"]
                )
            )
    elif kind == "result":
        job.result = dump({**json.loads(job.result), **event["values"]})
    elif kind == "error":
        job.error, job.hint = event.get("message"), event.get("hint")


def _record_results(session: Session, store: Store, job: Job, events: Iterable[dict[str, Any]]) -> None:
    """Enter a finished job's artifact, its parents and measurements, or its release."""
    events = list(events)
    artifact: Artifact | None = None
    for event in events:
        if event.get("event") == "artifact":
            artifact = _artifact_of(session, store, job, event)
        elif event.get("event") == "release":
            _record_release(session, job, event)
    for event in events:
        if event.get("event") != "measurement":
            continue
        value = event["value"]
        number = isinstance(value, int | float)
        session.add(
            Measurement(
                artifact_id=artifact.id if artifact else None,
                job_id=job.id,
                domain=job.domain,
                subject=event.get("subject", ""),
                name=event["name"],
                value=float(value) if number else None,
                text=None if number else str(value),
                unit=event.get("unit", ""),
                method=event["method"],
                n=event.get("n"),
                measured_at=event["t"],
            )
        )


def _artifact_of(session: Session, store: Store, job: Job, event: dict[str, Any]) -> Artifact:
    values: dict[str, Any] = {
        "kind": event["kind"],
        "name": event["name"],
        "path": store.workspace.relative(Path(event["path"])),
        "sha256": event["sha256"],
        "bytes": event["bytes"],
        "meta": dump(event.get("meta", {})),
        "job_id": job.id,
        "phase": job.phase,
        "domain": job.domain,
        "created_at": time.time(),
    }
    artifact = session.exec(select(Artifact).where(Artifact.key == job.key)).first()
    if artifact is None:
        artifact = Artifact(key=job.key, **values)
    else:  # made again: the row stays, for what was made of it points to it; what was measured of the old file does not
        artifact.sqlmodel_update(values)
        session.exec(delete(ArtifactParent).where(col(ArtifactParent.artifact_id) == artifact.id))
        session.exec(delete(Measurement).where(col(Measurement.artifact_id) == artifact.id))
    session.add(artifact)
    session.flush()
    for key in json.loads(job.params).get("_parents", []):
        parent = session.exec(select(Artifact).where(Artifact.key == key)).first()
        if parent is not None and parent.id is not None and artifact.id is not None:
            session.add(ArtifactParent(artifact_id=artifact.id, parent_id=parent.id))
    return artifact


def _record_release(session: Session, job: Job, event: dict[str, Any]) -> None:
    release = session.exec(
        select(Release).where(Release.target == event["target"], Release.version == event["version"])
    ).first()
    if release is None:
        release = Release(
            phase=job.phase or 0,
            version=event["version"],
            target=event["target"],
            bundle_key=event["bundle_key"],
            bundle_path=event["bundle_path"],
            manifest_sha256=event["manifest_sha256"],
            bytes=event["bytes"],
            job_id=job.id,
        )
        session.add(release)
        session.flush()
    assert release.id is not None
    session.add(Deployment(release_id=release.id, action="deploy"))
