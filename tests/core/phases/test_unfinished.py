"""A training whose settings changed is not begun anew over an unfinished one unless a person says so."""

import json
import shutil
from pathlib import Path

import pytest

from core.errors import InvalidInput, Refused, SettingsChanged
from core.files import sha256_of
from core.phases import service
from core.phases.checkpoints import list_runs, remove_runs, runs_named
from core.runner.client import cancel_jobs
from core.store.reads import open_reader
from core.training.runs import ASIDE, DATA, LEFT, REASON, RUN, find_runs
from core.workspace import Workspace
from tests.conftest import use_base
from tests.imitate import base_folder, chat_lines, contents, do_all, tree
from tests.unfinished import break_off, edit_preset, training, write_checkpoint


def faster(workspace: Workspace) -> None:
    edit_preset(workspace, "starter", "learning_rate: 2.0e-3", "learning_rate: 3.0e-4")


@pytest.fixture
def broken_off(phase_one: Workspace) -> Path:
    """Business was trained to step 40 and cancelled; the folder of its checkpoints."""
    service.train_domain(phase_one, "business")
    return break_off(phase_one, 35, 40)


def test_unchanged_it_goes_on(phase_one: Workspace, broken_off: Path) -> None:
    before = training(phase_one)
    assert before.id in service.train_domain(phase_one, "business")
    assert (training(phase_one).key, training(phase_one).state) == (before.key, "queued")
    (listed,) = list_runs(phase_one)
    assert (listed.goes_on, listed.changes) == (True, ())


def test_changed_it_is_refused_with_the_difference_and_the_step(phase_one: Workspace, broken_off: Path) -> None:
    faster(phase_one)
    edit_preset(phase_one, "starter", "epochs: 1", "epochs: 5")
    chat_lines(phase_one.data / "business.jsonl", count=9, answer="other")
    before, files = contents(phase_one), tree(phase_one.root)
    with pytest.raises(SettingsChanged) as refused:
        service.train_domain(phase_one, "business")
    assert refused.value.exit_code == 4
    said = refused.value.one_line()
    for part in ("step 40 of 120", "learning_rate 0.002 -> 0.0003", "epochs 1 -> 5", "data data/business.jsonl (",
                 "--resume-old", "--fresh", broken_off.name):  # fmt: skip
        assert part in said
    assert "weight_decay" not in said
    assert "save_steps" not in said
    assert (contents(phase_one), tree(phase_one.root)) == (before, files)
    (listed,) = list_runs(phase_one)
    assert (listed.goes_on, [change.setting for change in listed.changes]) == (
        False,
        ["learning_rate", "epochs", "data"],
    )


def test_another_preset_or_base_is_named(phase_one: Workspace, broken_off: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsChanged, match="preset starter -> cpu"):
        service.train_domain(phase_one, "business", preset="cpu")
    use_base(phase_one, base_folder(tmp_path / "other", seed=3))
    with pytest.raises(SettingsChanged, match=r"base starter-135M \([0-9a-f]{8}\) -> starter-135M \("):
        service.train_domain(phase_one, "business")
    with pytest.raises(Refused, match="its base starter-135M is another one now"):
        service.train_domain(phase_one, "business", unfinished="old")


def test_how_often_is_saved_is_no_change(phase_one: Workspace, broken_off: Path) -> None:
    edit_preset(phase_one, "starter", "save_steps: 25", "save_steps: 1")
    assert service.train_domain(phase_one, "business")


def test_with_the_old_settings_the_very_job_is_queued_again(phase_one: Workspace, broken_off: Path) -> None:
    before = training(phase_one)
    faster(phase_one)
    ids = service.train_domain(phase_one, "business", preset="starter", unfinished="old")
    again = training(phase_one)
    assert (again.id, again.key, again.inputs, again.out) == (before.id, before.key, before.inputs, before.out)
    assert json.loads(again.params) == json.loads(before.params)
    assert again.id in ids
    with open_reader(phase_one) as reader:
        kinds = [job.kind for job in reader.jobs(ids=ids)]
    assert sorted(kinds) == ["base", "evaluate", "train"]
    # With the new settings it is refused while the old one is at work, and the old one can be asked for again.
    with pytest.raises(SettingsChanged, match=f"job {before.id} \\(queued") as refused:
        service.train_domain(phase_one, "business")
    assert refused.value.can_leave is False
    with pytest.raises(SettingsChanged):
        service.train_domain(phase_one, "business", unfinished="fresh")
    assert service.train_domain(phase_one, "business", unfinished="old") == ids


def test_the_old_data_are_kept_beside_the_checkpoints(phase_one: Workspace, broken_off: Path) -> None:
    before = training(phase_one)
    old = sha256_of(phase_one.data / "business.jsonl")
    assert sha256_of(broken_off / DATA) == old
    chat_lines(phase_one.data / "business.jsonl", count=9, answer="other")
    ids = service.train_domain(phase_one, "business", unfinished="old")
    again = training(phase_one)
    assert (again.id, again.key) == (before.id, before.key)
    data = json.loads(again.inputs)["data"]
    assert data == f"data/earlier/business-{old[:8]}.jsonl"
    assert sha256_of(phase_one.absolute(data)) == old
    assert len(ids) == 3


def test_without_a_copy_changed_data_are_said_to_be_gone(phase_one: Workspace, broken_off: Path) -> None:
    (broken_off / DATA).unlink()
    chat_lines(phase_one.data / "business.jsonl", count=9, answer="other")
    before = contents(phase_one)
    with pytest.raises(Refused, match=r"data of the unfinished training of business are gone: data/business\.jsonl"):
        service.train_domain(phase_one, "business", unfinished="old")
    assert contents(phase_one) == before


def test_fresh_keeps_the_old_checkpoints_and_asks_no_more(phase_one: Workspace, broken_off: Path) -> None:
    old, files = training(phase_one), tree(broken_off)
    faster(phase_one)
    service.train_domain(phase_one, "business", unfinished="fresh")
    new = training(phase_one)
    assert new.key != old.key
    assert {name: digest for name, digest in tree(broken_off).items() if name != LEFT} == files
    assert "learning_rate 0.002 -> 0.0003" in json.loads((broken_off / LEFT).read_text())["reason"]
    (listed,) = list_runs(phase_one)
    assert "left when its training was started afresh" in listed.why
    cancel_jobs(phase_one, [new.id or 0])
    assert new.id in service.train_domain(phase_one, "business")  # the choice was made
    # The old settings put back, it goes on from where it was; and it is not given up any more.
    cancel_jobs(phase_one, [new.id or 0])
    edit_preset(phase_one, "starter", "learning_rate: 3.0e-4", "learning_rate: 2.0e-3")
    assert old.id in service.train_domain(phase_one, "business")
    assert not (broken_off / LEFT).exists()


def test_fresh_with_the_same_settings_starts_at_nothing(phase_one: Workspace, broken_off: Path) -> None:
    service.train_domain(phase_one, "business", unfinished="fresh")
    (run,) = find_runs(phase_one)
    assert (run.checkpoints, run.newest_good) == ((), None)
    assert sorted(path.name for path in (broken_off / ASIDE).iterdir()) == ["step-00000035", "step-00000040"]
    told = json.loads((broken_off / ASIDE / "step-00000040" / REASON).read_text())["reason"]
    assert told == "a person started this training afresh"


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_an_active_training_with_other_settings_is_never_overrun(phase_one: Workspace, state: str) -> None:
    service.train_domain(phase_one, "business")
    break_off(phase_one, state=state)
    job = training(phase_one)
    faster(phase_one)
    for choice in (None, "fresh"):
        with pytest.raises(SettingsChanged, match=rf"job {job.id} \({state}, step 0 of 120\)") as refused:
            service.train_domain(phase_one, "business", unfinished=choice)
        assert f"tara jobs cancel {job.id}" in str(refused.value.hint)
    assert training(phase_one).state == state


def test_a_phase_asks_for_its_domains_and_carries_the_old_adapter_on(phase_one: Workspace) -> None:
    service.build_phase(phase_one, 1)
    break_off(phase_one, 40, domain="business")
    break_off(phase_one, 7, domain="healthcare")
    keys = {training(phase_one, name).key for name in ("business", "healthcare")}
    faster(phase_one)
    with pytest.raises(SettingsChanged) as refused:
        service.build_phase(phase_one, 1)
    assert [line.partition(":")[0] for line in refused.value.lines] == ["healthcare", "business"]
    with pytest.raises(Refused, match="unfinished training"):
        service.export_domain(phase_one, "business")
    ids = service.build_phase(phase_one, 1, unfinished="old")
    do_all(phase_one)
    assert {training(phase_one, name).key for name in ("business", "healthcare")} == keys
    with open_reader(phase_one) as reader:
        assert {job.state for job in reader.jobs(ids=ids)} == {"succeeded"}
        assert reader.phase(1).bundle_path is not None
    # The phase as it is configured now is another one: it is trained with the settings of now.
    assert "train" in {job.kind for job in service.plan_build(phase_one, 1).missing()}


def test_a_phase_started_afresh_keeps_what_is_unchanged(phase_one: Workspace) -> None:
    service.build_phase(phase_one, 1)
    kept = break_off(phase_one, 7, domain="healthcare")
    left = break_off(phase_one, 40, domain="business")
    chat_lines(phase_one.data / "business.jsonl", count=9, answer="other")
    service.build_phase(phase_one, 1, unfinished="fresh")
    assert (left / LEFT).is_file()
    assert [path.name for path in kept.glob("step-*")] == ["step-00000007"]


def test_what_cannot_be_used_stands_in_nobodys_way(phase_one: Workspace, broken_off: Path) -> None:
    for path in broken_off.glob("step-*"):
        (path / "adapter.safetensors").write_bytes(b"half")
    faster(phase_one)
    assert service.train_domain(phase_one, "business")
    (listed,) = list_runs(phase_one)
    assert "differs from its manifest" in str(listed.run.checkpoints[0].fault)


def test_checkpoints_of_before_there_were_records_are_known_by_their_job(phase_one: Workspace) -> None:
    service.train_domain(phase_one, "business")
    folder = break_off(phase_one, 40, described=False)
    assert not (folder / RUN).exists()
    before = training(phase_one)
    faster(phase_one)
    with pytest.raises(SettingsChanged, match=r"step 40 of 120 .*learning_rate 0\.002 -> 0\.0003"):
        service.train_domain(phase_one, "business")
    assert before.id in service.train_domain(phase_one, "business", unfinished="old")


def test_without_any_record_only_a_fresh_start_is_left(phase_one: Workspace, broken_off: Path) -> None:
    strange = phase_one.checkpoints / "business-0123abcd"
    shutil.move(broken_off, strange)
    (strange / RUN).write_text('{"format": 1}')
    with pytest.raises(SettingsChanged, match="its settings are not on record"):
        service.train_domain(phase_one, "business")
    with pytest.raises(Refused, match=r"not on record: RUN\.json has no usable domain"):
        service.train_domain(phase_one, "business", unfinished="old")
    assert service.train_domain(phase_one, "business", unfinished="fresh")


def test_old_settings_without_anything_unfinished_are_refused(phase_one: Workspace) -> None:
    with pytest.raises(Refused, match="no unfinished training"):
        service.train_domain(phase_one, "business", unfinished="old")
    assert contents(phase_one)["job"] == []


def test_a_list_tells_newest_best_copies_and_what_was_set_aside(phase_one: Workspace, broken_off: Path) -> None:
    write_checkpoint(broken_off, 30, smoothed=0.5)
    write_checkpoint(broken_off / "backup", 35)
    aside = write_checkpoint(broken_off / ASIDE, 38)
    (aside / REASON).write_text('{"reason": "cut in half", "at": 5.0}')
    (broken_off / "step-00000035" / "state.json").unlink()
    (listed,) = list_runs(phase_one, "business")
    told = listed.as_dict(phase_one)
    assert [(one["step"], one["marks"], one["fault"] is None) for one in told["checkpoints"]] == [
        (30, ["best"], True), (35, [], False), (40, ["newest"], True), (35, ["backup"], True),
    ]  # fmt: skip
    assert [(one["reason"], one["at"]) for one in told["aside"]] == [("cut in half", 5.0)]
    assert (told["step"], told["steps"], told["state"]) == (40, 120, "cancelled")
    assert told["bytes"] == sum(path.stat().st_size for path in broken_off.rglob("step-*/*"))
    assert list_runs(phase_one, "healthcare") == []
    with pytest.raises(InvalidInput, match="no domain 'busines'"):
        list_runs(phase_one, "busines")


def test_removal_of_a_run_or_a_domain(phase_one: Workspace, broken_off: Path) -> None:
    with pytest.raises(InvalidInput, match=f"there are no checkpoints of nobody \\(there are: {broken_off.name}\\)"):
        runs_named(phase_one, "nobody")
    (run,) = runs_named(phase_one, broken_off.name)
    assert runs_named(phase_one, "business") == [run]
    ids = service.train_domain(phase_one, "business")
    with pytest.raises(Refused, match="which is queued"):
        remove_runs(phase_one, [run])
    assert broken_off.is_dir()
    cancel_jobs(phase_one, ids)
    assert remove_runs(phase_one, [run]) == run.bytes
    assert list(phase_one.checkpoints.iterdir()) == []
    assert contents(phase_one)["note"][-1][3] == "checkpoints-remove"
