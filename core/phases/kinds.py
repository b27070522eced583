"""The kinds of jobs: how heavy each is, where its artifact goes, and the version of how it is made.

Raise a version when a change to the task makes its old results stale: it is part of every job's key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

COMPRESSION_TYPES = ("standard", "sparse", "hybrid", "distilled")
NO_TARGET: Final = "none"
TargetSize = float | Literal["none"]  # megabytes of 10^6 bytes, or without any
TargetWish = TargetSize | None  # None: as the phase is set

OF_A_PHASE = "+"  # in the name of a model that is made of a base and the domains of a phase
UNIFIED = "+unified"  # after a base's name, which has no plus: the model of it that holds all domains


@dataclass(frozen=True)
class Kind:
    """One kind of job. `folder` is below `artifacts/`; a heavy job takes the machine, a light one fits beside it; one
    with `device` computes on a device where there is one."""

    name: str
    version: int
    heavy: bool
    folder: str | None
    suffix: str = ""
    device: bool = False


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("base", 1, True, "base"),
        Kind("train", 1, True, "adapter", device=True),
        Kind("evaluate", 1, True, "evaluation", ".json", device=True),
        Kind("merge", 1, True, "merged"),
        Kind("unify", 1, True, "merged"),
        Kind("check-merge", 1, True, "merge-check", ".json", device=True),
        Kind("accept-merge", 1, False, "merge-verdict", ".json"),
        Kind("quality-gate", 1, False, "quality-verdict", ".json"),
        Kind("convert", 1, True, "gguf", ".gguf"),
        Kind("adapter-convert", 1, False, "gguf-adapter", ".gguf"),
        Kind("imatrix", 1, True, "imatrix", ".gguf", device=True),
        Kind("quantize", 2, True, "gguf", ".gguf"),
        Kind("type-costs", 1, True, "type-costs", ".json"),
        Kind("hybrid", 2, True, "gguf", ".gguf"),
        Kind("repair", 1, True, "repair", ".gguf"),
        Kind("repair-adapter", 1, True, "gguf-adapter", ".gguf"),
        Kind("prune", 1, True, "pruned", device=True),
        Kind("teach", 1, True, "teacher", ".safetensors", device=True),
        Kind("heal", 1, True, "small", device=True),
        Kind("distil", 1, True, "small", device=True),
        Kind("slice-adapter", 1, False, "sliced-adapter"),
        Kind("check-small", 1, True, "small-check", ".json"),
        Kind("keep", 1, False, "gguf", ".gguf"),
        Kind("kept-change", 1, False, "kept-change", ".json"),
        Kind("check-delivered", 1, True, "delivered-check", ".json"),
        Kind("verify", 3, True, "verification", ".json"),
        Kind("measure", 1, True, "report", ".json"),
        Kind("package", 2, False, "bundle"),
        Kind("deploy", 1, False, None),
        Kind("clean", 1, False, None),
    )
}


def subject_of(params: Mapping[str, Any]) -> str | None:
    """What a job is about besides its domain, from its settings: the base, or the file that is made."""
    base = params.get("base")
    name = params.get("name") or (base.get("name") if isinstance(base, Mapping) else None)
    return str(name) if name is not None else None
