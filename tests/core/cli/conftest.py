"""A workspace with a phase, made once for the commands that change nothing."""

import shutil
from pathlib import Path

import pytest

from core.phases import service
from core.store.engine import dump, open_store
from core.store.tables import Job, JobDependency
from core.workspace import Workspace
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Phase 1 with two domains, a failed job and one blocked by it. No runner; nothing may change it."""
    root = tmp_path_factory.mktemp("cli") / "workspace"
    shutil.copytree(ROOT / "configs", root / "configs")
    workspace = Workspace(root)
    service.create_phase(workspace, 1, ["healthcare", "business"])
    with open_store(workspace).write() as session:
        failed = Job(
            kind="train", title="train healthcare", key="k1", state="failed", domain="healthcare", phase=1, attempt=1,
            error="no memory", hint="use a smaller preset", run_dir="runs/1", started_at=1.0, ended_at=3.5,
            metrics=dump({"loss": 2.5}), result=dump({"steps": 3}), step=3, total=9,
        )  # fmt: skip
        blocked = Job(kind="evaluate", title="evaluate healthcare", key="k2", state="blocked", domain="healthcare")
        session.add_all((failed, blocked))
        session.flush()
        assert failed.id is not None
        assert blocked.id is not None
        session.add(JobDependency(job_id=blocked.id, needs_id=failed.id))
    (root / "runs" / "1").mkdir(parents=True)
    (root / "runs" / "1" / "log").write_bytes(b"one\n\x1b[31mtwo\x07\nthree without an end")
    (root / "bad.jsonl").write_text('{"messages": 5}\n')
    (root / "half").mkdir()
    return workspace


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder without a workspace in it or above it."""
    return tmp_path
