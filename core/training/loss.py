"""A batch's loss under a LoRA-adapted causal model: cross entropy of the answers' tokens, in little memory."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional

from core.training.footprint import head_rows
from core.training.render import Rendered

IGNORED = -100


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
    and gradient of all rows (vocabulary * 12 bytes each) only one chunk's are ever there. The idea is that of Liger's
    fused linear cross entropy (arXiv:2410.10989), without the head's own gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor) -> torch.Tensor:
        """hidden (rows, size), labels (rows,) -> scalar float32, in nats."""
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        chunks = math.ceil(len(hidden) / head_rows(len(head.weight)))
        size = max(1, math.ceil(len(hidden) / max(1, chunks)))  # all nearly alike: each reads the whole head
        for at in range(0, len(hidden), size):
            rows, wanted = hidden[at : at + size], labels[at : at + size, None]
            logits = head(rows).float()
            norm = logits.logsumexp(dim=-1, keepdim=True)
            total += (norm - logits.gather(1, wanted)).sum()
            probabilities = logits.sub_(norm).exp_()
            probabilities.scatter_add_(1, wanted, torch.full_like(norm, -1.0))
            gradient[at : at + size] = probabilities.to(hidden.dtype) @ head.weight
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
