"""A training that the kernel kills for lack of memory, for real. Usage, as root: python -m tests.faults.out_of_memory

Everything runs in a memory control group of its own, with the runner's own guard off. Another program takes the memory
while a training runs; the kernel ends the training; it must be told as that, with figures, and tried again smaller.
The last line is `RESULT ` and one JSON object; status 1 where a promise was broken, 2 where no group can be made.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from core.memory import PAGE, cgroup_available
from core.phases.service import train_domain
from core.runner.shim import session_of
from core.store.engine import open_store
from core.store.tables import JobAttempt
from core.store.views import JobView
from core.workspace import Workspace
from tests.conftest import end_everything, new_workspace
from tests.core.runner.watch import attempts, processes, until, view
from tests.memory_group import MemoryGroup
from tests.models import build_tiny

LIMIT = 2_000 * 10**6  # bytes of the group: a training of the full batch fits, and half of it beside the other program
MORE = 150 * 10**6  # what the other program wants beyond what is free
HOG = "import sys, time; held = bytearray(int(sys.argv[1])); print('held', flush=True); time.sleep(600)"


def scene(folder: Path) -> Workspace:
    """A workspace with a tiny base and a preset that takes much memory for its batch."""
    workspace = new_workspace(folder / "workspace", build_tiny("llama", folder / "tiny"))
    presets = workspace.configs / "presets.yaml"
    known = yaml.safe_load(presets.read_text("utf-8"))
    wide = {"batch_size": 64, "sequence_length": 512, "epochs": 1000, "max_steps": 12, "save_steps": 2}
    known["wide"] = {**known["ultra"], **wide, "lora_dropout": 0.0}
    presets.write_text(yaml.safe_dump(known), "utf-8")
    settings = workspace.configs / "settings.yaml"
    text = settings.read_text("utf-8").replace("retry_delay_s: 5 ", "retry_delay_s: 0 ")
    settings.write_text(text.replace("memory_reserve_mb: 500 ", "memory_reserve_mb: 0 "), "utf-8")
    long = " ".join(["a long answer that fills the sequence"] * 80)
    data = workspace.data / "business.jsonl"
    data.parent.mkdir()
    with open(data, "w", encoding="utf-8") as stream:
        for number in range(100):
            turns = [{"role": "user", "content": f"why {number}?"}, {"role": "assistant", "content": long}]
            stream.write(json.dumps({"messages": turns}) + "\n")
    return workspace


def run(workspace: Workspace) -> dict[str, Any]:
    """The story, and what is not as it was promised."""
    training = train_domain(workspace, "business", preset="wide")[1]

    def at_work() -> JobView | None:
        job = view(workspace, training)
        assert job.state not in ("failed", "blocked", "cancelled"), job.error
        return job if (job.step or 0) >= 3 else None

    job = until(at_work, "the training got going", 400)
    assert job.run_dir is not None
    shim = int(processes(workspace.absolute(job.run_dir))["pid"])
    held = sum(int(fields[21]) * PAGE for _, fields in session_of(shim))
    free = cgroup_available() or 0
    print(f"at step {job.step}: the training holds {held / 1e6:.0f} MB, {free / 1e6:.0f} MB are left of the group")
    hog = subprocess.Popen([sys.executable, "-c", HOG, str(free + MORE)], stdout=subprocess.PIPE)
    try:
        until(lambda: attempts(workspace, training)[0][0] is not None, "the training's first attempt is over", 120)
        survived = hog.poll() is None
        until(lambda: view(workspace, training).state in ("succeeded", "failed", "interrupted"), "it is over", 300)
    finally:
        hog.kill()
        hog.wait()
    ended = view(workspace, training)
    with open_store(workspace).write() as session:
        first = session.get(JobAttempt, (training, 1))
        assert first is not None
    print(f"first attempt: {first.failure}, signal {first.exit_signal}: {first.detail}")
    for outcome, failure, code, signal in attempts(workspace, training)[1:]:
        print(f"another: {outcome}, failure {failure}, exit {code}, signal {signal}")
    print(f"in the end: {ended.state}, {ended.smaller} steps smaller, attempt {ended.attempt}")
    promised = {
        "the kernel killed it": first.exit_signal == 9,
        "it is told as lack of memory": first.failure == "memory",
        "with what it held and what was free": "it held" in (first.detail or "") and "free" in (first.detail or ""),
        "the other program lives": survived,
        "it was tried again smaller": ended.smaller >= 1,
        "and succeeded": ended.state == "succeeded",
    }
    return {
        "first": first.detail,
        "attempts": ended.attempt,
        "smaller": ended.smaller,
        "state": ended.state,
        "broken": [words for words, held_true in promised.items() if not held_true],
    }


def main() -> int:
    """Make the group and the scene, run, print the result."""
    try:
        group = MemoryGroup(f"tara-{os.getpid()}", LIMIT)
        group.enter()
    except OSError as error:
        print(f"no memory control group can be made here ({error}): run it as root, outside of a container")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="tara-memory-"))
    workspace = scene(folder)
    try:
        found = run(workspace)
    finally:
        end_everything(workspace)
        group.leave()
        group.remove()
        shutil.rmtree(folder, ignore_errors=True)
    print("RESULT " + json.dumps(found, sort_keys=True))
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
