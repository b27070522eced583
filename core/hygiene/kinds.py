"""What a path is, told from what it holds and not from its name alone."""

import re
from enum import StrEnum
from pathlib import Path

from core.errors import InvalidInput

_CHECKPOINT_NAME = re.compile(r"(tmp-)?checkpoint-\d+$")
_OPTIMIZER = re.compile(r"optimizer(_\d+)?\.(pt|pth|bin|safetensors|npz)$")
_WEIGHTS = re.compile(
    r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)$|(model\.safetensors|pytorch_model\.bin)\.index\.json$"
)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PROVENANCE = "tara.json"
BUNDLE_MANIFEST = "manifest.json"


class Kind(StrEnum):
    """The kinds of thing a path can be."""

    ADAPTER = "adapter"  # a PEFT folder
    MODEL = "model"  # a Hugging Face folder with whole weights: a base or a merged model
    GGUF = "gguf"
    BUNDLE = "bundle"  # base GGUFs, adapters, routing data and a manifest
    RELEASE = "release"  # a folder of deployed bundles
    CHECKPOINT = "checkpoint"  # an adapter or model with the state of an interrupted training
    UNKNOWN = "unknown"


def kind_of(path: Path) -> Kind:
    """What `path` is. Raises InvalidInput when nothing is there."""
    if not path.exists():
        raise InvalidInput(f"{path} does not exist")
    if path.is_file():
        return Kind.GGUF if _is_gguf(path) else Kind.UNKNOWN
    names = {child.name for child in path.iterdir()}
    if _is_bundle(path, names):
        return Kind.BUNDLE
    content = _content_kind(names)
    resumable = any(_OPTIMIZER.match(name) for name in names)
    named = _CHECKPOINT_NAME.match(path.name) and (content is Kind.UNKNOWN or "trainer_state.json" in names)
    if resumable or named:
        return Kind.CHECKPOINT
    if content is not Kind.UNKNOWN:
        return content
    if bundles_in(path):
        return Kind.RELEASE
    return Kind.UNKNOWN


def content_kind(folder: Path) -> Kind:
    """Adapter, model or unknown: what a folder holds apart from any training state."""
    return _content_kind({child.name for child in folder.iterdir()})


def _content_kind(names: set[str]) -> Kind:
    if ADAPTER_CONFIG in names or any(name.startswith("adapter_model.") for name in names):
        return Kind.ADAPTER
    if "config.json" in names or any(_WEIGHTS.match(name) for name in names):
        return Kind.MODEL
    return Kind.UNKNOWN


def bundles_in(folder: Path) -> list[Path]:
    """The bundles directly inside a folder, or in its `versions`; links not counted."""
    versions = folder / "versions"
    return [
        child
        for child in sorted((versions if versions.is_dir() else folder).iterdir())
        if child.is_dir() and not child.is_symlink() and _is_bundle(child, {entry.name for entry in child.iterdir()})
    ]


def _is_bundle(folder: Path, names: set[str]) -> bool:
    has_base = any(name.startswith("base-") and name.endswith(".gguf") for name in names)
    return BUNDLE_MANIFEST in names and (has_base or "routing.json" in names)


def _is_gguf(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(4) == b"GGUF" or path.suffix.lower() == ".gguf"
