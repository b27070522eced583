"""The training loop: LoRA weights, cross entropy on the answers' tokens, one readable path."""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel

from core.tasks.context import TaskError
from core.training.checkpoints import Checkpoints, Found, Progress, random_state, restore, set_random_state
from core.training.loss import collate, head_by_row_is_exact, loss_sum
from core.training.render import Rendered
from core.training.runtime import library_versions, rss_mb

SMOOTHING = 0.9  # of the running mean of losses that the console draws
MAX_GRADIENT_NORM = 1.0


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
    resumed_from: int = 0  # the step gone on from, 0 where it began anew
    micro_batch: int = 0  # examples computed at once in the end


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


class Interrupted(Exception):
    """Training was asked to stop and left at a step's end, with a checkpoint where it keeps any."""

    def __init__(self, step: int, total: int) -> None:
        super().__init__(f"left at step {step} of {total}")
        self.step = step


@dataclass
class Companions:
    """What looks after a run from outside: where its checkpoints are, whether it must stop, how much it may hold.

    `micro_batch` caps the examples computed at once (accumulation makes up for it, so only memory and time change).
    `pressure` says that memory runs short; the micro-batch is then halved, and `say` told.
    """

    checkpoints: Checkpoints | None = None
    save_every: int = 0
    on_start: Callable[[int], None] = lambda _step: None  # the step gone on from
    should_stop: Callable[[], bool] = lambda: False
    pressure: Callable[[], str | None] = lambda: None
    micro_batch: int | None = None
    say: Callable[[str], None] = print


def train(
    model: PeftModel,
    examples: Sequence[Rendered],
    recipe: Recipe,
    device: torch.device,
    on_step: Callable[[StepReport], None],
    companions: Companions | None = None,
) -> TrainingOutcome:
    """Train the adapter on `model` in place; `on_step` hears of every optimiser step.

    A step's loss is the mean over all its target tokens, also across accumulated batches, so accumulating changes
    nothing but the memory. Where there is a good checkpoint the run goes on from it, to the same weights as if it had
    never ended. Raises TaskError when loss or gradient is no longer a number, Interrupted when it was asked to stop.
    """
    by = companions or Companions()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=0.0, weight_decay=recipe.weight_decay, fused=True)
    by_row = head_by_row_is_exact(model, examples[0], device)
    total = total_steps(len(examples), recipe)
    at, resumed = Progress(), 0
    found = by.checkpoints.newest_good(trained, total) if by.checkpoints is not None else None
    if found is not None:
        at = restore(found, trained, optimiser)
        resumed = at.step
        by.say(f"going on from step {at.step} of {total}{unlike(found, device)}")
    by.on_start(at.step)
    micro = min(by.micro_batch or recipe.batch_size, recipe.batch_size)
    model.train()
    last_saved = at.step
    before, started = at.seconds, time.perf_counter()
    for group in itertools.islice(_groups(examples, recipe, total), at.step, None):
        short = by.pressure()
        if short is not None and micro > 1:
            micro = micro // 2
            by.say(f"{short}: from step {at.step + 1} on {micro} example{'s' * (micro > 1)} at once, accumulated")
        rate = learning_rate_at(at.step, total, recipe)
        optimiser.param_groups[0]["lr"] = rate
        loss, micro = _accumulate(model, group, device, micro, by_row=by_row, at=at, say=by.say)
        norm = float(torch.nn.utils.clip_grad_norm_(list(trained.values()), MAX_GRADIENT_NORM))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TaskError(
                f"the loss is no longer a number at step {at.step + 1} of {total} (learning rate {rate:.2e}, loss"
                f" {loss}, gradient norm {norm})",
                "lower the preset's learning_rate, or set its dtype to float32",
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        at.losses.append(loss)
        at.smoothed = loss if at.step == 0 else SMOOTHING * at.smoothed + (1 - SMOOTHING) * loss
        at.step += 1
        at.seconds = before + time.perf_counter() - started
        resident = rss_mb()
        at.peak_rss_mb = max(at.peak_rss_mb, resident)
        report = StepReport(at.step, total, loss, at.smoothed, rate, norm, at.tokens / at.seconds, resident)
        stop = by.should_stop() and at.step < total
        if by.checkpoints is not None and (stop or (by.save_every and at.step % by.save_every == 0)):
            by.checkpoints.save(trained, optimiser, at)
            last_saved = at.step
        on_step(report)
        if stop:
            by.say(f"stopped at step {at.step} of {total}" + (", checkpoint kept" if last_saved == at.step else ""))
            raise Interrupted(at.step, total)
    last = at.losses[-max(1, len(at.losses) // 10) :]
    mean = sum(last) / len(last)
    return TrainingOutcome(total, at.losses[0], mean, at.tokens, at.padding, at.seconds, at.peak_rss_mb, resumed, micro)


def _accumulate(
    model: PeftModel,
    group: Sequence[Sequence[Rendered]],
    device: torch.device,
    micro: int,
    *,
    by_row: bool,
    at: Progress,
    say: Callable[[str], None],
) -> tuple[float, int]:
    """Gradients of one step; its mean loss in nats a token, and the micro-batch it was computed with.

    Where memory is refused, the step is computed anew, with the same random numbers and half as many examples at once.
    """
    targets = sum(example.target_count for batch in group for example in batch)
    state = random_state()
    while True:
        loss, tokens, padding = 0.0, 0, 0
        try:
            for batch in group:
                for start in range(0, len(batch), micro):
                    part = batch[start : start + micro]
                    inputs = collate(part, device)
                    share = loss_sum(model, inputs, by_row=by_row) / targets
                    share.backward()
                    loss += float(share.detach())
                    used = sum(len(example.input_ids) for example in part)
                    tokens, padding = tokens + used, padding + inputs["input_ids"].numel() - used
        except (RuntimeError, MemoryError) as error:
            if micro == 1 or not out_of_memory(error):
                raise
            micro //= 2
            model.zero_grad(set_to_none=True)
            set_random_state(state)
            say(f"memory was refused at step {at.step + 1}: {micro} example{'s' * (micro > 1)} at once, accumulated")
            continue
        at.tokens, at.padding = at.tokens + tokens, at.padding + padding
        return loss, micro


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is a refused allocation, on the CPU or a device."""
    text = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text


def unlike(found: Found, device: torch.device) -> str:
    """What is not as it was when a checkpoint was made, so that the run may end in other last bits; empty where all
    is equal."""
    now = {**library_versions(), "threads": str(torch.get_num_threads()), "device": device.type}
    then = {**found.libraries, "threads": str(found.threads), "device": found.device}
    other = [f"{name} {then.get(name)} then, {now[name]} now" for name in sorted(now) if then.get(name) != now[name]]
    return f" ({', '.join(other)}: the last bits may differ from an uninterrupted run)" if other else ""


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
