"""The workspaces that are built in: the embedded base off the grid of its file, where no plain type is free of loss;
one domain; and settings with which a build takes minutes."""

import subprocess
import sys
from pathlib import Path

import yaml

from core.workspace import Workspace
from tests.conftest import new_workspace, use_base

DOMAIN = "healthcare"
PHASE = 1
QUICK = {  # less than is good for quality: what is asked here is whether all of it works
    "compression": {
        "prune_tokens": 256, "teacher_tokens": 2000, "student_batch": 2, "heal_steps": 8, "distil_steps": 8,
    },
    "training": {"calibration_tokens": 512},
}  # fmt: skip


def make_base(folder: Path) -> Path:
    """The base's folder, made in a process of its own, which holds it whole."""
    subprocess.run([sys.executable, "-m", "tests.combinations.off_grid", folder], check=True)
    return folder / "off-grid"


def make(folder: Path, base: Path, steps: int) -> Workspace:
    """A workspace whose domain is trained for `steps` steps."""
    workspace = new_workspace(folder)
    use_base(workspace, base)
    settings = workspace.configs / "settings.yaml"
    values = yaml.safe_load(settings.read_text("utf-8"))
    for name, quick in QUICK.items():
        values[name] |= quick
    settings.write_text(yaml.safe_dump(values), "utf-8")
    presets = workspace.configs / "presets.yaml"
    values = yaml.safe_load(presets.read_text("utf-8"))
    values["starter"]["max_steps"] = steps
    presets.write_text(yaml.safe_dump(values), "utf-8")
    return workspace
