"""An F16 GGUF file without its weights: the header of what a conversion will write, over a hole of the right length.

The engine's dry run reads nothing else, so the size of any quantized file is known before there is an F16 file.
"""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

from core.gguf.header import MAGIC, PLAIN, PREFIX_BYTES, TYPE_NUMBERS, Header, padded, read_header, stored_bytes


def skeleton_of(source: Path, target: Path) -> None:
    """Write the skeleton of the F16 file that a conversion of the GGUF model `source` leads to into the new file
    `target`: the same keys and tensors; matrices in F16, but for those that a quantized or F16 file holds as F32.

    Raises InvalidInput for what is no GGUF file.
    """
    header = read_header(source)
    whole = all(tensor.type == "F32" for tensor in header.tensors)
    tensors = [
        (tensor.name, tensor.shape, "F32" if len(tensor.shape) < 2 or (tensor.type == "F32" and not whole) else "F16")
        for tensor in header.tensors
    ]
    write_skeleton(target, header, keys_of(source, header), tensors)


def write_skeleton(
    target: Path, header: Header, keys: bytes, tensors: Sequence[tuple[str, Sequence[int], str]]
) -> None:
    """Write a new file with the version, alignment and number of keys of `header`, these keys as they are stored, and
    tensors of these names, shapes (innermost first) and types, behind which there is nothing."""
    described, at = bytearray(), 0
    for name, shape, kind in tensors:
        encoded = name.encode()
        described += struct.pack("<Q", len(encoded)) + encoded
        described += struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", TYPE_NUMBERS[kind], at)
        at += padded(stored_bytes(kind, math.prod(shape)), header.alignment)
    with open(target, "xb") as out:
        out.write(struct.pack("<4sIQQ", MAGIC, header.version, len(tensors), header.key_count))
        out.write(keys + bytes(described))
        out.truncate(padded(out.tell(), header.alignment) + at)


def keys_of(path: Path, header: Header) -> bytes:
    """The keys of a file as they are stored."""
    with open(path, "rb") as stream:
        stream.seek(PREFIX_BYTES)
        return stream.read(header.keys_end - PREFIX_BYTES)


def is_plain(header: Header) -> bool:
    """Whether no weights of a file are quantized, so that it can be quantized as it is."""
    return all(tensor.type in PLAIN or tensor.type.startswith("I") for tensor in header.tensors)
