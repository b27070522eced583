"""What rounding took from a model's matrices, as a low-rank adapter that gives a part of it back.

For each matrix W that became Q(W) the error E = W - Q(W) is approximated by B A of a small rank, so that what the layer
answers to its usual inputs changes least: the columns of E are weighted by the root of their importance (the mean
squared activation), the truncated singular value decomposition of that is the best there is of its rank, and A takes
the weights out again. No training. The method is LQER's and EoRA's (Zhang et al., arXiv:2402.02446; Liu et al.,
arXiv:2410.21271), with a diagonal in place of EoRA's whole covariance. The decomposition is the randomised one of
Halko, Martinsson and Tropp (arXiv:0909.4061), as torch has it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.gguf.header import PLAIN, TensorInfo
from core.gguf.imatrix import ImportanceMatrix
from core.gguf.stacking import Pair
from core.gguf.weights import Weights

OVERSAMPLED = 8  # directions looked at beyond the rank
ITERATIONS = 3  # of the power method: errors of rounding fall off slowly
LEAST_IMPORTANCE = 1e-4  # share of the mean, below which a column's importance is not believed

# The layers of blocks. Embedding and output are left out: an adapter on a table of the whole vocabulary would cost as
# much as a better type for it.
_LAYER = re.compile(r"blk\.\d+\.(attn|ffn)_\w+\.weight")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Compensation:
    """The pair of a matrix, and its error before and after: sums of squares, weighted by importance."""

    pair: Pair
    before: float
    after: float


def rounded_layers(whole: Weights, rounded: Weights) -> list[TensorInfo]:
    """The matrices of blocks that are of a smaller type in `rounded`, in its order."""
    return [
        tensor
        for tensor in rounded.header.tensors
        if len(tensor.shape) == 2
        and _LAYER.fullmatch(tensor.name)
        and tensor.type not in PLAIN
        and tensor.name in whole.tensors
    ]


def compensate(error: Floats, importance: Floats | None, rank: int, *, seed: int) -> Compensation:
    """The pair A [rank, in], B [out, rank] nearest to `error` [out, in] in the norm weighted by `importance` [in].

    The rank is at most the smaller side's. Equal seeds give equal pairs.
    """
    import torch

    if importance is None:
        weights = np.ones(error.shape[1], dtype=np.float32)
    else:
        weights = np.sqrt(np.maximum(importance, LEAST_IMPORTANCE * float(importance.mean()) or 1.0)).astype(np.float32)
    scaled = torch.from_numpy(error * weights)
    rank = min(rank, *error.shape)
    torch.manual_seed(seed)
    u, s, v = torch.svd_lowrank(scaled, q=min(rank + OVERSAMPLED, *error.shape), niter=ITERATIONS)
    u, s, v = u[:, :rank], s[:rank], v[:, :rank]
    root = s.sqrt()
    before = float((scaled**2).sum())
    left = float(((scaled - (u * s) @ v.T) ** 2).sum())
    pair = Pair((v * root).T.numpy() / weights, (u * root).numpy())
    return Compensation(pair, before, left)


def compensations(
    whole: Weights,
    rounded: Weights,
    layers: Sequence[TensorInfo],
    imatrix: ImportanceMatrix | None,
    rank: int,
    *,
    seed: int,
    on_layer: Callable[[int, str], None] | None = None,
) -> dict[str, Compensation]:
    """The compensation of each layer; one matrix is held at a time, in float32. `on_layer(number, name)` is told."""
    found: dict[str, Compensation] = {}
    for number, tensor in enumerate(layers, start=1):
        statistic = imatrix.statistics.get(tensor.name) if imatrix is not None else None
        error = whole.whole(whole.tensors[tensor.name]) - rounded.whole(tensor)
        found[tensor.name] = compensate(error, statistic.mean if statistic else None, rank, seed=seed)
        if on_layer:
            on_layer(number, tensor.name)
    return found
