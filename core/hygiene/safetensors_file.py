"""safetensors files read by their header: names, types, shapes and extents, without loading a tensor library.

Layout: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes without holes.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.hygiene.findings import shown
from core.hygiene.reading import Malformed

HEADER_LIMIT = 100_000_000  # the limit of the reference implementation
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_NUMPY_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_WINDOWS = 8


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: its type, shape, and the bytes [start, end) it takes in the file (absolute offsets)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Scan:
    """What reading a tensor's numbers showed: how many were read, how many are NaN or infinite, any non-zero."""

    checked: int
    bad: int
    any_nonzero: bool


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise Malformed("names an entry twice in its header")
    return dict(pairs)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, in file order.

    Raises Malformed when the header does not parse, a shape and its extent disagree, tensors overlap or leave holes,
    or the file is shorter or longer than declared.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(8)
        if len(head) < 8:
            raise Malformed(f"is {size} bytes long, too short for a safetensors file")
        (length,) = struct.unpack("<Q", head)
        if length > HEADER_LIMIT:
            raise Malformed("is not a safetensors file (its header length makes no sense)")
        if 8 + length > size:
            raise Malformed(f"is cut off inside its header ({8 + length - size} bytes of it are missing)")
        raw = stream.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed("is not a safetensors file (its header is not JSON)") from error
    if not isinstance(header, dict):
        raise Malformed("is not a safetensors file (its header is not an object)")
    tensors = [_tensor(name, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    position = 8 + length
    for tensor in tensors:
        if tensor.start != position:
            raise Malformed(f"has a hole or an overlap before tensor {shown(tensor.name)}")
        position = tensor.end
    if position > size:
        raise Malformed(f"is cut off: its header declares {position} bytes, the file has {size}")
    if position < size:
        raise Malformed(f"has {size - position} bytes that its header does not declare")
    return {tensor.name: tensor for tensor in tensors}


def _tensor(name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise Malformed(f"describes tensor {shown(name)} incompletely") from error
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise Malformed(f"holds tensor {shown(name)} in an unknown type {shown(dtype)}")
    numbers = (*shape, begin, end) if isinstance(shape, list) else (-1,)
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise Malformed(f"gives tensor {shown(name)} a shape or extent that is not made of whole numbers")
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise Malformed(f"gives tensor {shown(name)} an extent that does not fit its shape")
    return TensorInfo(name, dtype, tuple(shape), data_start + begin, data_start + end)


def read_floats(path: Path, tensor: TensorInfo) -> Any:
    """A floating-point tensor as a numpy float32 array (float64 for F64) of its shape."""
    import numpy as np

    raw = np.fromfile(path, dtype=np.uint8, count=tensor.end - tensor.start, offset=tensor.start)
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = (raw.view("<u2").astype("<u4") << 16).view("<f4")
    else:
        values = raw.view(_NUMPY_FLOATS[tensor.dtype])
        values = values.astype(np.float32) if tensor.dtype == "F16" else values
    return values.reshape(tensor.shape)


def scan_tensor(path: Path, tensor: TensorInfo, limit: int | None = None) -> Scan:
    """Read a tensor's numbers, all of them or at most about `limit` in evenly spaced windows."""
    import numpy as np

    width = DTYPE_BYTES[tensor.dtype]
    if not tensor.elements:
        return Scan(0, 0, False)
    if limit is None or tensor.elements <= limit:
        windows = [(0, tensor.elements)]
    else:
        span = max(1, limit // _WINDOWS)
        last = tensor.elements - span
        windows = [(last * index // (_WINDOWS - 1), span) for index in range(_WINDOWS)]
    checked = bad = 0
    nonzero = False
    block = 1 << 22
    for first, count in windows:
        for offset in range(first, first + count, block):
            number = min(block, first + count - offset)
            raw = np.fromfile(path, dtype=np.uint8, count=number * width, offset=tensor.start + offset * width)
            checked += number
            bad += int(np.count_nonzero(_not_finite(raw, tensor.dtype)))
            nonzero = nonzero or _any_nonzero(raw, tensor.dtype)
    return Scan(checked, bad, nonzero)


def _not_finite(raw: Any, dtype: str) -> Any:
    import numpy as np

    if dtype in _NUMPY_FLOATS:
        return ~np.isfinite(raw.view(_NUMPY_FLOATS[dtype]))
    if dtype == "BF16":
        return (raw.view("<u2") & 0x7F80) == 0x7F80
    if dtype == "F8_E5M2":
        return (raw & 0x7C) == 0x7C
    if dtype == "F8_E4M3":  # this type has no infinity and one NaN for each sign
        return (raw & 0x7F) == 0x7F
    return np.zeros(1, dtype=bool)


def _any_nonzero(raw: Any, dtype: str) -> bool:
    """Whether any number is not zero; the sign of a negative zero does not count."""
    if dtype in _NUMPY_FLOATS:
        return bool(raw.view(_NUMPY_FLOATS[dtype]).any())
    if dtype == "BF16":
        return bool((raw.view("<u2") & 0x7FFF).any())
    return bool((raw & 0x7F).any()) if dtype.startswith("F8") else bool(raw.any())


def write_tensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write a safetensors file from (type, shape, little-endian bytes) by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            stream.write(data)
