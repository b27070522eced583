"""The peer of runner.py: huey with SQLite. Runs in huey's own environment, so it knows nothing of TARA.

As a module it is the application that huey's consumer loads (`huey_consumer huey_peer.huey`); as a program it is the
client that asks. Three tasks: `function` calls a function in the worker, `process` starts a Python process that does
nothing and waits for it, `job` starts the very process that TARA's runner would start for a prepared run folder.
Each leaves one line of JSON in `done.jsonl` of the folder BENCH_HUEY_FOLDER: its number and, in seconds since the
epoch, when its process was there, its first line ran, and it was over.

Usage: huey_peer.py request KIND COUNT SEED | fill KIND COUNT | emptied COUNT
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from huey import SqliteHuey

FOLDER = Path(os.environ["BENCH_HUEY_FOLDER"])
DONE = FOLDER / "done.jsonl"
TARA = json.loads(os.environ.get("BENCH_TARA_COMMAND", "[]"))  # starts a job's process; a run folder is added
LOOK_S = 0.005
PATIENCE_S = 900.0
GAP_S = (0.1, 0.5)

huey = SqliteHuey(filename=str(FOLDER / "huey.db"))


@huey.task()
def function(number: int) -> None:
    """A plain function call in the worker."""
    at = time.time()
    _done(number, process=at, task=at, ended=at)


@huey.task()
def process(number: int) -> None:
    """A Python process that says when it runs, with its output in a file."""
    _spawn(number, [sys.executable, "-c", "import time; print(time.time())"], FOLDER / "out" / str(number), "task")


@huey.task()
def job(number: int) -> None:
    """The process of a TARA job, with its output in the run folder's log."""
    run_dir = FOLDER / "runs" / str(number)
    _spawn(number, [*TARA, str(run_dir)], run_dir / "log", None)


KINDS = {"function": function, "process": process, "job": job}


def _spawn(number: int, argv: list[str], output: Path, says: str | None) -> None:
    with open(output, "wb") as stream:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        there = time.time()
        code = child.wait()
    ended = time.time()
    if code:
        _done(number, process=there, ended=ended, failed=code)
        return
    _done(number, process=there, ended=ended, **({says: float(output.read_text())} if says else {}))


def _done(number: int, **times: float) -> None:
    line = json.dumps({"number": number, **times}).encode() + b"\n"
    stream = os.open(DONE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(stream, line)  # one write, so that lines of several workers never mix
    os.close(stream)


def _lines() -> list[dict[str, float]]:
    return [json.loads(line) for line in DONE.read_bytes().splitlines()] if DONE.exists() else []


def _wait(count: int) -> list[dict[str, float]]:
    """The lines left, once there are `count`."""
    deadline = time.monotonic() + PATIENCE_S
    while not DONE.exists() or DONE.read_bytes().count(b"\n") < count:
        if time.monotonic() > deadline:
            sys.exit(f"huey did not do {count} tasks in {PATIENCE_S:.0f} s")
        time.sleep(LOOK_S)
    failed = [line for line in _lines() if "failed" in line]
    if failed:
        sys.exit(f"a task of huey failed: {failed[0]}")
    return _lines()


def _first_sign(number: int) -> float:
    """When a job's own task said its first word."""
    with open(FOLDER / "runs" / str(number) / "events.jsonl") as stream:
        return float(json.loads(stream.readline())["t"])


def request(kind: str, count: int, seed: int) -> list[dict[str, float]]:
    """`count` tasks one at a time on an idle queue, with random gaps; seconds since each request."""
    chance, before = random.Random(seed), len(_lines())
    found = []
    for number in range(before + 1, before + 1 + count):
        time.sleep(chance.uniform(*GAP_S))
        asked = time.time()
        KINDS[kind](number)
        committed = time.time()
        seen = _wait(number)[-1]
        task = seen["task"] if kind != "job" else _first_sign(number)
        found.append(
            {"committed": committed - asked, "process": seen["process"] - asked, "task": task - asked,
             "ended": seen["ended"] - asked}
        )  # fmt: skip
    return found


def fill(kind: str, count: int) -> None:
    """Put tasks into the queue; to be called while no consumer runs."""
    for number in range(1, count + 1):
        KINDS[kind](number)


def emptied(count: int) -> float:
    """Seconds from the start of the first task until `count` are over."""
    lines = _wait(count)
    return max(line["ended"] for line in lines) - min(line["process"] for line in lines)


if __name__ == "__main__":
    wanted, *rest = sys.argv[1:]
    if wanted == "request":
        print(json.dumps(request(rest[0], int(rest[1]), int(rest[2]))))
    elif wanted == "fill":
        fill(rest[0], int(rest[1]))
    else:
        print(json.dumps(emptied(int(rest[0]))))
