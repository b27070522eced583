"""Held-out scores of a model: loss and accuracy over the answers' tokens, each predicted from the true text before."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from core.training.loss import IGNORED, causal_model, collate, inputs_of, target_logits
from core.training.render import Rendered


@dataclass(frozen=True)
class Score:
    """Sums over target tokens: loss in nats, how many were the model's first choice, how many there are."""

    loss_sum: float
    correct: int
    tokens: int

    @property
    def loss(self) -> float:
        """Mean cross entropy, nats a token."""
        return self.loss_sum / self.tokens

    @property
    def accuracy(self) -> float:
        """Share of target tokens that were the most likely one, 0 to 1."""
        return self.correct / self.tokens


def total(scores: Sequence[Score]) -> Score:
    """All examples together; means weigh every token alike, so a long answer counts for more than a short one."""
    return Score(
        sum(score.loss_sum for score in scores),
        sum(score.correct for score in scores),
        sum(score.tokens for score in scores),
    )


def score_examples(
    model: Any, examples: Sequence[Rendered], device: torch.device, on_example: Callable[[int], None]
) -> list[Score]:
    """Score each example by itself, in the model's own forward pass; `on_example` hears how many are done.

    One at a time: no padding, and a result that does not depend on the company an example is in.
    """
    model.eval()
    scores = []
    for done, example in enumerate(examples, start=1):
        batch = collate([example], device)
        labels = batch["labels"][batch["labels"] != IGNORED]
        with torch.inference_mode():
            logits = answer_logits(model, batch).float()
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        scores.append(Score(float(loss), int((logits.argmax(dim=-1) == labels).sum()), len(labels)))
        on_example(done)
    return scores


def answer_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of one example at the positions that have a label, (targets, vocabulary). Where the model's forward
    pass can leave the other positions out of its output head, it does: half of them are the question's."""
    causal = causal_model(model)
    if "logits_to_keep" not in inspect.signature(causal.forward).parameters:
        return target_logits(model, batch)
    wanted = (batch["labels"][0] != IGNORED).nonzero()[:, 0]
    found: torch.Tensor = causal(**inputs_of(batch), logits_to_keep=wanted).logits[0]
    return found
