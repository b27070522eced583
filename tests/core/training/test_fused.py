"""The fused LoRA layer against PEFT's own, which it stands in for."""

from pathlib import Path
from typing import Any

import pytest
import torch

from core.training import lora
from core.training.base import load_model
from core.training.runtime import prepare
from tests.models import build_tiny


def adapted(folder: Path, architecture: str, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> Any:
    prepare(2, seed=1)
    model = load_model(build_tiny(architecture, folder / architecture), dtype)
    model = lora.add_lora(model, lora.lora_config(model, base_name="tiny", r=4, alpha=12, dropout=dropout))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model.train()


def fused(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "lora_A") and "forward" in vars(module)]


def gradients(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logits = model(input_ids=ids).logits
    (logits.float().logsumexp(-1).mean() + logits.square().mean()).backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3"])
def test_it_computes_what_peft_computes(tmp_path: Path, architecture: str) -> None:
    model = adapted(tmp_path, architecture)
    ids = torch.randint(3, 200, (2, 17), generator=torch.Generator().manual_seed(5))
    layers = fused(model)
    assert len(layers) == sum(hasattr(module, "lora_A") for module in model.modules()) > 0
    ours, mine = model(input_ids=ids).logits, gradients(model, ids)
    with model.disable_adapter():
        base = model(input_ids=ids).logits
    for layer in layers:
        del layer.forward
    torch.testing.assert_close(ours, model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    with model.disable_adapter():
        torch.testing.assert_close(base, model(input_ids=ids).logits, rtol=0, atol=0)
    assert (ours - base).abs().max() > 0.01
    theirs = gradients(model, ids)
    assert mine.keys() == theirs.keys() == {name for name, _ in model.named_parameters() if "lora_" in name}
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-5 * float(theirs[name].abs().max()))


def test_what_it_does_not_cover_is_left_to_peft(tmp_path: Path) -> None:
    assert fused(adapted(tmp_path, "gpt2")) == []  # its weights lie the other way round
    assert fused(adapted(tmp_path, "llama", dropout=0.1)) == []
    assert fused(adapted(tmp_path, "llama", dtype=torch.bfloat16)) == []


def test_a_merged_or_exchanged_adapter_is_left_to_peft(tmp_path: Path) -> None:
    model = adapted(tmp_path, "llama")
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        separate = model(input_ids=ids).logits
        model.merge_adapter()
        torch.testing.assert_close(model(input_ids=ids).logits, separate, rtol=1e-3, atol=1e-4)
        model.unmerge_adapter()
        model.add_adapter("other", model.peft_config["default"])
        model.set_adapter("other")
        with model.disable_adapter():
            base = model(input_ids=ids).logits
        torch.testing.assert_close(model(input_ids=ids).logits, base)  # a fresh adapter changes nothing
