"""Finished jobs without training: claimed, run folders by the workers' own Context, ended through the ledger."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pysqlite3.dbapi2 as sqlite
from safetensors.numpy import save_file

from core.deploy.manifest import FORMAT, NAME
from core.files import sha256_of, write_manifest
from core.runner import dependencies, ledger
from core.runner.executors import Exit
from core.runner.second_copy import known_to_the_store
from core.store.engine import Store, open_store
from core.store.tables import Job
from core.tasks import accept_merge, deploy, quality_gate
from core.tasks.context import Context
from core.tasks.package import delivered_figures
from core.workspace import Workspace

OK = Exit(0, None, False, None, 0.0)
FAILED = Exit(3, None, False, None, 0.0)
VANISHED = Exit(None, None, False, None, 0.0)
STOPPED = Exit(143, None, True, None, 0.0)
QUALITY = 0.5
WHY = "the mixture is kept: it loses less"


def base_folder(folder: Path, seed: int = 0, layers: int = 1) -> Path:
    """A folder that is found and hashed as a base model; nothing can be trained on it."""
    folder.mkdir(parents=True)
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": layers}
    about = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_attention_heads": 2, **sizes}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "tokenizer.json").write_text("{}")
    weights = np.random.default_rng(seed).standard_normal((4, 4)).astype(np.float32)
    save_file({"model.norm.weight": weights}, folder / "model.safetensors")
    return folder


def adapter_folder(folder: Path, base: str, seed: int = 0, *, width: int = 8, layers: int = 1) -> Path:
    """A LoRA adapter as PEFT stores it, of one module a layer; it fits what `base_folder` makes."""
    folder.mkdir(parents=True)
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(about))
    numbers = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{prefix}.lora_A.weight"] = numbers.standard_normal((2, width)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = numbers.standard_normal((width, 2)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def chat_lines(path: Path, count: int = 6, answer: str = "answer") -> Path:
    """Training data of different questions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"{answer} {n}"}]}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def start_job(store: Store, job_id: int) -> Path:
    """Claim a job and write its spec, as the runner does; its run folder."""
    job = ledger.claim(store, job_id)
    assert job is not None, f"job {job_id} is not queued"
    assert job.run_dir is not None
    root = store.workspace.root

    def absolute(value: Any) -> Any:
        return {k: absolute(v) for k, v in value.items()} if isinstance(value, dict) else str(root / value)

    run_dir = store.workspace.absolute(job.run_dir)
    run_dir.mkdir(parents=True)
    spec = {
        "job_id": job.id,
        "kind": job.kind,
        "attempt": job.attempt,
        "key": job.key,
        "title": job.title,
        "phase": job.phase,
        "domain": job.domain,
        "workspace": str(root),
        "params": json.loads(job.params),
        "inputs": absolute(json.loads(job.inputs)),
        "out": str(root / job.out) if job.out else None,
        "store": known_to_the_store(store, job),
    }
    (run_dir / "spec.json").write_text(json.dumps(spec))
    return run_dir


def end_job(store: Store, job_id: int, how: Exit = OK) -> str:
    """Record a claimed job's end, in its folder as its parent does and in the store; its state."""
    ended = replace(how, ended=time.time())
    with store.write() as session:
        job = session.get(Job, job_id)
        assert job is not None
        assert job.run_dir is not None
        run_dir = store.workspace.absolute(job.run_dir)
    if ended.code is not None or ended.signal is not None:
        record = {name: getattr(ended, name) for name in ("code", "signal", "stopped", "started", "ended")}
        (run_dir / "exit.json").write_text(json.dumps(record))
    return ledger.finish(store, job_id, ended)


def do_job(store: Store, job_id: int, how: Exit = OK, quality: float = QUALITY) -> str:
    """Run one queued job in imitation, from claim to end; its state."""
    context = Context(start_job(store, job_id))
    if how.code == 0:
        _WORK.get(context.spec["kind"], _file)(context, quality)
    return end_job(store, job_id, how)


def ready(store: Store) -> list[Job]:
    """Jobs that may run now."""
    with store.write() as session:
        return dependencies.unblocked_jobs(session)


def do_all(workspace: Workspace, quality: float = QUALITY) -> list[int]:
    """Imitate all jobs that can run, in the order of the queue; their numbers."""
    store = open_store(workspace)
    done = []
    while jobs := ready(store):
        assert jobs[0].id is not None
        assert do_job(store, jobs[0].id, quality=quality) == "succeeded"
        done.append(jobs[0].id)
    return done


def _file(context: Context, quality: float) -> None:
    ggufs = dict.fromkeys(("convert", "quantize", "hybrid", "keep"), "gguf")
    kind = {"evaluate": "evaluation", "verify": "verification", **ggufs}.get(
        context.spec["kind"], context.spec["kind"].replace("adapter-convert", "gguf-adapter")
    )
    figures = {"base_loss": 3.0, "tuned_loss": 2.0, "base_accuracy": 0.2, "quality": quality}
    with context.staging() as path:
        path.write_text(json.dumps({"key": context.key, "tuned_accuracy": quality, **figures}))
    assert context.out is not None
    size = context.out.stat().st_size
    tried = {"compression": "hybrid", "kept": "mixture", "why": WHY, "file_type": "hybrid", "types": {"Q5_1": 3}}
    meta: dict[str, Any] = tried if context.spec["kind"] == "hybrid" else {}
    if kind == "verification":
        counts = {"asked": 3, "passed": 2, "passed_again": 1, "needed": 2}
        meta = {"answers": dict.fromkeys(context.params["domains"], counts)}
    context.artifact(kind, context.out.stem, context.out, sha256=sha256_of(context.out), bytes=size, **meta)
    if kind == "evaluation":
        for name, value in figures.items():
            context.measure(name, value, method="held-out token accuracy, 2 examples, seed 7", n=20)
    context.metrics(1, loss=2.5)
    context.metrics(2, loss=2.25, rss_mb=100.0)
    context.progress(2, 2, unit="step", message="made")
    context.result(bytes=size)


def _folder(context: Context, quality: float) -> None:
    with context.staging() as path:
        path.mkdir()
        (path / "content").write_text(context.key)
        digest, size = write_manifest(path, {"kind": context.spec["kind"]})
    assert context.out is not None
    kind = {"train": "adapter", "merge": "merged", "unify": "merged"}.get(context.spec["kind"], context.spec["kind"])
    context.artifact(kind, context.out.name, context.out, sha256=digest, bytes=size)
    context.metrics(1, loss=2.5)


def _check(context: Context, quality: float) -> None:
    figures = {"base_loss": 3.0, "adapter_loss": 2.0, "unified_loss": 2.01}
    figures |= {f"{name}_accuracy": quality for name in ("base", "adapter", "unified")}
    rows = [{"domain": name, **figures, "examples": 2, "tokens": 20} for name in context.params["domains"]]
    with context.staging() as path:
        path.write_text(json.dumps({"method": context.params["method"], "rows": rows}))
    assert context.out is not None
    size = context.out.stat().st_size
    context.artifact(
        "merge-check", context.params["name"], context.out, sha256=sha256_of(context.out), bytes=size,
        method=context.params["method"], rows=rows,
    )  # fmt: skip


def _accept(context: Context, quality: float) -> None:
    accept_merge.run(context)


def _delivered(context: Context, quality: float) -> None:
    assert context.out is not None
    context.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"domain": name, "model": model, "loss": 2.0, "accuracy": quality, "positions": 40, "texts": 4}
        for name, model in context.params["answering"].items()
    ]
    context.out.write_text(json.dumps({"rows": rows}))
    context.artifact("delivered-check", "phase", context.out, sha256=sha256_of(context.out), bytes=1, rows=rows)


def _gate(context: Context, quality: float) -> None:
    quality_gate.run(context)


def _package(context: Context, quality: float) -> None:
    def put(path: Path, text: str) -> dict[str, Any]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return {"sha256": sha256_of(path), "bytes": path.stat().st_size}

    delivered = json.loads(Path(context.inputs["delivered"]).read_text()) if "delivered" in context.inputs else {}

    def measured(name: str) -> dict[str, float]:
        found = json.loads(Path(context.inputs["evaluations"][name]).read_text())
        figures = {figure: found[figure] for figure in ("base_loss", "tuned_loss", "quality")}
        return figures | delivered_figures(name, delivered)

    with context.staging() as path:
        bases = {
            name: {"file": f"base-{name}.gguf", **put(path / f"base-{name}.gguf", context.key)}
            for name in context.inputs["bases"]
        }
        domains = {
            name: {
                "adapter": f"adapters/{name}.gguf",
                **put(path / "adapters" / f"{name}.gguf", f"{name} {context.key}"),
                "measurements": measured(name),
            }
            for name in context.params["domains"]
        }
        routing = {"file": "routing.json", **put(path / "routing.json", "{}")}
        manifest = {"format": FORMAT, "phase": context.params["phase"], "key": context.key}
        if "gate" in context.inputs:
            manifest["quality_gate"] = json.loads(Path(context.inputs["gate"]).read_text())
        put(path / NAME, json.dumps({**manifest, "bases": bases, "domains": domains, "routing": routing}))
        digest, size = write_manifest(path, {"kind": "bundle"})
    assert context.out is not None
    context.artifact("bundle", context.out.name, context.out, sha256=digest, bytes=size, unquantized_bytes=4 * size)


def _deploy(context: Context, quality: float) -> None:
    deploy.run(context)


_WORK: dict[str, Callable[[Context, float], None]] = {
    "base": _folder, "train": _folder, "merge": _folder, "unify": _folder, "package": _package, "deploy": _deploy,
    "check-merge": _check, "accept-merge": _accept, "quality-gate": _gate, "check-delivered": _delivered,
}  # fmt: skip


def contents(workspace: Workspace, *, without: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Every row of every table."""
    if not workspace.state_db.exists():
        return {}
    connection = sqlite.connect(str(workspace.state_db))
    try:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for name in sorted(names)
            if name not in (*without, "sqlite_sequence")
        }
    finally:
        connection.close()


def tree(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Every file of a folder by its hash, every link by where it leads, every folder; without the store's files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] in without or name.startswith("state.db") or name == "runs/.store.lock":
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = sha256_of(path) if path.is_file() else "folder"
    return found
