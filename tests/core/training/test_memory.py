from pathlib import Path
from typing import Any

import pytest
import torch

from core.tasks.context import TaskError
from core.training import lora
from core.training.base import empty_model, load_model
from core.training.footprint import ALLOCATOR
from core.training.loss import collate, loss_sum
from core.training.memory import (
    MemoryPlan,
    check_memory,
    check_weights,
    plan_training,
)
from core.training.render import Rendered
from tests.models import ARCHITECTURES, build_tiny

TOKENS = 128


def kept_for_backward(model: Any) -> int:
    """Bytes autograd keeps of one example's forward pass, the weights apart."""
    example = Rendered(tuple(range(100, 100 + TOKENS)), (False,) * 64 + (True,) * 64, 1)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss_sum(model, collate([example], torch.device("cpu")), by_row=True)
    return sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_plan_covers_what_a_forward_pass_keeps(
    tmp_path: Path, architecture: str, dtype: torch.dtype, dropout: float
) -> None:
    folder = build_tiny(architecture, tmp_path / "model")
    model = load_model(folder, dtype)
    model = lora.add_lora(model, lora.lora_config(model, base_name="tiny", r=8, alpha=16, dropout=dropout))
    model.train()
    plan = plan_training(
        empty_model(folder), dtype, batch_size=1, sequence_length=TOKENS, targets=64, r=8, dropout=dropout
    )
    kept = kept_for_backward(model)
    assert kept <= plan.activations / ALLOCATOR <= 2 * kept
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert plan.lora == 16 * trained
    held = sum(parameter.nbytes for parameter in model.parameters() if not parameter.requires_grad)
    assert held <= plan.weights <= 1.2 * held


def test_a_run_that_does_not_fit_is_refused_with_the_numbers() -> None:
    plan = MemoryPlan(500_000_000, 40_000_000, 300_000_000, 60_000_000)
    check_memory(plan, 1_100_000_000, "the machine", smaller="a smaller one")
    with pytest.raises(TaskError, match=r"900 MB \(weights 500, .*; 1000 MB are free \(the machine\)") as caught:
        check_memory(plan, 1_000_000_000, "the machine", smaller="a smaller one")
    assert caught.value.hint == "a smaller one"
    check_weights(plan, 800_000_000, "the machine")
    with pytest.raises(TaskError, match="loading needs about 500 MB"):
        check_weights(plan, 600_000_000, "the machine")
