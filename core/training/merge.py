"""Adapters merged into their base, a block of rows at a time: W + scale * B @ A (arXiv:2106.09685)."""

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from safetensors import safe_open

from core.files import MANIFEST
from core.tasks.context import TaskError
from core.training.base import PROVENANCE, empty_model, weight_files
from core.training.lora import read_adapter_config, read_adapter_tensors, scale_of

BLOCK_BYTES = 32 << 20  # of float32, the most of a tensor that is worked on at a time

_PREFIX = "base_model.model."
_PLAIN_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")


class Change(Protocol):
    """What is done to one weight. Blocks of rows come in their order, from the first to the last."""

    @property
    def shape(self) -> list[int]:
        """The shape of the weight it changes, as that is stored."""

    def apply(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """Rows of the changed weight from number `first` on, in their own dtype."""


@dataclass(frozen=True)
class Update:
    """A low-rank change of one weight: `a` (r, in), `b` (out, r), and whether the weight is stored as (in, out)."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    transposed: bool

    @property
    def shape(self) -> list[int]:
        """The shape of the weight it changes, as that is stored."""
        changed = [int(self.b.shape[0]), int(self.a.shape[1])]
        return changed[::-1] if self.transposed else changed

    def apply(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """Rows of the changed weight from number `first` on, in their own dtype: the sum is taken in float32 and
        rounded once."""
        return self.delta(first, first + rows.shape[0]).add_(rows).to(rows.dtype)

    def delta(self, first: int, end: int) -> torch.Tensor:
        """What is added to rows `first` to `end` of the weight as it is stored, in float32."""
        part = slice(first, end)
        left, right = (self.a[:, part].T, self.b.T) if self.transposed else (self.b[part], self.a)
        return torch.mm(left.float(), right.float()).mul_(self.scale)


def refuse_unmergeable(folder: Path, config: dict[str, Any]) -> None:
    """Refuse adapters that are more than W + scale * B @ A; a merge that ignores the rest is quietly wrong."""
    faults = {
        "DoRA (use_dora)": config.get("use_dora"),
        "trained biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        f"layers trained whole (modules_to_save: {config.get('modules_to_save')})": config.get("modules_to_save"),
        "a scale of its own for some layers (alpha_pattern)": config.get("alpha_pattern"),
        "trained token embeddings (trainable_token_indices)": config.get("trainable_token_indices"),
        "adapted parameters outside layers (target_parameters)": config.get("target_parameters"),
        "repeated layers (layer_replication)": config.get("layer_replication"),
        "an invocation sequence (alora_invocation_tokens)": config.get("alora_invocation_tokens"),
        "quantization-aware LoRA (use_qalora)": config.get("use_qalora"),
        f"a changed base (init_lora_weights: {config.get('init_lora_weights')})": config.get("init_lora_weights", True)
        not in _PLAIN_INITIALISATIONS,
    }
    found = [name for name, present in faults.items() if present]
    if found:
        raise TaskError(f"{folder.name} uses {'; '.join(found)}, which cannot be merged here", "train a plain LoRA")


def read_updates(adapter: Path) -> dict[str, Update]:
    """An adapter's changes by the name of the weight they change. Raises TaskError for what cannot be merged."""
    config = read_adapter_config(adapter)
    refuse_unmergeable(adapter, config)
    tensors = read_adapter_tensors(adapter)
    updates: dict[str, Update] = {}
    for name, tensor in tensors.items():
        module, found, _ = name.partition(".lora_A.weight")
        other = f"{module}.lora_B.weight"
        if not found:
            if name.removesuffix(".lora_B.weight") + ".lora_A.weight" not in tensors or ".lora_B.weight" not in name:
                raise TaskError(f"{adapter.name} holds {name}, which is no half of a LoRA pair", "train a plain LoRA")
            continue
        if other not in tensors:
            raise TaskError(f"{adapter.name} lacks {other}", "train the adapter again")
        scale = scale_of(config, int(tensor.shape[0]))
        updates[module.removeprefix(_PREFIX) + ".weight"] = Update(
            tensor, tensors[other], scale, bool(config.get("fan_in_fan_out"))
        )
    if not updates:
        raise TaskError(f"{adapter.name} changes nothing", "train the adapter again")
    return updates


def merge(base: Path, adapter: Path, destination: Path, on_tensor: Callable[[int, int], None]) -> int:
    """Write the folder `destination`: the base with the adapter in its weights; returns how many weights changed.

    Raises TaskError when the adapter does not fit.
    """
    updates = read_updates(adapter)
    return write_changed(base, dict.fromkeys(updates, adapter.name), updates.__getitem__, destination, on_tensor)


def write_changed(
    base: Path,
    names: Mapping[str, str],
    change_of: Callable[[str], Change],
    destination: Path,
    on_tensor: Callable[[int, int], None],
    block_bytes: int | None = None,
) -> int:
    """Write the folder `destination`: the base with some weights changed; returns how many.

    `names` says of each changed weight whose change it is, for messages; `change_of` gives it when it is written.
    Shards keep their names, order and headers, and all that is not a weight is copied. Weights pass through memory in
    blocks of `block_bytes` of float32 (default: BLOCK_BYTES), whatever their size. Raises TaskError for a weight that
    the base does not have or has in another shape.
    """
    block = BLOCK_BYTES if block_bytes is None else block_bytes
    shards = weight_files(base)
    stored = {name for shard in shards for name in _names(shard)}
    prefix = empty_model(base).base_model_prefix + "."
    planned: dict[str, str] = {}
    for name, whose in names.items():
        # Folders from the hub may hold the bare transformer, without the head's prefix (gpt2 does).
        found = name if name in stored else name.removeprefix(prefix)
        if found not in stored:
            raise TaskError(f"{whose} changes {name}, which {base.name} does not have", "train it on this base")
        planned[found] = name
    destination.mkdir(parents=True)
    for path in sorted(base.iterdir()):
        if path.is_file() and path not in shards and path.name not in (MANIFEST, PROVENANCE):
            shutil.copyfile(path, destination / path.name)
    done = 0

    def change(name: str) -> Change | None:
        return change_of(planned[name]) if name in planned else None

    for shard in shards:
        done = _merge_shard(shard, destination / shard.name, change, block, done, lambda at: on_tensor(at, len(stored)))
    return len(planned)


def rows_at_once(shape: list[int], block_bytes: int) -> int:
    """How many rows of a weight are worked on at a time."""
    return max(1, block_bytes // (4 * math.prod(shape[1:])))


def _names(shard: Path) -> list[str]:
    with safe_open(shard, framework="pt") as stream:
        return list(stream.keys())


def _merge_shard(
    shard: Path,
    target: Path,
    change_of: Callable[[str], Change | None],
    block: int,
    done: int,
    on_tensor: Callable[[int], None],
) -> int:
    """Rewrite one file with the very header it has: shapes and dtypes stay, so every tensor keeps its place."""
    with open(shard, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        raw = stream.read(size)
    header: dict[str, Any] = json.loads(raw)
    header.pop("__metadata__", None)
    order = sorted(header, key=lambda name: header[name]["data_offsets"][0])
    with safe_open(shard, framework="pt") as source, open(target, "wb") as stream:
        stream.write(struct.pack("<Q", size) + raw)
        for done, name in enumerate(order, start=done + 1):  # noqa: B020 - counting goes on from the file before
            _merge_tensor(source, name, change_of(name), block, stream)
            on_tensor(done)
    return done


def _merge_tensor(source: Any, name: str, update: Change | None, block: int, stream: BinaryIO) -> None:
    """Write one tensor of a shard, changed where there is a change for it."""
    shape = list(source.get_slice(name).get_shape())
    if update is not None and update.shape != shape:
        raise TaskError(
            f"the adapter changes a weight of shape {update.shape}, the base's {name} is {shape}",
            "it was trained on another base",
        )
    for first, rows in blocks(source, name, shape, block):
        merged = rows if update is None else update.apply(rows, first)
        if not _finite(merged):
            raise TaskError(f"{name} holds values that are not numbers after the merge", "train the adapter again")
        stream.write(memoryview(merged.contiguous().flatten().view(torch.uint8).numpy()))


def blocks(source: Any, name: str, shape: list[int], block: int) -> Iterator[tuple[int, torch.Tensor]]:
    """A stored tensor in blocks of rows, each with the number of its first row; what has no rows comes whole."""
    if not shape or 0 in shape:
        yield 0, source.get_tensor(name)
        return
    stored = source.get_slice(name)
    step = rows_at_once(shape, block)
    for first in range(0, shape[0], step):
        yield first, stored[first : first + step]


def _finite(values: torch.Tensor) -> bool:
    """Whether all values are numbers, told by the least and the greatest: no mask as large as the block is made."""
    if not values.is_floating_point() or not values.numel():
        return True
    wide = values.float() if values.element_size() == 1 else values  # torch orders no 8-bit floats
    return all(math.isfinite(bound) for bound in torch.stack(torch.aminmax(wide)).tolist())
