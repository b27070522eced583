"""`tara checkpoints` and the two ways past changed settings, as processes."""

from pathlib import Path

import pytest

from core.phases import service
from core.runner.client import cancel_jobs
from core.workspace import Workspace
from tests.conftest import use_base
from tests.core.cli.command import assert_one_line, tara
from tests.core.hygiene.folders import write_adapter, write_model
from tests.unfinished import break_off, edit_preset


@pytest.fixture
def broken_off(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Healthcare was trained to step 40 of 120 and cancelled; since then its preset was changed."""
    monkeypatch.setattr("core.runner.client.ensure_runner", lambda _workspace: 0)
    use_base(workspace, write_model(tmp_path / "base"))
    ids = service.train_domain(workspace, "healthcare")
    cancel_jobs(workspace, ids)  # nothing is left for a runner
    break_off(workspace, 40, domain="healthcare")
    edit_preset(workspace, "starter", "learning_rate: 2.0e-3", "learning_rate: 3.0e-4")
    return workspace


def test_without_checkpoints_the_list_is_empty_and_says_so(workspace: Workspace) -> None:
    assert tara("checkpoints", "list", cwd=workspace.root).out == "no checkpoints: no training is unfinished\n"
    assert tara("checkpoints", "list", "--json", cwd=workspace.root).json() == []
    assert_one_line(tara("checkpoints", "list", "helthcare", cwd=workspace.root), 3)
    assert not workspace.state_db.exists()


def test_changed_settings_are_refused_shown_and_removed(broken_off: Workspace) -> None:
    refused = tara("train-domain", "healthcare", "--json", cwd=broken_off.root)
    assert_one_line(refused, 4)
    for part in ("learning_rate 0.002 -> 0.0003", "step 40 of 120", "--resume-old", "--fresh"):
        assert part in refused.err
    assert_one_line(tara("train-domain", "healthcare", "--resume-old", "--fresh", cwd=broken_off.root), 2)
    service.create_phase(broken_off, 1, ["healthcare"])
    planned = tara("build-phase", "1", "--dry-run", "--json", cwd=broken_off.root).json()
    assert [line.partition(":")[0] for line in planned["unfinished"]] == ["healthcare"]
    assert_one_line(tara("build-phase", "1", "--dry-run", "--resume-old", cwd=broken_off.root), 2)
    assert_one_line(tara("build-phase", "1", cwd=broken_off.root), 4)
    (run,) = tara("checkpoints", "list", "healthcare", "--json", cwd=broken_off.root).json()
    assert run["changes"] == [{"setting": "learning_rate", "old": 0.002, "new": 0.0003}]
    assert (run["step"], run["steps"], run["state"], run["goes_on"]) == (40, 120, "cancelled", False)
    shown = tara("checkpoints", "list", cwd=broken_off.root).out
    assert f"{run['run']}: step 40 of 120" in shown
    assert "is not gone on with: other settings: learning_rate 0.002 -> 0.0003" in shown
    assert "newest, best" in shown

    assert_one_line(tara("checkpoints", "remove", "nobody", "--yes", cwd=broken_off.root), 3)
    assert_one_line(tara("checkpoints", "remove", "healthcare", "--json", cwd=broken_off.root), 3)
    asked = tara("checkpoints", "remove", "healthcare", cwd=broken_off.root, stdin="n\n")
    assert "step 40 could no longer be gone on from" in asked.out
    assert "nothing was changed" in asked.out
    assert (broken_off.checkpoints / run["run"]).is_dir()
    gone = tara("checkpoints", "remove", run["run"], "--yes", "--json", cwd=broken_off.root).json()
    assert gone == {"removed": [run["run"]], "bytes": run["bytes"], "done": True}
    assert not (broken_off.checkpoints / run["run"]).exists()


def test_import_prints_every_checkpoint_with_its_verdict(broken_off: Workspace, tmp_path: Path) -> None:
    good = write_adapter(tmp_path / "models" / "healthcare" / "out" / "checkpoint-9")
    base = str(tmp_path / "base")
    write_adapter(good, base_model_name_or_path=base)
    (good / "trainer_state.json").write_text('{"global_step": 9, "max_steps": 30}')
    bad = write_adapter(tmp_path / "models" / "healthcare" / "out" / "checkpoint-12", base_model_name_or_path=base)
    (bad / "trainer_state.json").write_text('{"global_step": 11}')
    answer = tara("checkpoints", "import", str(tmp_path / "models"), "--dry-run", "--json", cwd=broken_off.root)
    found = answer.json()["checkpoints"]
    assert [(one["step"], one["verdict"], one["taken"]) for one in found] == [
        (12, "refused", False),
        (9, "good", True),
    ]
    assert "weights only" in answer.json()["taken_over"]
    shown = tara("checkpoints", "import", str(tmp_path / "models"), cwd=broken_off.root)
    assert shown.status == 0, shown
    assert "folder 12, trainer_state.json 11" in shown.out
    assert "unfinished: step 9 of 30" in shown.out
    assert "optimizer and random numbers of the old run are not taken over" in shown.out
    none = tara("checkpoints", "import", str(bad), cwd=broken_off.root)
    assert (none.status, none.out.splitlines()[-1]) == (1, "nothing was taken")
