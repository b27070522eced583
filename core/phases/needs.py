"""What each kind of job is expected to take of memory and disk at its peak, before it was ever run.

Estimates, made from the base's shape and the preset without loading anything. They are for admission: once a job of
the same footprint has run, its measured peak counts instead. The constants were read off the peaks in `exit.json` of
the embedded base's jobs on a CPU, and rounded up.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.catalog import Catalog
from core.catalog.bases import Located, locate
from core.errors import InvalidInput
from core.files import hash_json
from core.gguf.header import read_header
from core.phases.kinds import KINDS
from core.runner.admission import Need
from core.training.footprint import (
    HEAD_ROWS,
    LOADING_SLACK,
    LORA_BYTES,
    Shape,
    activation_bytes,
    logit_bytes,
    most_lora_parameters,
)
from core.workspace import Workspace

_SIZING = ("preset", "sequence_length", "type")
_SIZING_OF_A_PRESET = ("batch_size", "sequence_length", "lora_r", "lora_dropout", "dtype")
FLOAT32 = 4
_LARGEST = 1 << 32  # no number of a config is larger; one that is would only be a hostile file's
LIBRARIES = 650 * 10**6  # resident once torch, transformers and peft are imported
CONVERTER = 400 * 10**6  # the converter's own process, which imports torch
VERIFIER = 450 * 10**6  # tokenizers, the engine's library, a context and its cache
QUANTIZER = 120 * 10**6  # the engine's library alone
SMALL = 50 * 10**6  # a Python process that copies and hashes files
FROM_GGUF = 7.5  # bytes a parameter while a GGUF base is dequantized: it is there twice for a moment
BUNDLE_SHARE = 1.2  # bytes a parameter of a quantized base, the largest type included


class Estimator:
    """Estimates for the jobs of a plan; looks at each base once."""

    def __init__(self, workspace: Workspace, catalog: Catalog) -> None:
        self._workspace = workspace
        self._catalog = catalog
        self._shapes: dict[str, Shape] = {}

    def need(self, kind: str, params: Mapping[str, Any], bases: Sequence[str]) -> Need:
        """What a job of a kind will take that loads these bases, one at a time."""
        shapes = [self._shape(name) for name in bases]
        return need_of(kind, params, max(shapes, key=lambda shape: shape.parameters))

    def _shape(self, name: str) -> Shape:
        if name not in self._shapes:
            model = self._catalog.bases[name]
            self._shapes[name] = shape_of(locate(model, self._workspace), model.parameters)
        return self._shapes[name]


def footprint(kind: str, params: Mapping[str, Any], bases: Sequence[str]) -> str:
    """What decides how much memory a job takes, hashed: its kind, the identities of its bases, and the settings that
    shape the work."""
    known = {name: params[name] for name in _SIZING if name in params}
    if isinstance(known.get("preset"), dict):
        known["preset"] = {name: known["preset"][name] for name in _SIZING_OF_A_PRESET}
    return f"{kind}-{hash_json([*sorted(bases), known])[:16]}"


def shape_of(located: Located, parameters: int) -> Shape:
    """The shape of a base from its config.json or GGUF header; `parameters` is what the catalogue says.

    What the file does not say in a usable way counts as 0: the estimate is then of the weights alone, and the job that
    prepares the base says what is wrong with the file.
    """
    if located.gguf_file is not None:
        return _shape_of_gguf(located.file, parameters)
    try:
        config = json.loads((located.path / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        config = {}
    if not isinstance(config, dict):
        config = {}
    hidden = _size(config.get("hidden_size") or config.get("n_embd"))
    inner = _size(config.get("intermediate_size"))
    return Shape(
        parameters,
        layers=_size(config.get("num_hidden_layers") or config.get("n_layer")),
        hidden=hidden,
        inner=inner or _size(config.get("n_inner")) or 4 * hidden,
        vocabulary=_size(config.get("vocab_size")),
        gated=inner > 0,
    )


def _shape_of_gguf(file: Path, parameters: int) -> Shape:
    try:
        header = read_header(file)
    except InvalidInput:
        return Shape(parameters, 0, 0, 0, 0)
    known, name = header.metadata, header.architecture
    return Shape(
        max(parameters, sum(tensor.elements for tensor in header.tensors)),
        layers=_size(known.get(f"{name}.block_count")),
        hidden=_size(known.get(f"{name}.embedding_length")),
        inner=_size(known.get(f"{name}.feed_forward_length")),
        vocabulary=_size(header.arrays.get("tokenizer.ggml.tokens") or known.get(f"{name}.vocab_size")),
        gated=any(tensor.name.endswith("ffn_gate.weight") for tensor in header.tensors),
    )


def _size(value: Any) -> int:
    """A size that a file gives; 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST else 0


def need_of(kind: str, params: Mapping[str, Any], shape: Shape) -> Need:
    """The estimate for a job of a kind. `shape` is that of its base, of the largest where there are several. Raises
    KeyError for a kind that is not known."""
    device = KINDS[kind].device
    weights = int(shape.parameters * FLOAT32 * LOADING_SLACK)
    if kind == "train":
        return _training(params["preset"], shape, weights, device)
    if kind == "evaluate":
        tokens = int(params["sequence_length"])
        scoring = logit_bytes(shape, HEAD_ROWS) + tokens * shape.hidden * FLOAT32 * 8
        return Need(LIBRARIES + weights + scoring, disk=10**6, device_memory=weights + scoring, device=device)
    embedding = shape.vocabulary * shape.hidden * FLOAT32  # usually the largest tensor
    memory, disk = {
        "base": (LIBRARIES + int(FROM_GGUF * shape.parameters), weights),
        "merge": (LIBRARIES + 4 * embedding, weights),
        # The converter writes tensor by tensor; what it maps of the model can be dropped.
        "convert": (SMALL + CONVERTER + 2 * embedding, int(2.1 * shape.parameters)),
        "adapter-convert": (SMALL + CONVERTER, 10**8),
        "quantize": (QUANTIZER + 2 * embedding, int(BUNDLE_SHARE * shape.parameters)),
        "verify": (VERIFIER + int(BUNDLE_SHARE * shape.parameters), 10**6),
        "package": (SMALL, int(0.1 * shape.parameters)),
    }[kind]
    return Need(memory, disk)


def _training(preset: Mapping[str, Any], shape: Shape, weights: int, device: bool) -> Need:
    trained = most_lora_parameters(shape, int(preset["lora_r"]))
    tokens = int(preset["batch_size"]) * int(preset["sequence_length"])
    working = (
        trained * LORA_BYTES
        + activation_bytes(shape, tokens=tokens, dropout=float(preset["lora_dropout"]))
        + logit_bytes(shape, HEAD_ROWS)
    )
    # A checkpoint holds the weights and two moments; with the newest two, the best and the one being written, four.
    disk = trained * FLOAT32 * (3 * 4 + 1)
    return Need(LIBRARIES + weights + working, disk, device_memory=weights + working, device=device)
