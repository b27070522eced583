"""Trainings' checkpoints as files: whose they are, what they hold, whether they are whole. No tensor library is loaded.

A run's folder `checkpoints/<domain>-<key>` holds `step-<number>` folders, the newest last; `backup`, copies of what was
gone on from; `aside`, what cannot or shall not be used, each with its reason; `RUN.json`, the settings of the run, and
beside it a copy of its training data, so that both are there when the person has changed them since.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.errors import InvalidInput
from core.files import (
    MANIFEST,
    STAGING_PREFIX,
    check_manifest,
    discard,
    sha256_of,
    sync_tree,
    tree_bytes,
    write_atomically,
)
from core.hygiene.reading import Malformed, read_object
from core.hygiene.safetensors_file import read_header
from core.workspace import Workspace

FORMAT = 1
STEP_PREFIX = "step-"
ASIDE, BACKUP = "aside", "backup"
REASON = "REASON.json"
RUN, DATA = "RUN.json", "data.jsonl"
LEFT = "LEFT.json"  # a person started afresh with other settings; this run is not asked about again
ADAPTER, OPTIMISER, RNG, STATE = "adapter.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"


class Unusable(Exception):
    """Why a checkpoint cannot be gone on from."""


@dataclass
class Progress:
    """Where the loop stands at a step's end, besides weights, optimiser and random numbers.

    `step` optimiser steps are done; the order of examples follows from the seed, so it is the data's position too.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)  # of every step, nats a token
    smoothed: float = 0.0
    tokens: int = 0
    padding: int = 0
    seconds: float = 0.0  # spent in the loop, all attempts together
    peak_rss_mb: float = 0.0


@dataclass(frozen=True)
class RunRecord:
    """What a run was asked for, as its job was: enough to queue it again. Paths are relative to the workspace.

    `steps` is how many it takes in all; 0 where it is not known.
    """

    domain: str
    key: str
    params: Mapping[str, Any]
    base: str  # the stored path of the base it was begun on
    data: str
    data_sha256: str
    base_sha256: str
    steps: int = 0


@dataclass(frozen=True)
class Kept:
    """A checkpoint that is there. `fault` is why it cannot be used, None where it is whole; `at` is when it was made,
    in seconds since the epoch."""

    path: Path
    step: int
    at: float
    bytes: int
    smoothed: float | None
    fault: str | None
    backup: bool = False


@dataclass(frozen=True)
class SetAside:
    """A checkpoint that was moved out of the way, and why."""

    path: Path
    reason: str
    at: float
    bytes: int


@dataclass(frozen=True)
class Run:
    """The checkpoints of one training, oldest first, and what was set aside of it."""

    folder: Path
    domain: str
    key: str  # whole where the record is there, else its beginning
    record: RunRecord | None
    record_fault: str | None  # why the record cannot be read
    left: str | None  # why a person gave this run up, None where nobody did
    checkpoints: tuple[Kept, ...]
    backups: tuple[Kept, ...]
    aside: tuple[SetAside, ...]
    bytes: int

    @property
    def name(self) -> str:
        """The folder's name, by which a person names the run."""
        return self.folder.name

    @property
    def newest_good(self) -> Kept | None:
        """The checkpoint the run would go on from."""
        good = [one for one in (*self.backups, *self.checkpoints) if one.fault is None]
        return max(good, key=lambda one: (one.step, not one.backup), default=None)

    @property
    def best(self) -> Kept | None:
        """The checkpoint whose running mean of losses is the lowest."""
        known = [one for one in self.checkpoints if one.smoothed is not None]
        return min(known, key=lambda one: (one.smoothed, -one.step), default=None)


# -- writing -----------------------------------------------------------------------------------------------------


def describe_run(folder: Path, record: RunRecord, data: Path) -> None:
    """Write a run's record and the copy of its data into its folder, unless a record that can be read is there."""
    try:
        if read_record(folder) is not None:
            return
    except Malformed:
        discard(folder / RUN)
    content = data.read_bytes() if data.is_file() else b""
    if hashlib.sha256(content).hexdigest() == record.data_sha256:  # else it was changed since it was read
        write_atomically(folder / DATA, content)
    about = {"format": FORMAT, **asdict(record), "created_at": time.time()}
    write_atomically(folder / RUN, json.dumps(about, indent=1, sort_keys=True) + "\n")


def drop_description(folder: Path) -> None:
    """Remove what describes a run that is done."""
    for name in (RUN, DATA, LEFT):
        discard(folder / name)


def set_aside(folder: Path, path: Path, reason: str) -> Path:
    """Move a checkpoint out of the way, with the reason in a file beside its own. Returns where it is now."""
    aside = folder / ASIDE
    aside.mkdir(exist_ok=True)
    target, number = aside / path.name, 1
    while target.exists():
        number += 1
        target = aside / f"{path.name}.{number}"
    os.replace(path, target)
    write_atomically(target / REASON, json.dumps({"reason": reason, "at": time.time()}) + "\n")
    sync_tree(folder, recurse=False)
    return target


def leave(folder: Path, reason: str) -> None:
    """Note that a person started afresh instead of going on with a run; its checkpoints stay as they are."""
    write_atomically(folder / LEFT, json.dumps({"reason": reason, "at": time.time()}) + "\n")


# -- reading -----------------------------------------------------------------------------------------------------


def read_whole(path: Path) -> tuple[dict[str, Any], Progress, dict[str, Any]]:
    """A checkpoint's manifest, where it stands and its further state, checked against its hashes and itself.

    Raises Unusable with the reason. Tensors are not read.
    """
    try:
        manifest = check_manifest(path)
    except InvalidInput as error:
        raise Unusable(error.message) from error
    if manifest.get("kind") != "checkpoint" or manifest.get("format") != FORMAT:
        raise Unusable(f"{MANIFEST} is not that of a checkpoint of format {FORMAT}")
    missing = {ADAPTER, OPTIMISER, RNG, STATE} - set(manifest["files"])
    if missing:
        raise Unusable(f"its manifest lists no {', '.join(sorted(missing))}")
    try:
        state = json.loads((path / STATE).read_text("utf-8"))
        progress = Progress(**state["progress"])
        told = (progress.step, len(progress.losses))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{STATE} cannot be read: {error!r}") from error
    if not told[0] == manifest.get("step") == step_of(path) == told[1]:
        raise Unusable(
            f"its step is told in different ways: folder {step_of(path)}, manifest {manifest.get('step')}, state"
            f" {told[0]}, losses {told[1]}"
        )
    return manifest, progress, state


def step_of(path: Path) -> int | None:
    """The step a checkpoint's folder is named after."""
    digits = path.name.removeprefix(STEP_PREFIX)
    return int(digits) if digits.isdigit() else None


def read_record(folder: Path) -> RunRecord | None:
    """The record of a run, None where it has none. Raises Malformed saying what is wrong with it."""
    if not (folder / RUN).is_file():
        return None
    about = read_object(folder / RUN)
    if about.get("format") != FORMAT:
        raise Malformed(f"is of format {about.get('format')}, not {FORMAT}")
    wanted: dict[str, type] = {
        "domain": str, "key": str, "params": dict, "base": str, "data": str, "data_sha256": str, "base_sha256": str,
        "steps": int,
    }  # fmt: skip
    wrong = [name for name, kind in wanted.items() if not isinstance(about.get(name), kind)]
    if not wrong and not isinstance(about["params"].get("preset"), dict):
        wrong = ["preset"]
    if wrong:
        raise Malformed(f"has no usable {', '.join(wrong)}")
    return RunRecord(**{name: about[name] for name in wanted})


def kept_data(run: Run, sha256: str) -> Path | None:
    """The copy of a run's training data, where it is the one of this hash."""
    copy = run.folder / DATA
    return copy if copy.is_file() and sha256_of(copy) == sha256 else None


def find_runs(workspace: Workspace, domain: str | None = None) -> list[Run]:
    """Every run's checkpoints in the workspace, by name; those of one domain where it is named.

    Trainings may write and remove checkpoints meanwhile: what vanishes while it is looked at is left out.
    """
    if not workspace.checkpoints.is_dir():
        return []
    found = []
    for folder in sorted(workspace.checkpoints.iterdir()):
        named, _, short = folder.name.rpartition("-")
        if (
            folder.name.startswith(STAGING_PREFIX)
            or not named
            or folder.is_symlink()
            or not folder.is_dir()
            or (domain is not None and named != domain)
        ):
            continue
        run = _run(folder, named, short)
        if run is not None:
            found.append(run)
    return found


def _run(folder: Path, domain: str, short: str) -> Run | None:
    record, fault = None, None
    try:
        record = read_record(folder)
    except Malformed as error:
        fault = f"{RUN} {error}"
    checkpoints = tuple(one for path in _folders(folder) for one in _kept(path))
    backups = tuple(one for path in _folders(folder / BACKUP) for one in _kept(path, backup=True))
    aside = tuple(one for path in _folders(folder / ASIDE) for one in _aside(path))
    if not (checkpoints or backups or aside or record or fault):
        return None
    left = _reason(folder / LEFT)[0] if (folder / LEFT).is_file() else None
    key = record.key if record is not None else short
    size = sum(one.bytes for one in (*checkpoints, *backups)) + sum(one.bytes for one in aside)
    return Run(folder, domain, key, record, fault, left, checkpoints, backups, aside, size)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob(f"{STEP_PREFIX}*") if path.is_dir() and not path.is_symlink())


def _kept(path: Path, *, backup: bool = False) -> list[Kept]:
    """A checkpoint; none where it went while it was looked at."""
    smoothed, fault = None, None
    try:
        at, size = path.stat().st_mtime, tree_bytes(path)
        _, progress, _ = read_whole(path)
        smoothed = progress.smoothed
        for name in (ADAPTER, OPTIMISER, RNG):
            read_header(path / name)
    except FileNotFoundError:
        return []
    except Unusable as error:
        fault = str(error)
    except Malformed as error:
        fault = f"a file of tensors {error}"
    if fault is not None and not path.is_dir():
        return []  # what was missing is no fault then
    return [Kept(path, step_of(path) or 0, at, size, smoothed, fault, backup)]


def _aside(path: Path) -> list[SetAside]:
    try:
        reason, at = _reason(path / REASON)
        return [SetAside(path, reason, at or path.stat().st_mtime, tree_bytes(path))]
    except FileNotFoundError:
        return []


def _reason(path: Path) -> tuple[str, float]:
    """The reason in a file and when it was written; what is wrong with the file where it cannot be read."""
    try:
        told = read_object(path)
    except Malformed as error:
        return f"not known: {path.name} {error}", 0.0
    at = told.get("at")
    return str(told.get("reason", "not known")), float(at) if isinstance(at, int | float) else 0.0
