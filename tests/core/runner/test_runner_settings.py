"""Real trainings of a tiny base, killed, and then settings that changed: both ways from there end as they should."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import SettingsChanged
from core.phases.checkpoints import list_runs
from core.phases.service import train_domain
from core.runner.client import cancel_jobs
from core.training.runs import LEFT, RUN
from core.workspace import Workspace
from tests.conftest import end_everything, new_workspace
from tests.core.runner.test_runner_trainings import STEPS, adapter, result, start_training, steps_of
from tests.core.runner.watch import in_state, kill, over, processes, until, view
from tests.unfinished import edit_preset


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Workspace]:
    """A workspace with a tiny base, where a job that was killed waits long before it is started again."""
    workspace = new_workspace(tmp_path_factory.mktemp("settings") / "workspace", tiny_llama)
    settings = workspace.configs / "settings.yaml"
    settings.write_text(settings.read_text("utf-8").replace("retry_delay_s: 5 ", "retry_delay_s: 600 "), "utf-8")
    yield workspace
    end_everything(workspace)


@pytest.fixture(scope="module")
def alone(tiny: Workspace) -> str:
    """The adapter of a training that nobody disturbed."""
    number = start_training(tiny, "alone")
    assert over(tiny, number, within=300).state == "succeeded"
    return adapter(tiny, number)


def killed_and_given_up(workspace: Workspace, name: str) -> int:
    """A training that was killed on its way, and whose next attempt was cancelled."""
    number = start_training(workspace, name)
    until(lambda: steps_of(workspace, number) >= 40, "it gets on", within=300)
    kill(processes(workspace.root / str(view(workspace, number).run_dir))["job"]["pid"])
    in_state(workspace, number, "queued")
    cancel_jobs(workspace, [number])
    assert view(workspace, number).failure == "killed"
    return number


def test_with_the_old_settings_it_ends_with_the_adapter_of_an_undisturbed_one(tiny: Workspace, alone: str) -> None:
    number = killed_and_given_up(tiny, "changed")
    (folder,) = tiny.checkpoints.glob("healthcare-*")
    about = json.loads((folder / RUN).read_text())
    assert (about["steps"], about["params"]["preset"]["learning_rate"]) == (STEPS, 3e-4)
    edit_preset(tiny, "changed", "learning_rate: 3.0e-4", "learning_rate: 1.0e-3")
    with pytest.raises(SettingsChanged, match=r"learning_rate 0\.0003 -> 0\.001"):
        train_domain(tiny, "healthcare", preset="changed")
    (listed,) = list_runs(tiny)
    assert listed.run.newest_good is not None
    reached = listed.run.newest_good.step
    assert reached >= 40
    assert number in train_domain(tiny, "healthcare", preset="changed", unfinished="old")
    assert over(tiny, number, within=300).state == "succeeded"
    assert result(tiny, number)["resumed_from"] == reached
    assert adapter(tiny, number) == alone
    assert not folder.exists()


def test_started_afresh_it_begins_at_step_0_and_ends(tiny: Workspace, alone: str) -> None:
    number = killed_and_given_up(tiny, "left")
    (folder,) = tiny.checkpoints.glob("healthcare-*")
    kept = sorted(path.name for path in folder.glob("step-*"))
    edit_preset(tiny, "left", "learning_rate: 3.0e-4", "learning_rate: 1.0e-3")
    numbers = train_domain(tiny, "healthcare", preset="left", unfinished="fresh")
    (training,) = [job for job in numbers if view(tiny, job).kind == "train"]
    assert training != number
    assert over(tiny, training, within=300).state == "succeeded"
    assert result(tiny, training)["resumed_from"] == 0
    assert result(tiny, training)["steps"] == STEPS
    assert adapter(tiny, training) != alone
    # What it was started afresh in place of is still there, with the reason.
    assert sorted(path.name for path in folder.glob("step-*")) == kept
    assert "learning_rate 0.0003 -> 0.001" in json.loads((folder / LEFT).read_text())["reason"]
