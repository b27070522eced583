"""What lies beside a training's checkpoints, and what is found of it while a training may write there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from core.files import sha256_of
from core.hygiene.reading import Malformed
from core.training.runs import (
    DATA,
    LEFT,
    RUN,
    RunRecord,
    describe_run,
    drop_description,
    find_runs,
    kept_data,
    leave,
    read_record,
)
from core.workspace import Workspace
from tests.unfinished import write_checkpoint


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Training data."""
    path = tmp_path / "music.jsonl"
    path.write_text('{"a": 1}\n')
    return path


@pytest.fixture
def record(data: Path) -> RunRecord:
    """The record of a run with these data."""
    params = {"domain": "music", "preset": {"name": "cpu", "epochs": 1}}
    return RunRecord("music", "k" * 64, params, "artifacts/base/b-1", "data/music.jsonl", sha256_of(data), "b" * 64, 9)


def test_a_run_is_described_once_and_again_where_that_was_damaged(
    tmp_path: Path, data: Path, record: RunRecord
) -> None:
    describe_run(tmp_path, record, data)
    describe_run(tmp_path, replace(record, steps=10), data)
    assert read_record(tmp_path) == record
    (tmp_path / RUN).write_text("{")
    with pytest.raises(Malformed, match="is not JSON"):
        read_record(tmp_path)
    describe_run(tmp_path, replace(record, steps=10), data)
    assert read_record(tmp_path) == replace(record, steps=10)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "is of format 2, not 1"),
        ({"steps": "9"}, "no usable steps"),
        ({"params": {}}, "no usable preset"),
        ({"key": None, "base": 3}, "no usable key, base"),
    ],
)
def test_a_record_that_makes_no_sense_is_not_used(
    tmp_path: Path, data: Path, record: RunRecord, changes: dict[str, object], reason: str
) -> None:
    describe_run(tmp_path, record, data)
    (tmp_path / RUN).write_text(json.dumps(json.loads((tmp_path / RUN).read_text()) | changes))
    with pytest.raises(Malformed, match=reason):
        read_record(tmp_path)


def test_data_that_changed_since_they_were_read_are_not_kept_as_those(
    workspace: Workspace, data: Path, record: RunRecord
) -> None:
    folder = workspace.checkpoint_folder("music", record.key)
    write_checkpoint(folder, 3)
    data.write_text("{}\n")
    describe_run(folder, record, data)
    assert not (folder / DATA).exists()
    (run,) = find_runs(workspace)
    assert kept_data(run, record.data_sha256) is None


def test_what_describes_a_run_goes_with_it(workspace: Workspace, data: Path, record: RunRecord) -> None:
    folder = workspace.checkpoint_folder("music", record.key)
    write_checkpoint(folder, 3)
    describe_run(folder, record, data)
    leave(folder, "for another")
    (run,) = find_runs(workspace)
    assert (run.domain, run.record, run.left, run.key) == ("music", record, "for another", record.key)
    kept = kept_data(run, record.data_sha256)
    assert kept is not None
    assert kept.read_text() == data.read_text()
    drop_description(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000003"]
    assert not (folder / LEFT).exists()


def test_what_is_no_run_is_not_taken_for_one(workspace: Workspace) -> None:
    assert find_runs(workspace) == []
    for name in ("music-0badcafe", ".tmp-7-music-0badcafe", "plain"):
        (workspace.checkpoints / name).mkdir(parents=True)
    (workspace.checkpoints / "music-0badcafe" / ".tmp-9-step-00000004").mkdir()
    write_checkpoint(workspace.checkpoints / ".tmp-7-music-0badcafe", 4)  # of a removal that was broken off
    (workspace.checkpoints / "music-link").symlink_to(workspace.checkpoints / "plain")
    assert find_runs(workspace) == []
