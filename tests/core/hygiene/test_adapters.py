"""Whether an adapter fits a base, and what of it the GGUF runtime cannot carry."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InvalidInput
from core.hygiene import check_adapter
from core.hygiene.adapters import pattern_value, same_base
from tests.core.hygiene.folders import LLAMA_CONFIG, RANK, adapter_tensors, numbers, write_adapter

BASE = ("tiny", "owner/tiny-llama")


def codes(folder: Path, names: tuple[str, ...] = BASE, config: dict[str, Any] | None = LLAMA_CONFIG) -> set[str]:
    return {finding.code for finding in check_adapter(folder, names, config)}


def test_fitting_adapter(tmp_path: Path) -> None:
    assert codes(write_adapter(tmp_path / "a")) == set()


def test_adapter_for_another_base_is_an_error_naming_both(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", base_model_name_or_path="someone/else-7b")
    (finding,) = check_adapter(folder, BASE, LLAMA_CONFIG)
    assert finding.severity == "error"
    assert "someone/else-7b" in finding.message
    assert "tiny" in finding.message


@pytest.mark.parametrize(
    ("named", "names", "same"),
    [
        ("owner/tiny-llama", ["owner/tiny-llama"], True),
        ("Owner/Tiny-Llama/", ["owner/tiny-llama"], True),
        ("copycat/tiny-llama", ["owner/tiny-llama"], False),
        ("tiny-llama", ["owner/tiny-llama"], False),
        ("/data/artifacts/base/tiny-0a1b2c3d", ["tiny"], True),
        ("C:\\models\\tiny-llama", ["owner/tiny-llama"], True),
        ("./other", ["owner/tiny-llama"], False),
    ],
)
def test_base_names(named: str, names: list[str], same: bool) -> None:
    assert same_base(named, names) is same


def test_sizes_against_the_base(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    assert codes(folder, config={**LLAMA_CONFIG, "hidden_size": 16}) == {"size-mismatch"}
    assert codes(folder, config={**LLAMA_CONFIG, "num_hidden_layers": 1}) == {"module-absent"}
    assert codes(folder, config={**LLAMA_CONFIG, "num_hidden_layers": 3}) == {"layer-missing"}
    assert codes(folder, config={**LLAMA_CONFIG, "model_type": "mamba"}) == {"architecture-unknown"}
    assert codes(folder, config={**LLAMA_CONFIG, "hidden_size": None}) == {"base-config-wrong"}
    assert codes(folder, config=None) == set()


def test_modules_of_another_architecture(tmp_path: Path) -> None:
    tensors = {
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": numbers(RANK, 8),
        "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight": numbers(24, RANK),
    }
    folder = write_adapter(tmp_path / "a", tensors, target_modules=["c_attn"])
    assert codes(folder) == {"module-absent", "target-unknown"}
    gpt2 = {"model_type": "gpt2", "vocab_size": 12, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    assert codes(folder, config=gpt2) == set()
    assert codes(folder, config={**gpt2, "n_embd": 16}) == {"size-mismatch"}


def test_what_gguf_cannot_carry(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    cases: list[tuple[str, dict[str, np.ndarray], dict[str, Any]]] = [
        ("gguf-dora", {f"{name}.lora_magnitude_vector": numbers(8)}, {"use_dora": True}),
        ("gguf-rslora", {}, {"use_rslora": True}),
        ("gguf-alpha-pattern", {}, {"alpha_pattern": {"q_proj": 9}}),
        ("gguf-bias", {}, {"bias": "lora_only"}),
        ("gguf-modules-to-save", {"base_model.model.lm_head.weight": numbers(12, 8)}, {"modules_to_save": ["lm_head"]}),
        ("gguf-extra-tensors", {"base_model.model.lm_head.weight": numbers(12, 8)}, {}),
        (
            "gguf-embedding",
            {
                "base_model.model.model.embed_tokens.lora_embedding_A": numbers(RANK, 12),
                "base_model.model.model.embed_tokens.lora_embedding_B": numbers(8, RANK),
            },
            {"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
        ),
    ]
    for number, (code, tensors, settings) in enumerate(cases):
        folder = write_adapter(tmp_path / str(number), {**adapter_tensors(), **tensors}, **settings)
        assert codes(folder) == {code}


def test_patterns_are_not_run_as_expressions() -> None:
    assert pattern_value({"(a+)+$": 3}, "a" * 40 + "b", 8) is None
    assert pattern_value({"q_proj": 3}, "layers.0.self_attn.q_proj", 8) == 3
    assert pattern_value({"^q_proj": 3}, "layers.0.self_attn.q_proj", 8) == 8
    assert pattern_value({}, "x", 8) == 8


def test_unreadable_adapter_and_no_folder(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:30])
    assert codes(folder) == {"weights-unreadable"}
    with pytest.raises(InvalidInput):
        check_adapter(path, BASE)
