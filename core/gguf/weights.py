"""The weight matrices of a GGUF file, a few rows at a time; the file is mapped and never held whole."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from core.errors import InvalidInput
from core.gguf.header import PLAIN, TYPE_NUMBERS, TensorInfo, read_header

SLAB = 1 << 20  # weights that are worked on at once: 4 MB as float32

Rows = npt.NDArray[np.float32]


class Weights:
    """An F16, BF16 or F32 file, mapped; with `mode` "r+" what is put into it is in the file at once for
    whoever reads it. With `rounded` the tensors may have any type, and are read as what they stand for.

    Raises InvalidInput for what is no GGUF file.
    """

    def __init__(self, path: Path, mode: Literal["r", "r+"] = "r", *, rounded: bool = False) -> None:
        self.header, self._rounded = read_header(path), rounded
        self.tensors = {tensor.name: tensor for tensor in self.header.tensors}
        # As a plain array: slicing a memmap takes as long as reading a row.
        self._bytes = np.asarray(np.memmap(path, dtype=np.uint8, mode=mode))

    def whole(self, tensor: TensorInfo) -> Rows:
        """A matrix as it is, [rows, columns]."""
        return self.floats(tensor.type, self._rows(tensor))

    def rows(self, tensor: TensorInfo, which: Sequence[int]) -> Rows:
        """Some rows of a matrix, [len(which), columns]."""
        return self.floats(tensor.type, self._rows(tensor)[np.asarray(which)])

    def sample(self, tensor: TensorInfo, most: int) -> Rows:
        """At most so many weights of a matrix as whole rows [n, columns], spread evenly over it; at least one row."""
        stored = self._rows(tensor)
        count = min(len(stored), max(1, most // tensor.shape[0]))
        return self.floats(tensor.type, stored[np.linspace(0, len(stored) - 1, count).astype(np.int64)])

    def slabs(self, tensor: TensorInfo) -> Iterator[tuple[int, Rows]]:
        """All rows of a matrix in order, some at a time [n, columns], each time with the number of the first."""
        stored, step = self._rows(tensor), max(1, SLAB // tensor.shape[0])
        for start in range(0, len(stored), step):
            yield start, self.floats(tensor.type, stored[start : start + step])

    def put(self, tensor: TensorInfo, start: int, rows: Rows) -> None:
        """Write rows in place of those from `start` on, in the tensor's own type."""
        kind = GGMLQuantizationType(TYPE_NUMBERS[tensor.type])
        stored = np.ascontiguousarray(quantize(rows, kind)).view(np.uint8).reshape(len(rows), -1)
        self._rows(tensor)[start : start + len(rows)] = stored

    def copy_from(self, other: "Weights", tensor: TensorInfo) -> None:
        """Write a tensor as another file of the same tensors has it."""
        self._rows(tensor)[:] = other._rows(other.tensors[tensor.name])

    def _rows(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        if tensor.type not in PLAIN and not self._rounded:
            raise InvalidInput(f"{tensor.name} is stored as {tensor.type}", "give the F16 file of the model")
        start = self.header.data_start + tensor.offset
        count = tensor.elements // tensor.shape[0]
        return self._bytes[start : start + tensor.bytes].reshape(count, tensor.bytes // count)

    @staticmethod
    def floats(kind: str, stored: npt.NDArray[np.uint8]) -> Rows:
        """Rows [n, bytes of a row] of a type as [n, columns]."""
        native = {"F32": np.float32, "F16": np.float16}.get(kind)
        contiguous = np.ascontiguousarray(stored)
        return dequantize(
            contiguous.view(native) if native else contiguous, GGMLQuantizationType(TYPE_NUMBERS[kind])
        ).astype(np.float32, copy=False)
