"""A seeded schedule of faults over a live workspace. Usage: python -m tests.faults --faults 300 --seed 1

The last line is `RESULT ` and one JSON object; status 1 where a promise was broken. The same seed draws the same faults
in the same order; which process they meet depends on the machine.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from core.runner.client import ensure_runner
from tests.conftest import end_everything
from tests.faults.check import broken_promises, copies
from tests.faults.faults import FAULTS
from tests.faults.scene import Scene, build, drain, processes
from tests.faults.small_disk import VARIABLE, small_disk
from tests.models import build_tiny

FOLDER = "TARA_FAULTS_FOLDER"  # where the scene is made


def run(scene: Scene, faults: int, seed: int, mean_s: float, patience_s: float) -> dict[str, object]:
    """Do the faults, let the queue run dry, and hold everything against what was promised."""
    order = random.Random(seed)
    names = list(FAULTS)
    weights = [FAULTS[name][0] for name in names]
    done: Counter[str] = Counter()
    met: Counter[str] = Counter()
    broken: list[str] = []
    started = time.monotonic()
    total, queued = len(scene.to_come), 0
    for number in range(1, faults + 1):
        # Work comes in evenly, the first of it before the first fault, so that faults always meet some.
        while queued < total and queued <= number * total / faults:
            scene.to_come[queued]()
            queued += 1
        if number == 1:
            ensure_runner(scene.workspace)
        name = order.choices(names, weights)[0]
        # A generator of its own: how much of it a fault uses depends on whom it meets, what comes next does not.
        own = random.Random(f"{seed}/{number}")
        said = FAULTS[name][1](scene, own)
        done[name] += 1
        met[name] += not said.startswith(("nobody", "no checkpoint", "the checkpoint"))
        print(f"{time.monotonic() - started:7.1f} s  {number:4}  {name}: {said}", flush=True)
        pause = time.monotonic() + min(4 * mean_s, order.expovariate(1 / mean_s))
        while time.monotonic() < pause:
            broken += [line for line in copies(scene) if line not in broken]
            time.sleep(0.05)
        scene.consoles.step(own)
        if number % 3 == 0:
            scene.tara("jobs", "list", "--json")  # somebody looks: where the runner is gone it is started
    print(f"{time.monotonic() - started:7.1f} s  the faults are over", flush=True)
    scene.consoles.close([signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
    broken += scene.consoles.broken
    if not drain(scene, patience_s):
        broken.append(f"the queue did not run dry within {patience_s:.0f} s")
    scene.tara("runner", "stop")
    broken += broken_promises(scene)
    jobs = scene.jobs()
    attempts = sum(jobs[number].attempt for number in scene.accepted if number in jobs)
    states = Counter(jobs[number].state if number in jobs else "lost" for number in scene.accepted)
    return {
        "seed": seed,
        "faults": faults,
        "met": sum(met.values()),
        "by_kind": {name: [done[name], met[name]] for name in names if done[name]},
        "disk": os.environ.get(VARIABLE, "not run: not started on a small disk"),
        "jobs": len(scene.accepted),
        "trainings": len(scene.trainings),
        "attempts": attempts,
        "states": dict(states),
        "broken": broken,
        "seconds": round(time.monotonic() - started, 1),
    }


def _on_a_small_disk(megabytes: int) -> int:
    """Start this very command again where its folder is a small disk; where none can be mounted, without one."""
    folder = Path(tempfile.mkdtemp(prefix="tara-faults-disk-"))
    words, phrase = small_disk(folder, megabytes)
    inner = {**os.environ, VARIABLE: phrase, FOLDER: str(folder)}
    command = [*(words or []), sys.executable, "-m", "tests.faults", *sys.argv[1:]]
    try:
        return subprocess.run(command, env=inner, check=False).returncode
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Build the scene, run, print the table and the result."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=40, help="at least; trainings bring an evaluation each")
    parser.add_argument("--trainings", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--mean", type=float, default=0.8, help="seconds between faults")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for the queue to run dry afterwards")
    parser.add_argument("--disk", type=int, default=400, help="MB of the small disk the workspace lies on")
    parser.add_argument("--keep", action="store_true", help="leave the workspace for a look")
    chosen = parser.parse_args()
    if VARIABLE not in os.environ:
        return _on_a_small_disk(chosen.disk)
    folder = Path(tempfile.mkdtemp(prefix="tara-faults-", dir=os.environ[FOLDER]))
    synthetic = max(1, chosen.jobs - 2 * chosen.trainings)
    print(f"seed {chosen.seed}, {chosen.faults} faults, disk: {os.environ[VARIABLE]}", flush=True)
    print("making the reference adapters", flush=True)
    scene = build(folder, build_tiny("llama", folder / "tiny"), synthetic, chosen.trainings, chosen.steps)
    try:
        found = run(scene, chosen.faults, chosen.seed, chosen.mean, chosen.patience)
    finally:
        end_everything(scene.workspace)
        living = processes(scene.workspace.root)
        if chosen.keep:
            kept = Path(tempfile.mkdtemp(prefix="tara-faults-kept-"))
            shutil.copytree(
                scene.workspace.root, kept / "workspace", symlinks=True, ignore=shutil.ignore_patterns("*.wake")
            )
            print(f"kept: {kept / 'workspace'}")
        shutil.rmtree(folder, ignore_errors=bool(living))
    print(f"\n{'fault':20} {'done':>5} {'met somebody':>13}")
    for name, (done, met) in found["by_kind"].items():  # type: ignore[attr-defined]
        print(f"{name:20} {done:5} {met:13}")
    print(f"disk: {found['disk']}")
    for line in found["broken"]:  # type: ignore[attr-defined]
        print(f"BROKEN: {line}")
    print("RESULT " + json.dumps(found, sort_keys=True))
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
