"""What commands and the console ask of the runner: start it, stop it, cancel and retry jobs."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import EnvironmentLacks, InvalidInput, Refused
from core.runner.presence import CODE, looked_mark, runner_command, runner_pid, stopped_mark, wake
from core.workspace import Workspace

if TYPE_CHECKING:
    from sqlmodel import Session

    from core.store.tables import Job

START_TIMEOUT_S = 20.0
LOOK_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class RunnerStatus:
    """Whether a runner lives, and where its log is."""

    pid: int | None
    log: str


def ensure_runner(workspace: Workspace) -> int:
    """Start the workspace's runner unless one lives, and have it look at the queue. Returns its process id.

    Raises InvalidInput where the settings cannot be read, EnvironmentLacks where it does not come up.
    """
    started: subprocess.Popen[bytes] | None = None
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        pid = runner_pid(workspace)
        if pid is not None and wake(workspace):
            return pid
        # One that lives and does not listen is just starting, or leaving for good: then the next one is started.
        code = started.poll() if started is not None else None
        if code not in (None, 0) or time.monotonic() > deadline:
            why = f"exit {code}{_last_words(workspace) if code else ''}"
            raise EnvironmentLacks(f"the runner did not start ({why})", f"see {workspace.runs / 'runner.log'}")
        if pid is None and (started is None or code == 0):
            started = _start(workspace)
        time.sleep(0.01)


def stop_runner(workspace: Workspace) -> int | None:
    """Ask the runner to leave and wait until it has; running jobs go on. Returns the process id it had, if any."""
    pid = runner_pid(workspace)
    if pid is None:
        return None
    if pid <= 0:  # the kernel names no process of another container; 0 would mean this very process group
        raise Refused("the runner of this workspace lives in another container", "stop it there")
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return pid  # it left at this moment
    except PermissionError as error:
        raise Refused(f"the runner (process {pid}) belongs to another user", "stop it as that user") from error
    wake(workspace)
    deadline = time.monotonic() + START_TIMEOUT_S
    while runner_pid(workspace) == pid:
        if time.monotonic() > deadline:
            raise EnvironmentLacks(f"the runner (process {pid}) does not stop", f"kill -9 {pid}; jobs go on")
        time.sleep(0.02)
    stopped_mark(workspace).touch()
    return pid


def revive_runner(workspace: Workspace) -> bool:
    """Make sure that what is shown of jobs is true: where the runner is gone (killed, or the machine was restarted),
    start it and wait until it has gone over all jobs. Returns whether it did.

    A runner that a person stopped stays stopped. Raises EnvironmentLacks where none comes up, or it cannot look.
    """
    if runner_pid(workspace) is not None or stopped_mark(workspace).exists():
        return False
    pid = ensure_runner(workspace)
    deadline = time.monotonic() + LOOK_TIMEOUT_S
    while not looked_mark(workspace).is_file():
        if time.monotonic() > deadline:
            raise EnvironmentLacks(f"the runner (process {pid}) has not looked after the jobs", "see runs/runner.log")
        time.sleep(0.01)
    return True


def runner_status(workspace: Workspace) -> RunnerStatus:
    """Whether a runner lives."""
    return RunnerStatus(runner_pid(workspace), workspace.relative(workspace.runs / "runner.log"))


def cancel_jobs(workspace: Workspace, ids: Sequence[int]) -> list[int]:
    """Cancel jobs: queued ones at once, running ones by stopping their processes. What needs them is blocked.

    Raises InvalidInput for an unknown number, Refused for one that ended; then nothing is cancelled.
    """
    from core.runner.dependencies import block_dependents
    from core.store.engine import open_store

    ids = list(dict.fromkeys(ids))
    running = False
    with open_store(workspace).write() as session:
        for job_id in ids:
            job = _job(session, job_id)
            if job.state in ("queued", "blocked", "paused"):
                job.state, job.ended_at, job.error = "cancelled", time.time(), "stopped on request"
                job.hint = f"tara jobs retry {job_id}"
                block_dependents(session, job)
            elif job.state in ("starting", "running", "stopping"):
                job.state, job.stop_requested_at, running = "stopping", time.time(), True
                job.stop_reason = "cancel"
            else:
                raise Refused(f"job {job_id} ({job.title}) already {job.state}")
    if running:
        ensure_runner(workspace)
    return ids


def pause_jobs(workspace: Workspace, ids: Sequence[int]) -> list[int]:
    """Pause jobs: queued ones at once, running ones when they have finished their step and saved. A training goes on
    from there; other kinds begin anew.

    Raises InvalidInput for an unknown number, Refused for one that is not queued or running; then none is paused.
    """
    from core.store.engine import open_store

    ids = list(dict.fromkeys(ids))
    running = False
    with open_store(workspace).write() as session:
        for job_id in ids:
            job = _job(session, job_id)
            if job.state == "queued":
                job.state, job.error, job.hint = "paused", "stopped on request", f"tara jobs resume {job_id}"
            elif job.state in ("starting", "running"):
                job.state, job.stop_requested_at, job.stop_reason = "stopping", time.time(), "pause"
                running = True
            else:
                raise Refused(f"job {job_id} ({job.title}) is {job.state}: nothing to pause")
    if running:
        ensure_runner(workspace)
    return ids


def resume_jobs(workspace: Workspace, ids: Sequence[int]) -> list[int]:
    """Queue paused jobs again. Raises InvalidInput for an unknown number, Refused for one that is not paused."""
    return _change(workspace, ids, "paused", state="queued", error=None, hint=None, not_before=None)


def let_in_jobs(workspace: Workspace, ids: Sequence[int]) -> list[int]:
    """Have queued jobs started though what they are expected to need is not free; their slot and what they depend on
    they still wait for. Raises InvalidInput for an unknown number, Refused for one that is not queued."""
    return _change(workspace, ids, "queued", let_in=True)


def retry_jobs(workspace: Workspace, ids: Sequence[int]) -> list[int]:
    """Queue failed, cancelled or interrupted jobs again, and what was blocked by them. One that needs a job which did
    not succeed is blocked until that one is retried too.

    Raises InvalidInput for an unknown number, Refused for one that is not over or did succeed.
    """
    from core.runner.dependencies import block_where_needed, unblock_dependents
    from core.store.engine import open_store

    ids = list(dict.fromkeys(ids))
    with open_store(workspace).write() as session:
        jobs = [_job(session, job_id) for job_id in ids]
        for job in jobs:
            if job.state not in ("failed", "cancelled", "interrupted"):
                raise Refused(f"job {job.id} ({job.title}) is {job.state}: nothing to retry", job.hint)
            job.state, job.error, job.hint, job.ended_at = "queued", None, None, None
            job.failure, job.not_before = None, None
        session.flush()
        for job in sorted(jobs, key=lambda one: one.id or 0):  # what is needed comes before what needs it
            block_where_needed(session, job)
        for job_id in ids:
            unblock_dependents(session, job_id)
    ensure_runner(workspace)
    return ids


def _start(workspace: Workspace) -> subprocess.Popen[bytes]:
    from core.catalog import load_settings

    load_settings(workspace)  # its faults are said here, where somebody reads them
    workspace.runs.mkdir(parents=True, exist_ok=True)
    with open(workspace.runs / "runner.log", "ab") as log:
        return subprocess.Popen(
            runner_command(workspace),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=CODE,
        )


def _change(workspace: Workspace, ids: Sequence[int], wanted: str, **columns: Any) -> list[int]:
    """Change jobs that all have the wanted state, and have the runner look."""
    from core.store.engine import open_store

    ids = list(dict.fromkeys(ids))
    with open_store(workspace).write() as session:
        for job_id in ids:
            job = _job(session, job_id)
            if job.state != wanted:
                raise Refused(f"job {job_id} ({job.title}) is {job.state}, not {wanted}")
            session.add(job.sqlmodel_update(columns))
    ensure_runner(workspace)
    return ids


def _last_words(workspace: Workspace) -> str:
    """What the runner said last, behind its time."""
    try:
        with open(workspace.runs / "runner.log", "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return ": " + lines[-1].split(" ", 2)[-1] if lines else ""


def _job(session: "Session", job_id: int) -> "Job":
    from core.store.tables import Job

    job = session.get(Job, job_id)
    if job is None:
        raise InvalidInput(f"there is no job {job_id}", "tara jobs list shows them")
    return job
