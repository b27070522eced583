"""The size of a smaller model's file in a type, before there is such a model: the engine's dry run on a file of the
right shapes that holds no weights.

Imports the engine through the quantizer: for worker processes only.
"""

import re
import struct
from pathlib import Path

from core.errors import InvalidInput
from core.gguf.header import Header, TensorInfo, read_header
from core.gguf.quantizer import predicted_size
from core.gguf.skeleton import keys_of, write_skeleton

ADDED = 1024  # bytes that keys of our own, the matrix's and a longer name may add to a header

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)$")
_U32 = 4  # type number of such a value


def smaller_size(source: Path, scratch: Path, layers: int, width: int, quantization: str) -> int:
    """Bytes that the file of a model would have in a type, at most, if it had so many of its layers and so many
    feed-forward channels. `source` is the whole model's F16 file; `scratch` the name of a file that is made and removed
    and takes no room. Raises InvalidInput for a model whose layers differ in their sizes."""
    try:
        write_hollow(source, scratch, layers, width)
        return predicted_size(scratch, quantization).bytes + ADDED
    finally:
        scratch.unlink(missing_ok=True)


def write_hollow(source: Path, target: Path, layers: int, width: int) -> None:
    """Write a GGUF file with the keys of `source` and the shapes of a smaller model, and no weights behind them."""
    header = read_header(source)
    keys = bytearray(keys_of(source, header))
    inner = _patch(keys, header, "feed_forward_length", width)
    _patch(keys, header, "block_count", layers)
    shapes = [(one, _resized(one, layers, inner, width)) for one in header.tensors]
    write_skeleton(
        target, header, bytes(keys), [(one.name, shape, one.type) for one, shape in shapes if shape is not None]
    )


def _patch(keys: bytearray, header: Header, name: str, value: int) -> int:
    """Put a number in place of a key's; the number before."""
    key = f"{header.architecture}.{name}"
    before = header.metadata.get(key)
    encoded = key.encode()
    at = keys.find(struct.pack("<Q", len(encoded)) + encoded)
    start = at + 8 + len(encoded)
    if not isinstance(before, int) or at < 0 or struct.unpack_from("<I", keys, start)[0] != _U32:
        raise InvalidInput(f"the layers of {header.architecture} differ in their sizes ({key})", "build as standard")
    struct.pack_into("<I", keys, start + 4, value)
    return before


def _resized(tensor: TensorInfo, layers: int, inner: int, width: int) -> list[int] | None:
    """A tensor's shape in the smaller model, None where it is not there."""
    shape, found = list(tensor.shape), _BLOCK.match(tensor.name)
    if not found:
        return shape
    if int(found[1]) >= layers:
        return None
    if found[2].startswith(("ffn_gate.", "ffn_up.")):
        shape[-1] = shape[-1] // inner * width
    elif found[2] == "ffn_down.weight":
        shape[0] = width
    return shape
