"""A workspace with everything in its store that a store can hold, to be damaged and made anew again and again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.deploy.service import deploy_phase, rollback
from core.phases import declaring, service
from core.runner import client, ledger
from core.runner.second_copy import note_stop
from core.store.engine import open_store
from core.store.tables import ChatTurn, Job
from core.workspace import Workspace
from tests.conftest import ROOT
from tests.core.conftest import DOMAINS, prepare
from tests.core.rebuild.looking import settle
from tests.imitate import FAILED, STOPPED, VANISHED, adapter_folder, chat_lines, do_all, do_job, end_job, start_job


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Phase 1 built twice, deployed twice and rolled back, with an adapter from elsewhere and an export; jobs that
    failed, were blocked, cancelled, paused, retried, claimed for nothing and never started; turns and declarations."""
    root = tmp_path_factory.mktemp("rebuild") / "workspace"
    shutil.copytree(ROOT / "configs", root / "configs")
    workspace = Workspace(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.runner.client.ensure_runner", lambda _workspace: 0)
        _live(workspace)
        yield workspace


@pytest.fixture
def old(lived_in: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """The same, whole again after each test."""
    kept = tmp_path / "kept.db"
    shutil.copyfile(lived_in.state_db, kept)
    yield lived_in
    for path in lived_in.root.glob("state.db*"):
        path.unlink()
    shutil.copyfile(kept, lived_in.state_db)


def _live(workspace: Workspace) -> None:
    prepare(workspace, workspace.root.parent / "base")
    service.create_phase(workspace, 1, DOMAINS, quality_threshold=0.25, target_size_mb=500.0)
    service.build_phase(workspace, 1)
    do_all(workspace)
    deploy_phase(workspace, 1)
    do_all(workspace)
    service.export_domain(workspace, "business", "Q8_0")
    mine = adapter_folder(workspace.root.parent / "mine", "starter-135M")
    service.add_domain(workspace, 1, "creative", adapter_path=mine)
    chat_lines(workspace.data / "creative.jsonl", answer="creative")
    chat_lines(workspace.data / "business.jsonl", answer="otherwise")
    service.build_phase(workspace, 1, service.Asked(quantization="Q5_K_M"))
    do_all(workspace)
    deploy_phase(workspace, 1)
    do_all(workspace)
    rollback(workspace, 1)
    store = open_store(workspace)
    chat_lines(workspace.data / "education.jsonl", answer="education")
    training, _ = service.train_domain(workspace, "education", preset="ultra")
    assert do_job(store, training, VANISHED) == "queued"  # tried again by itself, once
    with store.write() as session:  # claimed by a runner that was gone at once
        assert session.get(Job, training) is not None
    claimed = ledger.claim(store, training)
    assert claimed is not None
    workspace.run_folder(training, claimed.attempt).mkdir()
    ledger.never_started(store, training)
    assert do_job(store, training, FAILED) == "failed"
    for how in ("cancel", "pause"):
        (number,) = _queue(workspace, store, how, 3)
        run_dir = start_job(store, number)
        ledger.mark_running(store, number)
        (client.pause_jobs if how == "pause" else client.cancel_jobs)(workspace, [number])
        note_stop(run_dir, how)
        end_job(store, number, STOPPED)
    _queue(workspace, store, "never started", 7)
    declaring.update_domain(workspace, "business", quality=0.9)
    with store.write() as session:
        session.add_all(ChatTurn(session=f"s{n // 5}", message=f"question {n}", answer="x" * 900) for n in range(60))
    store.close()
    settle(workspace)


def _queue(workspace: Workspace, store, title: str, priority: int) -> tuple[int]:  # type: ignore[no-untyped-def]
    with store.write() as session:
        job = Job(kind="clean", title=title, key=title, heavy=False, priority=priority, out=f"cleaned/{title}")
        session.add(job)
        session.flush()
        assert job.id is not None
        return (job.id,)
