"""Cleaning a phase up and taking it back: rows and files come back exactly, and others' work is left alone."""

import os
from pathlib import Path

import pytest

from core.deploy.service import deploy_phase
from core.errors import InvalidInput, Refused
from core.phases import cleanup, declaring, service
from core.store.engine import open_store
from core.store.reads import open_reader
from core.workspace import Workspace
from tests.imitate import adapter_folder, chat_lines, contents, do_all, ready, start_job, tree

NOTES = ("note",)  # each clean-up and each undo leaves one
TRASH = ("trash",)


@pytest.fixture
def full(built: Workspace, tmp_path: Path) -> Workspace:
    """Phase 1 with all a phase may have: an adapter from elsewhere, a release, an export, work before it was made."""
    service.export_domain(built, "business", "Q8_0")
    service.add_domain(built, 1, "creative", adapter_path=adapter_folder(tmp_path / "mine", "starter-135M"))
    chat_lines(built.data / "education.jsonl")
    service.train_domain(built, "education")
    do_all(built)
    service.add_domain(built, 1, "education")
    service.build_phase(built, 1)
    do_all(built)
    deploy_phase(built, 1)
    do_all(built)
    return built


def test_a_dry_run_changes_nothing(full: Workspace) -> None:
    rows, files = contents(full), tree(full.root)
    planned = cleanup.plan(full, 1)
    assert planned.paths
    assert all((full.root / path).exists() for path in planned.paths)
    assert planned.bytes > 0
    assert planned.trash.startswith("trash/phase-1-")
    assert (contents(full), tree(full.root)) == (rows, files)


def test_clean_and_undo_round_trip(full: Workspace) -> None:
    rows, files = contents(full, without=NOTES), tree(full.root)
    planned = cleanup.plan(full, 1)
    cleanup.carry_out(full, planned)
    left = contents(full, without=(*NOTES, "alembic_version"))
    assert not any(left.values()), {name: value for name, value in left.items() if value}
    kept = tree(full.root, without=TRASH)
    assert not any(path.startswith(planned.paths) for path in kept)
    assert {path for path in files if path.startswith("releases")} <= set(kept)  # what was handed out stays
    assert sorted(cleanup.undo(full, 1)) == sorted(planned.paths)
    assert contents(full, without=NOTES) == rows
    assert tree(full.root, without=TRASH) == files
    with open_reader(full) as reader:
        assert (reader.phase(1).state, reader.phase(1).current, reader.phase(1).complete) == ("deployed", True, 4)
    assert [note["action"] for note in declaring.notes(full)][:2] == ["cleanup-phase-undo", "cleanup-phase"]
    with pytest.raises(InvalidInput, match="no phase 1"):
        cleanup.undo(full, 1)


def test_checkpoints_of_an_unfinished_training_go_with_their_phase(full: Workspace) -> None:
    with open_reader(full) as reader:
        training = next(job for job in reader.jobs(phase=1) if job.kind == "train")
    assert training.domain is not None
    kept = full.checkpoint_folder(training.domain, training.key) / "step-00000005" / "state.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    planned = cleanup.plan(full, 1)
    assert full.relative(kept.parent.parent) in planned.paths
    cleanup.carry_out(full, planned)
    assert not kept.exists()
    cleanup.undo(full, 1)
    assert kept.read_text() == "{}"


def test_twice_within_a_second(built: Workspace) -> None:
    rows, files = contents(built, without=NOTES), tree(built.root)
    for _ in range(3):
        cleanup.carry_out(built, cleanup.plan(built, 1))
        cleanup.undo(built, 1)
    assert contents(built, without=NOTES) == rows
    assert tree(built.root, without=TRASH) == files


def test_rows_made_meanwhile_do_not_take_the_numbers(built: Workspace) -> None:
    rows, files = contents(built, without=NOTES), tree(built.root)
    cleanup.carry_out(built, cleanup.plan(built, 1))
    chat_lines(built.data / "education.jsonl")
    service.create_phase(built, 2, ["education"])
    service.train_domain(built, "education")
    numbers = {row[0] for row in rows["job"]}
    with open_reader(built) as reader:
        assert not numbers & {job.id for job in reader.jobs()}
    with open_store(built).write() as session:
        session.connection().exec_driver_sql("UPDATE job SET state = 'cancelled'")
    cleanup.undo(built, 1)
    back = contents(built, without=NOTES)
    for name, expected in rows.items():
        if name != "fact":
            assert [row for row in back[name] if row in expected] == expected, name
    assert all(tree(built.root).get(path) == digest for path, digest in files.items())


def test_what_another_phase_shares_stays(built: Workspace) -> None:
    chat_lines(built.data / "education.jsonl")
    service.create_phase(built, 2, ["education"])
    service.build_phase(built, 2)
    do_all(built)
    rows, files = contents(built, without=NOTES), tree(built.root)
    planned = cleanup.plan(built, 1)
    assert not any(path.startswith(("artifacts/base/", "artifacts/gguf/")) for path in planned.paths)
    cleanup.carry_out(built, planned)
    assert not service.plan_build(built, 2).missing()
    with open_reader(built) as reader:
        assert [(phase.number, phase.current, phase.state) for phase in reader.phases()] == [(2, True, "compressing")]
    cleanup.undo(built, 1)
    assert contents(built, without=NOTES) == rows
    assert tree(built.root, without=TRASH) == files


def test_a_phase_at_work_is_refused(phase_one: Workspace) -> None:
    service.build_phase(phase_one, 1)
    with pytest.raises(Refused, match="are not over"):
        cleanup.plan(phase_one, 1)
    with pytest.raises(InvalidInput, match="no phase 2"):
        cleanup.plan(phase_one, 2)


def test_a_phase_that_changed_since_the_plan_is_refused(built: Workspace) -> None:
    planned = cleanup.plan(built, 1)
    chat_lines(built.data / "business.jsonl", answer="new")
    service.build_phase(built, 1)
    rows, files = contents(built), tree(built.root)
    with pytest.raises(Refused, match="are not over"):
        cleanup.carry_out(built, planned)
    assert (contents(built), tree(built.root)) == (rows, files | {"trash": "folder"})
    do_all(built)
    with pytest.raises(Refused, match="changed since the plan"):
        cleanup.carry_out(built, planned)
    assert not list((built.root / "trash").iterdir())


def test_what_was_used_again_is_not_brought_back_over_it(built: Workspace) -> None:
    cleanup.carry_out(built, cleanup.plan(built, 1))
    service.create_phase(built, 1, [])
    for words in ("phase 1 exists again", "business was used again"):
        rows, files = contents(built), tree(built.root)
        with pytest.raises(Refused, match=words):
            cleanup.undo(built, 1)
        assert (contents(built), tree(built.root)) == (rows, files)
        if words.startswith("phase"):
            cleanup.carry_out(built, cleanup.plan(built, 1))
            os.rename(max((built.root / "trash").glob("phase-1-*")), built.root / "other")
            service.create_phase(built, 2, ["business"])


def test_files_that_could_not_be_moved_come_back_all_the_same(
    built: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, files = contents(built, without=NOTES), tree(built.root)
    real, moved = os.replace, []

    def fails(source: Path, target: Path) -> None:
        if "trash" in str(target) and "phase.json" not in str(target):
            moved.append(source)
            if len(moved) > 2:
                raise OSError(5, "Input/output error")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="Input/output"):
            cleanup.carry_out(built, cleanup.plan(built, 1))
    cleanup.undo(built, 1)
    assert contents(built, without=NOTES) == rows
    assert tree(built.root, without=TRASH) == files


def test_a_running_job_of_a_shared_kind_does_not_move(built: Workspace) -> None:
    service.create_phase(built, 2, [])
    service.build_phase(built, 1, service.Asked(quantization="Q8_0"))
    (job,) = ready(open_store(built))
    assert job.id is not None
    start_job(open_store(built), job.id)
    with pytest.raises(Refused, match="are not over"):  # what waits for it is the phase's own
        cleanup.plan(built, 1)
