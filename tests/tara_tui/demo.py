"""The console over a made-up workspace in which a training goes on: `python -m tests.tara_tui.demo`."""

import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

from core.workspace import Workspace
from tara_tui.app import run_console
from tests.tara_tui.fake_backend import FakeBackend


def work(backend: FakeBackend, stop: threading.Event) -> None:
    """Let the training advance a step every half second."""
    while not stop.wait(0.5):
        snapshot = backend.current
        jobs = tuple(
            replace(job, step=min(400, (job.step or 0) + 1), metrics={"loss": 1.2 - (job.step or 0) / 1000})
            if job.state == "running"
            else job
            for job in snapshot.jobs
        )
        running = next(job for job in jobs if job.state == "running")
        first, *others = snapshot.phases
        domains = tuple(replace(one, job=running) if one.name == running.domain else one for one in first.domains)
        backend.write_log(running.id, f"step {running.step}/400 loss {running.metrics['loss']:.3f}\n")
        backend.put(replace(snapshot, phases=(replace(first, domains=domains), *others), jobs=jobs))


def main() -> int:
    """Show it until it is left."""
    with tempfile.TemporaryDirectory() as folder:
        backend = FakeBackend(Path(folder))
        backend.chat_pause_s = 0.1
        backend.words = [f"word{n} " for n in range(60)]
        stop = threading.Event()
        threading.Thread(target=work, args=(backend, stop), daemon=True).start()
        try:
            return run_console(Workspace(Path(folder)), backend)
        finally:
            stop.set()


if __name__ == "__main__":
    sys.exit(main())
