"""Putting a plan into the queue: each missing job once, with its dependencies."""

from sqlmodel import Session, col, delete, select

from core.phases.planned import Plan, PlannedJob
from core.store.engine import dump
from core.store.tables import Job, JobDependency
from core.workspace import Workspace

_WAITING_OR_RUNNING = ("queued", "starting", "running", "stopping")


def enqueue(session: Session, workspace: Workspace, plan: Plan) -> list[int]:
    """Queue what is missing of a plan, in its order; the numbers of the jobs that will do it.

    A job of the same key that is queued or running already is the one waited for; one that failed, was cancelled or
    blocked is queued again under its old number.
    """
    ids: dict[str, int] = {}
    for planned in plan.missing():
        job = _existing(session, planned.key)
        if job is None or job.state == "succeeded":
            job = Job(kind=planned.kind, title=planned.title, key=planned.key)
        elif job.state in _WAITING_OR_RUNNING:
            assert job.id is not None
            ids[planned.key] = job.id
            if job.phase is None:  # asked for before its domain was put into the phase
                job.phase = planned.phase
                session.add(job)
            continue
        _describe(job, planned, workspace)
        session.add(job)
        session.flush()
        assert job.id is not None
        ids[planned.key] = job.id
        session.exec(delete(JobDependency).where(col(JobDependency.job_id) == job.id))
        for key in planned.needs:
            if key in ids:
                session.add(JobDependency(job_id=job.id, needs_id=ids[key]))
    return list(ids.values())


def _existing(session: Session, key: str) -> Job | None:
    return session.exec(select(Job).where(Job.key == key).order_by(col(Job.id).desc())).first()


def _describe(job: Job, planned: PlannedJob, workspace: Workspace) -> None:
    job.state, job.error, job.hint, job.ended_at, job.message = "queued", None, None, None, ""
    job.failure, job.not_before, job.smaller, job.stop_reason = None, None, 0, None
    job.title, job.phase, job.domain, job.subject = planned.title, planned.phase, planned.domain, planned.subject
    need = planned.need
    job.memory_bytes, job.disk_bytes = need.memory, need.disk
    job.device_bytes, job.beside_device_bytes = need.device_memory or None, need.beside_device or None
    job.on_device, job.footprint, job.let_in, job.device = need.device, planned.footprint, False, None
    expected = planned.expected
    job.work = planned.work
    job.predicted_memory_bytes = expected.memory if expected is not None else None
    job.predicted_seconds = expected.seconds if expected is not None else None
    job.predicted_by = expected.seconds_by if expected is not None else None
    job.priority, job.heavy = planned.priority, planned.heavy
    job.params, job.inputs = dump(planned.params), dump(planned.inputs)
    job.out = workspace.relative(planned.out) if planned.out is not None else None
