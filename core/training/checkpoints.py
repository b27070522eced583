"""Checkpoints of a training run: all that going on needs, in a folder that is whole or not there.

A checkpoint is made under a temporary name, flushed, renamed, and carries a manifest with every file's size and
SHA-256. Tensors are safetensors, everything else JSON; nothing is ever unpickled. Before one is used it is judged:
manifest, hashes, tensors that load, are finite and have the shapes of this run, and the run's own identity. The newest
good one is taken; what is not good is set aside with the reason beside it, never deleted silently.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from core.files import (
    STAGING_PREFIX,
    discard,
    hash_json,
    link_tree,
    staging_beside,
    sync_tree,
    tree_bytes,
    write_manifest,
)
from core.training.runs import (
    ADAPTER,
    ASIDE,
    BACKUP,
    FORMAT,
    OPTIMISER,
    RNG,
    STATE,
    STEP_PREFIX,
    Progress,
    Unusable,
    drop_description,
    read_whole,
    set_aside,
)
from core.training.runtime import library_versions


@dataclass(frozen=True)
class Identity:
    """What a checkpoint must agree with to be gone on from: hashes of base and data, and the settings."""

    base_sha256: str
    data_sha256: str
    settings: Mapping[str, Any]

    @property
    def settings_sha256(self) -> str:
        """Hash of the settings."""
        return hash_json(dict(self.settings))


@dataclass(frozen=True)
class Retention:
    """What is kept: the newest `keep`, the one of the lowest smoothed loss, and no more than `max_bytes` together."""

    keep: int = 2
    keep_best: bool = True
    max_bytes: int | None = None


@dataclass(frozen=True)
class Found:
    """A checkpoint that may be gone on from."""

    path: Path
    progress: Progress
    tensors: dict[str, torch.Tensor]
    optimiser: dict[str, torch.Tensor]
    rng: dict[str, torch.Tensor]
    python_rng: Any
    libraries: dict[str, str]
    threads: int
    device: str


class Checkpoints:
    """The checkpoints of one run, in a folder of its own: `step-00000024` and so on, `backup`, `aside`.

    `describe` is called with the folder before a checkpoint is written into it: it leaves the run's settings there.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        retention: Retention,
        say: Callable[[str], None],
        describe: Callable[[Path], None] = lambda _folder: None,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.retention = retention
        self._say = say
        self._describe = describe

    # -- writing -------------------------------------------------------------------------------------------------

    def save(self, trained: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer, at: Progress) -> Path:
        """Write a checkpoint of this moment, then remove those that the retention no longer keeps."""
        final = self.folder / f"{STEP_PREFIX}{at.step:08d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._describe(self.folder)
        staging = staging_beside(final)
        try:
            discard(staging)
            staging.mkdir()
            weights = {name: parameter.detach().cpu().contiguous() for name, parameter in trained.items()}
            save_file(weights, staging / ADAPTER)
            save_file(_optimiser_tensors(trained, optimiser), staging / OPTIMISER)
            save_file(random_state(), staging / RNG)
            device = next(iter(trained.values())).device.type
            about = {
                "progress": asdict(at),
                "python_rng": _plain(random.getstate()),
                "threads": torch.get_num_threads(),
                "device": device,
            }
            (staging / STATE).write_text(json.dumps(about, sort_keys=True), "utf-8")
            write_manifest(
                staging,
                {
                    "kind": "checkpoint",
                    "format": FORMAT,
                    "step": at.step,
                    "base_sha256": self.identity.base_sha256,
                    "data_sha256": self.identity.data_sha256,
                    "settings_sha256": self.identity.settings_sha256,
                    "libraries": library_versions(),
                },
            )
            sync_tree(staging)
            if final.exists():  # of an attempt before this one, which saw the same step
                discard(final)
            os.replace(staging, final)
            sync_tree(self.folder, recurse=False)
        finally:
            discard(staging)
        self.prune()
        return final

    def prune(self) -> list[Path]:
        """Remove what the retention does not keep; the newest is never removed. Returns what went."""
        steps = self.steps()
        if not steps:
            return []
        keep = set(steps[-self.retention.keep :])
        best = self._best(steps) if self.retention.keep_best else None
        order = [path for path in reversed(steps) if path in keep]
        if best is not None and best not in keep:
            order.insert(1, best)
        kept: list[Path] = []
        used = 0
        for path in order:
            size = tree_bytes(path)
            if kept and self.retention.max_bytes is not None and used + size > self.retention.max_bytes:
                continue
            kept.append(path)
            used += size
        gone = [path for path in steps if path not in kept]
        gone += self._backups()[: -self.retention.keep]
        for path in gone:
            discard(path)
        return gone

    def _best(self, steps: Sequence[Path]) -> Path | None:
        """The checkpoint whose running mean of losses is the lowest; one that cannot be read is not it."""
        best: tuple[float, Path] | None = None
        for path in steps:
            try:
                smoothed = float(json.loads((path / STATE).read_text("utf-8"))["progress"]["smoothed"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if best is None or smoothed <= best[0]:
                best = (smoothed, path)
        return best[1] if best is not None else None

    def steps(self) -> list[Path]:
        """The run's checkpoints, oldest first, good or not."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.glob(f"{STEP_PREFIX}*") if path.is_dir())

    def _backups(self) -> list[Path]:
        folder = self.folder / BACKUP
        return sorted(folder.glob(f"{STEP_PREFIX}*")) if folder.is_dir() else []

    # -- reading -------------------------------------------------------------------------------------------------

    def newest_good(self, trained: Mapping[str, torch.nn.Parameter], total: int) -> Found | None:
        """The newest checkpoint that may be gone on from, with a copy of it kept; None where there is none.

        What a killed attempt left half-written is removed; what is not good is set aside with its reason, and said.
        """
        if self.folder.is_dir():
            for left in self.folder.glob(f"{STAGING_PREFIX}*"):
                discard(left)
        for path in sorted((*self.steps(), *self._backups()), key=lambda one: (one.name, one.parent == self.folder))[
            ::-1
        ]:
            try:
                found = judge(path, self.identity, trained, total)
            except Unusable as reason:
                aside = set_aside(self.folder, path, str(reason))
                self._say(f"checkpoint {path.name} cannot be used: {reason}; set aside as {ASIDE}/{aside.name}")
                continue
            if path.parent == self.folder:
                self._back_up(path)
            return found
        return None

    def _back_up(self, path: Path) -> None:
        """Keep a copy of what is gone on from: links where the file system has them, so it costs nothing."""
        target = self.folder / BACKUP / path.name
        if target.exists():
            return
        target.parent.mkdir(exist_ok=True)
        staging = staging_beside(target)
        try:
            discard(staging)
            link_tree(path, staging)
            os.replace(staging, target)
        except OSError as error:
            self._say(f"no copy of {path.name} could be kept: {error.strerror or error}")
        finally:
            discard(staging)
        self.prune()

    def drop(self) -> None:
        """Remove all checkpoints of the run, once its adapter is safe; what was set aside stays."""
        for path in (*self.steps(), self.folder / BACKUP):
            discard(path)
        drop_description(self.folder)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)


def judge(path: Path, identity: Identity, trained: Mapping[str, torch.nn.Parameter], total: int) -> Found:
    """Read a checkpoint whole and hold it against the run. Raises Unusable with the reason."""
    manifest, progress, state = read_whole(path)
    for what in ("base_sha256", "data_sha256", "settings_sha256"):
        wanted, had = getattr(identity, what), manifest.get(what)
        if had != wanted:
            raise Unusable(f"it is of another run: {what} {str(had)[:12]}, here {wanted[:12]}")
    try:
        python_rng = _tuples(state["python_rng"])
        libraries, threads, device = dict(manifest["libraries"]), int(state["threads"]), str(state["device"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{STATE} cannot be read: {error!r}") from error
    if not 0 < progress.step <= total:
        raise Unusable(f"step {progress.step} of a run of {total} steps")
    tensors = _tensors(path / ADAPTER)
    _compare(ADAPTER, tensors, {name: tuple(one.shape) for name, one in trained.items()})
    optimiser = _tensors(path / OPTIMISER)
    shapes = {f"{part}.{name}": tuple(one.shape) for name, one in trained.items() for part in ("exp_avg", "exp_avg_sq")}
    _compare(OPTIMISER, optimiser, {**shapes, **{f"step.{name}": () for name in trained}})
    rng = _tensors(path / RNG, finite=False)
    if "cpu" not in rng or rng["cpu"].dtype != torch.uint8 or rng["cpu"].shape != torch.get_rng_state().shape:
        raise Unusable(f"{RNG} does not hold this torch's random state")
    return Found(path, progress, tensors, optimiser, rng, python_rng, libraries, threads, device)


def restore(found: Found, trained: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> Progress:
    """Put weights, optimiser and random numbers back as they were. Returns where the loop stood."""
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(found.tensors[name])
    for name, parameter in trained.items():
        # AdamW keeps its own step count on the CPU as float32, fused or not on this device.
        fused_step = found.optimiser[f"step.{name}"].to(parameter.device if parameter.is_cuda else "cpu")
        optimiser.state[parameter] = {
            "step": fused_step.clone(),
            "exp_avg": found.optimiser[f"exp_avg.{name}"].to(parameter.device).clone(),
            "exp_avg_sq": found.optimiser[f"exp_avg_sq.{name}"].to(parameter.device).clone(),
        }
    set_random_state(found.rng)
    random.setstate(found.python_rng)
    return found.progress


def _optimiser_tensors(
    trained: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": optimiser.state[parameter][part].detach().cpu().contiguous()
        for name, parameter in trained.items()
        for part in ("step", "exp_avg", "exp_avg_sq")
    }


def random_state() -> dict[str, torch.Tensor]:
    """The state of torch's random numbers, on the CPU and on each device in use."""
    states = {"cpu": torch.get_rng_state()}
    for number in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        states[f"cuda.{number}"] = torch.cuda.get_rng_state(number)
    return states


def set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    """Put torch's random numbers back; those of a device that is not here are left out."""
    torch.set_rng_state(state["cpu"])
    for name, numbers in state.items():
        if name.startswith("cuda.") and int(name[5:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(numbers, int(name[5:]))


def _tensors(path: Path, *, finite: bool = True) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise Unusable(f"{path.name} does not load: {error}") from error
    for name, tensor in tensors.items():
        if finite and not bool(torch.isfinite(tensor).all()):
            raise Unusable(f"{path.name}: {name} holds values that are not numbers")
    return tensors


def _compare(file: str, tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or extra:
        named = f"{missing[0]} is missing" if missing else f"{extra[0]} is not of this run"
        raise Unusable(f"{file}: {named} ({len(missing)} missing, {len(extra)} more than wanted)")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise Unusable(f"{file}: {name} is {tuple(tensors[name].shape)}, here {shape}")


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
