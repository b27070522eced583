"""The peer of runner.py: an application of huey with SQLite (`huey_consumer huey_tasks.huey`). It runs in huey's own
environment, so it knows nothing of TARA.

Three tasks: `function` calls a function in the worker, `process` starts a Python process that does
nothing and waits for it, `job` starts the very process that TARA's runner would start for a prepared run folder.
Each leaves one line of JSON in `done.jsonl` of the folder BENCH_HUEY_FOLDER: its number and, in seconds since the
epoch, when its process was there, its first line ran, and it was over.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from huey import SqliteHuey

FOLDER = Path(os.environ["BENCH_HUEY_FOLDER"])
DONE = FOLDER / "done.jsonl"
TARA = json.loads(os.environ.get("BENCH_TARA_COMMAND", "[]"))  # starts a job's process; a run folder is added

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
