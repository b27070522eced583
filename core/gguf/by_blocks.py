"""llama.cpp's model converter, with large tensors written a block of rows at a time: the same bytes in bounded memory.

The stock converter maps a tensor, turns it to float32 whole and that to F16 whole, so a large embedding costs six bytes
a weight of anonymous memory. Its lazy tensors keep what is to be done until the file is written; here they also keep
the stored tensor and the conversions of its type, as long as nothing else was done to it but what llama's query and key
weights need: their rows rearranged within each head. The first treat every value by itself, the last every head, so
they can be done some heads at a time, through the class that the converter has for it. A tensor that is rearranged
otherwise (gpt2's, which are transposed; experts, which are stacked) is written as ever.

It also puts keys of ours into the header, so that a file that has some is written once.

A program for the child process, with the toolchain on its path: python -m core.gguf.by_blocks SCRIPT ARGUMENTS...
"""

import importlib
import json
import math
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from typing import Any

BLOCK_VALUES = 8 << 20  # the most values of a tensor that are converted at a time
LIMIT_VARIABLE = "TARA_CONVERTER_BLOCK_VALUES"  # set by tests, to see small tensors treated as large ones
KEYS_VARIABLE = "TARA_CONVERTER_KEYS"  # set by the caller: string keys of the header and their values, as JSON

_SOURCE = "_stored_with_steps"


def main(arguments: list[str]) -> None:
    """Run the converter script with the changed writing. Raises AttributeError where the toolchain lacks what is
    changed: this belongs to the version that the project pins."""
    write_by_blocks(int(os.environ.get(LIMIT_VARIABLE, BLOCK_VALUES)))
    add_keys(json.loads(os.environ.get(KEYS_VARIABLE, "{}")))
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def write_by_blocks(block: int) -> None:
    """Change the lazy tensors of the toolchain in this process: those of more than `block` values are written so."""
    lazy_torch: Any = importlib.import_module("conversion.base").LazyTorchTensor
    lazy: Any = importlib.import_module("gguf.lazy")
    llama: Any = importlib.import_module("conversion.llama").LlamaModel
    lazy_numpy, chunked = lazy.LazyNumpyTensor, lazy.LazyChunkedTensor
    stock_from_local, stock_numpy = lazy_torch.from_local_tensor, lazy_torch.numpy
    stock_astype, stock_tofile, stock_permute = lazy_numpy.astype, lazy_numpy.tofile, llama.permute

    def from_local_tensor(stored: Any) -> Any:
        made = stock_from_local(stored)
        if len(stored.shape) > 1 and math.prod(stored.shape) > block and sys.byteorder == "little":
            setattr(made, _SOURCE, (stored, (), 1))
        return made

    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = lazy_torch._wrap_fn(lambda tensor: tensor.to(*args, **kwargs))(self)
        return _with_step(self, made, lambda part: part.to(*args, **kwargs))

    def permute(weights: Any, heads: int, key_heads: int | None) -> Any:
        rows = weights.shape[0] // (heads if key_heads is None else key_heads)
        made = stock_permute(weights, heads, key_heads)
        return _with_step(weights, made, lambda part: stock_permute(part, part.shape[0] // rows, None), together=rows)

    def numpy(self: Any) -> Any:
        return _with_step(self, stock_numpy(self), lambda part: part.numpy())

    def astype(self: Any, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        made = stock_astype(self, dtype, *args, **kwargs)
        return _with_step(self, made, lambda part: part.astype(dtype, *args, **kwargs))

    def tofile(self: Any, *args: Any, **kwargs: Any) -> None:
        if _SOURCE not in vars(self):
            stock_tofile(self, *args, **kwargs)
            return
        stored, steps, together = vars(self)[_SOURCE]
        rows = max(1, block // math.prod(stored.shape[1:]))
        rows = max(together, rows - rows % together)
        chunked(_parts(stored, steps, rows, lazy_torch), self.shape, self.dtype).tofile(*args, **kwargs)

    lazy_torch.from_local_tensor = staticmethod(from_local_tensor)
    lazy_torch.to, lazy_torch.numpy = to, numpy
    lazy_numpy.astype, lazy_numpy.tofile = astype, tofile
    llama.permute = staticmethod(permute)


def add_keys(keys: Mapping[str, str]) -> None:
    """Change the writer of the toolchain in this process: each file's header ends with these keys. Raises ValueError
    while writing where the model has one of them already."""
    writer: Any = importlib.import_module("gguf.gguf_writer").GGUFWriter
    stock_header = writer.write_header_to_file

    def write_header_to_file(self: Any, *args: Any, **kwargs: Any) -> None:
        for key, value in keys.items():
            if any(key in shard for shard in self.kv_data):
                raise ValueError(f"the header has the key {key} already")
            self.add_string(key, value)
        stock_header(self, *args, **kwargs)

    writer.write_header_to_file = write_header_to_file


def _with_step(before: Any, made: Any, step: Callable[[Any], Any], together: int = 1) -> Any:
    """What was made of a tensor, remembering the stored one where `before` did. The step needs rows `together`."""
    if _SOURCE in vars(before):
        stored, steps, so_far = vars(before)[_SOURCE]
        setattr(made, _SOURCE, (stored, (*steps, step), math.lcm(so_far, together)))
    return made


def _parts(stored: Any, steps: tuple[Callable[[Any], Any], ...], rows: int, lazy_torch: Any) -> list[Callable[[], Any]]:
    """The blocks of a stored tensor, each of so many rows, loaded and converted when it is called."""
    torch: Any = importlib.import_module("torch")

    def load(first: int) -> Any:
        part = torch.from_numpy(stored.mmap_bytes()).view(lazy_torch._dtype_str_map[stored.dtype])
        part = part.reshape(stored.shape)[first : first + rows]
        for step in steps:
            part = step(part)
        return part

    return [lambda first=first: load(first) for first in range(0, stored.shape[0], rows)]  # type: ignore[misc]


if __name__ == "__main__":
    main(sys.argv[1:])
