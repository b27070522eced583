"""A LoRA on the sentence encoder that turns its vectors towards what is a crisis: torch, for the rebuild script alone.

Hu et al. 2021 (LoRA), on every linear layer from the second on; the head is a linear softmax over the classes. What is
learned is the log-odds of any kind of crisis against any harmless class, and the classes beside it.
"""

import math
import random
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGUFWriter
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, dropout, normalize
from transformers import AutoModel, AutoTokenizer

from core.routing.crisis import KINDS
from core.training.crisis_data import Case, mistyped

RANK, FIRST_LAYER, SCALE = 4, 1, 2.0
EPOCHS, BATCH, RATE, HEAD_RATE = 7, 32, 2e-3, 3e-2
MOST_TOKENS = 128
SHARPNESS = 10.0  # the vectors have length 1; the head sees them this long
_CLASS_WEIGHT, _SMOOTHING = 0.3, 0.05  # of the loss of the classes
_MISTYPED, _JOINED = 0.2, 0.1  # of the texts of an epoch: with slips of the keyboard; beside a harmless message
_BUCKET = 16  # batches whose texts are sorted by length together

_TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
}


class _Low(torch.nn.Module):
    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.linear = linear
        self.a = torch.nn.Parameter(torch.randn(RANK, linear.in_features) / math.sqrt(linear.in_features))
        self.b = torch.nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, value: Any) -> Any:
        return self.linear(value) + SCALE * (dropout(value, 0.1, self.training) @ self.a.T) @ self.b.T


class CrisisEncoder:
    """The encoder with a LoRA on it, and the head. `folder` is its model folder; runs on the CPU, one thread."""

    def __init__(self, folder: Path, classes: Sequence[str], seed: int) -> None:
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        self._random = random.Random(seed)
        self.classes = tuple(classes)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder, attn_implementation="eager")
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self._low: dict[str, _Low] = {}
        for at, layer in enumerate(self._model.encoder.layer):
            for path, name in _TENSORS.items() if at >= FIRST_LAYER else ():
                parent = layer.get_submodule(path.rpartition(".")[0]) if "." in path else layer
                low = _Low(layer.get_submodule(path))
                setattr(parent, path.rpartition(".")[2], low)
                self._low[f"blk.{at}.{name}"] = low
        self._head = torch.nn.Linear(self._model.config.hidden_size, len(classes))

    def fit(self, cases: Sequence[Case], say: Callable[[str], None]) -> None:
        """Train on cases whose label is one of the classes, or None for harmless."""
        low = [parameter for module in self._low.values() for parameter in (module.a, module.b)]
        optimiser = torch.optim.AdamW(
            [{"params": low, "lr": RATE}, {"params": self._head.parameters(), "lr": HEAD_RATE}], weight_decay=0.01
        )
        steps = EPOCHS * sum(1 for _ in self._batches([0] * len(cases)))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda at: min(1.0, at / 30) * max(0.02, (1 + math.cos(math.pi * at / steps)) / 2)
        )
        crisis = torch.tensor([float(case.crisis) for case in cases])
        label = torch.tensor([self.classes.index(case.label) if case.label else -100 for case in cases])
        started = time.monotonic()
        for epoch in range(EPOCHS):
            tokens = self._tokens(self._varied(cases))
            self._model.train()
            lost = 0.0
            for batch in self._batches([len(one) for one in tokens]):
                optimiser.zero_grad()
                scores = self._head(SHARPNESS * self._vectors([tokens[at] for at in batch]))
                loss = binary_cross_entropy_with_logits(_margins(scores), crisis[batch])
                if (label[batch] >= 0).any():
                    loss = loss + _CLASS_WEIGHT * cross_entropy(scores, label[batch], label_smoothing=_SMOOTHING)
                loss.backward()
                optimiser.step()
                schedule.step()
                lost += loss.item() * len(batch)
            say(f"epoch {epoch + 1} of {EPOCHS}: loss {lost / len(cases):.3f}, {time.monotonic() - started:.0f} s")

    def margins(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """The log-odds of a crisis of each text, [n]."""
        tokens = self._tokens(texts)
        self._model.eval()
        with torch.no_grad():
            parts = [
                _margins(self._head(SHARPNESS * self._vectors(tokens[at : at + BATCH])))
                for at in range(0, len(tokens), BATCH)
            ]
        return torch.cat(parts).numpy().astype(np.float64)

    def head_rows(self) -> list[list[float]]:
        """A row a class: the weights of a vector of length 1, then the bias."""
        weight, bias = SHARPNESS * self._head.weight.detach(), self._head.bias.detach()
        return [[*map(float, row), float(one)] for row, one in zip(weight, bias, strict=True)]

    def write_adapter(self, path: Path) -> None:
        """The LoRA as a GGUF adapter, in half precision."""
        writer = GGUFWriter(path, arch="bert")
        writer.add_type("adapter")
        writer.add_name("TARA crisis gate")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", SCALE * RANK)
        for name, low in self._low.items():
            writer.add_tensor(f"{name}.weight.lora_a", low.a.detach().numpy().astype(np.float16))
            writer.add_tensor(f"{name}.weight.lora_b", low.b.detach().numpy().astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def _varied(self, cases: Sequence[Case]) -> list[str]:
        """The texts of an epoch: a crisis is still one in a hasty message, and in the middle of small talk."""
        harmless = [case.text for case in cases if not case.crisis]
        texts = []
        for case in cases:
            chance = self._random.random()
            if chance < _MISTYPED:
                texts.append(mistyped(case.text, self._random))
            elif chance < _MISTYPED + _JOINED:
                pair = [case.text, self._random.choice(harmless)]
                self._random.shuffle(pair)
                texts.append(" ".join(pair))
            else:
                texts.append(case.text)
        return texts

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._tokenizer(text, truncation=True, max_length=MOST_TOKENS)["input_ids"] for text in texts]

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Positions in random order, in batches of about equal length."""
        order = list(range(len(lengths)))
        self._random.shuffle(order)
        batches = []
        for at in range(0, len(order), _BUCKET * BATCH):
            bucket = sorted(order[at : at + _BUCKET * BATCH], key=lambda one: lengths[one])
            batches += [bucket[start : start + BATCH] for start in range(0, len(bucket), BATCH)]
        self._random.shuffle(batches)
        return batches

    def _vectors(self, tokens: Sequence[Sequence[int]]) -> Any:
        longest = max(map(len, tokens))
        padded, mask = torch.zeros(len(tokens), longest, dtype=torch.long), torch.zeros(len(tokens), longest)
        for at, one in enumerate(tokens):
            padded[at, : len(one)] = torch.tensor(one)
            mask[at, : len(one)] = 1
        states = self._model(input_ids=padded, attention_mask=mask).last_hidden_state
        return normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)


def _margins(scores: Any) -> Any:
    kinds = len(KINDS)
    return torch.logsumexp(scores[:, :kinds], 1) - torch.logsumexp(scores[:, kinds:], 1)


def fit_letters(
    features: Sequence[dict[int, float]], labels: Sequence[int], classes: int, size: int
) -> list[list[float]]:
    """A softmax over `classes` on sparse features below `size`, ridge 0.1: a row a class, weights and then the bias."""
    rows = torch.tensor([at for at, one in enumerate(features) for _ in one])
    columns = torch.tensor([bucket for one in features for bucket in one])
    values = torch.tensor([value for one in features for value in one.values()], dtype=torch.float64)
    warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
    matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (len(features), size)).to_sparse_csr()
    target = torch.tensor(labels)
    weight = torch.zeros(size, classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> Any:
        optimiser.zero_grad()
        loss = cross_entropy(matrix @ weight + bias, target, reduction="sum") + 0.05 * (weight * weight).sum()
        loss.backward()
        return loss

    optimiser.step(step)
    table = weight.detach().T
    return [[*map(float, row), float(one)] for row, one in zip(table, bias.detach(), strict=True)]
