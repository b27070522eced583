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
from core.training import merge as merging
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


def write_adapter(folder: Path, shapes: dict[str, tuple[int, int]], *, transposed: bool) -> Path:
    """A random adapter of rank 3 on weights that are stored with these shapes, by the names of their layers."""
    folder.mkdir()
    torch.manual_seed(3)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        rows, columns = reversed(shape) if transposed else shape
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(3, columns) / 8
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(rows, 3) / 8
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "bias": "none", "fan_in_fan_out": transposed}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [("llama", ["lm_head", "model.layers.1.mlp.down_proj"]), ("gpt2", ["transformer.h.1.mlp.c_fc"])],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [merging.BLOCK_BYTES, 4 * 64 * 100, 1])
def test_blocks_of_rows_make_what_the_whole_weight_makes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    layers: list[str],
    dtype: torch.dtype,
    block: int,
) -> None:
    base = build_tiny(architecture, tmp_path / "base")
    stored = {
        name: tensor.to(dtype)[: 1000 if "lm_head" in name else None].clone()
        for name, tensor in load_file(base / "model.safetensors").items()
    }
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    shapes = {name: (stored[f"{name}.weight"].shape[0], stored[f"{name}.weight"].shape[1]) for name in layers}
    adapter = write_adapter(tmp_path / "adapter", shapes, transposed=architecture == "gpt2")
    monkeypatch.setattr(merging, "BLOCK_BYTES", block)
    told: list[int] = []
    changed = merging.merge(base, adapter, tmp_path / "out", lambda done, total: told.append(done))
    assert (changed, told) == (len(layers), list(range(1, len(stored) + 1)))
    made, halves = load_file(tmp_path / "out" / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    assert list(made) == list(stored)
    for name, before in stored.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{layer}.lora_A.weight" not in halves:
            assert torch.equal(made[name], before)
            continue
        delta = 2.0 * (halves[f"{layer}.lora_B.weight"] @ halves[f"{layer}.lora_A.weight"])
        exact = before.double() + (delta.T if architecture == "gpt2" else delta).double()
        assert not torch.allclose(made[name].double(), before.double(), atol=1e-2)
        # Half a unit in the last place for the one rounding, and the noise of a float32 sum.
        assert torch.allclose(made[name].double(), exact, rtol=torch.finfo(dtype).eps / 2, atol=1e-6)


def test_a_value_that_is_no_number_is_found_in_the_last_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = build_tiny("llama", tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", {"model.layers.1.mlp.down_proj": (64, 128)}, transposed=False)
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"][-1, -1] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    monkeypatch.setattr(merging, "BLOCK_BYTES", 1)
    with pytest.raises(TaskError, match=r"model\.layers\.1\.mlp\.down_proj\.weight holds values that are not numbers"):
        merging.merge(base, adapter, tmp_path / "out", lambda done, total: None)


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
