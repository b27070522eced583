"""A model with layers and feed-forward channels taken out: which of its tensors stay, under which names and cut how.

Structured pruning only: what is left is a smaller model of the same architecture, with the same kinds of tensors.
Single weights set to zero would leave a GGUF file as large and as slow as it was.
"""

import json
import re
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from core.files import MANIFEST
from core.tasks.context import TaskError
from core.training.base import PROVENANCE, tensor_shapes, weight_files
from core.training.fitting import Anatomy
from core.training.merge import BLOCK_BYTES, blocks

CUT_FILE = "cut.json"  # in a pruned model's folder: what was taken out
INDEX = "model.safetensors.index.json"

_LAYER = re.compile(r"((?:^|.*\.)(?:layers|h)\.)(\d+)(\..+)$")
# Matrices of a feed-forward part by the module's name: whose outputs are channels, and how many times over (phi3 has
# gate and up in one matrix), and whose inputs are. gpt2 stores its matrices as (in, out).
_MADE = {"mlp.gate_proj": 1, "mlp.up_proj": 1, "mlp.gate_up_proj": 2, "mlp.c_fc": 1}
_USED = ("mlp.down_proj", "mlp.c_proj")
_IN_OUT = ("mlp.c_fc", "mlp.c_proj")
_PARTS = ({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}, {"mlp.gate_up_proj", "mlp.down_proj"},
          {"mlp.c_fc", "mlp.c_proj"})  # fmt: skip
# Lists of a config with an entry a layer.
_BY_LAYER = ("layer_types", "no_rope_layers")


@dataclass(frozen=True)
class Cut:
    """What stays: layers by their numbers in the whole model, ascending, and of each the channels, ascending. Of a
    layer that is not among `channels` all stay."""

    layers: tuple[int, ...]
    channels: Mapping[int, tuple[int, ...]]
    whole_layers: int
    whole_channels: int

    @property
    def width(self) -> int:
        """Channels of a layer that stay, of each as many."""
        return len(next(iter(self.channels.values()))) if self.channels else self.whole_channels

    def as_dict(self) -> dict[str, Any]:
        """For cut.json and for `read_cut`."""
        return {
            "layers": list(self.layers),
            "channels": {str(layer): list(kept) for layer, kept in self.channels.items()},
            "whole_layers": self.whole_layers,
            "whole_channels": self.whole_channels,
        }

    def one_line(self) -> str:
        """What stays, in a phrase."""
        return (
            f"{len(self.layers)} of {self.whole_layers} layers, {self.width} of {self.whole_channels} feed-forward "
            "channels"
        )


def read_cut(folder: Path) -> Cut:
    """What was taken out of a pruned model's folder. Raises TaskError where it does not say."""
    try:
        found = json.loads((folder / CUT_FILE).read_text("utf-8"))
        return Cut(
            tuple(found["layers"]),
            {int(layer): tuple(kept) for layer, kept in found["channels"].items()},
            found["whole_layers"],
            found["whole_channels"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TaskError(f"{folder / CUT_FILE} does not say what was taken out: {error}", "build again") from error


def anatomy(folder: Path) -> Anatomy:
    """The layers and channels of a model folder, from its config and the headers of its weights. Raises TaskError where
    its layers are not found."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    shapes = tensor_shapes(folder)
    by_layer: dict[int, dict[str, list[int]]] = {}
    for name, shape in shapes.items():
        found = _LAYER.match(name)
        if found:
            by_layer.setdefault(int(found[2]), {})[found[3].removeprefix(".")] = shape
    layers = config.get("num_hidden_layers") or config.get("n_layer")
    if not by_layer or sorted(by_layer) != list(range(len(by_layer))) or len(by_layer) != layers:
        raise TaskError(f"the layers of {folder.name} are not found by its weights' names", "build it as standard")
    per_channel, channels = {_channel_weights(tensors) for tensors in by_layer.values()}, _inner(by_layer[0])
    alike = len(per_channel) == 1 and all(_inner(tensors) == channels for tensors in by_layer.values())
    cuttable = alike and channels > 0
    return Anatomy(
        len(by_layer),
        channels or int(config.get("intermediate_size") or config.get("n_inner") or 0),
        cuttable,
        sum(_size(shape) for tensors in by_layer.values() for shape in tensors.values()),
        per_channel.pop() if cuttable else 0,
    )


def _inner(tensors: Mapping[str, list[int]]) -> int:
    """Feed-forward channels of a layer; 0 where its feed-forward part is of an unknown kind."""
    parts = {name.rpartition(".")[0] for name in tensors if name.startswith("mlp.")}
    if parts not in _PARTS:
        return 0
    used = next(part for part in _USED if part in parts)
    return tensors[f"{used}.weight"][0 if used in _IN_OUT else 1]


def _channel_weights(tensors: Mapping[str, list[int]]) -> int:
    inner = _inner(tensors)
    if not inner:
        return 0
    cut = [shape for name, shape in tensors.items() if _axis(name) is not None]
    return sum(_size(shape) for shape in cut) // inner


def _size(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _axis(part: str) -> tuple[int, int] | None:
    """Along which dimension a tensor of a layer has the channels, and how many times over; None where it has none.
    `part` is its name within the layer, of a weight, a bias or half of a LoRA pair."""
    module, _, what = part.rpartition(".")
    if module.endswith((".lora_A", ".lora_B")):
        module, _, half = module.rpartition(".")
        if module in _MADE and half == "lora_B":
            return 0, _MADE[module]
        return (1, 1) if module in _USED and half == "lora_A" else None
    if module in _MADE:
        return (1 if what == "weight" and module in _IN_OUT else 0), _MADE[module]
    if module in _USED and what == "weight":
        return (0 if module in _IN_OUT else 1), 1
    return None


def place(name: str, cut: Cut) -> tuple[str, int | None] | None:
    """A tensor's name in the pruned model and the number of its layer in the whole one (None: it is in no layer); None
    for a tensor of a layer that is gone."""
    found = _LAYER.match(name)
    if not found:
        return name, None
    layer = int(found[2])
    if layer not in cut.layers:
        return None
    return f"{found[1]}{cut.layers.index(layer)}{found[3]}", layer


def cut_tensor(name: str, tensor: torch.Tensor, layer: int | None, cut: Cut) -> torch.Tensor:
    """What stays of a tensor of the whole model, `name` being its name there: the kept channels."""
    where = _where(name, layer, cut)
    if where is None:
        return tensor
    axis, kept = where
    return tensor.index_select(axis, kept).contiguous()


def _where(name: str, layer: int | None, cut: Cut) -> tuple[int, torch.Tensor] | None:
    found = _LAYER.match(name)
    if layer is None or not found or layer not in cut.channels:
        return None
    about = _axis(found[3].removeprefix("."))
    if about is None:
        return None
    axis, times = about
    kept = torch.tensor(cut.channels[layer])
    return axis, torch.cat([kept + number * cut.whole_channels for number in range(times)])


def write_cut(
    base: Path, cut: Cut, destination: Path, on_tensor: Callable[[int, int], None], block: int = BLOCK_BYTES
) -> None:
    """Write the folder `destination`: what stays of the model in `base`. Tokenizer files are copied byte for byte,
    weights keep their dtype and pass through memory one at a time, large ones that stay whole in blocks of rows."""
    shards = weight_files(base)
    destination.mkdir(parents=True)
    for path in sorted(base.iterdir()):
        if path.is_file() and path not in shards and path.name not in (MANIFEST, PROVENANCE, INDEX, CUT_FILE):
            shutil.copyfile(path, destination / path.name)
    config = json.loads((base / "config.json").read_text("utf-8"))
    (destination / "config.json").write_text(json.dumps(config_of_cut(config, cut), indent=2) + "\n", "utf-8")
    (destination / CUT_FILE).write_text(json.dumps(cut.as_dict()) + "\n", "utf-8")
    total, done = len(tensor_shapes(base)), 0
    weight_map: dict[str, str] = {}
    size = 0
    for shard in shards:
        header = _header(shard)
        kept = [(name, placed) for name in header if (placed := place(name, cut)) is not None]
        done += len(header) - len(kept)
        if not kept:
            continue
        new = _new_header(header, kept, cut)
        size += max(about["data_offsets"][1] for about in new.values())
        weight_map |= dict.fromkeys(new, shard.name)
        raw = json.dumps({"__metadata__": {"format": "pt"}, **new}, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        with safe_open(shard, framework="pt") as source, open(destination / shard.name, "wb") as stream:
            stream.write(struct.pack("<Q", len(raw)) + raw)
            for name, (_, layer) in kept:
                _write(source, name, layer, cut, block, stream)
                on_tensor(done := done + 1, total)
    if (base / INDEX).is_file():
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (destination / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def config_of_cut(config: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    """A model's config with the layers and channels that stay."""
    changed = dict(config)
    for name in ("num_hidden_layers", "n_layer"):
        if name in config:
            changed[name] = len(cut.layers)
    if cut.channels:
        changed["intermediate_size" if config.get("intermediate_size") else "n_inner"] = cut.width
    for name in _BY_LAYER:
        if isinstance(config.get(name), list) and len(config[name]) == cut.whole_layers:
            changed[name] = [config[name][layer] for layer in cut.layers]
    return changed


def _header(shard: Path) -> dict[str, Any]:
    """Tensors of a file by name, in the order they are stored."""
    with open(shard, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, Any] = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]))


def _new_header(header: Mapping[str, Any], kept: Sequence[tuple[str, tuple[str, int | None]]], cut: Cut) -> Any:
    new: dict[str, Any] = {}
    at = 0
    for name, (renamed, layer) in kept:
        about = header[name]
        shape = list(about["shape"])
        stored = about["data_offsets"][1] - about["data_offsets"][0]
        where = _where(name, layer, cut)
        if where is not None:
            axis, indices = where
            stored = stored // shape[axis] * len(indices)
            shape[axis] = len(indices)
        new[renamed] = {"dtype": about["dtype"], "shape": shape, "data_offsets": [at, at + stored]}
        at += stored
    return new


def _write(source: Any, name: str, layer: int | None, cut: Cut, block: int, stream: BinaryIO) -> None:
    if _where(name, layer, cut) is not None:
        stream.write(_bytes(cut_tensor(name, source.get_tensor(name), layer, cut)))
        return
    for _, rows in blocks(source, name, list(source.get_slice(name).get_shape()), block):
        stream.write(_bytes(rows))


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())
