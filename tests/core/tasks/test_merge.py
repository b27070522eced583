import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from core.files import check_manifest, sha256_of
from core.tasks.context import TaskError
from tests.core.tasks.driving import drive, make_base, only, train_adapter, write_examples
from tests.models import ARCHITECTURES, build_tiny

IDS = torch.arange(5, 45)[None]


def merge(folder: Path, base: Path, adapter: Path, name: str = "merged") -> tuple[Path, list[dict[str, Any]]]:
    out = folder / "artifacts" / "merged" / name
    return out, drive(folder, "merge", out, {"domain": "healthcare"}, {"base": base, "adapter": adapter})


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits  # type: ignore[no-any-return]


def change_config(adapter: Path, target: Path, **values: Any) -> Path:
    """A copy of an adapter with other settings, as if it came from elsewhere."""
    shutil.copytree(adapter, target, ignore=shutil.ignore_patterns("MANIFEST.json", "tara.json"))
    path = target / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return target


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trained")
    base = make_base(folder, build_tiny("llama", folder / "model"))
    return base, train_adapter(folder, base, write_examples(folder / "data.jsonl"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_merged_model_computes_what_base_and_adapter_do(tmp_path: Path, architecture: str) -> None:
    base = make_base(tmp_path, build_tiny(architecture, tmp_path / "model"))
    adapter = train_adapter(tmp_path, base, write_examples(tmp_path / "data.jsonl"))
    out, events = merge(tmp_path, base, adapter)
    check_manifest(out)
    plain = logits(AutoModelForCausalLM.from_pretrained(base))
    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    found = logits(AutoModelForCausalLM.from_pretrained(out))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)
    assert (
        only(events, "result")["values"]["changed_weights"]
        == len(load_file(adapter / "adapter_model.safetensors")) // 2
    )
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert load_file(out / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()


def test_rank_stabilised_scale_and_several_shards(tmp_path: Path) -> None:
    whole = build_tiny("llama", tmp_path / "whole")
    model = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(model, max_shard_size="13MB")
    for path in whole.glob("tokenizer*"):
        shutil.copy(path, model)
    base = make_base(tmp_path, model)
    trained = train_adapter(tmp_path, base, write_examples(tmp_path / "data.jsonl"))
    adapter = change_config(trained, tmp_path / "adapter", use_rslora=True)
    out, _ = merge(tmp_path, base, adapter)
    assert len(list(out.glob("*.safetensors"))) == len(list(base.glob("*.safetensors"))) > 1
    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(out)), wanted, atol=1e-5)


def test_a_bfloat16_base_stays_bfloat16_and_is_rounded_once(tmp_path: Path) -> None:
    model = build_tiny("qwen2", tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    base = make_base(tmp_path, model)
    adapter = train_adapter(tmp_path, base, write_examples(tmp_path / "data.jsonl"))
    out, _ = merge(tmp_path, base, adapter)
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    halves = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    a, b = (halves[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
    expected = (before[f"{name}.weight"].float() + 2.0 * (b @ a)).to(torch.bfloat16)
    assert torch.equal(after[f"{name}.weight"], expected)
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_weights_saved_without_the_heads_prefix_are_found(tmp_path: Path) -> None:
    model = build_tiny("gpt2", tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    (model / "model.safetensors").unlink()
    save_file(renamed, model / "model.safetensors", metadata={"format": "pt"})
    base = make_base(tmp_path, model)
    adapter = train_adapter(tmp_path, base, write_examples(tmp_path / "data.jsonl"))
    out, _ = merge(tmp_path, base, adapter)
    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(out)), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "changed base"),
        ({"peft_type": "IA3"}, "not LoRA"),
    ],
)
def test_what_a_plain_sum_cannot_say_is_refused(
    tmp_path: Path, trained: tuple[Path, Path], values: dict[str, Any], expected: str
) -> None:
    base, adapter = trained
    with pytest.raises(TaskError, match=expected):
        merge(tmp_path, base, change_config(adapter, tmp_path / "changed", **values))
    assert not (tmp_path / "artifacts" / "merged" / "merged").exists()


def test_another_base_is_refused_with_both_names(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    other = make_base(tmp_path, build_tiny("llama", tmp_path / "model", seed=1), "other")
    with pytest.raises(TaskError, match=r"trained on tiny \(.*not on other \("):
        merge(tmp_path, other, trained[1])


def test_an_adapter_of_another_model_or_with_a_missing_half_is_refused(
    tmp_path: Path, trained: tuple[Path, Path]
) -> None:
    base, adapter = trained
    other = make_base(tmp_path, build_tiny("gpt2", tmp_path / "model"), "other")
    stranger = change_config(adapter, tmp_path / "stranger")
    with pytest.raises(TaskError, match="does not have"):
        merge(tmp_path, other, stranger)
    tensors = load_file(stranger / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[1])
    save_file(tensors, stranger / "adapter_model.safetensors")
    with pytest.raises(TaskError, match="lacks"):
        merge(tmp_path, base, stranger)


def test_inputs_are_left_as_they_are(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    before = {path: sha256_of(path) for folder in trained for path in folder.iterdir()}
    merge(tmp_path, *trained)
    assert {path: sha256_of(path) for folder in trained for path in folder.iterdir()} == before
