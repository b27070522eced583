"""GGUF adapters read, put on top of one another, and written.

The engine computes W x + (alpha / rank) B A x, with the rank of each layer and one alpha a file. Two adapters on the
same layer are one of both ranks: A stacked by rows, B by columns, each with its own scale folded into B.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize

from core.errors import InvalidInput
from core.gguf.header import TYPE_NUMBERS, read_header

ALPHA = "adapter.lora.alpha"
A, B = ".lora_a", ".lora_b"
_OF_THE_WRITER = ("general.architecture", "general.type", "general.alignment", "adapter.type", ALPHA)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """What is added to a layer: B A, with `a` [rank, in] and `b` [out, rank], any scale folded in."""

    a: Floats
    b: Floats

    @property
    def rank(self) -> int:
        """The rank of the product at most."""
        return self.a.shape[0]


def read_pairs(path: Path) -> tuple[dict[str, Pair], dict[str, Any]]:
    """The pairs of an adapter file by the layer's name, scaled as the engine would, and its scalar keys.

    Raises InvalidInput for what is no adapter of whole pairs.
    """
    header = read_header(path)
    alpha = header.metadata.get(ALPHA)
    if header.metadata.get("adapter.type") != "lora" or not isinstance(alpha, float):
        raise InvalidInput(f"{path} is not a LoRA adapter", "convert the adapter again")
    data = np.memmap(path, dtype=np.uint8, mode="r")
    tensors: dict[str, Floats] = {}
    for tensor in header.tensors:
        start, kind = header.data_start + tensor.offset, GGMLQuantizationType(TYPE_NUMBERS[tensor.type])
        rows = np.array(data[start : start + tensor.bytes]).reshape(tensor.shape[1], -1)
        native = {"F32": np.float32, "F16": np.float16}.get(tensor.type)
        tensors[tensor.name] = dequantize(rows.view(native) if native else rows, kind).astype(np.float32, copy=False)
    pairs = {}
    for name in [name.removesuffix(A) for name in tensors if name.endswith(A)]:
        if name + B not in tensors:
            raise InvalidInput(f"{path} lacks the other half of {name}", "convert the adapter again")
        a, b = tensors[name + A], tensors[name + B]
        pairs[name] = Pair(a, b * np.float32(alpha / a.shape[0]))
    if not pairs:
        raise InvalidInput(f"{path} changes no layer", "convert the adapter again")
    return pairs, header.metadata


def stacked(pairs: Mapping[str, Pair], more: Mapping[str, Pair]) -> dict[str, Pair]:
    """The sum of both: on layers that both change one pair of both ranks."""
    found = dict(pairs)
    for name, pair in more.items():
        mine = found.get(name)
        found[name] = (
            pair if mine is None else Pair(np.concatenate([mine.a, pair.a]), np.concatenate([mine.b, pair.b], axis=1))
        )
    return found


def write_pairs(path: Path, architecture: str, pairs: Mapping[str, Pair], keys: Mapping[str, Any]) -> None:
    """Write a new adapter file in F16; `keys` are string keys besides those that say what it is.

    Of each rank the two halves are brought to equal size, so that neither is lost below what F16 can tell. Raises
    InvalidInput where a value is beyond F16.
    """
    most = max((pair.rank for pair in pairs.values()), default=0)
    if not most:
        raise InvalidInput("there is no layer to adapt", "the model's layers are not rounded")
    writer = GGUFWriter(path, arch=architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32(ALPHA, float(most))  # a layer of the highest rank then has the scale 1
    for name, value in keys.items():
        if name not in _OF_THE_WRITER and isinstance(value, str):
            writer.add_string(name, value)
    for name, pair in pairs.items():
        a, b = _balanced(pair)
        for half, values in ((A, a), (B, b * np.float32(pair.rank / most))):
            stored = values.astype(np.float16)
            if not np.isfinite(stored).all():
                raise InvalidInput(f"the adapter of {name} has values that F16 cannot hold", "train it again")
            writer.add_tensor(name + half, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _balanced(pair: Pair) -> tuple[Floats, Floats]:
    """The same product, of each rank both halves equally large."""
    of_a, of_b = np.abs(pair.a).max(axis=1), np.abs(pair.b).max(axis=0)
    usable = (of_a > 0) & (of_b > 0)
    factor = np.where(usable, np.sqrt(np.where(usable, of_b, 1) / np.where(usable, of_a, 1)), 1).astype(np.float32)
    return pair.a * factor[:, None], pair.b / factor[None, :]
