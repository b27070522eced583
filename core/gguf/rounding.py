"""What rounding a weight matrix to a type costs, by the engine's own quantizing routine.

Imports the engine: for worker processes only.
"""

import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from core.gguf.header import BLOCKS, TYPE_NUMBERS, stored_bytes
from core.gguf.llama import llama_cpp


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so"))))
    floats = ctypes.POINTER(ctypes.c_float)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, floats, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, floats,
    ]  # fmt: skip
    return library


_LIBRARY = _library()


def can_hold(kind: str, columns: int) -> bool:
    """Whether rows of this length can be stored in a type: they must be whole blocks."""
    return columns % BLOCKS[kind][0] == 0


def quantize_rows(
    rows: npt.NDArray[np.float32], kind: str, importance: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """Rows [n, columns] in a type, as [n, bytes of a row]; `importance` [columns] weighs the columns where the type's
    rounding looks at it. Raises ValueError where a row is no whole number of blocks."""
    count, columns = rows.shape
    if not can_hold(kind, columns):
        raise ValueError(f"rows of {columns} are no whole blocks of {kind}")
    source = np.ascontiguousarray(rows, dtype=np.float32)
    target = np.empty((count, stored_bytes(kind, columns)), dtype=np.uint8)
    floats = ctypes.POINTER(ctypes.c_float)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    written = _LIBRARY.ggml_quantize_chunk(
        TYPE_NUMBERS[kind],
        source.ctypes.data_as(floats),
        target.ctypes.data,
        0,
        count,
        columns,
        None if weights is None else weights.ctypes.data_as(floats),
    )
    if written != target.nbytes:
        raise ValueError(f"{kind}: {written} bytes were written, {target.nbytes} expected")
    return target


def rounding_error(
    rows: npt.NDArray[np.float32], kind: str, importance: npt.NDArray[np.float32] | None = None
) -> float:
    """Sum over these rows of squared errors, each column's weighted by its importance (1 where there is none): what the
    layer's output is expected to change by, squared, for inputs like those the importance was measured on."""
    stored = quantize_rows(rows, kind, importance)
    back = dequantize(stored, GGMLQuantizationType(TYPE_NUMBERS[kind]))
    squares = np.square(back.astype(np.float32) - rows, dtype=np.float32).sum(0, dtype=np.float64)
    return float(squares.sum() if importance is None else (squares * importance).sum())
