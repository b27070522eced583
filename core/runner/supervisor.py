"""The runner's loop: recover, read events, end what ended, stop what must stop, start what may start."""

import json
import logging
import os
import select
import shutil
import time
from pathlib import Path
from typing import Any

from sqlmodel import col
from sqlmodel import select as rows_of

from core.catalog import Settings, load_settings
from core.errors import TaraError
from core.files import write_atomically
from core.runner import ledger
from core.runner.executors.local import LocalExecutor
from core.runner.presence import still_held, wake_path
from core.store.engine import Store
from core.store.tables import Job
from core.workspace import Workspace

BUSY_POLL_S = 0.25
IDLE_POLL_S = 2.0
LIGHT_SLOTS = 1

log = logging.getLogger("tara.runner")


class Supervisor:
    """Owns the queue of one workspace while its process holds the runner's lock."""

    def __init__(self, workspace: Workspace, store: Store, lock: int) -> None:
        self.workspace = workspace
        self.lock = lock
        self.store = store
        self.executor = LocalExecutor()
        self.settings: Settings = load_settings(workspace)
        self.stopping = False
        self._stopped_dirs: set[str] = set()

    def run(self) -> None:
        """Work until asked to stop, or idle for the settings' `idle_exit_s`."""
        wake = self._open_wake()
        idle_since = time.monotonic()
        try:
            while not self.stopping:
                if not still_held(self.workspace, self.lock):
                    log.info("the lock's file was removed or replaced: leaving")
                    return
                busy = self.turn()
                if busy:
                    idle_since = time.monotonic()
                elif 0 < self.settings.idle_exit_s < time.monotonic() - idle_since:
                    log.info("idle for %d s: leaving", self.settings.idle_exit_s)
                    return
                readable, _, _ = select.select([wake], [], [], BUSY_POLL_S if busy else IDLE_POLL_S)
                if readable:
                    os.read(wake, 4096)
        finally:
            os.close(wake)

    def turn(self) -> bool:
        """One round over all jobs; whether any is active or waiting for its turn."""
        self.executor.reap()
        active = self._active()
        for job in active:
            self._look_after(job)
        started = self._start_ready()
        return bool(active) or started

    # -- what runs -----------------------------------------------------------------------------------------------

    def _active(self) -> list[Job]:
        with self.store.write() as session:
            return list(session.exec(rows_of(Job).where(col(Job.state).in_(("starting", "running", "stopping")))).all())

    def _look_after(self, job: Job) -> None:
        assert job.id is not None
        assert job.run_dir is not None
        run_dir = self.workspace.absolute(job.run_dir)
        if not (run_dir / "spec.json").exists():
            # Claimed, but the runner died before the spec was written: nothing was started.
            with self.store.write() as session:
                again = session.get(Job, job.id)
                if again is not None and again.state == "starting":
                    again.state = "queued"
            return
        if ledger.pending_events(self.store, job):
            ledger.take_events(self.store, job.id)
        ended = self.executor.exit_of(run_dir)
        if ended is not None:
            state = ledger.finish(self.store, job.id, ended)
            log.info("job %s (%s) %s", job.id, job.title, state)
            return
        if job.state == "starting":
            ledger.mark_running(self.store, job.id)
        wanted = job.state == "stopping" and job.run_dir not in self._stopped_dirs
        if wanted and self.executor.stop(run_dir):
            self._stopped_dirs.add(job.run_dir)
            log.info("stopping job %s (%s)", job.id, job.title)

    # -- what may run --------------------------------------------------------------------------------------------

    def _start_ready(self) -> bool:
        with self.store.write() as session:
            ready = ledger.ready_jobs(session)
            running = session.exec(
                rows_of(Job.heavy).where(col(Job.state).in_(("starting", "running", "stopping")))
            ).all()
        heavy = self.settings.heavy_slots - sum(running)
        light = LIGHT_SLOTS - sum(not one for one in running)
        for job in ready:
            if (heavy if job.heavy else light) <= 0:
                continue
            if job.heavy:
                heavy -= 1
            else:
                light -= 1
            self._start(job)
        return bool(ready)

    def _start(self, job: Job) -> None:
        assert job.id is not None
        free = shutil.disk_usage(self.workspace.root).free
        reserve = self.settings.disk_reserve_mb * 1_000_000
        if free < reserve:
            ledger.fail_before_start(
                self.store,
                job.id,
                f"only {free / 1e6:.0f} MB free on the disk, the reserve is {reserve / 1e6:.0f} MB",
                "free some, or lower runner.disk_reserve_mb in configs/settings.yaml",
            )
            return
        claimed = ledger.claim(self.store, job.id)
        if claimed is None:
            return
        assert claimed.run_dir is not None
        run_dir = self.workspace.absolute(claimed.run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        # The spec is the last thing written before the start: without it nothing was started.
        write_atomically(run_dir / "spec.json", json.dumps(self._spec(claimed), indent=1, ensure_ascii=False))
        self.executor.submit(run_dir)
        log.info("started job %s (%s), attempt %s", claimed.id, claimed.title, claimed.attempt)

    def _spec(self, job: Job) -> dict[str, Any]:
        return {
            "job_id": job.id,
            "kind": job.kind,
            "attempt": job.attempt,
            "key": job.key,
            "title": job.title,
            "phase": job.phase,
            "domain": job.domain,
            "workspace": str(self.workspace.root),
            "params": json.loads(job.params),
            "inputs": _absolute(self.workspace, json.loads(job.inputs)),
            "out": str(self.workspace.absolute(job.out)) if job.out else None,
            "threads": len(os.sched_getaffinity(0)),
        }

    def _open_wake(self) -> int:
        path = wake_path(self.workspace)
        if not path.exists():
            os.mkfifo(path)
        # Opened for both directions, so that it never reads as ended when the last writer leaves.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _absolute(workspace: Workspace, inputs: Any) -> Any:
    """Every path of a job's inputs, made absolute."""
    if isinstance(inputs, dict):
        return {name: _absolute(workspace, value) for name, value in inputs.items()}
    if isinstance(inputs, list):
        return [_absolute(workspace, value) for value in inputs]
    if not isinstance(inputs, str):
        raise TaraError(f"an input is not a path: {inputs!r}")
    return str(Path(workspace.absolute(inputs)))
