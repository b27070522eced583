"""A smaller model taught on texts: to predict them, and to predict as a larger one does.

The loss of a position is (1 - k) CE + k KL(teacher || student). The divergence is over the tokens the teacher's file
holds and one bucket for all others, which is never above the divergence over the whole vocabulary (Cover and Thomas,
Elements of Information Theory, 2.8). Its gradient for the logits is q - t, where q are the student's probabilities and
t the teacher's with the mass of its bucket laid out as the student itself lays it: so it is as cheap as cross
entropy's.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from core.tasks.context import TaskError
from core.training.footprint import head_rows
from core.training.loop import MAX_GRADIENT_NORM
from core.training.lora import linear_targets
from core.training.loss import IGNORED, causal_model, collate, head_by_row_is_exact, target_logits, target_states
from core.training.pruning import Lessons
from core.training.riders import Riders
from core.training.scoring import answer_logits
from core.training.teacher import LEAST_MASS, Said, Teacher

WARMUP = 0.1  # of the steps
PROBED = 16  # texts on which the divergence is measured
LEAST_LOG = -60.0  # of a probability: smaller ones change nothing, but products with them are slow on a CPU
ALPHA = 2  # times the rank: the factor on what a low-rank change adds


@dataclass(frozen=True)
class Lesson:
    """How a student is taught. `rank` 0: all weights of its layers, else a LoRA of that rank; `kl`: the share of the
    loss that is the divergence from the teacher."""

    steps: int
    batch_size: int
    learning_rate: float
    rank: int
    kl: float
    seed: int


@dataclass(frozen=True)
class Taught:
    """Means over the first and the last tenth of the steps, nats a token. The divergence is absent without teacher."""

    first_loss: float
    final_loss: float
    first_kl: float | None
    final_kl: float | None
    tokens: int


@dataclass(frozen=True)
class Step:
    """One step: cross entropy and divergence, nats a token, and the tokens read until then."""

    step: int
    total: int
    loss: float
    kl: float | None
    tokens: int


def as_student(model: Any, rank: int) -> Any:
    """The model with what is to be trained switched on: all weights of its layers, or a fresh LoRA on them. Embedding
    and head stay as they are, so what is shared stays shared."""
    if rank:
        config = LoraConfig(
            task_type="CAUSAL_LM", r=rank, lora_alpha=ALPHA * rank, target_modules=linear_targets(model),
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()), bias="none",
        )  # fmt: skip
        return get_peft_model(model, config)
    fixed = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in fixed)
    return model


def teach(
    student: Any,
    riders: Riders,
    examples: Lessons,
    teacher: Teacher | None,
    lesson: Lesson,
    device: torch.device,
    on_step: Callable[[Step], None],
) -> Taught:
    """Train the student in place, example by example with its domain's adapter on. Raises TaskError where the loss is
    no longer a number."""
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)
    by_row = head_by_row_is_exact(student, examples[0][1], device)
    order = _order(len(examples), lesson)
    losses: list[float] = []
    divergences: list[float] = []
    tokens = 0
    student.train()
    for step in range(lesson.steps):
        chosen = [order[(step * lesson.batch_size + at) % len(order)] for at in range(lesson.batch_size)]
        targets = sum(examples[at][1].target_count for at in chosen)
        ce = kl = 0.0
        for at in chosen:
            domain, example = examples[at]
            said = teacher.said(at) if teacher is not None else None
            batch = collate([example], device)
            with riders.riding(domain):
                parts = _loss(student, batch, said, lesson.kl, by_row=by_row)
                (parts[0] / targets).backward()
            ce, kl = ce + parts[1] / targets, kl + parts[2] / targets
            tokens += len(example.input_ids)
        optimiser.param_groups[0]["lr"] = _rate(step, lesson)
        norm = float(torch.nn.utils.clip_grad_norm_(trained, MAX_GRADIENT_NORM))
        if not (math.isfinite(ce) and math.isfinite(kl) and math.isfinite(norm)):
            raise TaskError(f"the loss is no longer a number at step {step + 1}", "lower its learning rate in settings")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(ce)
        divergences.append(kl)
        on_step(Step(step + 1, lesson.steps, ce, kl if teacher is not None else None, tokens))
    student.eval()
    first, last = _ends(losses)
    first_kl, last_kl = _ends(divergences) if teacher is not None else (None, None)
    return Taught(first, last, first_kl, last_kl, tokens)


def divergence(model: Any, riders: Riders, examples: Lessons, teacher: Teacher, device: torch.device) -> float:
    """Mean divergence of the model from the teacher on the teacher's texts, nats a token: on up to 16 of them, spread
    evenly, so that it costs little beside the teaching."""
    total, count = 0.0, 0
    model.eval()
    for at in range(0, len(examples), max(1, len(examples) // PROBED)):
        domain, example = examples[at]
        batch = collate([example], device)
        labels = batch["labels"][batch["labels"] != IGNORED]
        with torch.inference_mode(), riders.riding(domain):
            total += mixed(answer_logits(model, batch).float(), labels, teacher.said(at), 1.0)[1]
        count += len(labels)
    return total / count


def mixed(
    logits: torch.Tensor, labels: torch.Tensor, said: Said | None, share: float
) -> tuple[float, float, torch.Tensor]:
    """Cross entropy and divergence summed over rows [n, vocabulary], and the gradient of their mixture, which takes the
    place of the logits in memory."""
    logs = logits.sub_(logits.logsumexp(dim=-1, keepdim=True))
    wanted = labels[:, None]
    ce = -float(logs.gather(1, wanted).sum())
    if said is None:
        gradient = logs.clamp_(min=LEAST_LOG).exp_()
        gradient.scatter_add_(1, wanted, torch.full_like(wanted, -1.0, dtype=gradient.dtype))
        return ce, 0.0, gradient
    ids, theirs, rest = (part.to(logits.device) for part in (said.ids, said.logs, said.rest))
    ours = logs.gather(1, ids)
    top = ours.double().exp().sum(-1, keepdim=True)
    tail = (1.0 - top).clamp_min(LEAST_MASS)
    mass = rest.exp()
    kl = float((theirs.exp() * (theirs - ours)).sum() + (mass * (rest - tail[:, 0].log().float())).sum())
    gradient = logs.clamp_(min=LEAST_LOG).exp_()  # q
    outside = 1.0 - share * (mass / tail[:, 0]).float()  # of q, where the teacher's file has no token of its own
    inside = gradient.gather(1, ids) - share * theirs.exp()
    gradient.mul_(outside[:, None])
    gradient.scatter_(1, ids, inside)
    gradient.scatter_add_(1, wanted, torch.full_like(wanted, share - 1.0, dtype=gradient.dtype))
    return ce, kl, gradient


class _Mixed(torch.autograd.Function):
    """The mixture under a fixed head, a chunk of rows at a time: only one chunk's logits are ever there."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, head: nn.Linear | None, labels: torch.Tensor, said: Said | None,
        share: float, sums: list[float],
    ) -> torch.Tensor:  # fmt: skip
        """states (rows, size), or logits where there is no head -> scalar; `sums` takes cross entropy, divergence."""
        gradient = torch.empty_like(states)
        size = head_rows(len(head.weight) if head is not None else states.shape[-1])
        for at in range(0, len(states), size):
            rows = slice(at, at + size)
            part = Said(said.ids[rows], said.logs[rows], said.rest[rows]) if said is not None else None
            logits = head(states[rows]).float() if head is not None else states[rows].float().clone()
            ce, kl, change = mixed(logits, labels[rows], part, share)
            gradient[rows] = change.to(states.dtype) @ head.weight if head is not None else change.to(states.dtype)
            sums[0], sums[1] = sums[0] + ce, sums[1] + kl
        ctx.save_for_backward(gradient)
        weight = share if said is not None else 0.0
        return torch.tensor((1 - weight) * sums[0] + weight * sums[1], device=states.device)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The chunks' gradient, times the loss's own."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None, None, None


def _loss(
    student: Any, batch: Mapping[str, torch.Tensor], said: Said | None, share: float, *, by_row: bool
) -> tuple[torch.Tensor, float, float]:
    """The mixture summed over an example's targets, and its two parts."""
    labels = batch["labels"][batch["labels"] != IGNORED]
    sums = [0.0, 0.0]
    head = causal_model(student).get_output_embeddings() if by_row else None
    states = target_states(student, dict(batch)) if by_row else target_logits(student, dict(batch))
    found: torch.Tensor = _Mixed.apply(states, head, labels, said, share, sums)
    return found, sums[0], sums[1]


def _order(count: int, lesson: Lesson) -> list[int]:
    """Examples in the order they are taught, epoch after epoch, each epoch in an order of its own."""
    chance = random.Random(lesson.seed)
    order: list[int] = []
    while len(order) < lesson.steps * lesson.batch_size:
        epoch = list(range(count))
        chance.shuffle(epoch)
        order += epoch
    return order


def _rate(step: int, lesson: Lesson) -> float:
    """Linear warm-up, then half a cosine down to zero (arXiv:1608.03983)."""
    warmup = math.ceil(WARMUP * lesson.steps)
    if step < warmup:
        return lesson.learning_rate * (step + 1) / (warmup + 1)
    return lesson.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, lesson.steps - warmup)))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    size = max(1, len(values) // 10)
    return sum(values[:size]) / size, sum(values[-size:]) / size
