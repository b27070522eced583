"""Trainings that were broken off, without training: checkpoints as the worker writes them, jobs ended in the store."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sqlmodel import col, select

from core.files import sha256_of, write_manifest
from core.store.engine import open_store
from core.store.tables import Job
from core.training.runs import ADAPTER, FORMAT, OPTIMISER, RNG, STATE, Progress, RunRecord, describe_run
from core.workspace import Workspace

STEPS = 120


def write_checkpoint(folder: Path, step: int, smoothed: float = 1.0, **about: str) -> Path:
    """A whole checkpoint of a step; `about` goes into its manifest."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    numbers = np.full((4, 4), float(step), np.float32)
    save_file({"lora_A": numbers}, path / ADAPTER)
    save_file({"exp_avg.lora_A": numbers}, path / OPTIMISER)
    save_file({"cpu": np.zeros(8, np.uint8)}, path / RNG)
    progress = Progress(step=step, losses=[2.0] * step, smoothed=smoothed)
    (path / STATE).write_text(json.dumps({"progress": asdict(progress), "python_rng": []}))
    write_manifest(path, {"kind": "checkpoint", "format": FORMAT, "step": step, "settings_sha256": "s" * 64, **about})
    return path


def training(workspace: Workspace, domain: str = "business") -> Job:
    """The newest training of a domain as the store has it."""
    with open_store(workspace).write() as session:
        query = select(Job).where(Job.kind == "train", Job.domain == domain).order_by(col(Job.id).desc())
        found = session.exec(query).first()
        assert found is not None
        return Job.model_validate(found.model_dump())


def break_off(
    workspace: Workspace, *steps: int, domain: str = "business", state: str = "cancelled", described: bool = True
) -> Path:
    """Leave the newest training of a domain in a state, with checkpoints of these steps; the folder they are in."""
    job = training(workspace, domain)
    with open_store(workspace).write() as session:
        row = session.get(Job, job.id)
        assert row is not None
        row.state, row.step, row.total = state, max(steps, default=0), STEPS
        base = session.exec(select(Job).where(Job.kind == "base")).one()
        identity = json.loads(base.params)["base"]["identity"]
    inputs = json.loads(job.inputs)
    data = workspace.absolute(inputs["data"])
    folder = workspace.checkpoint_folder(domain, job.key)
    record = RunRecord(
        domain, job.key, json.loads(job.params), inputs["base"], inputs["data"], sha256_of(data), identity, STEPS
    )
    for step in steps:
        write_checkpoint(folder, step, base_sha256=identity, data_sha256=record.data_sha256)
    if described and steps:
        describe_run(folder, record, data)
    return folder


def edit_preset(workspace: Workspace, name: str, old: str, new: str) -> None:
    """Change a line of a preset in presets.yaml."""
    path = workspace.configs / "presets.yaml"
    before, mark, after = path.read_text("utf-8").partition(f"\n{name}:\n")
    assert old in after
    path.write_text(before + mark + after.replace(old, new, 1), "utf-8")
