"""Before loading: how much memory a training run will need, and whether it is there."""

from dataclasses import dataclass
from typing import Any

import torch

from core.tasks.context import TaskError
from core.training.footprint import (
    LOADING_SLACK,
    LORA_BYTES,
    Shape,
    activation_bytes,
    head_rows,
    logit_bytes,
)
from core.training.lora import linear_targets

RESERVE_BYTES = 200 * 10**6  # kept free for the rest of the machine
# Settings of models whose logits are changed after the head; for these all logits are held at once.
CHANGED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True)
class MemoryPlan:
    """Expected peak in bytes by part, above what the process holds once the libraries are imported."""

    weights: int
    lora: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.weights + self.lora + self.activations + self.logits

    def one_line(self) -> str:
        """The plan as numbers in MB."""
        parts = {"weights": self.weights, "adapter": self.lora, "activations": self.activations, "logits": self.logits}
        listed = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in parts.items())
        return f"{self.total / 1e6:.0f} MB ({listed})"


def lora_parameters(model: Any, r: int) -> int:
    """Trained parameters of rank-`r` LoRA on all linear layers: r * (in + out) of each."""
    targets = set(linear_targets(model))
    return sum(
        r * sum(module.weight.shape)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in targets and hasattr(module, "weight")
    )


def plan_training(
    model: Any, dtype: torch.dtype, *, batch_size: int, sequence_length: int, targets: int, r: int, dropout: float
) -> MemoryPlan:
    """Plan for training on a model that may be without weights (`empty_model`).

    `sequence_length` is that of the longest batch and `targets` the most target tokens of any, so the plan is for
    the data at hand rather than for the preset's limit. Attention is not in it: its fused form keeps no scores.
    """
    config = model.config
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    gated = getattr(config, "intermediate_size", None)
    inner = int(gated or getattr(config, "n_inner", None) or 4 * hidden)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    changed = any(getattr(config, name, None) not in (None, 1.0) for name in CHANGED_LOGITS)
    rows = targets if changed else min(targets, head_rows(int(config.vocab_size)))
    shape = Shape(parameters, layers, hidden, inner, int(config.vocab_size), gated=bool(gated))
    return MemoryPlan(
        weights=int(parameters * dtype.itemsize * LOADING_SLACK),
        lora=lora_parameters(model, r) * LORA_BYTES,
        activations=activation_bytes(shape, tokens=batch_size * sequence_length, dropout=dropout),
        logits=logit_bytes(shape, rows),
    )


def check_memory(
    plan: MemoryPlan, available: int, limited_by: str, *, smaller: str, reserve: int = RESERVE_BYTES
) -> None:
    """Refuse with the numbers what would be killed half-way. `smaller` says what to do instead; `reserve` is what the
    runner keeps free: a training that leaves less would be ended by it."""
    needed = plan.total + reserve
    if needed > available:
        raise TaskError(
            f"training needs about {plan.one_line()} and {reserve / 1e6:.0f} MB of reserve;"
            f" {available / 1e6:.0f} MB are free ({limited_by})",
            smaller,
            failure="memory",
        )


def check_weights(plan: MemoryPlan, available: int, limited_by: str) -> None:
    """Where a device computes, the weights still pass through the machine's memory once."""
    if plan.weights + RESERVE_BYTES > available:
        raise TaskError(
            f"loading needs about {plan.weights / 1e6:.0f} MB; {available / 1e6:.0f} MB are free ({limited_by})",
            "choose a smaller base",
            failure="memory",
        )
