"""What a large model says of texts, kept in a small file: a smaller one learns from it, without both in memory.

Of each predicted token the most likely tokens and their log-probabilities are kept, and the log of the mass of all
others: offline distillation on top-k logits, as in DistillKit, but with the mass that was left out as a bucket of its
own instead of being spread over what was kept.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core.tasks.context import TaskError
from core.training.loss import collate
from core.training.render import Rendered
from core.training.riders import Riders
from core.training.scoring import answer_logits

LEAST_MASS = 1e-7  # of the tail; its logarithm is to be a number


@dataclass(frozen=True)
class Said:
    """What the teacher says at n positions: `ids` [n, k] tokens, `logs` [n, k] their log-probabilities, `rest` [n] the
    log of the mass of all others. Natural logarithms."""

    ids: torch.Tensor
    logs: torch.Tensor
    rest: torch.Tensor


class Teacher:
    """A teacher's file, mapped: what it said of each example, by the example's place in the file.

    Raises TaskError where the file is of other texts than `examples`."""

    def __init__(self, path: Path, examples: Sequence[tuple[str, Rendered]]) -> None:
        try:
            with safe_open(path, framework="pt") as stream:
                about = stream.metadata() or {}
                self._ids, self._logs, self._rest = (stream.get_tensor(name) for name in ("ids", "logs", "rest"))
                self._starts = stream.get_tensor("starts").tolist()
        except (OSError, SafetensorError) as error:
            raise TaskError(f"{path} cannot be read: {error}", "build again") from error
        if about.get("examples") != fingerprint(examples):
            raise TaskError(f"{path.name} is of other texts than are taught now", "build again")

    def said(self, example: int) -> Said:
        """What it says of an example, at its predicted tokens in order, in float32."""
        part = slice(self._starts[example], self._starts[example + 1])
        return Said(self._ids[part].long(), self._logs[part].float(), self._rest[part].float())


def fingerprint(examples: Sequence[tuple[str, Rendered]]) -> str:
    """SHA-256 of texts and of what is predicted in them."""
    content = [(domain, one.input_ids, one.targets) for domain, one in examples]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def say(logits: torch.Tensor, top: int) -> Said:
    """What is kept of logits [n, vocabulary]."""
    logs = logits.float().log_softmax(-1)
    kept, ids = logs.topk(min(top, logs.shape[-1]), dim=-1)
    rest = 1.0 - kept.double().exp().sum(-1)
    return Said(ids, kept, rest.clamp_min(LEAST_MASS).log().float())


def write_teacher(
    path: Path,
    model: Any,
    riders: Riders,
    examples: Sequence[tuple[str, Rendered]],
    top: int,
    device: torch.device,
    on_example: Callable[[int], None],
) -> int:
    """Read the examples with the model, each with its domain's adapter on, and write what it says; returns the number
    of positions. Of each position some 400 bytes are held."""
    ids, logs, rest, starts = [], [], [], [0]
    model.eval()
    for done, (domain, example) in enumerate(examples, start=1):
        with torch.inference_mode(), riders.riding(domain):
            said = say(answer_logits(model, collate([example], device)), top)
        ids.append(said.ids.to("cpu", torch.int32))
        logs.append(said.logs.to("cpu", torch.float16))
        rest.append(said.rest.to("cpu", torch.float16))
        starts.append(starts[-1] + len(said.ids))
        on_example(done)
    tensors = {"ids": torch.cat(ids), "logs": torch.cat(logs), "rest": torch.cat(rest), "starts": torch.tensor(starts)}
    if not all(bool(torch.isfinite(tensors[name]).all()) for name in ("logs", "rest")):
        raise TaskError("the model predicts values that are no numbers on this text", "check the base and its adapters")
    save_file(tensors, path, metadata={"examples": fingerprint(examples), "top": str(top)})
    return starts[-1]
