"""What was promised, checked from the outside: the store against folders, processes and the harness's own list."""

from collections import Counter
from pathlib import Path

import pysqlite3.dbapi2 as sqlite
from sqlmodel import select

from core.errors import TaraError
from core.files import STAGING_PREFIX, check_manifest
from core.runner.verdict import POLICY
from core.store.engine import open_store
from core.store.tables import Artifact, Job, JobAttempt
from tests.faults.scene import Scene, adapter_of, exit_of, processes


def copies(scene: Scene) -> list[str]:
    """Jobs that are computed more than once at this moment."""
    living = Counter(
        Path(folder).name.partition(".")[0]
        for _, kind, folder in processes(scene.workspace.root)
        if kind == "job" and folder
    )
    return [f"job {name} has {count} living copies" for name, count in living.items() if count > 1]


def broken_promises(scene: Scene) -> list[str]:
    """Everything that is not as it was promised, once the queue has run dry; empty where all is well."""
    return [*_store(scene), *_jobs(scene), *_attempts(scene), *_artifacts(scene), *_leftovers(scene)]


def _store(scene: Scene) -> list[str]:
    connection = sqlite.connect(str(scene.workspace.state_db))
    found = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    found += [f"broken reference {row}" for row in connection.execute("PRAGMA foreign_key_check")]
    connection.close()
    return [f"store: {line}" for line in found]


def _jobs(scene: Scene) -> list[str]:
    jobs = scene.jobs()
    found = [f"job {number} is lost" for number in scene.accepted if number not in jobs]
    for number in scene.accepted:
        job = jobs.get(number)
        if job is not None and job.state != "succeeded":
            found.append(f"job {number} ({job.title}) is {job.state}: {job.error}")
    return found


def _attempts(scene: Scene) -> list[str]:
    """Each attempt's recorded end is the one in its folder; a job succeeded once, and last."""
    found = []
    with open_store(scene.workspace).write() as session:
        attempts = session.exec(select(JobAttempt)).all()
        last = {job.id: job.attempt for job in session.exec(select(Job)).all()}
    good = Counter(one.job_id for one in attempts if one.outcome == "succeeded")
    found += [f"job {number} succeeded {count} times" for number, count in good.items() if count > 1]
    for one in attempts:
        name = f"job {one.job_id} attempt {one.number}"
        folder = scene.workspace.absolute(one.run_dir)
        record = exit_of(folder)
        if one.ended_at is None:
            # A claim whose runner died before the spec was written was put back: nothing of it was started.
            if (folder / "spec.json").exists():
                found.append(f"{name} never ended")
            continue
        if record is not None and (record["code"], record["signal"]) != (one.exit_code, one.exit_signal):
            found.append(f"{name}: recorded {one.exit_code}/{one.exit_signal}, happened {record}")
        if (one.outcome == "succeeded") != (one.exit_code == 0):
            found.append(f"{name}: {one.outcome} with exit {one.exit_code}")
        if one.outcome == "succeeded" and one.number != last[one.job_id]:
            found.append(f"{name} succeeded and the job was run again")
        if one.failure is not None and one.failure not in POLICY:
            found.append(f"{name}: unknown end {one.failure}")
    return found


def _artifacts(scene: Scene) -> list[str]:
    found = []
    with open_store(scene.workspace).write() as session:
        artifacts = session.exec(select(Artifact)).all()
    per_job = Counter(one.job_id for one in artifacts)
    found += [f"job {number} has {count} artifacts" for number, count in per_job.items() if count > 1]
    found += [f"job {number} succeeded without an artifact" for number in scene.accepted if number not in per_job]
    for one in artifacts:
        path = scene.workspace.absolute(one.path)
        if path.is_dir():
            try:
                check_manifest(path)
            except TaraError as error:
                found.append(f"artifact {one.name}: {error.message}")
        elif not path.is_file():
            found.append(f"artifact {one.name} is gone: {one.path}")
    for number, wanted in scene.trainings.items():
        try:
            made = adapter_of(scene.workspace, number)
        except FileNotFoundError:
            found.append(f"training {number} left no adapter")
            continue
        if made != wanted:
            found.append(
                f"training {number} ended with another adapter than one left alone: {made[:12]}, {wanted[:12]}"
            )
    return found


def _leftovers(scene: Scene) -> list[str]:
    root = scene.workspace.root
    found = [f"{kind} {pid} lives on ({folder})" for pid, kind, folder in processes(root) if kind in ("shim", "job")]
    runners = [pid for pid, kind, _ in processes(root) if kind == "runner"]
    if len(runners) > 1:
        found.append(f"{len(runners)} runners live")
    for place in (scene.workspace.artifacts, scene.workspace.checkpoints, root / "cleaned"):
        found += [f"left behind: {path.relative_to(root)}" for path in place.rglob(f"{STAGING_PREFIX}*")]
    with open_store(scene.workspace).write() as session:
        owned = {scene.workspace.absolute(one.run_dir) for one in session.exec(select(JobAttempt)).all()}
        made = {scene.workspace.absolute(one.path) for one in session.exec(select(Artifact)).all()}
    found += [
        f"no attempt owns {path.relative_to(root)}" for path in scene.workspace.runs.glob("[0-9]*") if path not in owned
    ]
    found += [
        f"no artifact owns {path.relative_to(root)}"
        for path in scene.workspace.artifacts.glob("*/*")
        if path not in made
    ]
    found += [
        f"checkpoints left though the adapter is safe: {path.relative_to(root)}"
        for path in scene.workspace.checkpoints.glob("*/step-*")
    ]
    return found
