"""What a task is given, and the only way it speaks: events appended to its own file."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from core.files import FULL, discard, scratch_beside, staging_beside, sync_tree
from core.workspace import Workspace

PROGRESS_INTERVAL_S = 0.25
ROOM_POLL_S = 0.5


class TaskError(Exception):
    """The task cannot be done; the message is for the person, the hint says what to do next. `failure` is the kind of
    end this is (memory, disk), where another try can help."""

    def __init__(self, message: str, hint: str | None = None, *, failure: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.failure = failure


class Stopped(BaseException):
    """The job was asked to stop; staging blocks clean up on the way out."""


class Context:
    """One attempt of one job, as its task sees it.

    `params` holds settings, `inputs` absolute paths (or mappings of name to absolute path), `out` the final
    absolute path of what is made.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.spec: dict[str, Any] = json.loads((run_dir / "spec.json").read_text("utf-8"))
        self.params: dict[str, Any] = self.spec["params"]
        self.inputs: dict[str, Any] = self.spec["inputs"]
        self.key: str = self.spec["key"]
        self.workspace = Workspace(Path(self.spec["workspace"]))
        self.out = Path(self.spec["out"]) if self.spec.get("out") else None
        self._events = open(run_dir / "events.jsonl", "ab", buffering=0)  # noqa: SIM115 - lives as long as the task
        self._last_progress = 0.0
        self._started = time.monotonic()
        self._done_before = 0
        self._stops_held = False
        self.stop_asked = False

    def stop(self) -> None:
        """Somebody asked this job to stop: leave at once, or, inside `finishing_steps`, when the task has looked."""
        self.stop_asked = True
        if not self._stops_held:
            raise Stopped

    @contextmanager
    def finishing_steps(self) -> Iterator[None]:
        """Inside, a request to stop only sets `stop_asked`: the task finishes its step, saves and leaves by itself."""
        self._stops_held = True
        try:
            yield
        finally:
            self._stops_held = False
        if self.stop_asked:
            raise Stopped

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event, a whole line, so a reader never sees half of it joined to another. On a full disk the task
        waits here for room: what it did is not to be lost."""
        line = json.dumps({"t": round(time.time(), 3), "event": event, **fields}, allow_nan=False, default=str)
        _append(self._events, line.encode() + b"\n")

    def progress(self, step: int, total: int, *, unit: str = "step", message: str = "", force: bool = False) -> None:
        """Say how far the work is: `step` of `total` in `unit`s. Calls closer than a quarter second are dropped,
        except the last."""
        now = time.monotonic()
        if not force and step < total and now - self._last_progress < PROGRESS_INTERVAL_S:
            return
        self._last_progress = now
        elapsed = now - self._started
        done = step - self._done_before
        rate = done / elapsed if elapsed > 0 and done > 0 else None
        eta = (total - step) / rate if rate else None
        self.emit(
            "progress",
            step=step,
            total=total,
            unit=unit,
            message=message,
            rate=round(rate, 4) if rate else None,
            eta_s=round(eta, 1) if eta is not None else None,
        )

    def restart_clock(self, done: int = 0) -> None:
        """Begin the rate's clock now: call it after loading, when the counted work starts with `done` of it done."""
        self._started, self._done_before = time.monotonic(), done

    def metrics(self, step: int, **values: float) -> None:
        """Live figures at a step (loss, tokens_per_s, rss_mb, …), kept as a series for the console."""
        self.emit("metrics", step=step, values=values)

    def measure(
        self, name: str, value: float | str, *, method: str, unit: str = "", n: int | None = None, subject: str = ""
    ) -> None:
        """Record a measurement of this job's artifact. `subject` narrows it (a domain's name); `method` says in a
        phrase how it was obtained; `n` is the sample count."""
        self.emit("measurement", name=name, value=value, method=method, unit=unit, n=n, subject=subject)

    def artifact(self, kind: str, name: str, path: Path, *, sha256: str, bytes: int, **meta: Any) -> None:
        """Announce the finished artifact of this job (already under its final name)."""
        self.emit("artifact", kind=kind, name=name, path=str(path), sha256=sha256, bytes=bytes, meta=meta)

    def result(self, **values: Any) -> None:
        """The job's result in a few values, shown by `tara jobs show`."""
        self.emit("result", values=values)

    @contextmanager
    def staging(self, final: Path | None = None) -> Iterator[Path]:
        """A temporary name beside `final` (default: `out`), renamed to it when the block ends without an error.

        The block makes a file or a folder at the yielded path. Left-overs of a failed block are removed.
        """
        target = final or self.out
        assert target is not None
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = staging_beside(target)
        try:
            yield temporary
            sync_tree(temporary)
            if target.exists():
                discard(target)
            os.replace(temporary, target)
            sync_tree(target.parent, recurse=False)
        finally:
            discard(temporary)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder beside `out` for what is needed while it is made, removed when the block ends; by the runner where
        this process is killed. One at a time."""
        assert self.out is not None
        folder = scratch_beside(self.out)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            discard(folder)


class PatientLog:
    """A job's standard output, of which what does not fit on a full disk is dropped: it is for people, and no reason to
    fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _append(stream: BinaryIO, line: bytes) -> None:
    before = os.fstat(stream.fileno()).st_size
    while True:
        try:
            if stream.write(line) == len(line):
                return
        except OSError as error:
            if error.errno not in FULL:
                raise
        os.ftruncate(stream.fileno(), before)  # what did fit would be joined to the next
        time.sleep(ROOM_POLL_S)
