import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from core.errors import InvalidInput
from core.files import check_manifest, sha256_of
from core.tasks import train
from core.tasks.context import TaskError
from core.training.base import load_tokenizer
from tests.core.tasks.driving import (
    PRESET,
    SYSTEM_PROMPT,
    drive,
    make_base,
    measured,
    only,
    train_adapter,
    write_examples,
)
from tests.models import ARCHITECTURES, build_tiny


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_is_trained_and_loads_in_peft(tmp_path: Path, architecture: str) -> None:
    base = make_base(tmp_path, build_tiny(architecture, tmp_path / "model"))
    adapter = train_adapter(tmp_path, base, write_examples(tmp_path / "data.jsonl"))
    check_manifest(adapter)
    assert not list(adapter.glob("*.bin"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("tiny", 4, 8)
    assert not {"lm_head", "embed_out"} & set(config["target_modules"])
    ids = torch.arange(5, 25)[None]
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    plain = model(ids).logits
    assert not torch.allclose(PeftModel.from_pretrained(model, adapter)(ids).logits, plain)
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


def test_what_is_announced_and_recorded(tmp_path: Path) -> None:
    base = make_base(tmp_path, build_tiny("llama", tmp_path / "model"))
    data = write_examples(tmp_path / "data.jsonl", 20)
    out = tmp_path / "artifacts" / "adapter" / "healthcare"
    params = {"domain": "healthcare", "preset": PRESET, "seed": 7, "system_prompt": SYSTEM_PROMPT}
    events = drive(tmp_path, "train", out, params, {"base": base, "data": data})
    about = json.loads((out / "tara.json").read_text())
    assert about["base"] == {"name": "tiny", "sha256": json.loads((base / "tara.json").read_text())["sha256"]}
    assert about["data"]["sha256"] == sha256_of(data)
    assert (about["seed"], about["system_prompt"], about["steps"]) == (7, SYSTEM_PROMPT, 4)
    assert about["preset"] == PRESET
    assert about["examples"] == {"used": 16, "cut": 0, "cut_tokens": 0, "dropped": 0, "held_out": 4}
    assert about["libraries"].keys() >= {"torch", "transformers", "peft"}
    assert only(events, "artifact")["sha256"] == sha256_of(out / "MANIFEST.json")
    steps = [event for event in events if event["event"] == "metrics"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4]
    wanted = {"loss", "smoothed_loss", "tokens_per_s", "learning_rate", "rss_mb", "gradient_norm"}
    assert all(event["values"].keys() >= wanted for event in steps)
    result = only(events, "result")["values"]
    assert result["steps"] == 4
    assert result["tokens"] > 0
    assert measured(events)["training_tokens_per_s"]["n"] == result["tokens"]
    progress = [event for event in events if event["event"] == "progress"]
    assert (progress[-1]["step"], progress[-1]["total"]) == (4, 4)


def test_the_same_seed_trains_the_same_adapter(tmp_path: Path) -> None:
    base = make_base(tmp_path, build_tiny("qwen2", tmp_path / "model"))
    data = write_examples(tmp_path / "data.jsonl")
    first, second = (
        load_file(train_adapter(tmp_path, base, data, name, lora_dropout=0.1) / "adapter_model.safetensors")
        for name in ("one", "two")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_fallback_template_goes_with_the_adapter(tmp_path: Path) -> None:
    base = make_base(tmp_path, build_tiny("gpt2", tmp_path / "model", chat_template=False))
    adapter = train_adapter(tmp_path, base, write_examples(tmp_path / "data.jsonl"))
    assert (adapter / "chat_template.jinja").read_text() == load_tokenizer(base).chat_template


def test_examples_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    base = make_base(tmp_path, build_tiny("llama", tmp_path / "model"))
    data = write_examples(tmp_path / "data.jsonl")
    adapter = train_adapter(tmp_path, base, data, sequence_length=16)
    examples = json.loads((adapter / "tara.json").read_text())["examples"]
    assert examples["cut"] == 16
    assert examples["cut_tokens"] > 16
    with pytest.raises(TaskError, match="sequence length of 1"):
        train_adapter(tmp_path, base, data, "none", sequence_length=1)
    assert not (tmp_path / "artifacts" / "adapter" / "none").exists()


def test_a_run_that_diverges_says_where(tmp_path: Path) -> None:
    base = make_base(tmp_path, build_tiny("gpt2", tmp_path / "model"))
    data = write_examples(tmp_path / "data.jsonl")
    with pytest.raises(TaskError, match=r"no longer a number at step \d+ of 8 \(learning rate") as caught:
        train_adapter(tmp_path, base, data, learning_rate=1e38, max_steps=8)
    assert "learning_rate" in str(caught.value.hint)


def test_a_learning_rate_of_zero_is_no_training(tmp_path: Path) -> None:
    base = make_base(tmp_path, build_tiny("llama", tmp_path / "model"))
    with pytest.raises(TaskError, match="changed nothing"):
        train_adapter(tmp_path, base, write_examples(tmp_path / "data.jsonl"), learning_rate=0.0)
    assert not (tmp_path / "artifacts" / "adapter" / "healthcare").exists()


def test_what_does_not_fit_in_memory_is_refused_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path, build_tiny("llama", tmp_path / "model"))
    monkeypatch.setattr(train, "available_memory", lambda: (100_000_000, "a limit of the test"))
    monkeypatch.setattr("core.tasks.train.load_model", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(TaskError, match=r"100 MB are free \(a limit of the test\)"):
        train_adapter(tmp_path, base, write_examples(tmp_path / "data.jsonl"))


def test_bad_data_and_an_unfinished_base_are_refused(tmp_path: Path) -> None:
    model = build_tiny("llama", tmp_path / "model")
    data = write_examples(tmp_path / "data.jsonl")
    with pytest.raises(TaskError, match="not a finished base"):
        train_adapter(tmp_path, model, data)
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user"}]}\n')
    with pytest.raises(InvalidInput, match=r"bad\.jsonl"):
        train_adapter(tmp_path, make_base(tmp_path, model), tmp_path / "bad.jsonl")
