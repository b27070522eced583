"""Tiny models of other architectures, all the way: train, merge, convert, quantize, generate."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.catalog.bases import Located, base_identity
from core.files import hash_json
from core.gguf.inspect import inspect_gguf
from core.tasks import adapter_convert, base, convert, evaluate, merge, quantize, train
from core.tasks.context import Context
from core.workspace import Workspace
from tests.models import build_tiny, make_convertible

PRESET = {
    "name": "tiny", "batch_size": 1, "gradient_accumulation": 1, "sequence_length": 96, "lora_r": 4, "lora_alpha": 8,
    "lora_dropout": 0.0, "learning_rate": 5e-3, "epochs": 4, "max_steps": 24, "save_steps": 100, "warmup_ratio": 0.0,
    "weight_decay": 0.0, "dtype": "float32",
}  # fmt: skip
SYSTEM = "You answer briefly."


def run_task(module: Any, folder: Path, kind: str, params: dict[str, Any], inputs: dict[str, Any], out: str) -> Path:
    """Run a task in this process as a job would be; its artifact."""
    run_dir = folder / "runs" / f"{kind}-{out.replace('/', '-')}"
    run_dir.mkdir(parents=True)
    spec = {
        "job_id": 1, "kind": kind, "attempt": 1, "key": hash_json([kind, params, inputs]), "title": kind,
        "workspace": str(folder), "params": params, "inputs": {name: str(path) for name, path in inputs.items()},
        "out": str(folder / "artifacts" / out), "threads": 2,
    }  # fmt: skip
    (run_dir / "spec.json").write_text(json.dumps(spec), "utf-8")
    module.run(Context(run_dir))
    return folder / "artifacts" / out


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", "phi3"])
def test_from_training_to_generated_text(
    architecture: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.gguf.runtime import Runtime

    root = workspace.root
    source = build_tiny(architecture, root / "tiny", chat_template=architecture != "gpt2")
    make_convertible(source, architecture, root, monkeypatch)
    data = workspace.configs / "starter_data" / "creative.jsonl"
    name = "tiny"  # not the family's: llama.cpp expects a phi3 vocabulary of every file whose name has phi3 in it
    identity = base_identity(Located(name, "local", source))
    about = {"name": name, "kind": "local", "path": str(source), "identity": identity}
    model = run_task(base, root, "base", {"base": about}, {}, f"base/{name}")
    split = {"domain": "creative", "seed": 7, "held_out_fraction": 0.2, "system_prompt": SYSTEM}
    adapter = run_task(
        train, root, "train", {**split, "preset": PRESET}, {"base": model, "data": data}, "adapter/creative"
    )
    evaluation = run_task(
        evaluate, root, "evaluate", {**split, "sequence_length": 96},
        {"base": model, "adapter": adapter, "data": data}, "evaluation/creative.json",
    )  # fmt: skip
    measured = json.loads(evaluation.read_text("utf-8"))
    assert measured["tuned_loss"] < measured["base_loss"]

    merged = run_task(
        merge, root, "merge", {"domain": "creative"}, {"base": model, "adapter": adapter}, "merged/creative"
    )
    whole = run_task(convert, root, "convert", {"name": name}, {"model": merged}, "gguf/merged-F16.gguf")
    small = run_task(
        quantize, root, "quantize", {"name": name, "type": "Q8_0"}, {"gguf": whole}, "gguf/merged-Q8_0.gguf"
    )
    plain = run_task(convert, root, "convert", {"name": name}, {"model": model}, "gguf/base-F16.gguf")
    lora = run_task(
        adapter_convert, root, "adapter-convert", {"domain": "creative", "base_name": name, "base_sha256": identity},
        {"base": model, "adapter": adapter}, "gguf-adapter/creative.gguf",
    )  # fmt: skip
    assert inspect_gguf(small).file_type == "Q8_0"

    def greedy(gguf: Path, attached: Path | None) -> str:
        with Runtime(gguf, n_ctx=128, threads=2) as runtime:
            runtime.attach(attached)
            tokens = runtime.render([{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Say hello."}])
            return "".join(runtime.generate(tokens, max_tokens=12))

    assert greedy(small, None)  # a quantized file that generates
    assert greedy(whole, None) == greedy(plain, lora) != greedy(plain, None)
