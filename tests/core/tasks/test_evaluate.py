import json
import shutil
from pathlib import Path

import pytest

from core.files import sha256_of
from core.tasks.context import TaskError
from core.training.data import read_examples, split_examples
from tests.core.tasks.driving import SYSTEM_PROMPT, drive, make_base, measured, only, train_adapter, write_examples
from tests.models import build_tiny

PARAMS = {"domain": "healthcare", "seed": 7, "sequence_length": 256, "system_prompt": SYSTEM_PROMPT}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    base = make_base(folder, build_tiny("llama", folder / "model"))
    data = write_examples(folder / "data.jsonl")
    return {"base": base, "adapter": train_adapter(folder, base, data, epochs=3, max_steps=24), "data": data}


def test_the_adapter_is_scored_beside_its_base_on_examples_it_never_saw(
    tmp_path: Path, trained: dict[str, Path]
) -> None:
    out = tmp_path / "healthcare.json"
    events = drive(tmp_path, "evaluate", out, PARAMS, trained)
    report = json.loads(out.read_text())
    _, held_out = split_examples(read_examples(trained["data"]), 7)
    assert [row["line"] for row in report["rows"]] == [example.line for example in held_out]
    figures = measured(events)
    assert figures.keys() == {"base_loss", "tuned_loss", "base_accuracy", "quality"}
    assert figures["tuned_loss"]["value"] < figures["base_loss"]["value"]
    assert figures["quality"]["value"] > figures["base_accuracy"]["value"]
    assert figures["quality"]["method"] == "held-out token accuracy, 4 examples, seed 7"
    tokens = sum(row["tokens"] for row in report["rows"])
    assert all(figure["n"] == tokens for figure in figures.values())
    weighted = sum(row["tuned_correct"] for row in report["rows"]) / tokens
    assert figures["quality"]["value"] == pytest.approx(weighted)
    assert only(events, "artifact")["sha256"] == sha256_of(out)


def test_an_untrained_adapter_scores_as_its_base(tmp_path: Path, trained: dict[str, Path]) -> None:
    from safetensors.torch import load_file, save_file

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text((trained["adapter"] / "adapter_config.json").read_text())
    tensors = load_file(trained["adapter"] / "adapter_model.safetensors")
    save_file(
        {name: tensor * ("lora_B" not in name) for name, tensor in tensors.items()},
        adapter / "adapter_model.safetensors",
    )
    events = drive(tmp_path, "evaluate", tmp_path / "e.json", PARAMS, trained | {"adapter": adapter})
    figures = measured(events)
    assert figures["tuned_loss"]["value"] == pytest.approx(figures["base_loss"]["value"], abs=1e-6)
    assert figures["quality"]["method"].endswith("training data unknown")


def test_examples_the_adapter_was_trained_on_are_not_scored(tmp_path: Path, trained: dict[str, Path]) -> None:
    with pytest.raises(TaskError, match=r"seed 7, held-out share 0\.2; now 8 and 0\.2"):
        drive(tmp_path, "evaluate", tmp_path / "e.json", PARAMS | {"seed": 8}, trained)
    with pytest.raises(TaskError, match="another division of these examples"):
        drive(tmp_path, "evaluate", tmp_path / "e.json", PARAMS | {"held_out_fraction": 0.5}, trained)
    assert not (tmp_path / "e.json").exists()


def test_data_changed_since_training_is_said_with_the_figure(tmp_path: Path, trained: dict[str, Path]) -> None:
    other = write_examples(tmp_path / "other.jsonl", 24)
    figures = measured(drive(tmp_path, "evaluate", tmp_path / "e.json", PARAMS, trained | {"data": other}))
    assert figures["quality"]["method"].endswith("training data unknown")


def test_another_base_is_refused_with_both_names(tmp_path: Path, trained: dict[str, Path]) -> None:
    other = make_base(tmp_path, build_tiny("llama", tmp_path / "model", seed=1), "other")
    with pytest.raises(TaskError, match=r"trained on tiny \(.*not on other \("):
        drive(tmp_path, "evaluate", tmp_path / "e.json", PARAMS, trained | {"base": other})


def test_a_damaged_adapter_is_refused(tmp_path: Path, trained: dict[str, Path]) -> None:
    adapter = shutil.copytree(trained["adapter"], tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(TaskError, match="differs from its manifest"):
        drive(tmp_path, "evaluate", tmp_path / "e.json", PARAMS, trained | {"adapter": adapter})
