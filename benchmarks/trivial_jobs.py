"""The runner's trivial job: a real `clean` of an adapter of two tiny tensors. Asked for, waited for, and timed."""

import dataclasses
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pysqlite3.dbapi2 as sqlite
from safetensors.numpy import save_file

from core.catalog import Settings
from core.files import write_atomically
from core.runner.client import ensure_runner, stop_runner
from core.store.engine import dump, open_store
from core.store.reads import open_reader
from core.store.tables import Job
from core.store.version import read_only_uri
from core.workspace import Workspace

GAP_S = (0.1, 0.5)  # between requests, as huey_client.py
LOOK_S = 0.005
PATIENCE_S = 3600.0
BAD = ("failed", "cancelled", "interrupted", "blocked")
WHOLE = "succeeded"


class NotMeasured(Exception):
    """Something that cannot be counted, with the reason."""


@dataclass(frozen=True)
class Times:
    """Seconds from a request until: it is in the store and the runner told; the job's process is there; its task said
    its first word; the process is over and its end on disk; the store says so to clients."""

    committed: float
    process: float
    task: float
    ended: float
    known: float


def make_workspace(root: Path) -> Workspace:
    """A fresh workspace, with a tiny adapter in it to be cleaned."""
    tara = str(Path(sys.executable).with_name("tara"))
    made = subprocess.run([tara, "init", str(root)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if made.returncode:
        raise NotMeasured(f"tara init ended with {made.returncode}: {made.stderr.strip()}")
    source = root / "source"
    source.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    chance = np.random.default_rng(1)
    tensors = {
        f"{name}.lora_A.weight": chance.standard_normal((2, 8)).astype(np.float32),
        f"{name}.lora_B.weight": chance.standard_normal((8, 2)).astype(np.float32),
    }
    save_file(tensors, source / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "base_model_name_or_path": "owner/tiny", "r": 2, "lora_alpha": 4,
        "target_modules": ["q_proj"], "bias": "none",
    }  # fmt: skip
    (source / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return Workspace(root)


def has_light_slots() -> bool:
    """Whether this version's settings know how many light jobs may run at once."""
    return "light_slots" in {field.name for field in dataclasses.fields(Settings)}


def set_light_slots(workspace: Workspace, slots: int) -> None:
    """Let so many light jobs run at once."""
    path = workspace.configs / "settings.yaml"
    text = re.sub(r"^  light_slots:.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    write_atomically(path, re.sub(r"^runner:.*\n", rf"\g<0>  light_slots: {slots}\n", text, flags=re.MULTILINE))


@contextmanager
def runner_of(*workspaces: Workspace) -> Iterator[list[int]]:
    """The process ids of the workspaces' runners, running for the block."""
    try:
        yield [ensure_runner(workspace) for workspace in workspaces]
    finally:
        for workspace in workspaces:
            stop_runner(workspace)


def queue_jobs(workspace: Workspace, count: int) -> list[int]:
    """Put trivial jobs into the queue in one transaction; their numbers. The runner is not told."""
    with open_store(workspace).write() as session:
        jobs = []
        for number in range(count):
            name = f"{time.time_ns()}-{number}"
            params = {"source": "source", "output": f"cleaned/{name}"}
            jobs.append(Job(kind="clean", title="clean source", key=name, heavy=False, params=dump(params)))
        session.add_all(jobs)
        session.flush()
        return [job.id or 0 for job in jobs]


def request(workspace: Workspace) -> Times:
    """Ask for one job on an idle queue, as services do (a row, then the runner), and follow it to its end."""
    asked = time.time()
    [job_id] = queue_jobs(workspace, 1)
    ensure_runner(workspace)
    committed = time.time()
    with open_reader(workspace) as reader:
        _until(lambda: _state(reader.job(job_id).state, job_id) == WHOLE, f"job {job_id} is over")
    known = time.time()
    run_dir = workspace.run_folder(job_id, 1)
    with open(run_dir / "events.jsonl") as stream:
        first = float(json.loads(stream.readline())["t"])
    ended = float(json.loads((run_dir / "exit.json").read_text())["ended"])
    # Written last with the job's number in it, when its process had been started: its own time stamp says when.
    process = (run_dir / "shim.json").stat().st_mtime
    return Times(committed - asked, process - asked, first - asked, ended - asked, known - asked)


def requests(workspaces: list[Workspace], count: int, seed: int, *, warm: bool = False) -> list[list[Times]]:
    """`count` requests of each workspace, one at a time in turn, after random gaps. Unless all is `warm` already, a
    first one of each is not counted: it fills the caches."""
    chance = random.Random(seed)
    found: list[list[Times]] = [[] for _ in workspaces]
    for number in range(int(warm), count + 1):
        for workspace, times in zip(workspaces, found, strict=True):
            time.sleep(chance.uniform(*GAP_S))
            one = request(workspace)
            if number:
                times.append(one)
    return found


def empty_queue(workspace: Workspace, count: int) -> float:
    """Seconds the runner takes for `count` jobs that are queued at once, from the request until the last is known."""
    queue_jobs(workspace, count)
    with closing(sqlite.connect(read_only_uri(workspace.state_db), uri=True)) as connection:

        def all_done() -> bool:
            states = dict(connection.execute("SELECT state, count(*) FROM job GROUP BY state"))
            for state in states:
                _state(state, None)
            return states.get(WHOLE) == sum(states.values())

        asked = time.perf_counter()
        ensure_runner(workspace)
        _until(all_done, f"{count} jobs are over", look_s=0.1)
        return time.perf_counter() - asked


def own_seconds(workspace: Workspace) -> list[tuple[float, float]]:
    """Of each job that ran: the seconds its process lived, and the seconds of processor it used."""
    found = []
    for path in workspace.runs.glob("*/exit.json"):
        end = json.loads(path.read_text())
        found.append((float(end["ended"]) - float(end["started"]), float(end["cpu_s"])))
    return found


def prepared_runs(workspace: Workspace, folder: Path, count: int) -> None:
    """Run folders 1 … `count` as the runner prepares them, below `folder`: for a peer that starts the same process."""
    for number in range(1, count + 1):
        run_dir = folder / str(number)
        run_dir.mkdir(parents=True)
        spec = {
            "job_id": number, "kind": "clean", "attempt": 1, "key": f"peer-{number}", "title": "clean source",
            "phase": None, "domain": None, "workspace": str(workspace.root), "inputs": {}, "out": None, "threads": 1,
            "params": {"source": "source", "output": str(folder.parent / "cleaned" / str(number))},
        }  # fmt: skip
        (run_dir / "spec.json").write_text(json.dumps(spec), "utf-8")


def _state(state: str, job_id: int | None) -> str:
    if state in BAD:
        raise NotMeasured(f"{f'job {job_id}' if job_id else 'a job'} is {state}")
    return state


def _until(look: Callable[[], bool], what: str, look_s: float = LOOK_S) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        if time.monotonic() > deadline:
            raise NotMeasured(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(look_s)
