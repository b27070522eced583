"""A run that was broken off goes on as if nothing had been; a checkpoint that is not good is never used."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.files import MANIFEST, sha256_of, write_manifest
from core.training import checkpoints, loop, lora
from core.training.base import load_model
from core.training.checkpoints import Checkpoints, Identity, Retention
from core.training.loop import Companions, Interrupted, Recipe, StepReport, TrainingOutcome, train
from core.training.render import Rendered
from core.training.runs import ADAPTER, ASIDE, BACKUP, OPTIMISER, REASON, RNG, STATE
from core.training.runtime import prepare

CPU = torch.device("cpu")
RECIPE = Recipe(2, 2, 5e-3, 3, 9, 0.1, 0.01, seed=5)
IDENTITY = Identity("b" * 64, "d" * 64, {"learning_rate": 5e-3})


def made(length: int, start: int) -> Rendered:
    return Rendered(tuple(range(start, start + length)), (False,) * 4 + (True,) * (length - 4), 1)


EXAMPLES = [made(9 + at % 4, 50 + 3 * at) for at in range(11)]


class Run:
    """A training of a tiny model with dropout, that can be broken off and gone on with."""

    def __init__(self, base: Path, folder: Path, retention: Retention | None = None, identity: Identity = IDENTITY):
        self.base = base
        self.said: list[str] = []
        self.checkpoints = Checkpoints(folder, identity, retention or Retention(keep=9), self.said.append)

    def go(self, stop_after: int | None = None, die_after: int | None = None, **companions: Any) -> TrainingOutcome:
        prepare(1, RECIPE.seed)
        model = load_model(self.base, torch.float32)
        settings = lora.lora_config(model, base_name="tiny", r=4, alpha=8, dropout=0.2)
        self.model = lora.add_lora(model, settings)
        self.steps: list[int] = []

        def on_step(report: StepReport) -> None:
            self.steps.append(report.step)
            if report.step == die_after:
                raise KeyboardInterrupt

        by = Companions(
            self.checkpoints,
            save_every=2,
            should_stop=lambda: stop_after is not None and len(self.steps) + 1 >= stop_after,
            say=self.said.append,
            **companions,
        )
        return train(self.model, EXAMPLES, RECIPE, CPU, on_step, by)

    def adapter(self, folder: Path) -> str:
        folder.mkdir()
        lora.save_adapter(self.model, folder)
        return sha256_of(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def alone(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, TrainingOutcome]:
    """The run that nobody disturbed: hash of its adapter, and its outcome."""
    folder = tmp_path_factory.mktemp("alone")
    run = Run(tiny_llama, folder / "checkpoints")
    outcome = run.go()
    return run.adapter(folder / "adapter"), outcome


@pytest.mark.parametrize("step", range(1, 9))
def test_a_stopped_run_goes_on_to_the_same_last_bit(
    tiny_llama: Path, tmp_path: Path, alone: tuple[str, TrainingOutcome], step: int
) -> None:
    run = Run(tiny_llama, tmp_path / "c")
    with pytest.raises(Interrupted, match=f"step {step} of 9"):
        run.go(stop_after=step)
    outcome = run.go()
    assert run.steps == list(range(step + 1, 10))
    assert outcome.resumed_from == step
    assert run.adapter(tmp_path / "adapter") == alone[0]
    assert (outcome.first_loss, outcome.final_loss, outcome.tokens, outcome.padding_tokens) == (
        alone[1].first_loss,
        alone[1].final_loss,
        alone[1].tokens,
        alone[1].padding_tokens,
    )


def test_a_run_that_died_again_and_again_ends_the_same(
    tiny_llama: Path, tmp_path: Path, alone: tuple[str, TrainingOutcome]
) -> None:
    run = Run(tiny_llama, tmp_path / "c")
    for step in (3, 3, 5, 8):  # between checkpoints, so steps are computed twice
        with pytest.raises(KeyboardInterrupt):
            run.go(die_after=step)
    run.go()
    assert run.adapter(tmp_path / "adapter") == alone[0]


def _manifest_again(folder: Path) -> None:
    about = json.loads((folder / MANIFEST).read_text())
    del about["files"]
    (folder / MANIFEST).unlink()
    write_manifest(folder, about)


def _poison(folder: Path, file: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    _manifest_again(folder)


def _edit_state(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    state = json.loads((folder / STATE).read_text())
    change(state)
    (folder / STATE).write_text(json.dumps(state))
    _manifest_again(folder)


def _cut(path: Path, keep: float) -> None:
    os.truncate(path, int(path.stat().st_size * keep))


def _flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 0x10
    path.write_bytes(bytes(data))


def _edit_manifest(folder: Path, **values: Any) -> None:
    about = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**about, **values}))


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


def _set(tensors: dict[str, torch.Tensor], value: float) -> None:
    tensors[_first(tensors)].view(-1)[0] = value


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    name = _first(tensors)
    tensors[name] = tensors[name][:-1].clone()


CORRUPTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no manifest": (lambda one: (one / MANIFEST).unlink(), "not finished"),
    "empty manifest": (lambda one: (one / MANIFEST).write_text(""), "cannot be read"),
    "manifest cut": (lambda one: _cut(one / MANIFEST, 0.5), "cannot be read"),
    "manifest of another thing": (lambda one: _edit_manifest(one, kind="adapter"), "not that of a checkpoint"),
    "a later format": (lambda one: _edit_manifest(one, format=99), "not that of a checkpoint of format"),
    "adapter missing": (lambda one: (one / ADAPTER).unlink(), "is missing"),
    "adapter empty": (lambda one: _cut(one / ADAPTER, 0), "differs from its manifest"),
    "adapter cut in half": (lambda one: _cut(one / ADAPTER, 0.5), "differs from its manifest"),
    "adapter without its last byte": (
        lambda one: os.truncate(one / ADAPTER, (one / ADAPTER).stat().st_size - 1),
        "differs from its manifest",
    ),
    "a bit of the adapter's weights": (lambda one: _flip(one / ADAPTER, 0.9), "differs from its manifest"),
    "a bit of the adapter's header": (lambda one: _flip(one / ADAPTER, 0.01), "differs from its manifest"),
    "a bit of the optimizer": (lambda one: _flip(one / OPTIMISER, 0.7), "differs from its manifest"),
    "optimizer missing": (lambda one: (one / OPTIMISER).unlink(), "is missing"),
    "random state cut": (lambda one: _cut(one / RNG, 0.9), "differs from its manifest"),
    "state cut": (lambda one: _cut(one / STATE, 0.3), "differs from its manifest"),
    "not a number among the weights": (
        lambda one: _poison(one, ADAPTER, lambda tensors: _set(tensors, float("nan"))),
        "not numbers",
    ),
    "infinity in the optimizer": (
        lambda one: _poison(one, OPTIMISER, lambda tensors: _set(tensors, float("inf"))),
        "not numbers",
    ),
    "a tensor less": (lambda one: _poison(one, ADAPTER, lambda tensors: tensors.pop(_first(tensors))), "is missing"),
    "a tensor of another shape": (lambda one: _poison(one, ADAPTER, _reshape), r"is \(.*here"),
    "a header that is no safetensors": (
        lambda one: ((one / ADAPTER).write_bytes(b"\x80\x04pickle"), _manifest_again(one))[0],
        "does not load",
    ),
    "another step in the state": (
        lambda one: _edit_state(one, lambda state: state["progress"].update(step=5)),
        "told in different ways",
    ),
    "losses lost": (
        lambda one: _edit_state(one, lambda state: state["progress"]["losses"].pop()),
        "told in different ways",
    ),
    "another base": (lambda one: _edit_manifest(one, base_sha256="x" * 64), "another run: base_sha256"),
    "other data": (lambda one: _edit_manifest(one, data_sha256="x" * 64), "another run: data_sha256"),
    "other settings": (lambda one: _edit_manifest(one, settings_sha256="x" * 64), "another run: settings_sha256"),
    "files of the one before": (
        lambda one: shutil.copy(one.parent / "step-00000004" / ADAPTER, one / ADAPTER),
        "differs from its manifest",
    ),
}


@pytest.fixture(scope="module")
def broken_off(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 2, 4 and 6 of a run that died."""
    folder = tmp_path_factory.mktemp("broken") / "c"
    with pytest.raises(KeyboardInterrupt):
        Run(tiny_llama, folder).go(die_after=7)
    return folder


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_bad_checkpoint_is_set_aside_with_its_reason_and_the_one_before_is_used(
    tiny_llama: Path, tmp_path: Path, broken_off: Path, alone: tuple[str, TrainingOutcome], name: str
) -> None:
    damage, reason = CORRUPTIONS[name]
    folder = tmp_path / "c"
    shutil.copytree(broken_off, folder)
    damage(folder / "step-00000006")
    run = Run(tiny_llama, folder)
    outcome = run.go()
    assert outcome.resumed_from == 4
    assert run.adapter(tmp_path / "adapter") == alone[0]
    (aside,) = (folder / ASIDE).iterdir()
    assert aside.name == "step-00000006"
    told = json.loads((aside / REASON).read_text())["reason"]
    assert re.search(reason, told), told
    assert any("step-00000006 cannot be used" in line for line in run.said)


def test_the_copy_of_what_was_gone_on_from_outlives_it(tiny_llama: Path, tmp_path: Path, broken_off: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(broken_off, folder)
    with pytest.raises(KeyboardInterrupt):
        Run(tiny_llama, folder).go(die_after=7)
    assert [path.name for path in (folder / BACKUP).iterdir()] == ["step-00000006"]
    for path in folder.glob("step-*"):
        shutil.rmtree(path)
    assert Run(tiny_llama, folder).go().resumed_from == 6


def test_where_nothing_is_good_the_run_begins_anew(
    tiny_llama: Path, tmp_path: Path, broken_off: Path, alone: tuple[str, TrainingOutcome]
) -> None:
    folder = tmp_path / "c"
    shutil.copytree(broken_off, folder)
    for path in folder.glob("step-*"):
        (path / STATE).unlink()
    run = Run(tiny_llama, folder)
    assert run.go().resumed_from == 0
    assert run.adapter(tmp_path / "adapter") == alone[0]
    assert len(list((folder / ASIDE).iterdir())) == 3


def test_what_a_kill_left_half_written_is_removed_and_never_used(
    tiny_llama: Path, tmp_path: Path, broken_off: Path
) -> None:
    folder = tmp_path / "c"
    shutil.copytree(broken_off, folder)
    half = folder / ".tmp-123-step-00000008"
    shutil.copytree(folder / "step-00000006", half)
    (half / MANIFEST).unlink()
    assert Run(tiny_llama, folder).go().resumed_from == 6
    assert not half.exists()


def test_a_full_disk_while_saving_leaves_the_older_ones(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tiny_llama, tmp_path / "c")
    whole = checkpoints.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "step-00000006" in str(path) and path.name == OPTIMISER:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))
        whole(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run.go()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-00000002", "step-00000004"]


def test_the_newest_and_the_best_are_kept(tiny_llama: Path, tmp_path: Path) -> None:
    run = Run(tiny_llama, tmp_path / "c", Retention(keep=1))
    with pytest.raises(KeyboardInterrupt):
        run.go(die_after=8)
    found = {
        path.name: json.loads((path / STATE).read_text())["progress"]["smoothed"] for path in run.checkpoints.steps()
    }
    assert max(found) == "step-00000008"
    _edit_state(run.checkpoints.folder / "step-00000008", lambda state: state["progress"].update(smoothed=99.0))
    shutil.copytree(run.checkpoints.folder / "step-00000008", run.checkpoints.folder / "step-00000009")
    shutil.copytree(run.checkpoints.folder / "step-00000008", run.checkpoints.folder / "step-00000007")
    _edit_state(run.checkpoints.folder / "step-00000007", lambda state: state["progress"].update(smoothed=0.1))
    gone = run.checkpoints.prune()
    assert [path.name for path in run.checkpoints.steps()] == ["step-00000007", "step-00000009"]
    assert "step-00000008" in [path.name for path in gone]


def test_checkpoints_are_bounded_in_bytes_but_the_newest_stays(tiny_llama: Path, tmp_path: Path) -> None:
    run = Run(tiny_llama, tmp_path / "c", Retention(keep=3, keep_best=False, max_bytes=1))
    with pytest.raises(KeyboardInterrupt):
        run.go(die_after=8)
    assert [path.name for path in run.checkpoints.steps()] == ["step-00000008"]


def test_all_go_when_the_adapter_is_safe_except_what_was_set_aside(
    tiny_llama: Path, tmp_path: Path, broken_off: Path
) -> None:
    folder = tmp_path / "c"
    shutil.copytree(broken_off, folder)
    (folder / "step-00000006" / STATE).unlink()
    run = Run(tiny_llama, folder)
    run.go()
    run.checkpoints.drop()
    assert [path.name for path in folder.iterdir()] == [ASIDE]


def test_memory_refused_in_the_middle_of_a_step_computes_it_in_smaller_parts(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: tuple[str, TrainingOutcome]
) -> None:
    whole, calls = loop.loss_sum, []

    def refusing(model: Any, batch: dict[str, torch.Tensor], *, by_row: bool) -> torch.Tensor:
        calls.append(len(batch["input_ids"]))
        if len(calls) > 3 and len(batch["input_ids"]) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return whole(model, batch, by_row=by_row)

    monkeypatch.setattr(loop, "loss_sum", refusing)
    run = Run(tiny_llama, tmp_path / "c")
    outcome = run.go()
    assert outcome.micro_batch == 1
    assert "memory was refused at step 2: 1 example at once, accumulated" in run.said
    assert outcome.final_loss == pytest.approx(alone[1].final_loss, rel=0.05)  # dropout falls differently


def test_pressure_halves_the_micro_batch_and_says_so(tiny_llama: Path, tmp_path: Path) -> None:
    run = Run(tiny_llama, tmp_path / "c")
    short = iter([None, None, "only 90 MB are free", "only 90 MB are free"])
    outcome = run.go(pressure=lambda: next(short, None))
    assert outcome.micro_batch == 1
    assert [line for line in run.said if "free" in line] == [
        "only 90 MB are free: from step 3 on 1 example at once, accumulated"
    ]
