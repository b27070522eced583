"""What run folders say: which attempt of which job each was, what it was to do, and how it ended."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.runner.executors import Exit
from core.runner.executors.local import LocalExecutor, processes_of
from core.runner.second_copy import stop_of
from core.workspace import Workspace

_NAME = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True)
class Attempt:
    """One run folder. `spec` is None where nothing was started, or it cannot be read; `ended` where nothing was
    started. `last_sign` is when anything in it was last written."""

    job: int
    number: int
    folder: Path
    spec: dict[str, Any] | None
    started_at: float
    last_sign: float
    ended: Exit | None
    asked: str | None  # cancel or pause

    @property
    def key(self) -> str | None:
        """What its job's key is, where that is known."""
        return str(self.spec["key"]) if self.spec is not None else None

    @property
    def known_end(self) -> bool:
        """Whether somebody saw how it ended."""
        return self.ended is not None and (self.ended.code is not None or self.ended.signal is not None)


def living(workspace: Workspace) -> list[str]:
    """The run folders whose jobs have a living process."""
    executor = LocalExecutor()
    return [
        folder.name
        for folder, _, _ in _folders(workspace)
        if not (folder / "exit.json").exists() and executor.alive(folder)
    ]


def read_attempts(workspace: Workspace) -> list[Attempt]:
    """All run folders, by job and attempt."""
    return [_read(folder, job, number) for folder, job, number in _folders(workspace)]


def jobs_of(attempts: Iterable[Attempt], keys: dict[int, str]) -> tuple[dict[int, list[Attempt]], list[list[Attempt]]]:
    """Attempts by job number, oldest first, and those that are of another job than the number's: left behind by an
    earlier store that gave the same numbers. `keys` are the keys of the numbers, where they are known."""
    by_number: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_number[attempt.job].append(attempt)
    mine: dict[int, list[Attempt]] = {}
    strangers: dict[tuple[int, str], list[Attempt]] = defaultdict(list)
    for number, found in sorted(by_number.items()):
        found.sort(key=lambda one: one.number)
        key = keys.get(number) or next((one.key for one in reversed(found) if one.key is not None), None)
        for one in found:
            if one.key is None or one.key == key:
                mine.setdefault(number, []).append(one)
            else:
                strangers[number, one.key].append(one)
    return mine, list(strangers.values())


def _folders(workspace: Workspace) -> list[tuple[Path, int, int]]:
    found = []
    if workspace.runs.is_dir():
        for path in workspace.runs.iterdir():
            name = _NAME.fullmatch(path.name)
            if name is not None and path.is_dir():
                found.append((path, int(name[1]), int(name[2] or 1)))
    return sorted(found, key=lambda one: one[1:])


def _read(folder: Path, job: int, number: int) -> Attempt:
    spec = _spec(folder / "spec.json")
    times = [path.stat().st_mtime for path in (folder, *folder.iterdir())]
    ended: Exit | None = None
    if spec is not None or (folder / "shim.json").exists() or (folder / "exit.json").exists():
        ended = LocalExecutor().exit_of(folder)
        assert ended is not None, f"{folder} has living processes"
        if ended.code is None and ended.signal is None:
            ended = replace(ended, ended=max(times))  # nobody saw it end: when it last said something
    return Attempt(job, number, folder, spec, _started(folder, ended, times), max(times), ended, stop_of(folder))


def _started(folder: Path, ended: Exit | None, times: Sequence[float]) -> float:
    if ended is not None and ended.started is not None:
        return ended.started
    who = processes_of(folder)
    return float(who["started"]) if who is not None and "started" in who else min(times)


def _spec(path: Path) -> dict[str, Any] | None:
    """A spec with all that a job's row needs, or None."""
    try:
        found = json.loads(path.read_text("utf-8"))
        fits = all(isinstance(found[name], str) for name in ("kind", "key", "workspace"))
        fits = fits and isinstance(found["params"], dict) and isinstance(found["inputs"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if fits else None
