"""The training loop: LoRA weights, cross entropy on the answers' tokens, one readable path."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional

from core.tasks.context import TaskError
from core.training.render import Rendered
from core.training.runtime import rss_mb

IGNORED = -100
SMOOTHING = 0.9  # of the running mean of losses that the console draws
MAX_GRADIENT_NORM = 1.0
HEAD_ROWS = 64  # target positions whose logits are held at once


@dataclass(frozen=True)
class Recipe:
    """What decides a run besides its data: see TrainingPreset for the meaning of each field."""

    batch_size: int
    gradient_accumulation: int
    learning_rate: float
    epochs: float
    max_steps: int | None
    warmup_ratio: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class StepReport:
    """One optimiser step: mean loss in nats a token, its running mean, rate, gradient norm before clipping."""

    step: int
    total: int
    loss: float
    smoothed_loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_s: float
    rss_mb: float


@dataclass(frozen=True)
class TrainingOutcome:
    """What a run did. `tokens` are those the model computed, padding apart; seconds are of the loop alone."""

    steps: int
    first_loss: float
    final_loss: float
    tokens: int
    padding_tokens: int
    seconds: float
    peak_rss_mb: float


def total_steps(examples: int, recipe: Recipe) -> int:
    """Optimiser steps of a run: `epochs` over the examples or `max_steps`, whichever comes first."""
    batches = math.ceil(examples / recipe.batch_size)
    steps = math.ceil(recipe.epochs * math.ceil(batches / recipe.gradient_accumulation))
    return max(1, min(steps, recipe.max_steps) if recipe.max_steps else steps)


def learning_rate_at(step: int, total: int, recipe: Recipe) -> float:
    """Learning rate of a step (from 0): linear warm-up, then half a cosine down to zero (arXiv:1608.03983)."""
    warmup = math.ceil(recipe.warmup_ratio * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def batches_of_an_epoch(lengths: Sequence[int], batch_size: int, order: random.Random) -> list[list[int]]:
    """Indices of examples in batches of nearly equal length, in random order: almost no padding is computed.

    Equal lengths are shuffled before sorting, so batches differ from epoch to epoch.
    """
    indices = list(range(len(lengths)))
    order.shuffle(indices)
    if batch_size > 1:
        indices.sort(key=lambda index: lengths[index])
    batches = [indices[at : at + batch_size] for at in range(0, len(indices), batch_size)]
    order.shuffle(batches)
    return batches


def collate(batch: Sequence[Rendered], device: torch.device) -> dict[str, torch.Tensor]:
    """Pad a batch on the right: input_ids, attention_mask and labels, each (batch, longest). Labels are aligned with
    the position that predicts them, and IGNORED where nothing is to be learned."""
    longest = max(len(example.input_ids) for example in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, example in enumerate(batch):
        tokens = torch.tensor(example.input_ids)
        wanted = torch.tensor(example.targets)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, : len(tokens) - 1] = torch.where(wanted[1:], tokens[1:], IGNORED)
    return {
        name: value.to(device) for name, value in (("input_ids", ids), ("attention_mask", mask), ("labels", labels))
    }


def causal_model(model: Any) -> Any:
    """The causal model itself, inside PEFT's wrapper where there is one (its layers are adapted in place)."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


class _FrozenHeadLoss(torch.autograd.Function):
    """Summed cross entropy of hidden states under a frozen output head, a chunk of rows at a time.

    Each chunk's logits become the gradient for its hidden states at once and are let go: instead of logits, softmax
    and gradient of all rows (vocabulary * 12 bytes each) only one chunk's are ever there, and stay in the cache. The
    idea is that of Liger's fused linear cross entropy (arXiv:2410.10989), without the head's own gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor) -> torch.Tensor:
        """hidden (rows, size), labels (rows,) -> scalar float32, in nats."""
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for at in range(0, len(hidden), HEAD_ROWS):
            rows, wanted = hidden[at : at + HEAD_ROWS], labels[at : at + HEAD_ROWS, None]
            logits = head(rows).float()
            norm = logits.logsumexp(dim=-1, keepdim=True)
            total += (norm - logits.gather(1, wanted)).sum()
            probabilities = logits.sub_(norm).exp_()
            probabilities.scatter_add_(1, wanted, torch.full_like(norm, -1.0))
            gradient[at : at + HEAD_ROWS] = probabilities.to(hidden.dtype) @ head.weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The chunks' gradient, times the loss's own."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None


def inputs_of(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A batch as the model's arguments."""
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}


def target_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's own logits at the positions that have a label, (targets, vocabulary)."""
    return causal_model(model)(**inputs_of(batch)).logits[batch["labels"] != IGNORED]


def target_states(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the output head is given at the positions that have a label, (targets, hidden size).

    On a small model the head is a fifth of the work and its logits most of the memory, and almost half of a
    conversation's positions have no label.
    """
    return causal_model(model).base_model(**inputs_of(batch)).last_hidden_state[batch["labels"] != IGNORED]


def head_by_row_is_exact(model: Any, example: Rendered, device: torch.device) -> bool:
    """Whether the frozen head on selected states gives the model's own logits. Some architectures scale or cap them
    after the head; they are found by trying, and get the full forward pass."""
    batch = collate([example], device)
    head = causal_model(model).get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.weight.requires_grad:
        return False
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        ours, theirs = head(target_states(model, batch)).float(), target_logits(model, batch).float()
    model.train(was_training)
    return bool(torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())))


def loss_sum(model: Any, batch: dict[str, torch.Tensor], *, by_row: bool) -> torch.Tensor:
    """Cross entropy in float32, summed over the batch's targets, in nats."""
    labels = batch["labels"][batch["labels"] != IGNORED]
    if by_row:
        head = causal_model(model).get_output_embeddings()
        result: torch.Tensor = _FrozenHeadLoss.apply(target_states(model, batch), head, labels)
        return result
    return functional.cross_entropy(target_logits(model, batch).float(), labels, reduction="sum")


def train(
    model: PeftModel,
    examples: Sequence[Rendered],
    recipe: Recipe,
    device: torch.device,
    on_step: Callable[[StepReport], None],
) -> TrainingOutcome:
    """Train the adapter on `model` in place; `on_step` hears of every optimiser step.

    A step's loss is the mean over all its target tokens, also across accumulated batches, so accumulating changes
    nothing but the memory. Raises TaskError when loss or gradient is no longer a number.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.0, weight_decay=recipe.weight_decay, fused=True)
    by_row = head_by_row_is_exact(model, examples[0], device)
    total = total_steps(len(examples), recipe)
    model.train()
    losses: list[float] = []
    smoothed = peak = 0.0
    tokens = padding = 0
    started = time.perf_counter()
    for step, group in enumerate(_groups(examples, recipe, total)):
        rate = learning_rate_at(step, total, recipe)
        optimiser.param_groups[0]["lr"] = rate
        targets = sum(example.target_count for batch in group for example in batch)
        loss = 0.0
        for batch in group:
            inputs = collate(batch, device)
            part = loss_sum(model, inputs, by_row=by_row) / targets
            part.backward()
            loss += float(part.detach())
            used = sum(len(example.input_ids) for example in batch)
            tokens, padding = tokens + used, padding + inputs["input_ids"].numel() - used
        norm = float(torch.nn.utils.clip_grad_norm_(trained, MAX_GRADIENT_NORM))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TaskError(
                f"the loss is no longer a number at step {step + 1} of {total} (learning rate {rate:.2e}, loss {loss},"
                f" gradient norm {norm})",
                "lower the preset's learning_rate, or set its dtype to float32",
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss)
        smoothed = loss if step == 0 else SMOOTHING * smoothed + (1 - SMOOTHING) * loss
        resident = rss_mb()
        peak = max(peak, resident)
        rate_of_tokens = tokens / (time.perf_counter() - started)
        on_step(StepReport(step + 1, total, loss, smoothed, rate, norm, rate_of_tokens, resident))
    seconds = time.perf_counter() - started
    last = losses[-max(1, len(losses) // 10) :]
    return TrainingOutcome(total, losses[0], sum(last) / len(last), tokens, padding, seconds, peak)


def _groups(examples: Sequence[Rendered], recipe: Recipe, total: int) -> Iterator[list[list[Rendered]]]:
    """`total` groups of batches, one an optimiser step, epoch after epoch. The last group of an epoch may be smaller:
    groups do not reach over an epoch's end, so every example is seen once before any is seen again."""
    order = random.Random(recipe.seed)
    lengths = [len(example.input_ids) for example in examples]
    yielded = 0
    while yielded < total:
        batches = batches_of_an_epoch(lengths, recipe.batch_size, order)
        for at in range(0, len(batches), recipe.gradient_accumulation):
            if yielded == total:
                return
            yielded += 1
            yield [[examples[index] for index in batch] for batch in batches[at : at + recipe.gradient_accumulation]]
