"""The person's own command, run when a job is over, with the job in its environment."""

import logging
import os
import shlex
import subprocess

from core.store.tables import Job
from core.store.views import FINAL_JOB_STATES
from core.workspace import Workspace

HOOK_LOG = "hook.log"
log = logging.getLogger("tara.runner")


class Hook:
    """Starts the command and never waits for it; what it says goes to runs/hook.log."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._children: list[subprocess.Popen[bytes]] = []

    def tell(self, command: str, job: Job) -> None:
        """Run the command for a job that is over. One that cannot be run is told in the runner's log and changes
        nothing else."""
        self._children = [child for child in self._children if child.poll() is None]
        if not command or job.state not in FINAL_JOB_STATES:
            return
        try:
            with open(self._workspace.runs / HOOK_LOG, "ab") as output:
                child = subprocess.Popen(
                    shlex.split(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self._workspace.root,
                    env={**os.environ, **about(self._workspace, job)},
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            log.error("the hook cannot be run: %s", error)
            return
        self._children.append(child)


def about(workspace: Workspace, job: Job) -> dict[str, str]:
    """A job as environment variables; what it has not is empty."""
    took = (job.ended_at - job.started_at) if job.ended_at and job.started_at else None
    values = {
        "ID": job.id,
        "KIND": job.kind,
        "TITLE": job.title,
        "STATE": job.state,
        "PHASE": job.phase,
        "DOMAIN": job.domain,
        "ATTEMPT": job.attempt,
        "SECONDS": f"{took:.1f}" if took is not None else None,
        "EXIT_CODE": job.exit_code,
        "EXIT_SIGNAL": job.exit_signal,
        "FAILURE": job.failure,
        "ERROR": job.error,
        "FOLDER": str(workspace.absolute(job.run_dir)) if job.run_dir else None,
    }
    found = {f"TARA_JOB_{name}": "" if value is None else str(value) for name, value in values.items()}
    return {name: value.replace("\0", "") for name, value in found.items()} | {"TARA_ROOT": str(workspace.root)}
