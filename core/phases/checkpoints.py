"""A workspace's checkpoints as a person asks about them: which there are, which would be gone on with, and removal."""

import os
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from core.catalog import Catalog, load_catalog
from core.errors import InvalidInput, Refused, TaraError
from core.files import STAGING_PREFIX, discard, staging_beside
from core.phases.plan import Planner
from core.phases.planned import Plan
from core.phases.unfinished import (
    Change,
    Training,
    changes_since,
    is_of,
    job_of,
    record_of,
    source_of,
    training_in,
    trainings,
    trainings_in,
)
from core.store.engine import dump, open_store
from core.store.reads import open_reader
from core.store.tables import Domain, Note
from core.training.runs import Kept, Run, find_runs
from core.workspace import Workspace


@dataclass(frozen=True)
class Listed:
    """A run's checkpoints and what would become of them. `steps` is 0 where it is not known how many it takes."""

    run: Run
    job: Training | None
    steps: int
    goes_on: bool  # whether the domain's training, as configured now, would go on from them
    why: str
    changes: tuple[Change, ...] = ()

    def marks(self, kept: Kept) -> list[str]:
        """What a checkpoint is within its run: newest, best, backup."""
        if kept.backup:
            return ["backup"]
        marks = ["newest"] if kept is self.run.checkpoints[-1] else []
        return marks + (["best"] if kept is self.run.best else [])

    @property
    def stands(self) -> str:
        """The step the run would go on from."""
        newest = self.run.newest_good
        if newest is None:
            return "no good step"
        return f"step {newest.step}" + (f" of {self.steps}" if self.steps else "")

    @property
    def becomes(self) -> str:
        """Whether it is gone on with, and why."""
        return f"{'goes on' if self.goes_on else 'is not gone on with'}: {self.why}"

    def newest_first(self) -> list[Kept]:
        """All checkpoints that are not set aside."""
        return sorted((*self.run.checkpoints, *self.run.backups), key=lambda kept: (-kept.step, kept.backup))

    def state_of(self, kept: Kept) -> str:
        """What a checkpoint is, or what is wrong with it."""
        return f"cannot be used: {kept.fault}" if kept.fault is not None else ", ".join(self.marks(kept))

    def as_dict(self, workspace: Workspace) -> dict[str, Any]:
        """The run as JSON data; paths are relative to the workspace, times seconds since the epoch."""
        run = self.run
        return {
            "run": run.name,
            "domain": run.domain,
            "key": run.key,
            "bytes": run.bytes,
            "job": self.job.id if self.job else None,
            "state": self.job.state if self.job else None,
            "step": run.newest_good.step if run.newest_good else None,
            "steps": self.steps or None,
            "goes_on": self.goes_on,
            "why": self.why,
            "changes": [{"setting": one.setting, "old": one.old, "new": one.new} for one in self.changes],
            "left": run.left,
            "checkpoints": [
                {
                    "path": workspace.relative(one.path),
                    "step": one.step,
                    "at": one.at,
                    "bytes": one.bytes,
                    "smoothed_loss": one.smoothed,
                    "marks": self.marks(one),
                    "fault": one.fault,
                }
                for one in (*run.checkpoints, *run.backups)
            ],
            "aside": [
                {"path": workspace.relative(one.path), "at": one.at, "bytes": one.bytes, "reason": one.reason}
                for one in run.aside
            ],
        }


def list_runs(workspace: Workspace, domain: str | None = None) -> list[Listed]:
    """Every run's checkpoints, or a domain's. Raises InvalidInput for a domain that nobody knows."""
    found = find_runs(workspace, domain)
    if not found and domain is not None:
        load_catalog(workspace).domain(domain)
    if not found:
        return []
    jobs = trainings(workspace)
    plans = {name: _plan_now(workspace, name) for name in dict.fromkeys(run.domain for run in found)}
    return [_listed(workspace, run, job_of(workspace, run, jobs), plans[run.domain]) for run in found]


def _plan_now(workspace: Workspace, name: str) -> Plan | str:
    """The training of a domain as configured now, or why there is none."""
    try:
        catalog = load_catalog(workspace)
        catalog.domain(name)
        row, phase = _row(workspace, catalog, name)
        with open_reader(workspace) as reader:
            return Planner(workspace, catalog, reader).training(source_of(row, catalog), phase)
    except TaraError as error:
        return error.message


def _row(workspace: Workspace, catalog: Catalog, name: str) -> tuple[Domain, int | None]:
    row = None
    if workspace.state_db.exists():
        with open_store(workspace).write() as session:
            known = session.get(Domain, name)
            row = Domain.model_validate(known.model_dump()) if known is not None else None
    return row or Domain(name=name, base=catalog.mapping[name].current), row.phase if row else None


def _listed(workspace: Workspace, run: Run, job: Training | None, plan: Plan | str) -> Listed:
    record = record_of(run, job)
    steps = (record.steps if record else 0) or (job.total or 0 if job else 0)

    def said(why: str, *, goes_on: bool = False, changes: tuple[Change, ...] = ()) -> Listed:
        return Listed(run, job, steps, goes_on, why, changes)

    if not (run.checkpoints or run.backups):
        return said("only what was set aside is left" if run.aside else "no checkpoint was written yet")
    if isinstance(plan, str):
        return said(f"its training cannot be planned now: {plan}")
    planned = training_in(plan, run.domain)
    if planned is None:
        return said(f"{run.domain} uses an adapter from elsewhere (tara update-domain {run.domain} --train-here)")
    if is_of(workspace, run, run.domain, planned.key):
        if job is not None and job.active:
            return said(f"job {job.id} is {job.state}", goes_on=True)
        if planned.done:
            return said("its adapter is made already")
        if run.newest_good is None:
            return said("none of its checkpoints can be used")
        return said(f"tara train-domain {run.domain} goes on from step {run.newest_good.step}", goes_on=True)
    changes = changes_since(workspace, record, plan, planned) if record is not None else ()
    what = "; ".join(change.one_line() for change in changes)
    if not what:
        what = f"its settings are not on record{f': {run.record_fault}' if run.record_fault else ''}"
    if job is not None and job.active:
        return said(f"job {job.id} is {job.state}, with other settings: {what}", changes=changes)
    if run.left is not None:
        what += "; left when its training was started afresh"
    elif run.newest_good is None:
        what += "; and none of its checkpoints can be used"
    return said(f"other settings: {what}", changes=changes)


def runs_named(workspace: Workspace, name: str) -> list[Run]:
    """The runs that a person means by a run's or a domain's name. Raises InvalidInput where there are none."""
    runs = find_runs(workspace)
    found = [run for run in runs if run.name == name] or [run for run in runs if run.domain == name]
    if not found:
        known = ", ".join(run.name for run in runs) or "none"
        raise InvalidInput(f"there are no checkpoints of {name} (there are: {known})", "tara checkpoints list")
    return found


def remove_runs(workspace: Workspace, runs: list[Run]) -> int:
    """Remove runs with all their checkpoints. Returns the bytes freed.

    Raises Refused while one's job is queued, running or paused; nothing is removed then.
    """
    for left in workspace.checkpoints.glob(f"{STAGING_PREFIX}*"):  # of a removal that was broken off
        discard(left)
    with open_store(workspace).write() as session:
        for run in runs:
            _check_idle(session, workspace, run)
        gone = []
        for run in runs:
            moved = staging_beside(run.folder)
            discard(moved)
            os.replace(run.folder, moved)  # at once, so that no training meets half of a run
            gone.append(moved)
            detail = dump({"run": run.name, "bytes": run.bytes, "step": run.newest_good.step if run.newest_good else 0})
            session.add(Note(subject=run.domain, action="checkpoints-remove", detail=detail))
    for moved in gone:
        discard(moved)
    return sum(run.bytes for run in runs)


def _check_idle(session: Session, workspace: Workspace, run: Run) -> None:
    for job in trainings_in(session, run.domain):
        if job.active and is_of(workspace, run, job.domain, job.key):
            raise Refused(
                f"{run.name} belongs to job {job.id}, which is {job.state}", f"tara jobs cancel {job.id} first"
            )
