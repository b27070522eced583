"""What a built phase must show, looked at with the public gguf package and the engine's own class, not with TARA's."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gguf

from core.store.reads import open_reader
from core.workspace import Workspace
from tests.combinations.box import DOMAIN, PHASE
from tests.combinations.ways import tara

NUMBERS = {"Q2_K": 10, "Q4_K_M": 15, "Q5_K_M": 17, "Q8_0": 7}  # llama.cpp's llama_ftype
SCORED = 200  # answer tokens: enough to see that there is a figure
REPORT = (
    "bits_per_weight", "types", "fallback_tensors", "kl_mean", "kl_se", "same_top", "perplexity", "held_out_loss",
    "prompt_tokens_per_s", "generation_tokens_per_s", "load_s", "peak_rss_bytes", "build_s",
)  # fmt: skip


def check(workspace: Workspace, quantization: str, technique: str) -> dict[str, Any]:
    """Figures of the phase's newest bundle. Raises AssertionError where the file is not what was asked for, does not
    load, says nothing, or has no report."""
    with open_reader(workspace) as reader:
        path = reader.phase(PHASE).bundle_path
    assert path is not None
    folder = workspace.absolute(path)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    ((_, entry),) = manifest["bases"].items()
    file, domain = folder / entry["file"], manifest["domains"][DOMAIN]
    header = header_of(file)
    kept = kept_of(workspace, technique)
    expected = {"mixture": "hybrid", "sparse": "sparse", "distilled": "distilled"}.get(kept)
    assert header["tara.compression"] == expected, (header, kept)
    if kept != "mixture":
        plain = quantization if kept in ("sparse", "distilled", "standard") else kept
        assert header["general.file_type"] == NUMBERS[plain], (header, kept)
    assert dict(header["types"]) == entry["types"], (header, entry)
    text = said(file, folder / domain["adapter"], domain["system_prompt"], domain["example_question"])
    assert text.strip(), "it says nothing"
    figures = reported(workspace)
    return {
        "kept": kept, "bytes": file.stat().st_size, "blocks": header["blocks"], "types": dict(header["types"]),
        "figures": figures, "says": text,
    }  # fmt: skip


def header_of(file: Path) -> dict[str, Any]:
    """`general.file_type`, `tara.compression` (None where there is none), blocks, and tensors by type."""
    reader = gguf.GGUFReader(file)
    values = {name: reader.get_field(name) for name in ("general.file_type", "tara.compression", "llama.block_count")}
    found: dict[str, Any] = {name: None if field is None else field.contents() for name, field in values.items()}
    found["blocks"] = found.pop("llama.block_count")
    found["types"] = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    return found


def kept_of(workspace: Workspace, technique: str) -> str:
    """What TARA says it kept: `mixture` or a plain type of a hybrid, else the technique."""
    if technique == "standard":
        return technique
    (one,) = json.loads(tara(workspace, "show-phase", str(PHASE), "--json"))["compressed"]
    return str(one["kept"])


def said(file: Path, adapter: Path, system: str, question: str) -> str:
    """What the model answers with the adapter on, greedily, in a process of its own."""
    spoken = subprocess.run(
        [sys.executable, "-m", "tests.combinations.speak", file, adapter, system, question],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert spoken.returncode == 0, spoken.stderr[-2000:]
    return str(json.loads(spoken.stdout))


def reported(workspace: Workspace) -> dict[str, Any]:
    """The figures of `tara measure`, a number a name: where there are several subjects, the first."""
    found = json.loads(tara(workspace, "measure", f"phase:{PHASE}", "--max-tokens", str(SCORED), "--json"))
    figures = found["artifacts"][0]["figures"]
    lacking = [name for name in REPORT if not figures.get(name)]
    assert not lacking, f"the report lacks {', '.join(lacking)}: it has {', '.join(figures)}"
    return {name: next(iter(figures[name].values()))["value"] for name in REPORT}
