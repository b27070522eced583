"""Real jobs of the runner's tests, and waiting for what they do by looking, never by sleeping for long enough."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlmodel import col, select

from core.runner.client import ensure_runner
from core.runner.presence import runner_pid
from core.runner.shim import take_lock
from core.store.engine import dump, open_store
from core.store.reads import open_reader
from core.store.tables import Job, JobAttempt, JobDependency
from core.store.views import JobView
from core.workspace import Workspace
from tests.core.hygiene.folders import write_adapter

T = TypeVar("T")
OVER = ("succeeded", "failed", "cancelled", "interrupted", "blocked")


def until(look: Callable[[], T | None], what: str, within: float = 30.0) -> T:
    """What `look` finds once it finds something; a failure naming `what` where it does not in `within` seconds."""
    deadline = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.005)
    return found


def source_folder(workspace: Workspace, name: str = "source") -> Path:
    """A small adapter with garbage beside it."""
    folder = write_adapter(workspace.root / name)
    (folder / "train.log").write_text("12345")
    return folder


def at_once(workspace: Workspace) -> None:
    """Let what is started again by itself be started without a wait."""
    settings = workspace.configs / "settings.yaml"
    settings.write_text(settings.read_text("utf-8").replace("retry_delay_s: 5 ", "retry_delay_s: 0 "), "utf-8")


def attempts(workspace: Workspace, job_id: int) -> list[tuple[Any, ...]]:
    """Outcome, kind of end, exit code and signal of each attempt of a job."""
    with open_store(workspace).write() as session:
        found = session.exec(select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(col(JobAttempt.number)))
        return [(one.outcome, one.failure, one.exit_code, one.exit_signal) for one in found]


def add_job(workspace: Workspace, source: Path, output: Path, *, needs: tuple[int, ...] = (), **columns: Any) -> int:
    """Put a `clean` job into the queue; its number. The runner is not told."""
    with open_store(workspace).write() as session:
        params = {"source": str(source), "output": str(output)}
        job = Job(
            kind="clean",
            title=f"clean {source.name}",
            key=str(output),
            heavy=False,
            params=dump(params),
            out=workspace.relative(output),
        )
        session.add(job.sqlmodel_update(columns))
        session.flush()
        assert job.id is not None
        session.add_all(JobDependency(job_id=job.id, needs_id=one) for one in needs)
        return job.id


def view(workspace: Workspace, job_id: int) -> JobView:
    """A job as clients see it now."""
    with open_reader(workspace) as reader:
        return reader.job(job_id)


def state(workspace: Workspace, job_id: int) -> str:
    """A job's state now."""
    return view(workspace, job_id).state


def over(workspace: Workspace, job_id: int, within: float = 30.0) -> JobView:
    """A job once it is over, or blocked."""

    def look() -> JobView | None:
        job = view(workspace, job_id)
        return job if job.state in OVER else None

    return until(look, f"job {job_id} is over", within)


def in_state(workspace: Workspace, job_id: int, wanted: str) -> JobView:
    """A job once it has a state."""
    until(lambda: state(workspace, job_id) == wanted, f"job {job_id} is {wanted}")
    return view(workspace, job_id)


def processes(run_dir: Path) -> dict[str, Any]:
    """Who runs a run folder's job, once it is known."""

    def look() -> dict[str, Any] | None:
        try:
            who: dict[str, Any] = json.loads((run_dir / "shim.json").read_text())
        except FileNotFoundError:
            return None
        return who if "job" in who else None

    return until(look, f"{run_dir.name} has processes")


def frozen(workspace: Workspace, job_id: int, attempt: int = 1) -> tuple[Path, int, int]:
    """A job that was started and stands still before its work: its run folder, its shim and its process."""
    ensure_runner(workspace)
    run_dir = workspace.run_folder(job_id, attempt)
    who = processes(run_dir)
    shim, job = int(who["pid"]), int(who["job"]["pid"])
    os.kill(job, signal.SIGSTOP)
    until(lambda: process_state(job) == "T", f"process {job} stands still")
    assert not (run_dir / "exit.json").exists(), "the job was over before it could be stopped"
    return run_dir, shim, job


def process_state(pid: int) -> str | None:
    """R, S, T, Z … of a process; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has collected yet did."""
    return process_state(pid) in (None, "Z")


def kill(pid: int) -> None:
    """kill -9, and wait until it is dead."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), f"process {pid} is dead")


def kill_shim(shim: int, job: int) -> None:
    """kill -9 of the shim of a job that stands still, which then still does: the kernel wakes the stopped processes of
    a group that lost its parent."""
    kill(shim)
    os.kill(job, signal.SIGSTOP)
    until(lambda: process_state(job) == "T", f"process {job} stands still again")


def kill_runner(workspace: Workspace) -> int:
    """kill -9 of the runner; its number."""
    pid = runner_pid(workspace)
    assert pid is not None
    kill(pid)
    until(lambda: runner_pid(workspace) is None, "the runner's lock is free")
    return pid


def locked(run_dir: Path) -> bool:
    """Whether a shim or job of a run folder lives."""
    lock = take_lock(run_dir)
    if lock is None:
        return True
    os.close(lock)
    return False


def session_of(leader: int) -> list[int]:
    """The processes of a session that live."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(name))
    return found
