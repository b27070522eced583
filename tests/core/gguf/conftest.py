"""The embedded base as folder, F16 and quantized GGUF, and a random adapter on it: made once a session."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.files import sha256_of, write_manifest
from core.gguf.toolchain import install_toolchain
from core.tasks import (
    adapter_convert,
    convert,
    hybrid,
    imatrix,
    measure,
    quantize,
    repair,
    repair_adapter,
    type_costs,
    verify,
)
from core.tasks.context import Context

TASKS = {
    "convert": convert,
    "quantize": quantize,
    "adapter-convert": adapter_convert,
    "verify": verify,
    "imatrix": imatrix,
    "measure": measure,
    "type-costs": type_costs,
    "hybrid": hybrid,
    "repair": repair,
    "repair-adapter": repair_adapter,
}


@dataclass
class Outcome:
    """What a task announced: its artifact event, measurements by name (and subject), result."""

    artifact: dict[str, Any]
    measurements: dict[tuple[str, str], Any]
    result: dict[str, Any]
    progress: list[dict[str, Any]]


Task = Callable[..., Outcome]


def write_spec(run_dir: Path, kind: str, out: Path, params: dict[str, Any], inputs: dict[str, Any]) -> Path:
    """Make a run folder with its spec."""
    run_dir.mkdir(parents=True)
    spec = {"job_id": 1, "kind": kind, "attempt": 1, "key": "0" * 64, "workspace": str(run_dir), "title": kind}
    spec |= {"params": params, "inputs": inputs, "out": str(out), "threads": 2}
    (run_dir / "spec.json").write_text(json.dumps(spec, default=str))
    return run_dir


def run_task(run_dir: Path, kind: str, out: Path, params: dict[str, Any], inputs: dict[str, Any]) -> Outcome:
    """Run a task as the worker would, in this process."""
    TASKS[kind].run(Context(write_spec(run_dir, kind, out, params, inputs)))
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    named: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        named.setdefault(event["event"], []).append(event)
    (artifact,) = named["artifact"]
    assert Path(artifact["path"]) == out
    assert artifact["sha256"] == sha256_of(out)
    assert artifact["bytes"] == out.stat().st_size
    return Outcome(
        artifact,
        {(event["name"], event["subject"]): event["value"] for event in named.get("measurement", [])},
        named["result"][-1]["values"],
        named.get("progress", []),
    )


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Run a task of a kind: task(kind, out, params, inputs) -> Outcome."""
    count = 0

    def run(kind: str, out: Path, params: dict[str, Any], inputs: dict[str, Any]) -> Outcome:
        nonlocal count
        count += 1
        return run_task(tmp_path / "runs" / str(count), kind, out, params, inputs)

    return run


@pytest.fixture(scope="session", autouse=True)
def toolchain() -> Path:
    """The converters; fetched from the package index when this environment has none yet."""
    return install_toolchain()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's files are."""
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="session")
def base_folder(folder: Path) -> Path:
    """The embedded base as a Hugging Face folder."""
    from core.tasks import base

    path = folder / "base" / "smollm2"
    params = {"base": {"name": "smollm2", "kind": "embedded"}}
    base.run(Context(write_spec(folder / "runs" / "base", "base", path, params, {})))
    return path


@pytest.fixture(scope="session")
def base_sha256(base_folder: Path) -> str:
    """The identity of the embedded base."""
    return str(json.loads((base_folder / "tara.json").read_text())["sha256"])


@pytest.fixture(scope="session")
def f16(folder: Path, base_folder: Path) -> Path:
    """The embedded base as F16 GGUF."""
    out = folder / "gguf" / "smollm2-F16.gguf"
    run_task(folder / "runs" / "f16", "convert", out, {"name": "smollm2"}, {"model": base_folder})
    return out


@pytest.fixture(scope="session")
def random_adapter(folder: Path, base_folder: Path) -> Path:
    """A PEFT folder with random, strong enough, weights for the embedded base."""
    path = folder / "adapter" / "random"
    path.mkdir(parents=True)
    save_random_adapter(base_folder, path, strength=0.06)
    write_manifest(path, {"kind": "adapter"})
    return path


@pytest.fixture(scope="session")
def adapter_gguf(folder: Path, base_folder: Path, base_sha256: str, random_adapter: Path) -> Path:
    """The random adapter as GGUF."""
    out = folder / "gguf-adapter" / "random.gguf"
    params = {"domain": "random", "base_sha256": base_sha256, "base_name": "smollm2"}
    inputs = {"base": base_folder, "adapter": random_adapter}
    run_task(folder / "runs" / "adapter", "adapter-convert", out, params, inputs)
    return out


def save_random_adapter(base: Path, path: Path, *, strength: float, seed: int = 0, **settings: Any) -> None:
    """Write an adapter whose B is random too, so that it changes what the base says."""
    import torch

    from core.training.base import load_model
    from core.training.lora import add_lora, lora_config, save_adapter

    model = load_model(base, torch.float32)
    config = lora_config(model, base_name="base", r=8, alpha=16, dropout=0.0)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    adapted = add_lora(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, strength)
    save_adapter(adapted, path)
