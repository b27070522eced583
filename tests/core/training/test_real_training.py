"""The embedded base, its real tokenizer and shipped examples: a few steps, and the loss falls."""

from pathlib import Path

from core.files import check_manifest
from tests.core.tasks.driving import PRESET, drive, measured, only

STARTER = Path(__file__).parents[3] / "configs" / "starter_data" / "healthcare.jsonl"
SYSTEM_PROMPT = "You are a warm, calm health guide."


def test_eight_steps_on_the_embedded_base_lower_the_held_out_loss(tmp_path: Path) -> None:
    base, adapter, data = tmp_path / "base", tmp_path / "adapter", tmp_path / "data.jsonl"
    data.write_text("".join(STARTER.read_text("utf-8").splitlines(keepends=True)[:16]), "utf-8")
    drive(tmp_path, "base", base, {"base": {"name": "starter-135M", "kind": "embedded"}}, {})
    preset = PRESET | {"sequence_length": 192, "learning_rate": 2e-3, "batch_size": 1, "max_steps": 8}
    params = {"domain": "healthcare", "seed": 7, "system_prompt": SYSTEM_PROMPT}
    events = drive(tmp_path, "train", adapter, params | {"preset": preset}, {"base": base, "data": data})
    check_manifest(adapter)
    result = only(events, "result")["values"]
    assert result["steps"] == 8
    assert result["final_loss"] < result["first_loss"]
    inputs = {"base": base, "adapter": adapter, "data": data}
    figures = measured(drive(tmp_path, "evaluate", tmp_path / "e.json", params | {"sequence_length": 256}, inputs))
    assert figures["tuned_loss"]["value"] < 0.97 * figures["base_loss"]["value"]
    assert 0 < figures["quality"]["value"] < 1
