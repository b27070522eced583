"""Removing a phase: what only it uses is moved to the trash with its rows, so that it can come back."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import inspect
from sqlmodel import Session, SQLModel, col, select

from core.errors import InvalidInput, Refused
from core.files import discard, write_atomically
from core.lifecycle import UNDONE
from core.phases.kinds import OF_A_PHASE
from core.store.engine import dump, open_store
from core.store.reads import open_reader
from core.store.tables import (
    TABLES,
    Artifact,
    ArtifactParent,
    ChatTurn,
    Deployment,
    Domain,
    Fact,
    Job,
    JobAttempt,
    JobDependency,
    Measurement,
    Metric,
    Note,
    Phase,
    Release,
)
from core.workspace import Workspace

RECORD = "phase.json"
# What has rows of a single phase.
_TABLES = tuple(table for table in TABLES if table not in (Fact, ChatTurn, Note))


@dataclass(frozen=True)
class CleanupPlan:
    """What removing a phase moves away. Paths are relative to the workspace; `bytes` is their size on disk."""

    phase: int
    paths: tuple[str, ...]
    bytes: int
    trash: str

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON data."""
        return asdict(self)


def plan(workspace: Workspace, number: int) -> CleanupPlan:
    """What removing a phase would move. Raises Refused while its jobs are not over."""
    with open_reader(workspace) as reader:
        reader.phase(number)
    with open_store(workspace).write() as session:
        found = _paths(workspace, _idle_rows(session, number))
    total = sum(_bytes(workspace.absolute(path)) for path in found)
    trash = workspace.root / "trash" / f"phase-{number}-{time.strftime('%Y%m%dT%H%M%S')}"
    while trash.exists():  # cleaned up twice within a second: the later one must sort last
        trash = trash.with_name(f"{trash.name}.2")
    return CleanupPlan(number, found, total, workspace.relative(trash))


def carry_out(workspace: Workspace, planned: CleanupPlan) -> None:
    """Move a phase to the trash: its record first, then the rows, then the files; so nothing is half known.

    Raises Refused where the phase is no longer as it was planned.
    """
    trash = workspace.absolute(planned.trash)
    trash.mkdir(parents=True)
    try:
        _take_out(workspace, planned, trash)
    except BaseException:
        discard(trash)
        raise
    _move(workspace.root, trash, planned.paths)


def _take_out(workspace: Workspace, planned: CleanupPlan, trash: Path) -> None:
    """Write the phase's record and delete its rows."""
    with open_store(workspace).write() as session:
        rows = _idle_rows(session, planned.phase)
        if _paths(workspace, rows) != planned.paths:
            raise Refused(f"phase {planned.phase} has changed since the plan was made", "plan again; nothing was moved")
        fact = session.get(Fact, "current_phase")
        record = {
            "phase": planned.phase,
            "paths": list(planned.paths),
            "was_current": fact is not None and fact.value == str(planned.phase),
            "tables": {table.__name__: [row.model_dump() for row in rows[table]] for table in _TABLES},
        }
        write_atomically(trash / RECORD, json.dumps(record, indent=1))
        for table in reversed(_TABLES):
            for row in rows[table]:
                session.delete(row)
            session.flush()
        if fact is not None and fact.value == str(planned.phase):
            left = session.exec(select(Phase.number).order_by(col(Phase.number))).first()
            if left is None:
                session.delete(fact)
            else:
                fact.value = str(left)
        session.add(Note(subject=f"phase {planned.phase}", action="cleanup-phase", detail=dump(planned.as_dict())))


def undo(workspace: Workspace, number: int) -> list[str]:
    """Bring the phase of the newest clean-up back. Returns the paths restored."""
    folders = sorted(workspace.root.glob(f"trash/phase-{number}-*/{RECORD}"))
    if not folders:
        raise InvalidInput(f"the trash has no phase {number}")
    trash = folders[-1].parent
    record = json.loads(folders[-1].read_text("utf-8"))
    with open_store(workspace).write() as session:
        if session.get(Phase, number) is not None:
            raise Refused(f"phase {number} exists again", "clean it up first, or keep the one in the trash")
        _check_free(session, record["tables"])
        for table in _TABLES:
            for values in record["tables"][table.__name__]:
                if session.get(table, _key(table, values)) is None:
                    session.add(table.model_validate(values))
            session.flush()
        if record["was_current"]:
            session.merge(Fact(name="current_phase", value=str(number)))
        session.add(
            Note(subject=f"phase {number}", action="cleanup-phase-undo", detail=dump({"paths": record["paths"]}))
        )
    _move(trash, workspace.root, record["paths"])
    (trash / RECORD).rename(trash / f"restored-{RECORD}")
    return list(record["paths"])


def _check_free(session: Session, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse to bring back what was made anew in the meantime."""
    for values in tables[Domain.__name__]:
        if session.get(Domain, values["name"]) is not None:
            raise Refused(f"{values['name']} was used again since", "the trash keeps the phase; nothing was changed")
    for values in tables[Artifact.__name__]:
        if session.exec(select(Artifact).where(Artifact.key == values["key"])).first() is not None:
            raise Refused(f"{values['path']} was made again since", "the trash keeps the phase; nothing was changed")


def _idle_rows(session: Session, number: int) -> dict[type[SQLModel], list[Any]]:
    """The phase's rows. Raises Refused while one of its jobs is not over."""
    rows = _rows(session, number)
    if any(job.state in UNDONE for job in rows[Job]):
        raise Refused(f"jobs of phase {number} are not over", "tara jobs cancel, or tara jobs wait")
    return rows


def _paths(workspace: Workspace, rows: dict[type[SQLModel], list[Any]]) -> tuple[str, ...]:
    """What there is on disk of some rows, relative to the workspace."""
    stored = [artifact.path for artifact in rows[Artifact]] + [attempt.run_dir for attempt in rows[JobAttempt]]
    stored += [
        workspace.relative(workspace.checkpoint_folder(job.domain, job.key))
        for job in rows[Job]
        if job.kind == "train" and job.domain
    ]
    return tuple(
        sorted({path for path in stored if workspace.absolute(path).exists() and not Path(path).is_absolute()})
    )


def _rows(session: Session, number: int) -> dict[type[SQLModel], list[Any]]:
    """All rows that belong to a phase alone. What another phase could use stays: bases and their conversions."""
    found: dict[type[SQLModel], list[Any]] = {table: [] for table in _TABLES}
    found[Phase] = list(session.exec(select(Phase).where(Phase.number == number)).all())
    found[Domain] = list(session.exec(select(Domain).where(Domain.phase == number)).all())
    names = [row.name for row in found[Domain]]
    others = session.exec(select(Phase).where(Phase.number != number)).first() is not None
    shared = ("base", "convert", "imatrix", "quantize", "type-costs", "hybrid", "keep", "repair") if others else ()
    before = col(Job.phase).is_(None) & col(Job.domain).in_(names)  # trained before they were put into the phase
    whole = session.exec(select(Job).where((col(Job.phase) == number) | before)).all()
    jobs = [job for job in whole if job.kind not in shared or job.domain or OF_A_PHASE in (job.subject or "")]
    ids = [job.id for job in jobs]
    found[Job] = list(jobs)
    for table in (JobDependency, JobAttempt, Metric):
        found[table] = list(session.exec(select(table).where(col(table.job_id).in_(ids))).all())
    needed = session.exec(select(JobDependency).where(col(JobDependency.needs_id).in_(ids))).all()
    found[JobDependency] += [row for row in needed if row not in found[JobDependency]]
    found[Artifact] = list(
        session.exec(
            select(Artifact).where(
                col(Artifact.job_id).in_(ids) | (col(Artifact.domain).in_(names) & col(Artifact.job_id).is_(None))
            )
        ).all()
    )
    made = [row.id for row in found[Artifact]]
    found[ArtifactParent] = list(
        session.exec(
            select(ArtifactParent).where(
                col(ArtifactParent.artifact_id).in_(made) | col(ArtifactParent.parent_id).in_(made)
            )
        ).all()
    )
    found[Measurement] = list(session.exec(select(Measurement).where(col(Measurement.job_id).in_(ids))).all())
    found[Release] = list(session.exec(select(Release).where(Release.phase == number)).all())
    releases = [row.id for row in found[Release]]
    found[Deployment] = list(session.exec(select(Deployment).where(col(Deployment.release_id).in_(releases))).all())
    return found


def _key(table: type[SQLModel], values: dict[str, Any]) -> Any:
    names = [column.name for column in inspect(table).primary_key]
    key = tuple(values[name] for name in names)
    return key if len(key) > 1 else key[0]


def _move(source: Path, target: Path, paths: list[str] | tuple[str, ...]) -> None:
    for path in paths:
        if (source / path).exists():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(source / path, target / path)


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file() and not one.is_symlink())
