"""A LoRA on the sentence encoder that turns its vectors towards what is a crisis: torch, for the rebuild script alone.

Hu et al. 2021 (LoRA), on every linear layer from the second on; the head is a linear softmax over the classes. What is
learned is the log-odds of any kind of crisis against any harmless class, and the classes beside it.
"""

import hashlib
import math
import os
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
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, dropout, normalize
from transformers import AutoModel, AutoTokenizer

from core.files import hash_json, staging_beside
from core.routing.crisis import KINDS
from core.training.crisis_data import Case, misspelled, mistyped

RANK, FIRST_LAYER, SCALE = 4, 1, 2.0
WRITTEN_RANK = 16  # with zeros: llama.cpp multiplies matrices whose rows are no multiple of 16 one by one
BATCH, RATE, HEAD_RATE = 32, 2e-3, 3e-2
MOST_TOKENS = 128
SHARPNESS = 10.0  # the vectors have length 1; the head sees them this long
CLASS_WEIGHT, SMOOTHING = 0.3, 0.05  # of the loss of the classes
_MISTYPED, _MISSPELLED, _JOINED = 0.15, 0.15, 0.1  # of an epoch's texts: slips of the keyboard; by ear; beside another
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
        self._seed = seed
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

    def fit(
        self,
        cases: Sequence[Case],
        say: Callable[[str], None],
        state: Path | None = None,
        *,
        epochs: int,
        pace: float = 1.0,
    ) -> None:
        """Train on cases whose label is one of the classes, or None for harmless, from where it stands.

        `pace` is a share of the usual rates. `state` is a file to which every finished epoch is written, and from which
        training goes on if it was made by the same cases and settings; with it and without, the outcome is the same.
        """
        optimiser = torch.optim.AdamW(
            [
                {"params": [one for low in self._low.values() for one in (low.a, low.b)], "lr": RATE},
                {"params": self._head.parameters(), "lr": HEAD_RATE},
            ],
            weight_decay=0.01,
        )
        rates = [pace * group["lr"] for group in optimiser.param_groups]
        each = len(self._batches([0] * len(cases), random.Random(0)))
        crisis = torch.tensor([float(case.crisis) for case in cases])
        label = torch.tensor([self.classes.index(case.label) if case.label else -100 for case in cases])
        about = self._about(cases, [epochs, pace])
        for epoch in range(_resume(state, self._named(), optimiser, about), epochs):
            started, lost = time.monotonic(), 0.0
            torch.manual_seed(1000 * self._seed + epoch)
            chance = random.Random(1000 * self._seed + epoch)
            tokens = self._tokens(_varied(cases, chance))
            self._model.train()
            for at, batch in enumerate(self._batches([len(one) for one in tokens], chance), epoch * each):
                slower = min(1.0, at / 30) * max(0.02, (1 + math.cos(math.pi * at / (epochs * each))) / 2)
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * slower
                optimiser.zero_grad()
                scores = self._head(SHARPNESS * self._vectors([tokens[one] for one in batch]))
                loss = binary_cross_entropy_with_logits(_margins(scores), crisis[batch])
                if (label[batch] >= 0).any():
                    loss = loss + CLASS_WEIGHT * cross_entropy(scores, label[batch], label_smoothing=SMOOTHING)
                loss.backward()
                optimiser.step()
                lost += loss.item() * len(batch)
            say(f"epoch {epoch + 1} of {epochs}: loss {lost / len(cases):.3f}, {time.monotonic() - started:.0f} s")
            if state is not None:
                _keep(state, self._named(), optimiser, {**about, "epoch": str(epoch + 1)})

    def _named(self) -> dict[str, Any]:
        named = {f"{name}.{part}": getattr(low, part) for name, low in self._low.items() for part in ("a", "b")}
        return {**named, "head.weight": self._head.weight, "head.bias": self._head.bias}

    def _about(self, cases: Sequence[Case], how: Sequence[float]) -> dict[str, str]:
        """What a state must have been made by, as a hash."""
        varied = (_MISTYPED, _MISSPELLED, _JOINED)
        settings = [self._seed, *varied, RANK, FIRST_LAYER, SCALE, BATCH, RATE, HEAD_RATE, *how, self.classes]
        stands = hashlib.sha256(b"".join(one.detach().numpy().tobytes() for one in self._named().values())).hexdigest()
        return {"made_by": hash_json([settings, stands, [[case.text, case.label] for case in cases]])}

    def margins(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """The log-odds of a crisis of each text, [n]."""
        with torch.no_grad():
            scores = self._head(SHARPNESS * torch.from_numpy(self.vectors(texts)))
            return np.asarray(_margins(scores).numpy(), np.float64)

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The texts' vectors as it stands, [n, dimension], of length 1; before it is trained, the plain ones."""
        tokens = self._tokens(texts)
        self._model.eval()
        with torch.no_grad():
            parts = [self._vectors(tokens[at : at + BATCH]) for at in range(0, len(tokens), BATCH)]
        found: npt.NDArray[np.float32] = torch.cat(parts).numpy()
        return found

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
        writer.add_float32("adapter.lora.alpha", SCALE * WRITTEN_RANK)
        spare = WRITTEN_RANK - RANK
        for name, low in self._low.items():
            a, b = low.a.detach().numpy(), low.b.detach().numpy()
            writer.add_tensor(f"{name}.weight.lora_a", np.pad(a, ((0, spare), (0, 0))).astype(np.float16))
            writer.add_tensor(f"{name}.weight.lora_b", np.pad(b, ((0, 0), (0, spare))).astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._tokenizer(text, truncation=True, max_length=MOST_TOKENS)["input_ids"] for text in texts]

    def _batches(self, lengths: Sequence[int], chance: random.Random) -> list[list[int]]:
        """Positions in random order, in batches of about equal length."""
        order = list(range(len(lengths)))
        chance.shuffle(order)
        batches = []
        for at in range(0, len(order), _BUCKET * BATCH):
            bucket = sorted(order[at : at + _BUCKET * BATCH], key=lambda one: lengths[one])
            batches += [bucket[start : start + BATCH] for start in range(0, len(bucket), BATCH)]
        chance.shuffle(batches)
        return batches

    def _vectors(self, tokens: Sequence[Sequence[int]]) -> Any:
        longest = max(map(len, tokens))
        padded, mask = torch.zeros(len(tokens), longest, dtype=torch.long), torch.zeros(len(tokens), longest)
        for at, one in enumerate(tokens):
            padded[at, : len(one)] = torch.tensor(one)
            mask[at, : len(one)] = 1
        states = self._model(input_ids=padded, attention_mask=mask).last_hidden_state
        return normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)


def _varied(cases: Sequence[Case], chance: random.Random) -> list[str]:
    """The texts of an epoch: a crisis is still one in a hasty message, and in the middle of small talk."""
    harmless = [case.text for case in cases if not case.crisis]
    texts = []
    for case in cases:
        drawn = chance.random()
        if drawn < _MISTYPED:
            texts.append(mistyped(case.text, chance))
        elif drawn < _MISTYPED + _MISSPELLED:
            texts.append(misspelled(case.text, chance))
        elif drawn < _MISTYPED + _MISSPELLED + _JOINED:
            pair = [case.text, chance.choice(harmless)]
            chance.shuffle(pair)
            texts.append(" ".join(pair))
        else:
            texts.append(case.text)
    return texts


def _keep(path: Path, named: dict[str, Any], optimiser: Any, about: dict[str, str]) -> None:
    """Write weights and the optimiser's moments."""
    tensors = {}
    for name, parameter in named.items():
        moments = optimiser.state[parameter]
        tensors[name] = parameter.detach().clone()
        tensors |= {f"{name}.{key}": moments[key].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
    staged = staging_beside(path)
    save_file(tensors, staged, about)
    os.replace(staged, path)


def _resume(path: Path | None, named: dict[str, Any], optimiser: Any, about: dict[str, str]) -> int:
    """Read what `_keep` wrote, if it was made by the same; the number of finished epochs."""
    if path is None or not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        said = file.metadata() or {}
        if said.get("made_by") != about["made_by"]:
            return 0
        for name, parameter in named.items():
            parameter.data.copy_(file.get_tensor(name))
            keys = ("step", "exp_avg", "exp_avg_sq")
            optimiser.state[parameter] = {key: file.get_tensor(f"{name}.{key}") for key in keys}
    return int(said["epoch"])


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
