"""Driving a task as the worker does: a spec on disk, a context, and the events it wrote."""

import importlib
import json
from pathlib import Path
from typing import Any

from core.runner.executors import Exit
from core.store.engine import open_store
from core.tasks.context import Context, TaskError
from core.workspace import Workspace
from tests.imitate import end_job, ready, start_job

PRESET: dict[str, Any] = {
    "name": "test",
    "batch_size": 2,
    "gradient_accumulation": 1,
    "sequence_length": 128,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "learning_rate": 5e-3,
    "epochs": 1,
    "max_steps": 4,
    "save_steps": 20,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "dtype": "float32",
}
SYSTEM_PROMPT = "You answer in one short sentence."


def drive(folder: Path, kind: str, out: Path, params: dict[str, Any], inputs: dict[str, Path]) -> list[dict[str, Any]]:
    """Run a task once with its run folder under `folder`; returns its events, in order."""
    run_dir = folder / "runs" / f"{kind}-{out.name}"
    run_dir.mkdir(parents=True, exist_ok=True)
    spec = {
        "job_id": 1,
        "kind": kind,
        "attempt": 1,
        "key": "0" * 64,
        "workspace": str(folder),
        "title": kind,
        "params": params,
        "inputs": {name: str(path) for name, path in inputs.items()},
        "out": str(out),
        "threads": 2,
    }
    (run_dir / "spec.json").write_text(json.dumps(spec), "utf-8")
    importlib.import_module(f"core.tasks.{kind}").run(Context(run_dir))
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text("utf-8").splitlines()]


def only(events: list[dict[str, Any]], event: str) -> dict[str, Any]:
    """The one event of a kind."""
    (found,) = [each for each in events if each["event"] == event]
    return found


def measured(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Measurements by name."""
    return {each["name"]: each for each in events if each["event"] == "measurement"}


def write_examples(path: Path, count: int = 20, answer: str = "The answer to number {n} is to rest and drink.") -> Path:
    """Chat examples with different questions and answers alike enough to be learned."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What do I do about number {n}, the one called {chr(97 + n % 26) * 3}?"},
                {"role": "assistant", "content": answer.format(n=n)},
            ]
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def make_base(folder: Path, model: Path, name: str = "tiny") -> Path:
    """A finished base artifact from a model folder."""
    out = folder / "artifacts" / "base" / name
    drive(folder, "base", out, {"base": {"name": name, "kind": "local", "path": str(model)}}, {})
    return out


def train_adapter(folder: Path, base: Path, data: Path, name: str = "healthcare", **preset: Any) -> Path:
    """A trained adapter artifact."""
    out = folder / "artifacts" / "adapter" / name
    params = {"domain": name, "preset": PRESET | preset, "seed": 7, "system_prompt": SYSTEM_PROMPT}
    drive(folder, "train", out, params, {"base": base, "data": data})
    return out


def work(workspace: Workspace) -> dict[str, str]:
    """Do all queued jobs as the runner would, in this process; the error of each kind that failed."""
    store, failed = open_store(workspace), {}
    while jobs := ready(store):
        job = jobs[0]
        assert job.id is not None
        context = Context(start_job(store, job.id))
        code = 0
        try:
            importlib.import_module(f"core.tasks.{job.kind.replace('-', '_')}").run(context)
        except TaskError as error:
            context.emit("error", message=error.message, hint=error.hint, failure=None)
            failed[job.kind] = error.message
            code = 3
        end_job(store, job.id, Exit(code, None, False, None, 0.0))
    return failed
