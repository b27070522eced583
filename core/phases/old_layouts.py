"""Checkpoints of trainings done elsewhere: found in a tree of files, judged one by one, the newest good one taken.

Known are `models/<domain>/…/checkpoint-N`, `models/adapters/<domain>_<model>/checkpoint-N`, and the output folder of a
Hugging Face Trainer. Of a checkpoint only the weights are taken: optimizer, schedule and random numbers are pickles,
which are never opened. Nothing in the tree is changed.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.catalog import BaseModel, Catalog, load_catalog
from core.catalog.bases import base_identity, locate
from core.catalog.config import config_of
from core.errors import InvalidInput, TaraError
from core.hygiene.adapters import check_adapter
from core.hygiene.findings import shown
from core.hygiene.kinds import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from core.hygiene.reading import Malformed, object_or_empty, read_object
from core.hygiene.weights import PICKLES
from core.phases.imports import import_adapter, names_of, target_of
from core.phases.unfinished import trainings
from core.store.engine import dump, open_store
from core.store.reads import open_reader
from core.store.tables import Domain, Note
from core.workspace import Workspace

CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
TRAINER_STATE = "trainer_state.json"
WEIGHTS_ONLY = (
    "weights only: optimizer and random numbers of the old run are not taken over (they are pickles, which are not "
    "opened), so it counts as the domain's adapter as it is"
)
_OF_A_MODEL = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")


@dataclass(frozen=True)
class Found:
    """A checkpoint, or the adapter a training left at its end (`step` None), and what was found of it.

    `steps` is how many the training was to take. `reason` says why it is refused, or why a good one is not taken.
    """

    path: Path
    domain: str | None
    layout: str
    step: int | None
    steps: int | None = None
    good: bool = False
    taken: bool = False
    reason: str = ""
    adapter: str | None = None  # where it is in the workspace, once it is taken

    @property
    def run(self) -> Path:
        """The folder of the training it is of."""
        return self.path if self.step is None else self.path.parent

    @property
    def unfinished(self) -> str | None:
        """How far the training had come, None where it was at its end or that is not known."""
        if self.step is None or self.steps is None or self.step >= self.steps:
            return None
        return f"step {self.step} of {self.steps}"

    def as_dict(self) -> dict[str, Any]:
        """The checkpoint as JSON data."""
        return {
            "path": str(self.path),
            "domain": self.domain,
            "layout": self.layout,
            "step": self.step,
            "steps": self.steps,
            "verdict": "good" if self.good else "refused",
            "reason": self.reason or None,
            "taken": self.taken,
            "unfinished": self.unfinished,
            "adapter": self.adapter,
        }


def import_checkpoints(
    workspace: Workspace, path: Path, *, domain: str | None = None, dry_run: bool = False, replacing: bool = False
) -> list[Found]:
    """Find and judge the checkpoints below a folder and take the newest good one of each domain as its adapter.

    `domain` names it where the layout does not, and narrows to it where it does. A domain that has an adapter keeps it
    unless `replacing`. With `dry_run` nothing is taken, `taken` says what would be. Raises InvalidInput where there is
    no such folder or no checkpoint in it.
    """
    catalog = load_catalog(workspace)
    if domain is not None:
        catalog.domain(domain)
    path = Path(os.path.abspath(path.expanduser()))  # as it is named, not where a link in it leads
    if not path.is_dir():
        raise InvalidInput(f"there is no folder {path}", "give a folder of the old tree, or one checkpoint-N folder")
    folders = _checkpoint_folders(path)
    if not folders:
        raise InvalidInput(f"{path} holds no checkpoint-N folder and no adapter", "give the folder they lie in")
    judge = _Judge(workspace, catalog, domain)
    judged = [judge(folder) for folder in folders]
    chosen = {name: _newest([one for one in judged if one.good and one.domain == name]) for name in _domains(judged)}
    results = {name: _take(workspace, catalog, one, dry_run, replacing) for name, one in chosen.items()}
    return [_told(one, results.get(one.domain or "")) for one in judged]


def _checkpoint_folders(path: Path) -> list[Path]:
    """The checkpoint folders below a folder, itself included, and those that hold an adapter. Links are not followed.

    Raises the OSError of a folder that cannot be read: what it holds would be passed over in silence.
    """
    found: list[Path] = []

    def fail(error: OSError) -> None:
        raise error

    for name, inner, files in os.walk(path, onerror=fail):
        folder = Path(name)
        inner.sort()
        if CHECKPOINT.fullmatch(folder.name):
            found.append(folder)
            inner.clear()
        elif ADAPTER_CONFIG in files or ADAPTER_WEIGHTS in files:
            found.append(folder)
    return found


class _Judge:
    """Judges checkpoints against the domains of the workspace; a domain's base is looked at once."""

    def __init__(self, workspace: Workspace, catalog: Catalog, asked: str | None) -> None:
        self.workspace = workspace
        self.catalog = catalog
        self.asked = asked
        self._bases: dict[str, tuple[dict[str, Any] | None, str]] = {}  # config and identity

    def __call__(self, folder: Path) -> Found:
        named = CHECKPOINT.fullmatch(folder.name)
        domain, layout, unknown = domain_of(folder, self.catalog.domains)
        whose = domain or self.asked
        found = Found(folder, whose, layout, int(named[1]) if named else None)
        if whose is None:
            why = f"its folder names {shown(unknown)}, no domain here" if unknown else "its domain is not named"
            return replace(found, reason=f"{why}: --domain NAME says it")
        if self.asked not in (None, whose):
            return replace(found, reason=f"it is of {whose}, not of {self.asked}")
        if (fault := _weights_fault(folder)) is not None:
            return replace(found, reason=fault)
        steps, fault = _steps(folder, found.step)
        found = replace(found, steps=steps)
        if fault is None:
            fault = self._adapter_fault(folder, self.catalog.base_for(whose))
        return replace(found, good=fault is None, reason=fault or "")

    def _adapter_fault(self, folder: Path, base: BaseModel) -> str | None:
        try:
            if base.name not in self._bases:
                located = locate(base, self.workspace)
                self._bases[base.name] = (config_of(located), base_identity(located))
        except (TaraError, Malformed) as error:
            return f"its base {base.name} cannot be looked at: {error}"
        config, identity = self._bases[base.name]
        findings = check_adapter(folder, names_of(base), config, base_sha256=identity)
        faults = [finding for finding in findings if finding.severity == "error"]
        faults.sort(key=lambda one: one.code != "other-base")
        if not faults and any(finding.code == "adapter-is-zero" for finding in findings):
            return "every lora_B in it is zero: it changes nothing"
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return f"{faults[0].message}{more}" if faults else None


def domain_of(folder: Path, domains: Mapping[str, Any]) -> tuple[str | None, str, str | None]:
    """Domain and layout by a checkpoint's path; and what stands where a domain's name should, where none is known."""
    parts = folder.parts
    unknown = None
    for at in reversed([index for index, part in enumerate(parts[:-1]) if part == "models"]):
        after = parts[at + 1 :]
        if after[0] == "adapters" and len(after) > 1:
            layout, named = "models/adapters/<domain>_<model>", after[1]
            fitting = [name for name in domains if named == name or named.startswith(f"{name}_")]
            if fitting:
                return max(fitting, key=len), layout, None
        else:
            layout, named = "models/<domain>", after[0]
            if named in domains:
                return named, layout, None
        if unknown is None and not CHECKPOINT.fullmatch(named):
            unknown = named
    return None, "Trainer output", unknown


def _weights_fault(folder: Path) -> str | None:
    """Why a folder holds no weights of an adapter that may be opened."""
    if (folder / ADAPTER_WEIGHTS).is_file():
        return None
    names = sorted(child.name for child in folder.iterdir())
    pickled = next((name for name in names if name.startswith("adapter_model.") and name.endswith(PICKLES)), None)
    if pickled is not None:
        return f"its weights are a pickle ({pickled}), which can run code when it is opened; pickles are never opened"
    whole = next((name for name in names if _OF_A_MODEL.fullmatch(name)), None)
    if whole is not None:
        return f"it holds a whole model ({whole}), not an adapter"
    return f"it holds no weights ({ADAPTER_WEIGHTS})"


def _steps(folder: Path, step: int | None) -> tuple[int | None, str | None]:
    """How many steps the training was to take, and what is wrong with what the Trainer says of it."""
    path = folder / TRAINER_STATE
    if step is None:
        return _count(object_or_empty(path).get("max_steps")), None
    if not path.is_file():
        return None, f"there is no {TRAINER_STATE}, so how far it came is not known"
    try:
        state = read_object(path)
    except Malformed as error:
        return None, f"{TRAINER_STATE} {error}"
    told = state.get("global_step")
    if told != step or isinstance(told, bool):
        return None, f"its step is told in different ways: folder {step}, {TRAINER_STATE} {shown(told)}"
    return _count(state.get("max_steps")), None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


# -- taking ------------------------------------------------------------------------------------------------------


def _domains(judged: list[Found]) -> list[str]:
    return list(dict.fromkeys(one.domain for one in judged if one.good and one.domain is not None))


def _newest(good: list[Found]) -> Found:
    """Of the training written last the highest step, or what it left at its end."""
    written = {one.run: 0.0 for one in good}
    for one in good:
        written[one.run] = max(written[one.run], (one.path / ADAPTER_WEIGHTS).stat().st_mtime)
    return max(good, key=lambda one: (written[one.run], one.step is None, one.step or 0, str(one.path)))


def _take(workspace: Workspace, catalog: Catalog, one: Found, dry_run: bool, replacing: bool) -> Found:
    """Make a checkpoint its domain's adapter, unless something stands against it."""
    assert one.domain is not None
    base = catalog.base_for(one.domain)
    _, _, target = target_of(workspace, base, one.domain, one.path)
    with open_reader(workspace) as reader:
        view = next((view for view in reader.domains() if view.name == one.domain), None)
    has = view.adapter_path if view is not None else None
    if has is not None and workspace.absolute(has) == target:
        return replace(one, taken=True, adapter=has, reason="it was imported before")
    if has is not None and not replacing:
        return replace(one, reason=f"not taken: {one.domain} has an adapter ({has}); --replace puts this in its place")
    busy = next((job for job in trainings(workspace) if job.domain == one.domain and job.active), None)
    if busy is not None:
        return replace(one, reason=f"not taken: job {busy.id} trains {one.domain} ({busy.state}); cancel it first")
    if dry_run:
        return replace(one, taken=True, reason="it would be taken")
    about = {"layout": one.layout, "old_step": one.step, "old_steps": one.steps, "unfinished": one.unfinished,
             "weights_only": True}  # fmt: skip
    store = open_store(workspace)
    try:
        stored = import_adapter(workspace, catalog, store, one.domain, base.name, one.path, about)
    except TaraError as error:  # it was changed since it was judged
        return replace(one, good=False, reason=error.message)
    with store.write() as session:
        row = session.get(Domain, one.domain) or Domain(name=one.domain, base=base.name)
        before, row.adapter_path, row.base = row.adapter_path, stored, base.name
        session.add(row)
        detail = {**about, "from": str(one.path), "adapter": stored, "before": before}
        session.add(Note(subject=one.domain, action="checkpoints-import", detail=dump(detail)))
    return replace(one, taken=True, adapter=stored)


def _told(one: Found, result: Found | None) -> Found:
    """A judged checkpoint with what became of it."""
    if result is None or not one.good:
        return one
    if result.path == one.path:
        return result
    newest = "the adapter at the training's end" if result.step is None else f"step {result.step} in {result.run.name}"
    return replace(one, reason=f"not taken: {newest} is newer")
