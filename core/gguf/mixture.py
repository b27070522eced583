"""A file with a type per tensor: the mixture for a budget of bytes, its size before it is made, and its name.

Imports the engine through the quantizer: for worker processes only.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Refused, TaraError
from core.gguf.budget import Choice, solve
from core.gguf.candidates import Errors, offered
from core.gguf.header import PLAIN, Header, TensorInfo, padded, read_header, stored_bytes
from core.gguf.imatrix import ImportanceMatrix
from core.gguf.inspect import FILE_TYPES, HYBRID, GgufInfo, inspect_gguf
from core.gguf.metadata import COMPRESSION
from core.gguf.quantizer import QUANTIZATIONS, predicted_size, quantize

ADDED = 128  # bytes that our own key may add to a header, padding included
PREDICTION = 0.01  # share by which a built file may differ from what was predicted


@dataclass(frozen=True)
class Solved:
    """Types by tensor; `bytes` is the size the whole file will have, `error` in the unit of the errors given."""

    types: dict[str, str]
    bytes: int
    error: float


def matrices_of(source: GgufInfo | Header, small: Mapping[str, str]) -> list[TensorInfo]:
    """The tensors of `source` whose type is to be chosen: the matrices that the engine's own mix quantizes, whose types
    by tensor are `small`. It knows which ones must stay as they are; stacks of experts stay as the mix has them."""
    return [
        tensor
        for tensor in source.tensors
        if len(tensor.shape) == 2 and tensor.type in PLAIN and small.get(tensor.name, tensor.type) not in PLAIN
    ]


def types_of(plain: GgufInfo) -> dict[str, str]:
    """The types of a file by tensor."""
    return {tensor.name: tensor.type for tensor in plain.tensors}


def least_size(source: Path, small: Mapping[str, str]) -> int:
    """The bytes of `source`, an F16 file, with every matrix whose type is chosen in the smallest it can have, and the
    others as in `small`, the types by tensor of the smallest plain mix: beside it small budgets are solved."""
    header = read_header(source)
    chosen = {tensor.name for tensor in matrices_of(header, small)}
    total = header.data_start + ADDED
    for tensor in header.tensors:
        kinds = [small.get(tensor.name, tensor.type)]
        if tensor.name in chosen:
            kinds = list(offered(tensor.shape[0], with_importance=False))
        total += min(padded(stored_bytes(one, tensor.elements), header.alignment) for one in kinds)
    return total


def refuse_below(budget: int, least: int) -> None:
    """Refused where a budget of bytes is below the least that a mixture takes."""
    if least > budget:
        raise Refused(
            f"a target size of {budget / 1e6:g} MB is too small: in the smallest types that can be had the file takes "
            f"{least / 1e6:.1f} MB",
            f"give a target size of {math.ceil(least / 1e5) / 10:g} or more",
        )


def peer_of(source: Path, target: int) -> str:
    """The plain type a file of `target` bytes is to be held against: the largest of the four whose file fits into it,
    which is what one would have without a mixture; the smallest where none fits."""
    sizes = {name: predicted_size(source, name).bytes for name in QUANTIZATIONS}
    fitting = [name for name, size in sizes.items() if size <= target]
    return max(fitting, key=lambda name: sizes[name]) if fitting else min(sizes, key=lambda name: sizes[name])


def above_of(source: Path, target: int) -> str | None:
    """The next larger plain type beside the one that a file of `target` bytes is held against; None where that one is
    larger than the target already, or the largest."""
    sizes = {name: predicted_size(source, name).bytes for name in QUANTIZATIONS}
    above = [name for name, size in sizes.items() if size > target]
    return min(above, key=lambda name: sizes[name]) if above and len(above) < len(sizes) else None


def solve_file(plain: GgufInfo, tensors: Sequence[TensorInfo], errors: Errors, budget: int) -> Solved:
    """The types with the least error whose file has at most `budget` bytes. `plain` is the same model as a plain type:
    what is not chosen (header, norms) takes the bytes it takes there. Raises Refused with the least size there is where
    the budget is below it."""
    alignment = plain.alignment
    choices = {
        tensor.name: [
            Choice(kind, padded(stored_bytes(kind, tensor.elements), alignment), error)
            for kind, error in errors[tensor.name].items()
        ]
        for tensor in tensors
    }
    fixed = plain.bytes - sum(padded(tensor.bytes, alignment) for tensor in plain.tensors if tensor.name in choices)
    least = fixed + ADDED + sum(min(choice.bytes for choice in of) for of in choices.values())
    refuse_below(budget, least)
    found = solve(choices, budget - fixed - ADDED)
    return Solved(found.types, fixed + found.bytes, found.error)


def build(
    source: Path,
    target: Path,
    solved: Solved,
    quantization: str,
    imatrix: ImportanceMatrix,
    *,
    threads: int,
    on_tensor: Callable[[int, int, str], None] | None = None,
) -> GgufInfo:
    """Write `source` into the new file `target` with these types, by the engine's quantizer; what it became.
    `quantization` is the plain type the mixture was solved beside: tensors of which none was chosen are as it has them.

    The file's `general.file_type` names the type that most of its weights have, `tara.compression` says hybrid. Raises
    TaraError where the file is not of the types or the size that were solved for.
    """
    tensors = {tensor.name: tensor for tensor in inspect_gguf(source).tensors}
    weights: dict[str, int] = {}
    for name, kind in solved.types.items():
        weights[kind] = weights.get(kind, 0) + tensors[name].elements
    most = max(weights, key=lambda kind: weights[kind])
    quantize(
        source, target, quantization, threads=threads, imatrix=imatrix, types=solved.types, on_tensor=on_tensor,
        keys={"general.file_type": file_type_of(most), COMPRESSION: HYBRID},
    )  # fmt: skip
    info = inspect_gguf(target)
    wrong = [t for t in info.tensors if t.name in solved.types and t.type != solved.types[t.name]]
    if wrong:
        raise TaraError(
            f"{wrong[0].name} became {wrong[0].type} instead of {solved.types[wrong[0].name]}", "see the log"
        )
    if abs(info.bytes - solved.bytes) > PREDICTION * solved.bytes:
        raise TaraError(f"the file has {info.bytes} bytes, {solved.bytes} were predicted", "see the log")
    return info


def file_type_of(kind: str) -> int:
    """llama.cpp's number for "mostly this type"; of several mixes named after it the middle one."""
    numbers = {name: number for number, name in FILE_TYPES.items()}
    return next(numbers[name] for name in (kind, f"{kind}_M") if name in numbers)
