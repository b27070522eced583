"""What the runner writes into the store: claims, events read, results. Each function is one transaction."""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, delete, select

from core.runner.dependencies import BAD, block_dependents
from core.runner.events import all_events, read_events
from core.runner.executors import Exit
from core.runner.verdict import POLICY, judge, wait_before_retry
from core.store.engine import Store, dump
from core.store.tables import (
    Artifact,
    ArtifactParent,
    Deployment,
    Job,
    JobAttempt,
    Measurement,
    Metric,
    Release,
)
from core.training.smaller import smaller, steps_down

log = logging.getLogger("tara.runner")

RETRIED = "retried"  # the outcome of an attempt after which the job was queued again by itself
_HINTS = {
    "memory": "choose a smaller preset or base, or free memory, then tara jobs retry {job}",
    "disk": "free disk space, then tara jobs retry {job}",
    "killed": "tara jobs retry {job}",
    "lost": "tara jobs retry {job}",
    "reboot": "tara jobs retry {job}",
}


def claim(store: Store, job_id: int, device: str | None = None) -> Job | None:
    """Move a queued job to `starting` and open its next attempt; None where it is not queued any more. `device` is the
    one it gets for itself."""
    with store.write() as session:
        job = session.get(Job, job_id)
        if job is None or job.state != "queued":
            return None
        job.attempt += 1
        while (run_dir := store.workspace.run_folder(job_id, job.attempt)).exists():
            job.attempt += 1  # a folder of an earlier store: its exit and its events are not this job's
        begin(session, job, store.workspace.relative(run_dir), time.time(), device)
        return job


def begin(session: Session, job: Job, run_dir: str, at: float, device: str | None = None) -> None:
    """Open the attempt that a job's number of attempts says, in a run folder; nothing of the one before stays. `device`
    is the one it gets for itself."""
    assert job.id is not None
    job.state, job.started_at, job.ended_at = "starting", at, None
    job.run_dir, job.events_offset, job.device = run_dir, 0, device
    job.step = job.total = job.rate = job.eta_s = job.error = job.hint = None
    job.exit_code = job.exit_signal = job.stop_requested_at = job.stop_reason = job.not_before = None
    job.failure = None  # of the attempt before: this one's end is judged by its own words
    job.metrics, job.message, job.result = "{}", "", "{}"
    session.add(JobAttempt(job_id=job.id, number=job.attempt, run_dir=run_dir, started_at=at))


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


def finish(store: Store, job_id: int, exit_: Exit, retry_delay_s: float = 0.0) -> str:
    """Record how a job ended, with its artifact, measurements and release where it succeeded, and queue it again
    where its end is one that is worth another try. Returns its state."""
    while take_events(store, job_id):
        pass
    with store.write() as session:
        job = session.get(Job, job_id)
        assert job is not None
        assert job.run_dir is not None
        folder = store.workspace.absolute(job.run_dir)
        job.ended_at, job.exit_code, job.exit_signal = exit_.ended, exit_.code, exit_.signal
        job.eta_s = None
        attempt = session.get(JobAttempt, (job_id, job.attempt))
        if attempt is not None:
            attempt.ended_at, attempt.exit_code, attempt.exit_signal = exit_.ended, exit_.code, exit_.signal
            attempt.reached, attempt.peak_rss_bytes = job.step, exit_.peak_rss_bytes
        if exit_.code == 0:
            job.state, job.error, job.hint, job.failure = "succeeded", None, None, None
            _record_results(session, store, job, list(all_events(folder / "events.jsonl")))
        elif job.stop_requested_at is not None and exit_.why_killed is None:
            paused = job.stop_reason == "pause"
            job.state, job.failure = "paused" if paused else "cancelled", None
            job.error, job.hint = "stopped on request", f"tara jobs {'resume' if paused else 'retry'} {job_id}"
            job.ended_at = None if paused else exit_.ended
        else:
            _decide(session, job, attempt, exit_, retry_delay_s)
        if attempt is not None:
            attempt.outcome = RETRIED if job.state == "queued" else job.state
            attempt.failure, attempt.detail = job.failure, job.error
        if job.state in BAD:
            block_dependents(session, job)
        return job.state


def _decide(session: Session, job: Job, attempt: JobAttempt | None, exit_: Exit, retry_delay_s: float) -> None:
    """What becomes of a job that did not succeed: started again after a while, or left as its kind of end says."""
    assert job.id is not None
    verdict = judge(exit_, job.error, job.failure)
    job.failure, job.error = verdict.failure, verdict.error
    if attempt is not None:
        attempt.failure = verdict.failure
        session.add(attempt)
        session.flush()
    failures = _failures_since_progress(session, job.id)
    wait, again = wait_before_retry(verdict.failure, failures, retry_delay_s), ""
    if verdict.failure == "memory":
        job.let_in = False  # a person let it in once, and that was too much
    if wait is not None and verdict.failure == "memory":
        again = _less_memory(job)
        if not again and failures.count("memory") > 1:
            wait = None  # nothing smaller, and once more as it is was tried
    if wait is None:
        job.state = POLICY[verdict.failure].left
        hint = job.hint if verdict.failure == "error" and job.hint else _HINTS.get(verdict.failure, "see the log")
        job.hint = hint.replace("{job}", str(job.id))
        return
    job.state, job.ended_at = "queued", None
    job.not_before = time.time() + wait if wait > 0 else None
    job.hint = "started again by itself" + (f" in {wait:.0f} s" if wait > 0 else "") + again


def _less_memory(job: Job) -> str:
    """Have a training run in the next smaller way, and say which; empty where there is none, or for other kinds."""
    preset = json.loads(job.params).get("preset")
    if not isinstance(preset, dict) or job.smaller >= len(steps_down(preset)):
        return ""
    job.smaller += 1
    return f", with {smaller(preset, job.smaller).says}"


def _failures_since_progress(session: Session, job_id: int) -> list[str]:
    """How the attempts ended since one last came further than all before it; a job that gets on is never given up."""
    attempts = session.exec(
        select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(col(JobAttempt.number))
    ).all()
    furthest, since = 0, 0
    for at, attempt in enumerate(attempts):
        if (attempt.reached or 0) > furthest:  # it got on and ended badly: the first of a new count
            furthest, since = attempt.reached or 0, at
        if attempt.outcome is not None and attempt.outcome != RETRIED:
            since = at + 1  # a person has asked for it again since
    return [attempt.failure for attempt in attempts[since:] if attempt.failure is not None]


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


def say_of_waiting(store: Store, news: Mapping[int, str]) -> None:
    """Tell why queued jobs are not started, by their numbers; an empty text: they may be again."""
    with store.write() as session:
        for number, said in news.items():
            job = session.get(Job, number)
            if job is not None and job.state == "queued":
                job.message = said


def never_started(store: Store, job_id: int) -> None:
    """Put a claimed job back whose runner died before anything was started; one that was to stop is cancelled."""
    with store.write() as session:
        job = session.get(Job, job_id)
        if job is not None and job.state == "starting":
            job.state = "queued"
        elif job is not None and job.state == "stopping" and job.stop_reason == "pause":
            job.state, job.error, job.hint = "paused", "stopped on request", f"tara jobs resume {job_id}"
        elif job is not None and job.state == "stopping":
            job.state, job.error, job.ended_at = "cancelled", "stopped on request", time.time()
            job.hint = f"tara jobs retry {job_id}"
            block_dependents(session, job)


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
        job.error, job.hint, job.failure = event.get("message"), event.get("hint"), event.get("failure")


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
        "created_at": event["t"],  # when it was made, whenever that is read
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
            created_at=event["t"],
        )
        session.add(release)
        session.flush()
    assert release.id is not None
    session.add(Deployment(release_id=release.id, action="deploy", at=event["t"]))
