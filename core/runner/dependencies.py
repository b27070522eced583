"""Which jobs wait for which: blocking what needs a job that did not succeed, and what is ready to start."""

from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from core.store.tables import Job, JobDependency

BAD = ("failed", "cancelled", "interrupted")
MOST = 200  # more would only be read again and again while they wait
_PARENT = aliased(Job)
# Asked job by job, so that it costs what is queued, not what was ever done.
_UNDONE = (
    select(JobDependency.job_id)
    .join(_PARENT, col(_PARENT.id) == JobDependency.needs_id)
    .where(JobDependency.job_id == Job.id, _PARENT.state != "succeeded")
    .correlate(Job)
)
_UNBLOCKED = (
    select(Job)
    .where(Job.state == "queued", ~_UNDONE.exists())
    .order_by(col(Job.priority).desc(), col(Job.id))
    .limit(MOST)
)
_HOW = {"failed": "failed", "cancelled": "was cancelled", "interrupted": "was interrupted"}


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
                child.failure = child.not_before = None
                waiting.append(child.id)


def block_where_needed(session: Session, job: Job) -> bool:
    """Block a job, naming why, where something it needs did not succeed; whether that is so."""
    parents = session.exec(
        select(Job)
        .join(JobDependency, col(JobDependency.needs_id) == Job.id)
        .where(JobDependency.job_id == job.id, col(Job.state).in_((*BAD, "blocked")))
        .order_by(col(Job.id))
    ).all()
    ended = next((parent for parent in parents if parent.state in BAD), None)
    if ended is not None:
        _block(job, ended)
    elif parents:
        job.state, job.error, job.hint = "blocked", parents[0].error, parents[0].hint  # what holds that one up
    return bool(parents)


def unblocked_jobs(session: Session) -> list[Job]:
    """Queued jobs whose needs all succeeded, most urgent first, oldest first among equals. Those with a `not_before`
    in the future are among them: they wait for their next attempt. Of very many the first MOST are returned."""
    return list(session.exec(_UNBLOCKED).all())


def _block(job: Job, culprit: Job) -> None:
    job.state, job.error = "blocked", f"waits for job {culprit.id} ({culprit.title}), which {_HOW[culprit.state]}"
    job.hint = f"tara jobs retry {culprit.id}"
