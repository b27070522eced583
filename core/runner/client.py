"""What commands and the console ask of the runner: start it, stop it, cancel and retry jobs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import EnvironmentLacks, InvalidInput, Refused
from core.runner.presence import runner_pid, wake
from core.workspace import Workspace

START_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class RunnerStatus:
    """Whether a runner lives, and where its log is."""

    pid: int | None
    log: str


def ensure_runner(workspace: Workspace) -> int:
    """Start the workspace's runner unless one lives, and wake it. Returns its process id.

    Raises EnvironmentLacks where it does not come up.
    """
    pid = runner_pid(workspace)
    if pid is None:
        workspace.runs.mkdir(parents=True, exist_ok=True)
        with open(workspace.runs / "runner.log", "ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", "core.runner", str(workspace.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=workspace.root,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while (pid := runner_pid(workspace)) is None:
            code = started.poll()
            if code not in (None, 0) or time.monotonic() > deadline:
                raise EnvironmentLacks(
                    f"the runner did not start (exit {code})", f"see {workspace.runs / 'runner.log'}"
                )
            time.sleep(0.01)
    wake(workspace)
    return pid


def stop_runner(workspace: Workspace) -> int | None:
    """Ask the runner to leave and wait until it has; running jobs go on. Returns the process id it had, if any."""
    pid = runner_pid(workspace)
    if pid is None:
        return None
    os.kill(pid, signal.SIGTERM)
    wake(workspace)
    deadline = time.monotonic() + START_TIMEOUT_S
    while runner_pid(workspace) == pid:
        if time.monotonic() > deadline:
            raise EnvironmentLacks(f"the runner (process {pid}) does not stop", f"kill -9 {pid}; jobs go on")
        time.sleep(0.02)
    return pid


def runner_status(workspace: Workspace) -> RunnerStatus:
    """Whether a runner lives."""
    return RunnerStatus(runner_pid(workspace), workspace.relative(workspace.runs / "runner.log"))


def cancel_jobs(workspace: Workspace, ids: Sequence[int]) -> list[int]:
    """Cancel jobs: queued ones at once, running ones by stopping their processes. What needs them is blocked.

    Raises InvalidInput for an unknown number, Refused for one that ended; then nothing is cancelled.
    """
    from core.runner.ledger import block_dependents
    from core.store.engine import open_store
    from core.store.tables import Job

    store = open_store(workspace)
    running = False
    with store.write() as session:
        for job_id in ids:
            job = session.get(Job, job_id)
            if job is None:
                raise InvalidInput(f"there is no job {job_id}", "tara jobs list shows them")
            if job.state in ("queued", "blocked"):
                job.state, job.ended_at, job.error = "cancelled", time.time(), "stopped on request"
                job.hint = f"tara jobs retry {job_id}"
                block_dependents(session, job)
            elif job.state in ("starting", "running", "stopping"):
                job.state, job.stop_requested_at, running = "stopping", time.time(), True
            else:
                raise Refused(f"job {job_id} ({job.title}) already {job.state}")
    if running:
        ensure_runner(workspace)
    return list(ids)


def retry_jobs(workspace: Workspace, ids: Sequence[int]) -> list[int]:
    """Queue failed, cancelled or interrupted jobs again, and what was blocked by them.

    Raises InvalidInput for an unknown number, Refused for one that is not over or did succeed.
    """
    from core.runner.ledger import unblock_dependents
    from core.store.engine import open_store
    from core.store.tables import Job

    store = open_store(workspace)
    with store.write() as session:
        for job_id in ids:
            job = session.get(Job, job_id)
            if job is None:
                raise InvalidInput(f"there is no job {job_id}", "tara jobs list shows them")
            if job.state not in ("failed", "cancelled", "interrupted"):
                raise Refused(f"job {job_id} ({job.title}) is {job.state}: nothing to retry", job.hint)
            job.state, job.error, job.hint, job.ended_at = "queued", None, None, None
        for job_id in ids:
            unblock_dependents(session, job_id)
    ensure_runner(workspace)
    return list(ids)
