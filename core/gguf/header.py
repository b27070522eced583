"""The header of a GGUF file (version 2 or 3, little-endian), read from untrusted bytes without loading any weights.

Layout, after the GGUF specification of ggml: magic, version, tensor count, key count, keys, tensor descriptions,
padding, tensor data. Every length is checked against the file before it is used, so a truncated or hostile file costs
no more than reading it once.
"""

import math
import mmap
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import InvalidInput

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 20
MAX_DIMENSIONS = 4
MAX_NAME = 1 << 16
PREFIX_BYTES = 24  # magic, version, tensor count, key count

# ggml's tensor types: number -> name, weights in a block, bytes of a block.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}

PLAIN = ("F32", "F16", "BF16")  # types of weights that are not quantized
TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
BLOCKS = {name: (block, block_bytes) for name, block, block_bytes in TENSOR_TYPES.values()}  # weights, bytes

# Value types of keys: number -> struct code; 8 is a string, 9 an array.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9

_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: its name, dimensions (innermost first, as GGUF has them: `shape[0]` is the row length), type name,
    bytes, and where it begins, counted from the start of the tensor data."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    offset: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass
class Header:
    """What the header says. `metadata` holds scalar and string keys; `arrays` maps array keys to their lengths.
    `keys_end`, `tensors_end` and `data_start` are positions in the file, in bytes."""

    version: int
    metadata: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, int] = field(default_factory=dict)
    tensors: list[TensorInfo] = field(default_factory=list)
    alignment: int = DEFAULT_ALIGNMENT
    keys_end: int = 0
    tensors_end: int = 0
    data_start: int = 0

    @property
    def key_count(self) -> int:
        """Number of keys, arrays included."""
        return len(self.metadata) + len(self.arrays)

    @property
    def architecture(self) -> str:
        """The value of general.architecture."""
        return str(self.metadata["general.architecture"])


def read_header(path: Path) -> Header:
    """Read and check a file's header. Raises InvalidInput saying what is wrong with the file."""
    try:
        with open(path, "rb") as stream:
            if not stream.seek(0, 2):
                raise InvalidInput(f"{path} is empty", "it is not a GGUF file; make it again")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(data).parse()
    except _Malformed as error:
        raise InvalidInput(
            f"{path} is not a usable GGUF file: {error}", "make it again or download it again"
        ) from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", "check the path") from error


def padded(size: int, alignment: int) -> int:
    """The next multiple of the alignment, at which what follows begins."""
    return -(-size // alignment) * alignment


def stored_bytes(kind: str, elements: int) -> int:
    """Bytes that so many weights, in whole blocks, take in a type."""
    block, block_bytes = BLOCKS[kind]
    return elements // block * block_bytes


class _Malformed(Exception):
    """What is wrong with the bytes."""


class _Parser:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size, self.at = data, len(data), 0

    def parse(self) -> Header:
        if self.size < PREFIX_BYTES or self.data[:4] != MAGIC:
            raise _Malformed("it does not begin with the letters GGUF" if self.size >= 4 else "it is too short")
        self.at = 4
        version = self.number(_U32)
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            why = "it is big-endian" if swapped in (2, 3) else f"version {version} is unknown (known: 2, 3)"
            raise _Malformed(why)
        tensors, keys = self.number(_U64), self.number(_U64)
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise _Malformed(f"it claims {tensors} tensors and {keys} keys")
        header = Header(version)
        for _ in range(keys):
            self.key(header)
        header.keys_end = self.at
        self.settings(header)
        names: set[str] = set()
        for _ in range(tensors):
            tensor = self.tensor(header.alignment)
            if tensor.name in names:
                raise _Malformed(f"tensor {tensor.name!r} is listed twice")
            names.add(tensor.name)
            header.tensors.append(tensor)
        header.tensors_end = self.at
        header.data_start = padded(self.at, header.alignment)
        for tensor in header.tensors:
            if header.data_start + tensor.offset + tensor.bytes > self.size:
                raise _Malformed(f"tensor {tensor.name!r} reaches beyond the end of the file: it is cut off")
        return header

    def settings(self, header: Header) -> None:
        alignment = header.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise _Malformed(f"its alignment of {alignment!r} is not a power of two")
        header.alignment = alignment
        architecture = header.metadata.get("general.architecture")
        if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
            raise _Malformed("it names no architecture")

    def take(self, count: int) -> int:
        """Step over `count` bytes; where they begin."""
        start = self.at
        if count > self.size - start:
            raise _Malformed("its header is cut off")
        self.at = start + count
        return start

    def number(self, kind: struct.Struct) -> Any:
        return kind.unpack_from(self.data, self.take(kind.size))[0]

    def text(self, limit: int | None = None) -> str:
        length = self.number(_U64)
        if limit is not None and length > limit:
            raise _Malformed(f"a name is {length} bytes long")
        start = self.take(length)
        return self.data[start : self.at].decode("utf-8", "replace")

    def key(self, header: Header) -> None:
        name = self.text(MAX_NAME)
        if name in header.metadata or name in header.arrays:
            raise _Malformed(f"the key {name!r} is there twice")
        kind = self.number(_U32)
        if kind == ARRAY:
            header.arrays[name] = self.skip_array(name)
        elif kind == STRING:
            header.metadata[name] = self.text()
        elif kind in SCALARS:
            header.metadata[name] = self.number(struct.Struct(SCALARS[kind]))
        else:
            raise _Malformed(f"the key {name!r} has the unknown type {kind}")

    def skip_array(self, name: str) -> int:
        kind, length = self.number(_U32), self.number(_U64)
        if kind in SCALARS:
            self.take(length * struct.calcsize(SCALARS[kind]))
        elif kind == STRING:
            if length * _U64.size > self.size - self.at:
                raise _Malformed("its header is cut off")
            data, size, at = self.data, self.size, self.at
            for _ in range(length):  # a vocabulary: hundreds of thousands, so no calls in the loop
                at += 8 + int.from_bytes(data[at : at + 8], "little")
                if at > size:
                    raise _Malformed("its header is cut off")
            self.at = at
        else:
            raise _Malformed(f"the array {name!r} has elements of the unknown type {kind}")
        return int(length)

    def tensor(self, alignment: int) -> TensorInfo:
        name = self.text(MAX_NAME)
        dimensions = self.number(_U32)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise _Malformed(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self.number(_U64) for _ in range(dimensions))
        kind, offset = self.number(_U32), self.number(_U64)
        if kind not in TENSOR_TYPES:
            raise _Malformed(f"tensor {name!r} has the unknown type {kind}")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        if not all(shape) or shape[0] % block:
            raise _Malformed(f"tensor {name!r} has shape {shape}, which {type_name} cannot hold")
        if offset % alignment:
            raise _Malformed(f"tensor {name!r} begins at {offset}, not at a multiple of {alignment}")
        return TensorInfo(name, shape, type_name, math.prod(shape) // block * block_bytes, offset)
