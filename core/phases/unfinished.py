"""Unfinished trainings: what has changed since they began, and the choice to go on with them or to start afresh.

A training's key is the hash of its settings, data and base. With another key it would begin anew and leave the
checkpoints of the one before unused, so that is done only where a person said so.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sqlmodel import Session, col, select

from core.catalog import Catalog, TrainingPreset
from core.errors import Refused, SettingsChanged
from core.files import MANIFEST, discard, sha256_of, write_atomically
from core.hygiene.findings import shown
from core.hygiene.reading import Malformed, read_object
from core.lifecycle import UNDONE
from core.phases.planned import DomainSource, Plan, PlannedJob
from core.store.engine import open_store
from core.store.tables import Domain, Job
from core.training.runs import LEFT, Run, RunRecord, find_runs, kept_data, leave, set_aside
from core.workspace import Workspace

Choice = Literal["old", "fresh"]
KEPT_DATA = "earlier"  # below data/: training data that only an older training still needs
_LONGEST_VALUE = 40


@dataclass(frozen=True)
class Change:
    """A setting that is not as it was."""

    setting: str
    old: Any
    new: Any

    def one_line(self) -> str:
        """The change as a person reads it."""
        return f"{self.setting} {shown(self.old, _LONGEST_VALUE)} -> {shown(self.new, _LONGEST_VALUE)}"


@dataclass(frozen=True)
class Training:
    """A training's job as the store has it."""

    id: int
    key: str
    domain: str
    state: str
    step: int | None
    total: int | None
    params: dict[str, Any]
    inputs: dict[str, Any]

    @property
    def active(self) -> bool:
        """Whether it is queued, running or paused: it goes on by itself, or is let go on by a person."""
        return self.state in UNDONE


@dataclass(frozen=True)
class Other:
    """An unfinished training of a domain whose settings are not those asked for now."""

    domain: str
    run: Run | None  # its checkpoints, where it has any
    job: Training | None
    record: RunRecord | None
    changes: tuple[Change, ...]

    @property
    def step(self) -> int:
        """The step it would go on from."""
        newest = self.run.newest_good if self.run is not None else None
        at = newest.step if newest is not None else 0
        return max(at, self.job.step or 0) if self.job is not None and self.job.active else at

    @property
    def steps(self) -> int:
        """How many steps it takes in all, 0 where that is not known."""
        return (self.record.steps if self.record else 0) or (self.job.total or 0 if self.job else 0)

    def one_line(self) -> str:
        """Where it stands and what differs."""
        stands = f"step {self.step}" + (f" of {self.steps}" if self.steps else "")
        what = "; ".join(change.one_line() for change in self.changes) or "its settings are not on record"
        if self.job is not None and self.job.active:
            return f"{self.domain}: job {self.job.id} ({self.job.state}, {stands}) has other settings: {what}"
        assert self.run is not None
        return f"{self.domain}: an unfinished training with other settings stands at {stands} ({self.run.name}): {what}"


@dataclass
class Settled:
    """A plan that may be queued, and what is to be noted of checkpoints when it is."""

    plan: Plan
    sources: list[DomainSource]
    leaving: list[Other]
    anew: list[Run]  # runs of this very plan that are not to be gone on with


# -- what is there -----------------------------------------------------------------------------------------------


def source_of(row: Domain, catalog: Catalog) -> DomainSource:
    """A domain of the store as a plan needs it."""
    # The mapping says on which base a domain is trained; an adapter from elsewhere stays on the one it was made for.
    mapped = catalog.mapping.get(row.name) if row.adapter_path is None else None
    return DomainSource(row.name, mapped.current if mapped else row.base, row.preset, row.data_path, row.adapter_path)


def trainings_in(session: Session, domain: str | None = None) -> list[Training]:
    """The trainings on record, newest first."""
    query = select(Job).where(Job.kind == "train").order_by(col(Job.id).desc())
    rows = session.exec(query if domain is None else query.where(Job.domain == domain)).all()
    return [
        Training(
            row.id or 0, row.key, row.domain or "", row.state, row.step, row.total,
            json.loads(row.params), json.loads(row.inputs),
        )
        for row in rows
    ]  # fmt: skip


def trainings(workspace: Workspace) -> list[Training]:
    """The trainings on record, newest first; none where there is no store yet."""
    if not workspace.state_db.exists():
        return []
    with open_store(workspace).write() as session:
        return trainings_in(session)


def job_of(workspace: Workspace, run: Run, jobs: Sequence[Training]) -> Training | None:
    """The job whose checkpoints a run's are."""
    return next((job for job in jobs if is_of(workspace, run, job.domain, job.key)), None)


def is_of(workspace: Workspace, run: Run, domain: str, key: str) -> bool:
    """Whether a run's folder is that of the training with this key."""
    return run.folder == workspace.checkpoint_folder(domain, key)


def record_of(run: Run | None, job: Training | None) -> RunRecord | None:
    """What a training was asked for: from beside its checkpoints, else from its job and the newest checkpoint."""
    if run is not None and run.record is not None:
        return run.record
    if job is None or not {"base", "data"} <= job.inputs.keys() or not isinstance(job.params.get("preset"), dict):
        return None
    hashes = {"base_sha256": "", "data_sha256": ""}
    newest = run.newest_good if run is not None else None
    if newest is not None:
        try:
            manifest = read_object(newest.path / MANIFEST)
        except Malformed:
            return None  # it went while it was looked at
        hashes = {name: str(manifest.get(name, "")) for name in hashes}
    return RunRecord(
        job.domain, job.key, job.params, str(job.inputs["base"]), str(job.inputs["data"]),
        steps=job.total or 0, **hashes,
    )  # fmt: skip


def training_in(plan: Plan, domain: str) -> PlannedJob | None:
    """A plan's training of a domain; None where it takes an adapter from elsewhere."""
    found = (job for job in plan.jobs.values() if job.kind == "train" and job.domain == domain)
    return next((job for job in found if job.params), None)


def changes_since(workspace: Workspace, record: RunRecord, plan: Plan, planned: PlannedJob) -> tuple[Change, ...]:
    """What is not as it was when a training began, setting by setting."""
    old, new = _flat(record.params), _flat(planned.params)
    found = [Change(name, old.get(name), new.get(name)) for name in dict.fromkeys([*new, *old])]
    data = workspace.absolute(planned.inputs["data"])
    if record.data_sha256:
        now = sha256_of(data)
        if now != record.data_sha256:
            new_data = f"{planned.inputs['data']} ({now[:8]})"
            found.append(Change("data", f"{record.data} ({record.data_sha256[:8]})", new_data))
    elif record.data != planned.inputs["data"]:
        found.append(Change("data", record.data, planned.inputs["data"]))
    name, identity = _base_of(plan, planned)
    if (_base_name(record), record.base_sha256 or identity) != (name, identity):
        was = f"{_base_name(record)} ({record.base_sha256[:8]})" if record.base_sha256 else _base_name(record)
        found.append(Change("base", was, f"{name} ({identity[:8]})"))
    found = [change for change in found if change.old != change.new]
    if not found and record.key != planned.key:
        what = "training as this version does it" if record.data_sha256 else "data, or how this version trains"
        found.append(Change(what, "then", "now"))
    return tuple(found)


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name: the preset's beside the others, its own name as `preset`."""
    preset = {name: value for name, value in params["preset"].items() if name not in TrainingPreset.UNHASHED}
    flat = {"preset" if name == "name" else name: value for name, value in preset.items()}
    others = {name: value for name, value in params.items() if name not in ("preset", "domain") and name[0] != "_"}
    return {**flat, **others}


def _base_of(plan: Plan, planned: PlannedJob) -> tuple[str, str]:
    facts = next(plan.jobs[key].params["base"] for key in planned.needs if plan.jobs[key].kind == "base")
    return str(facts["name"]), str(facts["identity"])


def _base_name(record: RunRecord) -> str:
    return Path(record.base).name.rpartition("-")[0]  # artifacts/base/<name>-<key>


def others_of(
    workspace: Workspace, plan: Plan, source: DomainSource, jobs: Sequence[Training], *, asked: bool = False
) -> list[Other]:
    """The unfinished trainings of a domain that the plan would leave, the one to choose first.

    Empty where the plan's own training is done, at work, or has checkpoints to go on from; with `asked` also those that
    a person left before, and whatever the plan's own has.
    """
    planned = training_in(plan, source.name)
    if planned is None or (planned.done and not asked):
        return []
    mine = [job for job in jobs if job.domain == source.name]
    runs = [run for run in find_runs(workspace, source.name) if run.newest_good is not None]
    own = any(is_of(workspace, run, source.name, planned.key) for run in runs)
    if not asked and any(job.key == planned.key and job.active for job in mine):
        return []
    found = []
    for job in mine:
        if job.active and job.key != planned.key:
            run = next((run for run in runs if is_of(workspace, run, job.domain, job.key)), None)
            found.append(_other(workspace, plan, planned, run, job))
    if own and not asked:
        return found
    taken = {other.run.folder for other in found if other.run is not None}
    rest = [
        run
        for run in runs
        if run.folder not in taken
        and not is_of(workspace, run, source.name, planned.key)
        and (asked or run.left is None)
    ]
    rest.sort(key=lambda run: (run.left is not None, -max(one.at for one in run.checkpoints or run.backups)))
    return found + [_other(workspace, plan, planned, run, job_of(workspace, run, mine)) for run in rest]


def _other(workspace: Workspace, plan: Plan, planned: PlannedJob, run: Run | None, job: Training | None) -> Other:
    record = record_of(run, job)
    changes = changes_since(workspace, record, plan, planned) if record is not None else ()
    return Other(planned.domain or "", run, job, record, changes)


# -- the choice --------------------------------------------------------------------------------------------------


def settle(
    workspace: Workspace,
    catalog: Catalog,
    sources: Sequence[DomainSource],
    make: Callable[[Sequence[DomainSource]], Plan],
    choice: Choice | None,
    *,
    anew: bool = False,
) -> Settled:
    """The plan for some domains, by the person's choice where an unfinished training has other settings.

    `anew`: with the choice `fresh` also the plan's own checkpoints are left. Raises SettingsChanged where there is a
    choice to be made, Refused where the one made cannot be followed; nothing is changed then.
    """
    plan = make(sources)
    jobs = trainings(workspace)
    others = {one.name: others_of(workspace, plan, one, jobs, asked=choice == "old") for one in sources}
    open_ = [found for one in others.values() for found in one]
    if choice is None and open_:
        raise _question(open_)
    if choice == "fresh":
        active = [other for other in open_ if other.job is not None and other.job.active]
        if active:
            raise _question(active)
        own = [run for one in sources for run in _own(workspace, plan, one)] if anew else []
        return Settled(plan, list(sources), open_, own)
    if choice == "old":
        chosen = {name: found[0] for name, found in others.items() if found}
        if not chosen and not any(_own(workspace, plan, one) for one in sources):
            raise Refused("there is no unfinished training to go on with", "leave out --resume-old")
        restored: list[Path] = []
        try:
            old = [
                _as_it_was(workspace, catalog, one, chosen[one.name], restored) if one.name in chosen else one
                for one in sources
            ]
            plan = make(old)
            for name, other in chosen.items():
                _check_same(plan, name, other)
        except BaseException:
            for data in restored:
                discard(data)
            raise
        return Settled(plan, old, [], [])
    return Settled(plan, list(sources), [], [])


def carry_out(session: Session, workspace: Workspace, settled: Settled) -> None:
    """Note the choice beside the checkpoints, at the moment the plan is queued.

    Raises Refused where another training of a domain was queued since the choice was made.
    """
    for source in settled.sources:
        planned = training_in(settled.plan, source.name)
        if planned is None or planned.done:
            continue
        jobs = trainings_in(session, source.name)
        now = next((job for job in jobs if job.active and job.key != planned.key), None)
        mine = any(job.active and job.key == planned.key for job in jobs)
        if now is not None and not mine:
            raise Refused(
                f"job {now.id} trains {source.name} with other settings ({now.state})",
                f"wait for it, or tara jobs cancel {now.id}; nothing was changed",
            )
        if mine and any(run.domain == source.name for run in settled.anew):
            raise Refused(f"{source.name} is being trained with these settings", "cancel its job first to start afresh")
        discard(workspace.checkpoint_folder(source.name, planned.key) / LEFT)  # gone on with again
    for run in settled.anew:
        for kept in (*run.checkpoints, *run.backups):
            if kept.path.is_dir():
                set_aside(run.folder, kept.path, "a person started this training afresh")
    for other in settled.leaving:
        if other.run is not None:
            what = "; ".join(change.one_line() for change in other.changes)
            leave(other.run.folder, f"a person started afresh with other settings: {what}")


def _own(workspace: Workspace, plan: Plan, source: DomainSource) -> list[Run]:
    planned = training_in(plan, source.name)
    if planned is None or planned.done:
        return []
    runs = find_runs(workspace, source.name)
    return [run for run in runs if is_of(workspace, run, source.name, planned.key) and run.checkpoints + run.backups]


def _question(others: Sequence[Other]) -> SettingsChanged:
    lines = tuple(other.one_line() for other in others)
    active = [other.job for other in others if other.job is not None and other.job.active]
    if active:
        numbers = " ".join(str(job.id) for job in active)
        hint = f"--resume-old leaves it at that; for the new settings: tara jobs cancel {numbers}, then --fresh"
    else:
        hint = (
            "--resume-old goes on with the old settings; --fresh starts at step 0 and keeps the old checkpoints "
            "(tara checkpoints list)"
        )
    return SettingsChanged(" | ".join(lines), hint, lines, can_leave=not active)


def _as_it_was(
    workspace: Workspace, catalog: Catalog, source: DomainSource, other: Other, restored: list[Path]
) -> DomainSource:
    """A domain with the settings, data and base of an older training. Data that had to be put back are added to
    `restored`."""
    record = other.record
    name = f"the unfinished training of {source.name}"
    if record is None:
        fault = other.run.record_fault if other.run is not None else None
        raise Refused(f"the settings of {name} are not on record{f': {fault}' if fault else ''}", "--fresh starts anew")
    base = _base_name(record)
    if base not in catalog.bases:
        raise Refused(f"{name} was on the base {base}, which is not configured", "configure it again, or --fresh")
    data = workspace.absolute(record.data)
    if record.data_sha256 and not (data.is_file() and sha256_of(data) == record.data_sha256):
        copy = kept_data(other.run, record.data_sha256) if other.run is not None else None
        data = workspace.data / KEPT_DATA / f"{source.name}-{record.data_sha256[:8]}.jsonl"
        if copy is not None:
            data.parent.mkdir(parents=True, exist_ok=True)
            if not data.exists():
                restored.append(data)
            write_atomically(data, copy.read_bytes())
        elif not (data.is_file() and sha256_of(data) == record.data_sha256):
            raise Refused(
                f"the data of {name} are gone: {record.data} is not what it was ({record.data_sha256[:8]})",
                "put the file back as it was, or --fresh",
            )
    shaping = {key: value for key, value in record.params.items() if not key.startswith("_")}
    missing = {"domain", "preset", "seed", "held_out_fraction", "system_prompt"} - shaping.keys()
    if missing:
        raise Refused(f"{name} has no {', '.join(sorted(missing))} on record", "--fresh starts anew")
    return replace(source, base=base, preset=None, data_path=workspace.relative(data), shaping=shaping)


def _check_same(plan: Plan, domain: str, other: Other) -> None:
    """Refuse where what is planned for the old settings is not the very job that they were of."""
    planned = training_in(plan, domain)
    assert planned is not None
    assert other.record is not None
    if planned.key == other.record.key:
        return
    name, identity = _base_of(plan, planned)
    if other.record.base_sha256 and identity != other.record.base_sha256:
        why = f"its base {name} is another one now ({identity[:8]}, then {other.record.base_sha256[:8]})"
    else:
        why = "its data, or the way this version trains, are not as they were"
    raise Refused(f"the unfinished training of {domain} cannot be gone on with: {why}", "--fresh starts anew")
