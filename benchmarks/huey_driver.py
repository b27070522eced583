"""huey's consumer and client as runner.py drives them: each measurement with a store and workers of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer_environment import install
from trivial_jobs import NotMeasured, prepared_runs

from core.runner.presence import CODE
from core.workspace import Workspace

HUEY = "huey==3.5.4"
CLIENT = Path(__file__).resolve().with_name("huey_client.py")
TARA_JOB = [sys.executable, "-u", "-m", "core.tasks"]  # what the shim starts, with a run folder behind it
SHIPPED: tuple[str, ...] = ()  # the consumer's polling as it comes: every 0.1 s, when idle up to every 10 s
EAGER = ("-d", "0.01", "-m", "0.01", "-b", "1")  # polling a hundred times a second, always
LEAVE_S = 10.0


@dataclass
class Huey:
    """huey in a folder of its own. `python` is that of its environment."""

    python: Path
    folder: Path
    workers: int
    polling: tuple[str, ...] = SHIPPED
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "out").mkdir(parents=True)
        own = {"BENCH_HUEY_FOLDER": str(self.folder), "BENCH_TARA_COMMAND": json.dumps(TARA_JOB)}
        # The job's process must find `core`, as the shim's working folder lets it; huey itself needs nothing of it.
        self.environment = {**os.environ, **own, "PYTHONPATH": f"{CODE}{os.pathsep}{CLIENT.parent}"}

    def prepare_jobs(self, workspace: Workspace, count: int) -> None:
        """The run folders that the tasks `job` 1 … `count` need."""
        prepared_runs(workspace, self.folder / "runs", count)

    @contextmanager
    def consumer(self) -> Iterator[int]:
        """The process id of the consumer, running for the block."""
        with open(self.folder / "consumer.log", "ab") as log:
            process = subprocess.Popen(
                [str(self.python), "-m", "huey.bin.huey_consumer", "huey_tasks.huey", "--workers", str(self.workers),
                 "--worker-type", "process", *self.polling],
                env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGINT)  # its graceful end
            try:
                process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def requests(self, kind: str, count: int, seed: int) -> list[dict[str, float]]:
        """Seconds since each of `count` requests, one at a time; see huey_client.py."""
        return list(self._client("request", kind, str(count), str(seed)))

    def fill(self, kind: str, count: int) -> None:
        """Put tasks into the queue, before the consumer is started."""
        self._client("fill", kind, str(count))

    def emptied(self, count: int) -> float:
        """Seconds from the first task's start until `count` are over."""
        return float(self._client("emptied", str(count)))

    def _client(self, *arguments: str) -> Any:
        done = subprocess.run(
            [str(self.python), str(CLIENT), *arguments], env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise NotMeasured(f"huey: {(done.stderr or 'no word').strip().splitlines()[-1]}")
        return json.loads(done.stdout) if done.stdout.strip() else None


def huey_python() -> Path:
    """The interpreter of huey's environment, which is made once. Raises NotMeasured where it cannot be."""
    path, error = install(HUEY, "python")
    if error is not None:
        raise NotMeasured(error)
    return path
