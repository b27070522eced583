"""An F16 GGUF file without its weights: the header of what a conversion will write, over a hole of the right length.

The engine's dry run reads nothing else, so the size of any quantized file is known before there is an F16 file.
"""

import struct
from pathlib import Path

from core.gguf.header import PLAIN, TYPE_NUMBERS, Header, TensorInfo, padded, read_header, stored_bytes


def skeleton_of(source: Path, target: Path) -> None:
    """Write the skeleton of the F16 file that a conversion of the GGUF model `source` leads to into the new file
    `target`: the same keys and tensors; matrices in F16, but for those that a quantized or F16 file holds as F32.

    Raises InvalidInput for what is no GGUF file.
    """
    header = read_header(source)
    whole = all(tensor.type == "F32" for tensor in header.tensors)
    described, at = [], 0
    for tensor in header.tensors:
        kind = "F32" if len(tensor.shape) < 2 or (tensor.type == "F32" and not whole) else "F16"
        described.append(_description(tensor, kind, at))
        at += padded(stored_bytes(kind, tensor.elements), header.alignment)
    with open(source, "rb") as stream:
        head = stream.read(header.keys_end) + b"".join(described)
    with open(target, "xb") as out:
        out.write(head)
        out.truncate(padded(len(head), header.alignment) + at)


def is_plain(header: Header) -> bool:
    """Whether no weights of a file are quantized, so that it can be quantized as it is."""
    return all(tensor.type in PLAIN or tensor.type.startswith("I") for tensor in header.tensors)


def _description(tensor: TensorInfo, kind: str, offset: int) -> bytes:
    name = tensor.name.encode()
    return (
        struct.pack("<Q", len(name))
        + name
        + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        + struct.pack("<IQ", TYPE_NUMBERS[kind], offset)
    )
