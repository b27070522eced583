"""An adapter of a whole model made one of the pruned model, without training: what changed weights that are gone, goes.

The change of what stays is the same as before, value for value.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from core.files import MANIFEST
from core.tasks.context import TaskError
from core.training.base import PROVENANCE
from core.training.cut import Cut, cut_tensor, place
from core.training.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config, read_adapter_tensors
from core.training.merge import refuse_unmergeable

_BY_LAYER = ("layers_to_transform", "layers_pattern", "rank_pattern")


def slice_adapter(adapter: Path, cut: Cut, destination: Path) -> tuple[int, int]:
    """Write the folder `destination`: the adapter without removed layers and channels; returns how many tensors it has
    and had. Raises TaskError for adapters that are more than plain LoRA, or that name layers in their settings."""
    config = read_adapter_config(adapter)
    refuse_unmergeable(adapter, config)
    named = [name for name in _BY_LAYER if config.get(name)]
    if named:
        raise TaskError(f"{adapter.name} names layers by their numbers ({named[0]})", "train it on all layers")
    tensors = read_adapter_tensors(adapter)
    kept: dict[str, Any] = {}
    for name, tensor in tensors.items():
        placed = place(name, cut)
        if placed is not None:
            kept[placed[0]] = cut_tensor(name, tensor, placed[1], cut).contiguous()
    if not kept:
        raise TaskError(f"{adapter.name} changes removed layers alone: nothing of it is left", "remove fewer layers")
    destination.mkdir(parents=True)
    for path in sorted(adapter.iterdir()):
        if path.is_file() and path.name not in (MANIFEST, PROVENANCE, ADAPTER_WEIGHTS):
            shutil.copyfile(path, destination / path.name)
    save_file(kept, destination / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return len(kept), len(tensors)


def name_base(folder: Path, name: str) -> None:
    """Say in an adapter's settings which base it is for."""
    path = folder / ADAPTER_CONFIG
    config: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    text = json.dumps({**config, "base_model_name_or_path": name}, indent=2)
    path.write_text(text + "\n", "utf-8")
