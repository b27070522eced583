"""adapter-convert: a PEFT LoRA folder becomes a small GGUF file that names the base it belongs to."""

import json
from pathlib import Path
from typing import Any

from core.errors import InvalidInput
from core.files import MANIFEST, sha256_of
from core.gguf.adapter import count_pairs, ready_adapter
from core.gguf.converter import run_converter
from core.gguf.inspect import GgufInfo, inspect_gguf
from core.gguf.metadata import ADAPTER_SHA256, BASE_NAME, BASE_SHA256, DOMAIN, add_metadata
from core.gguf.toolchain import CONVERT_ADAPTER
from core.tasks.context import Context, TaskError

PROVENANCE = "tara.json"


def run(ctx: Context) -> None:
    """Convert `inputs.adapter`, trained on `inputs.base`, to `out`, with its provenance in the file's keys."""
    base, adapter = Path(ctx.inputs["base"]), Path(ctx.inputs["adapter"])
    domain, base_name, base_sha256 = ctx.params["domain"], ctx.params["base_name"], ctx.params["base_sha256"]
    assert ctx.out is not None
    _check_base(adapter, base, base_name, base_sha256)
    pairs = count_pairs(adapter)
    with ctx.scratch() as scratch:
        converted = scratch / "adapter.gguf"
        source = ready_adapter(adapter, base, scratch)
        run_converter(
            CONVERT_ADAPTER,
            ["--base", str(base), "--outtype", "f16", "--outfile", str(converted), str(source)],
            on_percent=lambda percent: ctx.progress(percent, 100, unit="%", message="writing"),
        )
        keys = {
            BASE_SHA256: base_sha256,
            BASE_NAME: base_name,
            DOMAIN: domain,
            ADAPTER_SHA256: _adapter_hash(adapter),
        }
        with ctx.staging() as staged:
            add_metadata(converted, staged, keys)
            info = _checked(staged, adapter, pairs)
            digest = sha256_of(staged)
    rank = max(tensor.shape[1] for tensor in info.tensors if tensor.name.endswith(".lora_a"))
    print(f"{domain}: {info.bytes / 1e6:.1f} MB, rank {rank} on {pairs} layers of {base_name}", flush=True)
    ctx.artifact(
        "gguf-adapter",
        domain,
        ctx.out,
        sha256=digest,
        bytes=info.bytes,
        architecture=info.architecture,
        base_name=base_name,
        base_sha256=base_sha256,
        adapter_sha256=keys[ADAPTER_SHA256],
        rank=rank,
        layers=pairs,
    )
    ctx.measure("bytes", info.bytes, method="size of the file", unit="B")
    ctx.result(bytes=info.bytes, rank=rank, layers=pairs, base=base_name)


def _check_base(adapter: Path, base: Path, base_name: str, base_sha256: str) -> None:
    """Refuse an adapter that says it was trained on another base. llama.cpp compares shapes only."""
    made = _provenance(base).get("sha256")
    if made and made != base_sha256:
        raise TaskError(
            f"{base.name} was made from another {base_name} ({str(made)[:12]}) than was planned ({base_sha256[:12]})",
            "plan the build again",
        )
    claim = _provenance(adapter).get("base")
    if not isinstance(claim, dict) or not claim.get("sha256"):
        print(f"{adapter.name} does not say by hash which base it was trained on; taken as made for {base_name}")
        return
    if claim["sha256"] != base_sha256:
        raise TaskError(
            f"{adapter.name} was trained on {claim.get('name')} ({str(claim['sha256'])[:12]}), "
            f"not on {base_name} ({base_sha256[:12]})",
            f"train it again on {base_name}, or give its domain the base it was trained on",
        )


def _provenance(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TaskError(f"{path} cannot be read: {error}", "make the folder again") from error
    return about if isinstance(about, dict) else {}


def _adapter_hash(adapter: Path) -> str:
    manifest = adapter / MANIFEST
    return sha256_of(manifest if manifest.is_file() else adapter / "adapter_model.safetensors")


def _checked(path: Path, adapter: Path, pairs: int) -> GgufInfo:
    try:
        info = inspect_gguf(path)
    except InvalidInput as error:
        raise TaskError(f"the converter made an unusable file of {adapter}: {error.message}", "see the log") from error
    found = sum(tensor.name.endswith(".lora_a") for tensor in info.tensors)
    if info.kind != "adapter" or found < pairs:
        raise TaskError(f"the converter kept {found} of {pairs} adapted layers of {adapter}", "see the log")
    return info
