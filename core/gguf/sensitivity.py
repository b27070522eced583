"""How much a model's predictions suffer for the rounding of some of its tensors alone: measured, not assumed.

Equal errors in two matrices do not hurt alike. For errors that are small and independent the divergence they cause
together is about the sum of what each causes alone, and each is in proportion to the squared error: the second order of
the Kullback-Leibler divergence, whose first order is zero, and the linearity that Malinovskii et al. (HIGGS,
arXiv:2411.17525, section 3) found to hold down to about three bits and used to choose bit widths by layer. So one probe
tells what a unit of squared error costs: a group of tensors is rounded to four bits, all others stay as they are, and
the divergence from the unrounded model is measured by the engine on calibration text.

Imports the engine through the runtime: for worker processes only.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from core.gguf.candidates import Errors, importance_of
from core.gguf.divergence import Doubles, Kept, divergences
from core.gguf.header import TYPE_NUMBERS, TensorInfo
from core.gguf.imatrix import ImportanceMatrix
from core.gguf.rounding import quantize_rows
from core.gguf.runtime import Runtime
from core.gguf.scoring import OUTPUTS, Text, kept_beside, kept_of_reference
from core.gguf.weights import Weights

PROBE = "Q4_0"  # which every row of 32 weights can have, so that all groups are asked the same
BANDS = 3  # of neighbouring layers, in which the tensors of a kind are probed together
LEAST = 1e-6  # nats: below, float32 log-probabilities cannot tell

Group = tuple[TensorInfo, ...]


def groups_of(tensors: Sequence[TensorInfo], bands: int = BANDS) -> list[Group]:
    """Tensors that are probed together: of the layers those of a kind (`attn_q`, `ffn_up`, …) in neighbouring layers,
    at most `bands` groups a kind; what belongs to no layer (embedding, head) alone."""
    kinds: dict[str, list[tuple[int, TensorInfo]]] = {}
    alone: list[Group] = []
    for tensor in tensors:
        parts = tensor.name.split(".")
        if parts[0] == "blk" and parts[1].isdigit():
            kinds.setdefault(".".join(parts[2:]), []).append((int(parts[1]), tensor))
        else:
            alone.append((tensor,))
    found: list[Group] = []
    for members in kinds.values():
        ordered = [tensor for _, tensor in sorted(members, key=lambda pair: pair[0])]
        for part in np.array_split(np.arange(len(ordered)), min(bands, len(ordered))):
            found.append(tuple(ordered[at] for at in part))
    return found + alone


def scored_texts(
    path: Path, texts: Sequence[Text], *, threads: int, seed: int, adapter: Path | None = None
) -> list[Kept]:
    """What is kept of a model's predictions in each text: the reference's side. With an adapter on, where one is given;
    whose base that is must be known."""
    random = np.random.default_rng(seed)
    with Runtime(path, n_ctx=_longest(texts), threads=threads, outputs=OUTPUTS) as runtime:
        runtime.attach(adapter)
        return [kept_of_reference(runtime, text, random) for text in texts]


def divergence_at(
    path: Path, texts: Sequence[Text], reference: Sequence[Kept], *, threads: int, adapter: Path | None = None
) -> list[Doubles]:
    """The divergence of a model from the reference at each scored position of each text, nats; `adapter` as above."""
    with Runtime(path, n_ctx=_longest(texts), threads=threads, outputs=OUTPUTS) as runtime:
        runtime.attach(adapter)
        return [
            divergences(kept, kept_beside(runtime, text, kept))[1] for text, kept in zip(texts, reference, strict=True)
        ]


def costs_of(
    source: Path,
    scratch: Path,
    groups: Sequence[Group],
    errors: Errors,
    imatrix: ImportanceMatrix,
    texts: Sequence[Text],
    *,
    threads: int,
    seed: int,
    on_group: Callable[[int, str], None] | None = None,
) -> dict[str, float]:
    """What a unit of a tensor's squared error (as `errors` counts it) costs: nats of divergence a token, by tensor.

    `scratch` is the name of a copy of `source` that is changed and removed. `texts` must be of calibration. Tensors of
    a group have one cost. `on_group(number, name)` is told of each group that is done.
    """
    reference = scored_texts(source, texts, threads=threads, seed=seed)
    whole = Weights(source)
    found: dict[str, float] = {}
    try:
        shutil.copyfile(source, scratch)
        changed = Weights(scratch, "r+")
        for number, group in enumerate(groups, start=1):
            for tensor in group:
                _round(whole, changed, tensor, imatrix)  # seen at once by whoever maps the file
            there = np.concatenate(divergence_at(scratch, texts, reference, threads=threads))
            for tensor in group:
                changed.copy_from(whole, tensor)
            error = sum(errors[tensor.name][PROBE] for tensor in group)
            cost = max(LEAST, float(there.mean())) / error if error > 0 else 0.0
            found |= dict.fromkeys((tensor.name for tensor in group), cost)
            if on_group:
                on_group(number, group[0].name)
    finally:
        scratch.unlink(missing_ok=True)
    return found


def weighted(errors: Errors, costs: Mapping[str, float]) -> Errors:
    """Errors in nats of divergence: each tensor's times what a unit of its error costs."""
    return {name: {kind: costs[name] * error for kind, error in of.items()} for name, of in errors.items()}


def _round(whole: Weights, changed: Weights, tensor: TensorInfo, imatrix: ImportanceMatrix) -> None:
    importance, kind = importance_of(imatrix, tensor), GGMLQuantizationType(TYPE_NUMBERS[PROBE])
    for start, rows in whole.slabs(tensor):
        back = dequantize(quantize_rows(rows, PROBE, importance), kind)
        changed.put(tensor, start, back.astype(np.float32, copy=False))


def _longest(texts: Sequence[Text]) -> int:
    return max(len(text.tokens) for text in texts)
