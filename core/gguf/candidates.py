"""The types a weight matrix could have, and what rounding it to each of them costs.

Imports the engine through core.gguf.rounding: for worker processes only.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from core.gguf.header import TensorInfo
from core.gguf.imatrix import ImportanceMatrix
from core.gguf.rounding import can_hold, rounding_error
from core.gguf.weights import Weights

# From 2.6 to 8.5 bits a weight, and the source's own type. The types of less than 2.6 bits and the 3-bit IQ types are
# left out: finding their codes takes minutes for a hundred million weights, and on a CPU they are slow to read.
TYPES = ("Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "IQ4_XS", "IQ4_NL", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0", "F16")
# What llama.cpp refuses to make without an importance matrix (tensor_requires_imatrix in llama-quant.cpp).
NEED_IMPORTANCE = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"})
SAMPLE = 1 << 17  # weights of a tensor that are rounded for the estimate, as whole rows: all of a small one

Errors = dict[str, dict[str, float]]  # by tensor and type


def offered(columns: int, *, with_importance: bool, types: Sequence[str] = TYPES) -> tuple[str, ...]:
    """The types that rows of this length can be stored in. Rows that are no multiple of 256 cannot have the K types and
    IQ4_XS; what needs an importance matrix is not offered without one."""
    return tuple(kind for kind in types if can_hold(kind, columns) and (with_importance or kind not in NEED_IMPORTANCE))


def importance_of(imatrix: ImportanceMatrix, tensor: TensorInfo) -> npt.NDArray[np.float32] | None:
    """The importance of a tensor's columns, None where the matrix does not tell (an embedding that is no head)."""
    statistic = imatrix.statistics.get(tensor.name)
    return statistic.mean if statistic is not None else None


def errors_of(
    source: Weights,
    tensors: Sequence[TensorInfo],
    imatrix: ImportanceMatrix,
    *,
    threads: int,
    on_tensor: Callable[[int, str], None] | None = None,
) -> Errors:
    """The rounding error of each tensor, a matrix, in each type that is offered for it: summed squares, weighted by the
    importance of the columns. Of a tensor of more than 131,072 weights the error is that of rows spread evenly over
    it, times what they stand for. The source's own type costs nothing. `on_tensor(number, name)` is told of each.
    """
    found: Errors = {}
    with ThreadPoolExecutor(threads) as pool:
        for number, tensor in enumerate(tensors, start=1):
            rows, importance = source.sample(tensor, SAMPLE), importance_of(imatrix, tensor)
            scale = tensor.elements / rows.size
            kinds = offered(tensor.shape[0], with_importance=importance is not None)

            def one(
                kind: str,
                tensor: TensorInfo = tensor,
                rows: npt.NDArray[np.float32] = rows,
                importance: npt.NDArray[np.float32] | None = importance,
                scale: float = scale,
            ) -> float:
                return 0.0 if kind == tensor.type else scale * rounding_error(rows, kind, importance)

            found[tensor.name] = dict(zip(kinds, pool.map(one, kinds), strict=True))
            if on_tensor:
                on_tensor(number, tensor.name)
    return found
