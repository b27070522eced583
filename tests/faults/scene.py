"""The workspace that faults are done to: a tiny base, real jobs, and what is known of them from outside the store."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from core.files import sha256_of
from core.phases.service import train_domain
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.tables import Job
from core.workspace import Workspace
from tests.conftest import new_workspace
from tests.core.hygiene.folders import write_adapter
from tests.core.runner.watch import add_job, over

if TYPE_CHECKING:
    from tests.faults.consoles import Consoles

TARA = Path(sys.executable).with_name("tara")
RESERVE_MB = 60  # of a disk of a few hundred
DOMAINS = ("healthcare", "business", "education", "creative", "leadership")


@dataclass
class Scene:
    """A live workspace, the jobs that were accepted, and what a training that nobody disturbs ends with."""

    workspace: Workspace
    accepted: list[int] = field(default_factory=list)
    trainings: dict[int, str] = field(default_factory=dict)  # job: hash of the adapter it must end with
    to_come: list[Callable[[], None]] = field(default_factory=list)  # what is queued while faults are done
    consoles: "Consoles" = field(init=False)

    def __post_init__(self) -> None:
        from tests.faults.consoles import Consoles

        self.consoles = Consoles(self.workspace.root)

    def tara(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [str(TARA), "--root", str(self.workspace.root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def jobs(self) -> dict[int, Any]:
        """All jobs as clients see them."""
        with open_reader(self.workspace) as reader:
            return {job.id: job for job in reader.jobs(limit=100_000)}


def build(folder: Path, tiny: Path, synthetic: int, trainings: int, steps: int) -> Scene:
    """A workspace with its reference adapters made; nothing queued yet."""
    workspace = new_workspace(folder / "workspace", tiny)
    settings = workspace.configs / "settings.yaml"
    text = settings.read_text("utf-8").replace("retry_delay_s: 5 ", "retry_delay_s: 0 ")
    text = text.replace("stop_grace_s: 30 ", "stop_grace_s: 5 ")
    settings.write_text(text.replace("disk_reserve_mb: 500 ", f"disk_reserve_mb: {RESERVE_MB} "), "utf-8")
    presets = workspace.configs / "presets.yaml"
    known = yaml.safe_load(presets.read_text("utf-8"))
    for name in ("reference", "disturbed"):
        known[name] = {**known["ultra"], "epochs": 1000, "max_steps": steps, "save_steps": 10, "batch_size": 2}
    presets.write_text(yaml.safe_dump(known), "utf-8")
    scene = Scene(workspace)
    expected = {domain: _trained(scene, domain) for domain in DOMAINS[:trainings]}
    todo: list[Callable[[], None]] = [partial(_queue_cleaning, scene, number) for number in range(synthetic)]
    every = max(1, len(todo) // max(1, len(expected)))
    for number, (domain, digest) in enumerate(expected.items()):
        todo.insert(min(len(todo), number * (every + 1)), partial(_queue_training, scene, domain, digest))
    scene.to_come = todo
    return scene


def _queue_cleaning(scene: Scene, number: int) -> None:
    root = scene.workspace.root
    source = write_adapter(root / "sources" / str(number))
    for extra in range(40):
        (source / f"train-{extra}.log").write_text("x" * 2000)
    scene.accepted.append(add_job(scene.workspace, source, root / "cleaned" / str(number)))


def _queue_training(scene: Scene, domain: str, digest: str) -> None:
    before = set(scene.jobs())
    numbers = train_domain(scene.workspace, domain, preset="disturbed")
    scene.accepted += [number for number in numbers if number not in before]
    kinds = scene.jobs()
    scene.trainings |= {number: digest for number in numbers if kinds[number].kind == "train"}


def _trained(scene: Scene, domain: str) -> str:
    """Train a domain undisturbed; the hash of its adapter's weights."""
    numbers = train_domain(scene.workspace, domain, preset="reference")
    for number in numbers:
        assert over(scene.workspace, number, within=180).state == "succeeded"
    training = next(number for number in numbers if scene.jobs()[number].kind == "train")
    return adapter_of(scene.workspace, training)


def adapter_of(workspace: Workspace, training: int) -> str:
    """The hash of the weights that a training made."""
    with open_store(workspace).write() as session:
        job = session.get(Job, training)
        assert job is not None
        assert job.out is not None
        return sha256_of(workspace.absolute(job.out) / "adapter_model.safetensors")


def processes(root: Path) -> list[tuple[int, str, str]]:
    """Living processes of a workspace: number, what it is (runner, shim, job, command), and its run folder or ''."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").split("\0")
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state == "Z" or not any(word.startswith(str(root)) for word in words):
            continue
        text = " ".join(words)
        for kind, mark in (("runner", "-m core.runner /"), ("shim", "-m core.runner.shim"), ("job", "-m core.tasks")):
            if mark in text:
                folder = next((word for word in words if word.startswith(f"{root}/runs/")), "")
                found.append((int(name), kind, folder))
                break
        else:
            found.append((int(name), "command", ""))
    return found


def drain(scene: Scene, within: float) -> bool:
    """Let the queue run dry, asking again for what was given up; whether everything succeeded in time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        jobs = scene.jobs()
        undone = [jobs[number] for number in scene.accepted if number in jobs and jobs[number].state != "succeeded"]
        if not undone:
            return True
        again = [str(job.id) for job in undone if job.state in ("failed", "interrupted", "cancelled")]
        if again:
            scene.tara("jobs", "retry", *again)
        held = [str(job.id) for job in undone if job.state == "paused"]
        if held:
            scene.tara("jobs", "resume", *held)
        scene.tara("jobs", "list", "--active", "--json")  # starts the runner where it is gone
        if any(job.state == "queued" for job in undone):
            scene.tara("runner", "start")
        time.sleep(0.5)
    return False


def exit_of(folder: Path) -> dict[str, Any] | None:
    """A run folder's exit record."""
    try:
        found: dict[str, Any] = json.loads((folder / "exit.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found
