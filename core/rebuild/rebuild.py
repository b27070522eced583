"""The whole way: read the damaged store, make a fresh one beside it, fill it from what was read and from the run
folders, check it, and put it in the old one's place, which is set aside and never deleted."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, SQLModel, col, select

from core.errors import Refused, TaraError
from core.files import STAGING_PREFIX, discard, sync_tree
from core.rebuild import phases, releases
from core.rebuild.folders import Attempt, jobs_of, living, read_attempts
from core.rebuild.replay import Replay
from core.runner.presence import hold
from core.store.engine import Store, make_store, no_store_is_made
from core.store.integrity import faults_of
from core.store.place import check_place
from core.store.salvage import SIDES, Salvage, copy_store, name_of, salvage
from core.store.tables import (
    TABLES,
    Artifact,
    ArtifactParent,
    ChatTurn,
    Deployment,
    Domain,
    Fact,
    Job,
    Measurement,
    Metric,
    Note,
    Phase,
    Release,
)
from core.workspace import Workspace

# What is in a table that no run folder has, in the person's words.
ONLY_HERE = {
    "phase": "settings changed since a job of it last started",
    "domain": "what was declared since a job of it last started",
    "job": "jobs that had not started yet",
    "deployment": "all but the last rollback",
    "chat_turn": "conversations",
    "note": "what was declared, forced, overridden or removed, and why",
}


@dataclass(frozen=True)
class TableLine:
    """A table after a rebuild: rows taken over from what could be read, rows made anew, and how many there were more;
    None where nobody knows that."""

    table: str
    salvaged: int
    rebuilt: int
    lost: int | None
    lost_what: str = ""


@dataclass
class Report:
    """What a rebuild did, or would do. `source` is the file that rows were taken from, `aside` where the old store is
    now; `left` says in a line each what could not be made use of."""

    damage: list[str]
    source: str | None
    aside: str | None = None
    done: bool = False
    tables: list[TableLine] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return asdict(self)


@contextmanager
def nobody_works(workspace: Workspace) -> Iterator[None]:
    """Keep the workspace's runner from starting. Raises Refused where one lives, or a job's process does.

    Inside, nothing may ask whether the runner lives: closing any descriptor of its lock's file gives the lock up.
    """
    lock = hold(workspace)
    if lock is None:
        raise Refused("the runner of this workspace lives", "tara runner stop, then again")
    try:
        folders = living(workspace)
        if folders:
            names = ", ".join(f"job {name.partition('.')[0]} (runs/{name})" for name in folders)
            raise Refused(
                f"what still runs is not to be disturbed: {names}",
                "wait until they are over; kill the processes in their shim.json if they never end",
            )
        yield
    finally:
        os.close(lock)


def rebuild(workspace: Workspace, *, dry_run: bool = False) -> Report:
    """Make state.db anew. With `dry_run` the new one is thrown away again, and the report says what it had held.

    To be called inside `nobody_works`. Raises TaraError where it cannot be done; the store is as it was then.
    """
    path = workspace.state_db
    check_place(path)
    folder = workspace.root / f"{STAGING_PREFIX}{os.getpid()}-rebuild"
    discard(folder)
    folder.mkdir()
    try:
        fresh, template = folder / "state.db", folder / "template"
        make_store(workspace, fresh).close()
        template.write_bytes(fresh.read_bytes())
        damage = _damage(path, folder)
        found = salvage(path, template, folder)
        report = Report(damage, found.source.name if found.source is not None else None)
        store = make_store(workspace, fresh)
        try:
            _fill(workspace, store, found, report)
        finally:
            store.close()
        wrong = faults_of(fresh, thorough=True)
        if wrong:
            raise TaraError(f"the new store is not sound, so the old one stays: {wrong[0]}", "report this")
        if not dry_run:
            report.aside = _take_over(workspace, fresh)
            report.done = True
        return report
    finally:
        discard(folder)


def _damage(path: Path, folder: Path) -> list[str]:
    """What is wrong with the store's file, by a look at a copy."""
    if not path.exists() or not path.stat().st_size:
        return ["there is none, or it is empty"]
    copy_store(path, folder / "looked-at")
    return faults_of(folder / "looked-at")


def _fill(workspace: Workspace, store: Store, found: Salvage, report: Report) -> None:
    attempts = read_attempts(workspace)
    rows = {int(row["id"]): row for row in found.of(Job)}
    jobs, strangers = jobs_of(attempts, {number: row["key"] for number, row in rows.items()})
    highest = _number_on(workspace, store, found, attempts)
    for at, theirs in enumerate(strangers, highest + 1):
        jobs[at] = theirs
    # A job that the store does not know was made by an earlier one, or its row is gone; then so may be its phase's.
    unknown = [one for number, mine in jobs.items() if number not in rows for one in mine]
    doubtful = {
        table: phases.specs_of(unknown if name_of(table) in found.whole else attempts) for table in (Phase, Domain)
    }
    kept: Counter[str] = Counter()
    with store.write() as session:
        for table in (Fact, Phase):
            kept[name_of(table)] = _put(session, table, found.of(table))
        report.left += phases.add_phases(session, workspace, doubtful[Phase], found.of(Domain))
        kept["domain"] = _put(session, Domain, found.of(Domain))
    replay = Replay(store, found)
    replay.add_jobs(jobs)
    with store.write() as session:
        kept["artifact"] = _put(session, Artifact, found.of(Artifact))
        report.left += [
            f"{path}: an adapter from elsewhere; tara add-domain N NAME --adapter-path {path} takes it in again"
            for path in phases.add_imported(session, workspace)
        ]
        kept["release"] = _put(session, Release, found.of(Release))
    replay.record(jobs)
    kept["job"], kept["job_attempt"] = replay.add_the_others()
    kept["job_dependency"] = replay.connect(found)
    _rest(workspace, store, found, report, kept, replay, jobs)
    with store.write() as session:
        before = set(session.exec(select(Phase.number)).all()) - {row["number"] for row in found.of(Phase)}
        report.left += phases.add_domains(session, workspace, doubtful[Domain])
        phases.choose_current(session, phases.specs_of(attempts))
        phases.point_to_bundles(session, before)
    replay.sort_measurements()
    report.left += [
        f"runs/{one.folder.name}: nothing says which job it was"
        for mine in jobs.values()
        for one in mine
        if one.spec is None and one.job not in rows and all(other.spec is None for other in mine)
    ]
    _count(store, found, report, kept)


def _rest(
    workspace: Workspace,
    store: Store,
    found: Salvage,
    report: Report,
    kept: Counter[str],
    replay: Replay,
    jobs: dict[int, list[Attempt]],
) -> None:
    """What follows from jobs or stands beside them: live figures, measurements, parents, releases, turns, notes."""
    replayed = {(number, one.number) for number, mine in jobs.items() for one in mine}
    with store.write() as session:
        there = set(session.exec(select(Job.id)).all())
        artifacts = set(session.exec(select(Artifact.id)).all())
        measured = set(session.exec(select(Measurement.job_id)).all())
        metrics = [row for row in found.of(Metric) if (row["job_id"], row["attempt"]) not in replayed]
        kept["metric"] = _put(session, Metric, [row for row in metrics if row["job_id"] in there], renumber=True)
        old = [row for row in found.of(Measurement) if row["job_id"] is None or row["job_id"] not in measured]
        old = [row for row in old if row["artifact_id"] is None or row["artifact_id"] in artifacts]
        old = [row if row["job_id"] in there else {**row, "job_id": None} for row in old]
        kept["measurement"] = _put(session, Measurement, old, renumber=True)
        parents = [row for row in found.of(ArtifactParent) if {row["artifact_id"], row["parent_id"]} <= artifacts]
        kept["artifact_parent"] = _put(session, ArtifactParent, parents)
        targets = releases.targets_of(session)
        for spec in replay.specs.values():
            if spec["kind"] == "deploy" and isinstance(spec["params"].get("target"), str):
                targets.add(spec["params"]["target"])
        report.left += releases.add_found(session, workspace, targets)
        kept["deployment"], concluded = releases.order_switches(session, found.of(Deployment))
        if concluded:
            report.left.append(f"{concluded} rollbacks are concluded from where `current` leads, with its date")
        kept["chat_turn"] = _put(session, ChatTurn, found.of(ChatTurn))
        kept["note"] = _put(session, Note, found.of(Note))


def _put(session: Session, table: type[SQLModel], rows: list[dict[str, Any]], *, renumber: bool = False) -> int:
    """Put rows in that are not there and whose references are; how many."""
    count = 0
    keys = [column.name for column in table.__table__.primary_key]  # type: ignore[attr-defined]
    unique = {tuple(row[key] for key in keys): row for row in rows}  # a damaged page can hold a row twice
    for row in unique.values():
        values = {name: value for name, value in row.items() if not (renumber and name == "id")}
        try:
            with session.begin_nested():
                session.add(table(**_fitting(session, table, values)))
        except IntegrityError:
            continue  # what it belongs to is lost, or it is there already
        count += 1
    return count


def _fitting(session: Session, table: type[SQLModel], row: dict[str, Any]) -> dict[str, Any]:
    """A row without the references that may be dropped and lead nowhere."""
    if table in (Artifact, Release) and row["job_id"] is not None and session.get(Job, row["job_id"]) is None:
        return {**row, "job_id": None}
    if table is Domain and row["phase"] is not None and session.get(Phase, row["phase"]) is None:
        return {**row, "phase": None}
    return row


def _number_on(workspace: Workspace, store: Store, found: Salvage, attempts: list[Attempt]) -> int:
    """Have new rows numbered above all that ever were, those in the trash included: they can come back. Returns the
    highest number of a job."""
    highest: dict[str, int] = dict(found.highest)
    for table in TABLES:
        name = name_of(table)
        if "id" in table.model_fields:
            highest[name] = max([highest.get(name, 0), *(int(row["id"]) for row in found.of(table))])
    highest["job"] = max([highest["job"], *(one.job for one in attempts)])
    by_class = {table.__name__: name_of(table) for table in TABLES}
    for record in workspace.root.glob("trash/phase-*/*phase.json"):
        try:
            tables = json.loads(record.read_text("utf-8"))["tables"]
            for name, rows in tables.items():
                for row in rows:
                    if isinstance(row.get("id"), int) and name in by_class:
                        highest[by_class[name]] = max(highest.get(by_class[name], 0), row["id"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # what cannot be read cannot come back either
    with store.write() as session:
        for table in TABLES:
            if table.__table__.dialect_options["sqlite"]["autoincrement"]:  # type: ignore[attr-defined]
                values = {"name": name_of(table), "seq": highest.get(name_of(table), 0)}
                session.connection().execute(text("INSERT INTO sqlite_sequence VALUES (:name, :seq)"), values)
    return highest["job"]


def _count(store: Store, found: Salvage, report: Report, kept: Counter[str]) -> None:
    with store.write() as session:
        report.jobs = dict(session.exec(select(Job.state, func.count()).group_by(col(Job.state))).all())
        for table in TABLES:
            name = name_of(table)
            total = int(session.connection().execute(text(f"SELECT count(*) FROM {name}")).scalar_one())
            expected = found.expected.get(name)
            lost = 0 if name in found.whole else None if expected is None else max(0, expected - total)
            report.tables.append(
                TableLine(name, kept[name], total - kept[name], lost, ONLY_HERE.get(name, "") if lost != 0 else "")
            )


def _take_over(workspace: Workspace, fresh: Path) -> str | None:
    """Put the new store in the place of the old one. Returns the old one's new name, where there was one."""
    path = workspace.state_db
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}.2")
    sync_tree(fresh)
    moved = False
    with no_store_is_made(workspace):
        # The journal first: beside a new file an old one would be read into it.
        for side in reversed(SIDES):
            if path.with_name(f"{path.name}{side}").exists():
                os.replace(path.with_name(f"{path.name}{side}"), aside.with_name(f"{aside.name}{side}"))
                moved = True
        os.replace(fresh, path)
        sync_tree(workspace.root, recurse=False)
    return aside.name if moved else None
