"""Queueing the cleaning of a model folder."""

from pathlib import Path

from core.files import hash_json, tree_bytes
from core.phases.kinds import KINDS
from core.store.engine import dump, open_store
from core.store.tables import Job
from core.workspace import Workspace


def queue_clean(workspace: Workspace, source: Path, output: Path) -> int:
    """Queue a clean copy of `source` at `output`; the job's number."""
    from core.runner.client import ensure_runner

    with open_store(workspace).write() as session:
        job = Job(
            kind="clean",
            title=f"clean {source.name}",
            key=hash_json({"kind": "clean", "source": str(source), "output": str(output)}),
            heavy=KINDS["clean"].heavy,
            params=dump({"source": str(source), "output": str(output)}),
            out=workspace.relative(output),
            disk_bytes=tree_bytes(source),
        )
        session.add(job)
        session.flush()
        assert job.id is not None
        number = job.id
    ensure_runner(workspace)
    return number
