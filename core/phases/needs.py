"""What each kind of job is expected to take of memory and disk at its peak, before it was ever run.

Estimates, made from the base's shape and the preset without loading anything. They are for admission: once a job of
the same footprint has run, its measured peak counts instead. The constants were read off the peaks in `exit.json` of
the embedded base's jobs on a CPU, and rounded up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from core.catalog import Catalog
from core.catalog.bases import Located, locate
from core.catalog.config import config_of, parameters_of
from core.errors import InvalidInput
from core.files import hash_json
from core.hygiene.reading import Malformed
from core.phases.kinds import KINDS
from core.runner.admission import Need
from core.training.footprint import (
    LOADING_SLACK,
    LORA_BYTES,
    Shape,
    activation_bytes,
    head_rows,
    logit_bytes,
    most_lora_parameters,
)
from core.workspace import Workspace

_SIZING = ("preset", "sequence_length", "type", "rank", "keep", "target_bytes", "method", "tokens", "top")
_SIZING_OF_A_PRESET = ("batch_size", "sequence_length", "lora_r", "lora_dropout", "dtype")
FLOAT32 = 4
_LARGEST = 1 << 32  # no number of a config is larger; one that is would only be a hostile file's
LIBRARIES = 650 * 10**6  # resident once torch, transformers and peft are imported
CONVERTER = 400 * 10**6  # the converter's own process, which imports torch
VERIFIER = 450 * 10**6  # tokenizers, the engine's library, a context and its cache
QUANTIZER = 120 * 10**6  # the engine's library alone
SLABS = 150 * 10**6  # of a tensor that is quantized: core.gguf.quantizer.BUFFER_BYTES, rounded up
BLOCKS = 150 * 10**6  # a block of rows of a tensor, as it is stored, in float32 and as it is written
REARRANGED = 10  # bytes a weight of a tensor that the converter writes whole, at least: float32 twice and F16
SCORED_ROWS = 160  # positions of a step whose logits are held, and the work on a few of them in float64
KEPT = 2600  # bytes a position of what is kept of the reference
SMALL = 50 * 10**6  # a Python process that copies and hashes files
ENCODER = 130 * 10**6  # the sentence encoder's process, and numpy for its vectors
FROM_GGUF = 7.5  # bytes a parameter while a GGUF base is dequantized: it is there twice for a moment
LARGE_RANK = 64  # of an adapter, where its own is not looked at
BUNDLE_SHARE = 1.2  # bytes a parameter of a quantized base, the largest type included
# The same by type, rounded up from the embedded base, where most tensors fall back to larger types than one asks for.
TYPE_SHARE = {"Q2_K": 0.7, "Q4_K_M": 0.83, "Q5_K_M": 0.9, "Q8_0": 1.12}


class Estimator:
    """Estimates for the jobs of a plan; looks at each base once."""

    def __init__(self, workspace: Workspace, catalog: Catalog) -> None:
        self._workspace = workspace
        self._catalog = catalog
        self._shapes: dict[str, Shape] = {}

    def need(self, kind: str, params: Mapping[str, Any], bases: Sequence[str]) -> Need:
        """What a job of a kind will take that loads these bases, one at a time."""
        return need_of(kind, params, self.largest(bases))

    def largest(self, bases: Sequence[str]) -> Shape:
        """The shape of the largest of some bases."""
        return max((self._shape(name) for name in bases), key=lambda shape: shape.parameters)

    def _shape(self, name: str) -> Shape:
        if name not in self._shapes:
            model = self._catalog.bases[name]
            located = locate(model, self._workspace)
            # The catalogue's number is by hand; it counts only where a header cannot be read, which the job that
            # prepares the base says.
            self._shapes[name] = shape_of(located, parameters_of(located) or model.parameters)
        return self._shapes[name]


def footprint(kind: str, params: Mapping[str, Any], bases: Sequence[str]) -> str:
    """What decides how much memory a job takes, hashed: its kind, the identities of its bases, and the settings that
    shape the work."""
    known = {name: params[name] for name in _SIZING if name in params}
    if isinstance(known.get("preset"), dict):
        known["preset"] = {name: known["preset"][name] for name in _SIZING_OF_A_PRESET}
    return f"{kind}-{hash_json([*sorted(bases), known])[:16]}"


def shape_of(located: Located, parameters: int) -> Shape:
    """The shape of a base by its config; `parameters` are its weights.

    What is not told in a usable way counts as 0: the estimate is then of the weights alone, and the job that prepares
    the base says what is wrong with its files.
    """
    try:
        config = config_of(located) or {}
    except (InvalidInput, Malformed):
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


def _size(value: Any) -> int:
    """A size that a file gives; 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST else 0


def need_of(kind: str, params: Mapping[str, Any], shape: Shape) -> Need:
    """The estimate for a job of a kind. `shape` is that of its base, of the largest where there are several. Raises
    KeyError for a kind that is not known."""
    weights = int(shape.parameters * FLOAT32 * LOADING_SLACK)
    if kind == "train":
        return _training(params["preset"], shape, weights)
    if kind in ("evaluate", "check-merge"):
        tokens = int(params["sequence_length"])
        scoring = logit_bytes(shape, head_rows(shape.vocabulary)) + tokens * shape.hidden * FLOAT32 * 8
        return _computing(kind, weights, scoring, disk=10**6)
    if kind == "imatrix":
        tokens = int(params["sequence_length"])
        return _computing(kind, weights, tokens * (shape.hidden * 8 + shape.inner * 3) * FLOAT32, disk=10**7)
    if kind in ("prune", "teach"):
        tokens = int(params["sequence_length"])
        scoring = logit_bytes(shape, tokens) + tokens * (shape.hidden * 8 + shape.inner * 3) * FLOAT32
        kept = 0 if kind == "prune" else int(params["tokens"]) * (6 * int(params["top"]) + 2)
        return _computing(kind, weights, scoring + kept + most_lora_parameters(shape, LARGE_RANK) * FLOAT32,
                          disk=weights if kind == "prune" else kept + 10**6)  # fmt: skip
    if kind in ("heal", "distil"):
        return _teaching(kind, params, shape, weights)
    # The largest tensor is usually the embedding; it is worked on in slabs, each as float32 and as it is written.
    rounding = 2 * min(shape.vocabulary * shape.hidden * FLOAT32, SLABS)
    dequantized = int(FROM_GGUF * shape.parameters) if params.get("base", {}).get("gguf_file") else 0
    memory, disk = {
        "base": (LIBRARIES + dequantized, weights),  # a folder's files are linked or copied, never loaded
        "merge": (LIBRARIES + BLOCKS, weights),
        # The largest values of a change are found in the whole of it, one domain's at a time; the blocks are shared.
        "unify": (LIBRARIES + BLOCKS + shape.hidden * shape.inner * FLOAT32, weights),
        "accept-merge": (SMALL, 10**6),
        "quality-gate": (SMALL, 10**6),
        # What the converter maps of the model can be dropped. It writes block by block, but for weights that it
        # transposes, which are of architectures without a gate (gpt2).
        "convert": (
            SMALL + CONVERTER + BLOCKS + (0 if shape.gated else REARRANGED * shape.hidden * shape.inner),
            int(2.1 * shape.parameters),
        ),
        # The converted file, and a copy of it with what it belongs to.
        "adapter-convert": (SMALL + CONVERTER, 4 * most_lora_parameters(shape, LARGE_RANK)),
        "quantize": (QUANTIZER + rounding, int(_share(params.get("type")) * shape.parameters)),
        "kept-change": (QUANTIZER + BLOCKS, 10**6),
        "keep": (SMALL, int(BUNDLE_SHARE * shape.parameters)),
        # The F16 file and a copy of it that is changed are both mapped while costs are measured.
        "type-costs": (
            VERIFIER + 2 * int(2.1 * shape.parameters) + SCORED_ROWS * shape.vocabulary * FLOAT32,
            int(2.1 * shape.parameters) + 10**6,
        ),
        "hybrid": (
            VERIFIER + int(2.1 * shape.parameters) + max(SCORED_ROWS * shape.vocabulary * FLOAT32, rounding),
            # The mixture and the plain file; beside a target size, which may be any, the next larger one.
            int(2 * _share(params.get("type") if params.get("target_bytes") is None else None) * shape.parameters),
        ),
        # An export may be the F16 file itself.
        "verify": (
            VERIFIER + int((2.1 if params.get("type") == "F16" else BUNDLE_SHARE) * shape.parameters),
            10**6,
        ),
        "check-delivered": (
            VERIFIER + int(BUNDLE_SHARE * shape.parameters) + SCORED_ROWS * shape.vocabulary * FLOAT32,
            10**6,
        ),
        # Reference and file are mapped one after the other; of the reference 2.4 kB a position are written down.
        "measure": (
            VERIFIER + int(2.1 * shape.parameters) + SCORED_ROWS * shape.vocabulary * FLOAT32,
            KEPT * int(params.get("max_tokens", 0)) * len(params.get("domains", ())) + 10**6,
        ),
        # One matrix, its rounded self, their difference and what the decomposition works with.
        "repair": (
            LIBRARIES + 6 * shape.hidden * shape.inner * FLOAT32,
            2 * most_lora_parameters(shape, int(params.get("rank") or LARGE_RANK)) + 10**6,
        ),
        "repair-adapter": (
            VERIFIER + int(2.1 * shape.parameters) + SCORED_ROWS * shape.vocabulary * FLOAT32,
            4 * most_lora_parameters(shape, LARGE_RANK) + 10**6,
        ),
        "slice-adapter": (LIBRARIES, 2 * FLOAT32 * most_lora_parameters(shape, LARGE_RANK)),
        # The small file, then plain ones of the whole model, mapped one after the other; each is made just before.
        "check-small": (
            VERIFIER
            + max(
                int(BUNDLE_SHARE * shape.parameters) + SCORED_ROWS * shape.vocabulary * FLOAT32,
                int(2.1 * shape.parameters) + rounding,
            ),
            int(BUNDLE_SHARE * shape.parameters) + 10**6,
        ),
        "package": (SMALL + (ENCODER if params.get("encoder") else 0), int(0.1 * shape.parameters)),
    }[kind]
    return Need(memory, disk, scratch=_scratch(kind, disk))


def _scratch(kind: str, disk: int) -> int:
    """What of a job's disk is free again at its end: all but a small file where only figures are kept, one of two
    files where the better one is kept, or where the second is a copy of the first."""
    if kind in ("type-costs", "check-small", "measure"):
        return max(0, disk - 10**6)
    return disk // 2 if kind in ("hybrid", "repair-adapter", "adapter-convert") else 0


def _share(quantization: Any) -> float:
    return TYPE_SHARE.get(quantization, BUNDLE_SHARE) if isinstance(quantization, str) else BUNDLE_SHARE


def _computing(kind: str, weights: int, working: int, *, disk: int) -> Need:
    """A job that holds weights and computes with them, on the CPU or on a device; through the machine's memory the
    weights pass in both cases."""
    return Need(
        LIBRARIES + weights + working,
        disk,
        device_memory=weights + working,
        beside_device=LIBRARIES + weights,
        device=KINDS[kind].device,
    )


def _teaching(kind: str, params: Mapping[str, Any], shape: Shape, weights: int) -> Need:
    """A pruned model taught; its size is not known before it is made, and taken as the whole model's. Where all weights
    are trained, each has a gradient and Adam's two moments."""
    rank, tokens = int(params["rank"]), int(params["sequence_length"])
    blocks = max(0, shape.parameters - shape.vocabulary * shape.hidden)
    trained = most_lora_parameters(shape, rank) if rank else blocks
    working = (
        trained * (LORA_BYTES - (0 if rank else FLOAT32))  # the weights themselves are there already
        + most_lora_parameters(shape, LARGE_RANK) * FLOAT32  # of the domains
        + activation_bytes(shape, tokens=tokens, dropout=0.0)
        + logit_bytes(shape, max(tokens, head_rows(shape.vocabulary)))
    )
    return _computing(kind, weights, working, disk=weights + trained * FLOAT32)


def _training(preset: Mapping[str, Any], shape: Shape, weights: int) -> Need:
    trained = most_lora_parameters(shape, int(preset["lora_r"]))
    tokens = int(preset["batch_size"]) * int(preset["sequence_length"])
    working = (
        trained * LORA_BYTES
        + activation_bytes(shape, tokens=tokens, dropout=float(preset["lora_dropout"]))
        + logit_bytes(shape, head_rows(shape.vocabulary))
    )
    held = weights // 2 if preset["dtype"] == "bfloat16" else weights
    # A checkpoint holds the weights and two moments; with the newest two, the best and the one being written, four.
    return _computing("train", held, working, disk=trained * FLOAT32 * (3 * 4 + 1))
