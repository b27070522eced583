"""The client of huey_tasks.py: asks, and waits by looking for what the tasks leave.

Usage: huey_client.py request KIND COUNT SEED | fill KIND COUNT | emptied COUNT
"""

import json
import random
import sys
import time

from huey_tasks import DONE, FOLDER, KINDS

LOOK_S = 0.005
PATIENCE_S = 60.0
GAP_S = (0.1, 0.5)  # as trivial_jobs.py


def _lines() -> list[dict[str, float]]:
    return [json.loads(line) for line in DONE.read_bytes().splitlines()] if DONE.exists() else []


def _wait(count: int, within_s: float) -> list[dict[str, float]]:
    """The lines left, once there are `count`."""
    deadline = time.monotonic() + within_s
    while not DONE.exists() or DONE.read_bytes().count(b"\n") < count:
        if time.monotonic() > deadline:
            sys.exit(f"huey did not do {count} tasks in {within_s:.0f} s; see consumer.log")
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
        seen = _wait(number, PATIENCE_S)[-1]
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
    lines = _wait(count, PATIENCE_S + count)
    return max(line["ended"] for line in lines) - min(line["process"] for line in lines)


if __name__ == "__main__":
    wanted, *rest = sys.argv[1:]
    if wanted == "request":
        print(json.dumps(request(rest[0], int(rest[1]), int(rest[2]))))
    elif wanted == "fill":
        fill(rest[0], int(rest[1]))
    else:
        print(json.dumps(emptied(int(rest[0]))))
