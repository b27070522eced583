"""The runner's loop: recover, read events, end what ended, stop what must stop, start what may start."""

import json
import logging
import os
import select
import time
from pathlib import Path
from typing import Any

from sqlmodel import col
from sqlmodel import select as rows_of

from core.catalog import Settings, load_settings
from core.catalog.loading import SETTINGS_FILE
from core.errors import TaraError
from core.files import FULL, discard, left_beside, write_atomically
from core.runner import ledger
from core.runner.dependencies import unblocked_jobs
from core.runner.executors.local import KILLED, LocalExecutor
from core.runner.hook import Hook
from core.runner.intake import Intake, threads_of
from core.runner.presence import looked_mark, still_held, stopped_mark, wake_path
from core.runner.second_copy import known_to_the_store, note_stop
from core.runner.shim import STOP_GRACE_S
from core.runner.watch import Watch
from core.store.engine import Store
from core.store.tables import Job
from core.workspace import Workspace

BUSY_POLL_S = 0.25
IDLE_POLL_S = 2.0
RUNNER_LOG = "runs/runner.log"
_ACTIVE_JOBS = rows_of(Job).where(col(Job.state).in_(("starting", "running", "stopping")))

log = logging.getLogger("tara.runner")


class Supervisor:
    """Owns the queue of one workspace while its process holds the runner's lock."""

    def __init__(self, workspace: Workspace, store: Store, lock: int) -> None:
        self.workspace = workspace
        self.lock = lock
        self.store = store
        self._store_inode = _inode(workspace.state_db)  # the open connection would go on in a file that is gone
        self.executor = LocalExecutor()
        self.settings: Settings = load_settings(workspace)
        self._settings_stamp = _stamp(workspace)
        self.stopping = False
        self._watch = Watch()
        self._hook = Hook(workspace)
        self._stop_asked: dict[str, float] = {}  # run folder: when
        self._trouble = ""
        self._intake = Intake(store)
        self._idle_version: int | None = None  # of the store, when the last turn found nothing to do
        self._folders: list[Path] = []  # of the jobs that are active

    def run(self) -> None:
        """Work until asked to stop, or idle for the settings' `idle_exit_s`."""
        stopped_mark(self.workspace).unlink(missing_ok=True)
        looked_mark(self.workspace).unlink(missing_ok=True)
        while self._work():
            # Nobody can wake it any more: whoever queued something before now is served by this last look, and
            # whoever comes later waits until this process is gone and starts the next.
            if self.stopping or not self._held() or not self._turn():
                return

    def _work(self) -> bool:
        """Work until nothing is to be done; False where it was asked to leave, or must."""
        wake = self._open_wake()
        looked = False
        idle_since = time.monotonic()
        try:
            while not self.stopping and self._held():
                busy = self._turn()
                if not looked and not self._trouble:
                    looked = True
                    _touch(looked_mark(self.workspace))
                if busy:
                    idle_since = time.monotonic()
                elif 0 < self.settings.idle_exit_s < time.monotonic() - idle_since:
                    log.info("idle for %d s: leaving", self.settings.idle_exit_s)
                    return True
                ends = self.executor.ends(self._folders) if busy else []
                readable, _, _ = select.select([wake, *ends], [], [], BUSY_POLL_S if busy else IDLE_POLL_S)
                for descriptor in readable:
                    if descriptor == wake:
                        os.read(wake, 4096)
                    else:
                        self.executor.seen_end(descriptor)
            return False
        finally:
            os.close(wake)

    def _held(self) -> bool:
        if not still_held(self.workspace, self.lock):
            log.info("the lock's file was removed or replaced: leaving")
            return False
        if _inode(self.workspace.state_db) != self._store_inode:
            log.info("state.db was removed or replaced: leaving")
            return False
        return True

    def _turn(self) -> bool:
        """A turn that outlives a store or a disk that cannot be used for a while; jobs go on anyway."""
        try:
            busy = self.turn()
        except (TaraError, OSError) as error:
            if str(error) != self._trouble:
                log.exception("cannot look after the queue")
            self._trouble = str(error)
            return False
        self._trouble = ""
        return busy

    def turn(self) -> bool:
        """One round over all jobs; whether any is active or waiting for its turn.

        Where the last one found nothing to do and nobody has written since, there is nothing to find.
        """
        self._reload_settings()
        self.executor.reap()
        version = self.store.data_version()
        if version == self._idle_version:
            return False
        self._idle_version = None
        with self.store.write() as session:
            found = list(session.exec(_ACTIVE_JOBS).all())
        active = [job for job in found if self._look_after(job)]
        self._watch_over(active)
        waiting, started = self._start_ready(active)
        self._folders = [self.workspace.absolute(job.run_dir) for job in (*active, *started) if job.run_dir]
        if found or waiting:
            return True
        self._idle_version = version
        return False

    # -- what runs -----------------------------------------------------------------------------------------------

    def _look_after(self, job: Job) -> bool:
        """Take in what a job has said, and its end; whether it goes on."""
        assert job.id is not None
        assert job.run_dir is not None
        run_dir = self.workspace.absolute(job.run_dir)
        if not (run_dir / "spec.json").exists():
            # Claimed, but the runner died before the spec was written: nothing was started.
            ledger.never_started(self.store, job.id)
            return False
        if ledger.pending_events(self.store, job):
            ledger.take_events(self.store, job.id)
        ended = self.executor.exit_of(run_dir)
        if ended is not None:
            # Before its end is recorded: a runner that dies in between comes by here again.
            if ended.code != 0 and job.out is not None:
                _sweep(self.workspace.absolute(job.out))
            try:
                state = ledger.finish(self.store, job.id, ended, self.settings.retry_delay_s)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                # What one job wrote must not end the runner, and with it all the others.
                log.exception("job %s (%s)", job.id, job.title)
                state = ledger.fail(self.store, job.id, f"its end cannot be recorded: {error!r}", f"see {RUNNER_LOG}")
            log.info("job %s (%s) %s", job.id, job.title, state)
            self._watch.forget(run_dir)
            self._intake.job_ended()
            self._tell_hook(job.id)
            return False
        if job.state == "starting":
            ledger.mark_running(self.store, job.id)
        if job.state == "stopping":
            self._stop(job, run_dir)
        return True

    def _stop(self, job: Job, run_dir: Path) -> None:
        """Ask a job to end, once; where that did not help well past the shim's own grace period, kill it."""
        asked = self._stop_asked.get(str(run_dir))
        now = time.monotonic()
        patience = self.settings.stop_grace_s + STOP_GRACE_S
        note_stop(run_dir, job.stop_reason)
        if asked is None and self.executor.stop(run_dir):
            self._stop_asked[str(run_dir)] = now
            log.info("stopping job %s (%s)", job.id, job.title)
        elif asked is not None and now - asked > patience and self.executor.stop(run_dir, force=True):
            self._stop_asked[str(run_dir)] = now
            log.info("killed job %s (%s)", job.id, job.title)

    def _tell_hook(self, job_id: int) -> None:
        if self.settings.hook:
            with self.store.write() as session:
                ended = session.get(Job, job_id)
            if ended is not None:
                self._hook.tell(self.settings.hook, ended)

    def _watch_over(self, active: list[Job]) -> None:
        """End the job that takes the last memory, and those that hang; what becomes of each, its end decides."""
        running = [job for job in active if job.state == "running" and job.run_dir]
        folders = {self.workspace.absolute(job.run_dir or ""): job for job in running}
        doomed = self._watch.look(list(folders), self.settings)
        for run_dir, why, figures in doomed:
            job = folders[run_dir]
            log.info("ending job %s (%s): %s, %s", job.id, job.title, why, figures)
            # The reason is on disk before the kill: whoever reads its end, this runner or the next, knows it.
            try:
                write_atomically(run_dir / KILLED, json.dumps({"why": why, "at": time.time(), **figures}))
            except OSError as error:
                log.warning("why it was ended is not on record: %s", error)
            self.executor.stop(run_dir, force=True)

    # -- what may run --------------------------------------------------------------------------------------------

    def _start_ready(self, active: list[Job]) -> tuple[bool, list[Job]]:
        """Start what may start. Whether any job waits, and those that were started."""
        with self.store.write() as session:
            queued = unblocked_jobs(session)
        if not queued:
            return False, []
        decision = self._intake.choose(queued, active, self.settings)
        by_number = {job.id: job for job in queued}
        if news := self._intake.news(queued, decision.waits):
            ledger.say_of_waiting(self.store, news)
        started = [self._start(by_number[start.id], start.device) for start in decision.start]
        # Also those that wait for their next attempt: nobody else would start them.
        return True, [job for job in started if job is not None]

    def _reload_settings(self) -> None:
        """Take over a changed settings.yaml; one with a fault changes nothing."""
        stamp = _stamp(self.workspace)
        if stamp == self._settings_stamp:
            return
        self._settings_stamp = stamp
        try:
            self.settings = load_settings(self.workspace)
        except TaraError as error:
            log.error("%s; the settings stay as they were", error.one_line())

    def _start(self, job: Job, device: str | None) -> Job | None:
        assert job.id is not None
        claimed = ledger.claim(self.store, job.id, device)
        if claimed is None:
            return None
        assert claimed.run_dir is not None
        run_dir = self.workspace.absolute(claimed.run_dir)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            # The spec is the last thing written before the start: without it nothing was started.
            write_atomically(run_dir / "spec.json", json.dumps(self._spec(claimed), indent=1, ensure_ascii=False))
            self.executor.submit(run_dir)
        except (OSError, TaraError, ValueError) as error:
            log.exception("job %s (%s)", job.id, job.title)
            if isinstance(error, OSError) and error.errno in FULL:
                # The disk filled since it was looked at: nothing was started, and it waits for room like all others.
                (run_dir / "spec.json").unlink(missing_ok=True)
                ledger.never_started(self.store, job.id)
                return None
            ledger.fail(self.store, job.id, f"it cannot be started: {error}", f"see {RUNNER_LOG}")
            return None
        log.info("started job %s (%s), attempt %s", claimed.id, claimed.title, claimed.attempt)
        return claimed

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
            "threads": threads_of(job.heavy, self.settings),
            "device": job.device,
            "stop_grace_s": self.settings.stop_grace_s,
            "checkpoints": self.settings.checkpoints_dict(),
            "memory_reserve_bytes": self.settings.memory_reserve_mb * 10**6,
            "smaller": job.smaller,
            "store": known_to_the_store(self.store, job),
        }

    def _open_wake(self) -> int:
        path = wake_path(self.workspace)
        if path.exists() and not path.is_fifo():
            path.unlink()  # a copied workspace: it would read as ready for ever
        if not path.exists():
            os.mkfifo(path)
        # Opened for both directions, so that it never reads as ended when the last writer leaves.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _stamp(workspace: Workspace) -> tuple[int, int] | None:
    """What changes when settings.yaml is written anew."""
    try:
        found = (workspace.configs / SETTINGS_FILE).stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _touch(mark: Path) -> None:
    try:
        mark.touch()
    except OSError as error:
        log.warning("%s cannot be written: %s", mark, error)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _sweep(out: Path) -> None:
    """Remove what a killed job left of its result; nothing else makes this one, and its processes are gone."""
    for left in left_beside(out):
        log.info("removing %s", left)
        discard(left)


def _absolute(workspace: Workspace, inputs: Any) -> Any:
    """Every path of a job's inputs, made absolute."""
    if isinstance(inputs, dict):
        return {name: _absolute(workspace, value) for name, value in inputs.items()}
    if isinstance(inputs, list):
        return [_absolute(workspace, value) for value in inputs]
    if not isinstance(inputs, str):
        raise TaraError(f"an input is not a path: {inputs!r}")
    return str(Path(workspace.absolute(inputs)))
