"""Tiny random models of every family: the GGUF base with its GGUF adapter computes what PEFT computes in torch."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InvalidInput
from core.gguf.cut_sizes import anatomy_of
from core.gguf.header import read_header
from core.gguf.outline import outline
from core.gguf.quantizer import predicted_size
from core.gguf.runtime import Runtime
from core.tasks.context import TaskError
from core.training.cut import anatomy
from tests.core.gguf.conftest import Task, save_random_adapter
from tests.models import ARCHITECTURES, build_tiny, make_convertible

BASE_SHA256 = "b" * 64


def torch_logits(base: Path, adapter: Path | None, tokens: list[int]) -> np.ndarray[Any, Any]:
    import torch

    from core.training.base import load_model
    from core.training.lora import load_adapter

    model = load_model(base, torch.float32)
    if adapter is not None:
        model = load_adapter(model, adapter)
    with torch.inference_mode():
        return np.asarray(model(torch.tensor([tokens])).logits[0, -1].numpy())


def convert(task: Task, base: Path, adapter: Path, tmp_path: Path) -> tuple[Path, Path]:
    gguf, adapter_gguf = tmp_path / "base.gguf", tmp_path / "adapter.gguf"
    task("convert", gguf, {"name": "tiny"}, {"model": base})
    params = {"domain": "d", "base_sha256": BASE_SHA256, "base_name": "tiny"}
    task("adapter-convert", adapter_gguf, params, {"base": base, "adapter": adapter})
    return gguf, adapter_gguf


def assert_equal_to_torch(gguf: Path, adapter_gguf: Path, base: Path, adapter: Path) -> None:
    with Runtime(gguf, n_ctx=128, threads=2) as runtime:
        tokens = runtime.render([{"role": "user", "content": "Hello there, how are you?"}])
        plain = runtime.logits(tokens)
        runtime.attach(adapter_gguf, base_sha256=BASE_SHA256)
        adapted = runtime.logits(tokens)
    expected_plain, expected = torch_logits(base, None, tokens), torch_logits(base, adapter, tokens)
    spread = float(np.std(expected - expected_plain))
    assert spread > 0
    assert np.max(np.abs(plain - expected_plain)) < 0.02 * float(np.std(expected_plain)) + 1e-3
    # The adapter's own effect is reproduced, not just the base below it.
    assert np.corrcoef(adapted - plain, expected - expected_plain)[0, 1] > 0.99
    assert np.max(np.abs(adapted - expected)) < 0.1 * float(np.max(np.abs(expected - expected_plain)))


def build(architecture: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_convertible(build_tiny(architecture, folder / "base"), architecture, folder, monkeypatch)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_base_and_adapter_compute_what_torch_computes(
    architecture: str, tmp_path: Path, task: Task, toolchain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = build(architecture, tmp_path, monkeypatch)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_random_adapter(base, adapter, strength=0.2)
    gguf, adapter_gguf = convert(task, base, adapter, tmp_path)
    assert_equal_to_torch(gguf, adapter_gguf, base, adapter)
    assert anatomy_of(read_header(gguf)) == anatomy(base)  # what would be cut of it is the same by file and by folder
    if architecture == "gpt2":  # a head shared with the embedding, and a matrix that stays as it is
        told = outline(base)
        assert told["f16_bytes"] == pytest.approx(gguf.stat().st_size, abs=64)
        for name in ("Q2_K", "Q8_0"):
            assert told["sizes"][name]["types"] == predicted_size(gguf, name).types


def test_a_tokenizer_llama_cpp_does_not_know_is_a_plain_error(tmp_path: Path, task: Task) -> None:
    base = build_tiny("qwen2", tmp_path / "base")
    with pytest.raises(TaskError, match="does not know the tokenizer of base"):
        task("convert", tmp_path / "x.gguf", {"name": "tiny"}, {"model": base})
    assert not list(tmp_path.glob("*.gguf"))
    assert not list(tmp_path.glob(".tmp-*"))


def test_rank_stabilised_lora_keeps_its_scale(tmp_path: Path, task: Task) -> None:
    base = build_tiny("llama", tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_random_adapter(base, adapter, strength=0.1, use_rslora=True, rank_pattern={})
    assert json.loads((adapter / "adapter_config.json").read_text())["use_rslora"] is True
    assert_equal_to_torch(*convert(task, base, adapter, tmp_path), base, adapter)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"use_rslora": True, "rank_pattern": {"q_proj": 4}}, "rank-stabilised"),
        ({"bias": "lora_only"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "token embeddings"),
        ({"init_lora_weights": "pissa"}, "changed base"),
        ({"peft_type": "IA3"}, "not a LoRA"),
        ({"lora_alpha": None}, "lacks lora_alpha"),
    ],
)
def test_what_a_gguf_adapter_cannot_carry_is_refused_before_any_work(
    base_folder: Path, random_adapter: Path, tmp_path: Path, task: Task, settings: dict[str, Any], words: str
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(random_adapter, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | settings))
    params = {"domain": "d", "base_sha256": BASE_SHA256, "base_name": "tiny"}
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(base_folder / "config.json", base)
    with pytest.raises((TaskError, InvalidInput), match=words):
        task("adapter-convert", tmp_path / "x.gguf", params, {"base": base, "adapter": adapter})
    assert not list(tmp_path.glob("*.gguf"))
