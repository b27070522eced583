"""The clients' reads: plain SQL that fits the real tables, on nothing, on an empty store and on a full one."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core.deploy.service import deploy_phase
from core.errors import InvalidInput
from core.phases import declaring, service
from core.phases.removal import remove_domain
from core.store.engine import open_store
from core.store.reads import Reader, open_reader
from core.store.tables import ChatTurn, Domain, Job
from core.store.views import SeriesPoint
from core.workspace import Workspace
from tests.imitate import FAILED, QUALITY, chat_lines, do_all, do_job, ready, start_job

ROOT = Path(__file__).resolve().parents[3]


def everything(reader: Reader) -> dict[str, Any]:
    """The answer of every query there is."""
    return {
        "phases": reader.phases(),
        "jobs": reader.jobs(),
        "some jobs": reader.jobs(phase=1, states=["queued", "failed"], ids=[1, 2], limit=3),
        "series": reader.series(1),
        "some series": reader.series(1, ["loss", "rss_mb"]),
        "artifacts": reader.artifacts(),
        "some artifacts": reader.artifacts(kind="adapter", keys=["a", "b"]),
        "measurements": reader.measurements(1),
        "fact": reader.fact("current_phase"),
        "domains": reader.domains(),
        "releases": reader.releases(1),
        "result": reader.result(1),
        "turns": reader.chat_turns("s"),
    }


@pytest.mark.parametrize("made", [False, True], ids=["no store", "an empty store"])
def test_where_nothing_was_recorded_everything_is_empty(workspace: Workspace, made: bool) -> None:
    if made:
        open_store(workspace).close()
    with open_reader(workspace) as reader:
        assert not any(everything(reader).values())
        snapshot = reader.snapshot()
        assert (snapshot.phases, snapshot.jobs, snapshot.runner_pid) == ((), (), None)
        with pytest.raises(InvalidInput, match="no phase 1 \\(phases: none yet\\)"):
            reader.phase(1)
        with pytest.raises(InvalidInput, match="no job 1"):
            reader.job(1)
    assert workspace.state_db.exists() is made


def test_reading_loads_no_orm() -> None:
    script = (
        "import sys, core.store.reads; print([m for m in ('sqlalchemy', 'sqlmodel', 'alembic') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_built_and_deployed_phase_is_read_whole(built: Workspace) -> None:
    service.create_phase(built, 2, ["education"], quality_threshold=0.25, target_size_mb=100, speed_priority=True)
    deploy_phase(built, 1)
    do_all(built)
    with open_reader(built) as reader:
        found = everything(reader)
        empty = {name for name, value in found.items() if not value}
        assert empty == {"some jobs", "some artifacts", "measurements", "result", "turns"}  # the base's
        snapshot = reader.snapshot(jobs=5)
    first, second = snapshot.phases
    assert (first.number, first.state, first.current, first.quantization) == (1, "deployed", True, "Q4_K_M")
    assert (second.number, second.state, second.current) == (2, "planning", False)
    assert (second.quality_threshold, second.target_size_mb, second.speed_priority) == (0.25, 100.0, True)
    assert [domain.name for domain in first.domains] == ["healthcare", "business"]
    for domain in first.domains:
        assert (domain.status, domain.status_declared, domain.base) == ("complete", False, "starter-135M")
        assert built.absolute(domain.adapter_path or "absent").is_dir()
        quality = domain.measurements["quality"]
        assert (quality.value, quality.n, quality.method) == (
            QUALITY,
            20,
            "held-out token accuracy, 2 examples, seed 7",
        )
        assert domain.measurements["tuned_loss"].value == 2.0
    assert built.absolute(first.bundle_path or "absent").is_dir()
    assert first.base_bytes == 4 * (first.bundle_bytes or 0) > 0
    (release,) = first.releases
    assert (release.version, release.active, release.bundle) == (1, True, first.bundle_path)
    assert len(snapshot.jobs) == 5
    assert [job.id for job in snapshot.jobs] == sorted((job.id for job in snapshot.jobs), reverse=True)
    assert snapshot.jobs[0].kind == "deploy"
    assert snapshot.job(snapshot.jobs[0].id) == snapshot.jobs[0]
    assert snapshot.job(99) is None


def test_a_job_is_read_with_its_digest(built: Workspace) -> None:
    with open_reader(built) as reader:
        evaluation = next(job for job in reader.jobs() if job.kind == "evaluate")
        assert reader.job(evaluation.id) == evaluation
        assert (evaluation.state, evaluation.step, evaluation.total, evaluation.unit) == ("succeeded", 2, 2, "step")
        assert evaluation.metrics == {"loss": 2.25, "rss_mb": 100.0}
        assert evaluation.fraction == 1.0
        assert len(evaluation.depends_on) == 2
        assert all(reader.job(one).kind in ("base", "train") for one in evaluation.depends_on)
        series = reader.series(evaluation.id, ["loss"])
        assert [(point.step, point.value) for point in series] == [(1, 2.5), (2, 2.25)]
        assert isinstance(series[0], SeriesPoint)
        assert len(reader.series(evaluation.id)) == 3
        assert reader.result(evaluation.id)["bytes"] > 0
        (artifact,) = reader.artifacts(keys=[evaluation.key])
        assert (artifact["kind"], artifact["domain"], artifact["job_id"]) == (
            "evaluation",
            evaluation.domain,
            evaluation.id,
        )
        assert {one.name for one in reader.measurements(artifact["id"])} >= {"quality", "base_loss"}
        assert reader.jobs(states=["failed"]) == []
        assert {job.phase for job in reader.jobs(phase=1)} == {1}
        with pytest.raises(InvalidInput, match="no phase 7 \\(phases: 1\\)"):
            reader.phase(7)
        with pytest.raises(InvalidInput, match="too large"):
            reader.job(10**30)


def test_another_processs_commit_is_seen_once(phase_one: Workspace) -> None:
    script = (
        "import sys; from pathlib import Path; from core.store.engine import open_store; "
        "from core.store.tables import Note; from core.workspace import Workspace\n"
        "with open_store(Workspace(Path(sys.argv[1]))).write() as s: s.add(Note(subject='s', action='a'))"
    )
    with open_reader(phase_one) as reader:
        assert reader.changed() is True
        assert reader.changed() is False
        before = reader.snapshot().version
        assert reader.snapshot().version == before
        subprocess.run([sys.executable, "-c", script, str(phase_one.root)], cwd=ROOT, check=True)
        assert reader.changed() is True
        assert reader.changed() is False
        assert reader.snapshot().version != before


def test_a_store_made_later_is_seen(workspace: Workspace) -> None:
    with open_reader(workspace) as reader:
        assert reader.changed() is True
        assert reader.changed() is False
        service.create_phase(workspace, 1, [])
        assert reader.changed() is True
        assert reader.phase(1).state == "planning"


def test_a_snapshot_is_of_one_moment(phase_one: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_reader(phase_one) as reader:
        whole = reader._phases

        def meanwhile() -> Any:
            found = list(whole())
            with open_store(phase_one).write() as session:
                session.add(Job(kind="clean", title="late", key="k"))
            return found

        monkeypatch.setattr(reader, "_phases", meanwhile)
        assert reader.snapshot().jobs == ()
        assert [job.title for job in reader.jobs()] == ["late"]


def view_of(workspace: Workspace, name: str = "business") -> Any:
    with open_reader(workspace) as reader:
        return next(view for view in reader.domains() if view.name == name)


def test_a_declared_status_holds_until_a_job_is_newer(built: Workspace) -> None:
    declaring.update_domain(built, "business", status="failed", quality=0.9)
    view = view_of(built)
    assert (view.status, view.status_declared) == ("failed", True)
    assert view.measurements["quality"].value == QUALITY  # measured wins
    assert view.measurements["declared_quality"].method == "declared"
    chat_lines(built.data / "business.jsonl", answer="new")
    service.train_domain(built, "business")
    view = view_of(built)
    assert (view.status, view.status_declared) == ("training", False)
    do_all(built)
    assert (view_of(built).status, view_of(built).status_declared) == ("complete", False)


def test_a_domain_taken_out_and_put_back_has_what_was_measured(built: Workspace) -> None:
    before = view_of(built)
    remove_domain(built, 1, "business")
    assert view_of(built).phase is None
    with open_reader(built) as reader:
        assert "business" not in [domain.name for domain in reader.phase(1).domains]
    assert declaring.notes(built)[0]["domain"] == "business"
    service.create_phase(built, 2, ["business"])
    now = view_of(built)
    assert (now.phase, now.status) == (2, "complete")
    assert (now.adapter_path, now.measurements) == (before.adapter_path, before.measurements)


def test_a_declared_status_gives_way_to_an_old_job_run_again(phase_one: Workspace) -> None:
    service.train_domain(phase_one, "business")
    store = open_store(phase_one)
    base = ready(store)[0]
    assert base.id is not None
    do_job(store, base.id)
    (train,) = ready(store)
    assert train.id is not None
    assert do_job(store, train.id, FAILED) == "failed"
    declaring.update_domain(phase_one, "business", status="pending")
    assert view_of(phase_one).status_declared
    assert service.train_domain(phase_one, "business")[0] == train.id
    assert not view_of(phase_one).status_declared
    start_job(store, train.id)
    assert (view_of(phase_one).status, view_of(phase_one).status_declared) == ("training", False)


def test_declaring_a_quality_does_not_bring_an_outdated_status_back(built: Workspace) -> None:
    declaring.update_domain(built, "business", status="failed")
    chat_lines(built.data / "business.jsonl", answer="new")
    service.train_domain(built, "business")
    do_all(built)
    declaring.update_domain(built, "business", quality=0.8)
    assert (view_of(built).status, view_of(built).status_declared) == ("complete", False)


def test_an_adapter_that_is_gone_is_not_shown(built: Workspace) -> None:
    view = view_of(built)
    built.absolute(view.adapter_path).rename(built.root / "elsewhere")
    assert (view_of(built).status, view_of(built).adapter_path) == ("pending", None)


def test_a_bundle_that_is_gone_is_not_shown(built: Workspace) -> None:
    with open_reader(built) as reader:
        path = reader.phase(1).bundle_path
        assert path is not None
        (built.root / path / "manifest.json").unlink()
        phase = reader.phase(1)
        assert (phase.state, phase.bundle_path, phase.bundle_bytes) == ("merging", None, None)


def test_a_measured_quality_older_than_the_adapter_does_not_complete_it(built: Workspace) -> None:
    with open_store(built).write() as session:
        artifact = session.connection().exec_driver_sql(
            "UPDATE artifact SET created_at = ? WHERE kind = 'adapter' AND domain = 'business'", (time.time() + 9,)
        )
        assert artifact.rowcount == 1
    assert view_of(built).status == "pending"


def test_a_declared_quality_counts_where_none_was_measured(phase_one: Workspace) -> None:
    declaring.update_domain(phase_one, "business", quality=0.75)
    quality = view_of(phase_one).measurements["quality"]
    assert (quality.value, quality.method) == (0.75, "declared")


def test_rows_without_phase_are_read(phase_one: Workspace) -> None:
    with open_store(phase_one).write() as session:
        session.add(Domain(name="loose", base="starter-135M"))
        session.add(ChatTurn(session="s", message="m", answer="a", tokens=3))
    with open_reader(phase_one) as reader:
        assert [(turn["message"], turn["tokens"]) for turn in reader.chat_turns("s")] == [("m", 3)]
    assert view_of(phase_one, "loose").phase is None
