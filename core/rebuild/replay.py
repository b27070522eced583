"""Jobs made anew from their run folders: each attempt is recorded as the runner would have, in the order they ended."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, delete, select

from core.phases.kinds import KINDS, subject_of
from core.rebuild.folders import Attempt
from core.runner import ledger
from core.runner.dependencies import block_where_needed
from core.runner.second_copy import EXPECTED
from core.store.engine import Store, dump
from core.store.salvage import Salvage
from core.store.tables import Artifact, Job, JobAttempt, JobDependency, Measurement
from core.workspace import Workspace

_ACTIVE = ("starting", "running", "stopping")
# What only the store knows of an attempt, and of a job between two attempts.
_OF_ATTEMPT = ("started_at", "ended_at", "outcome", "failure", "detail", "reached", "peak_rss_bytes")
_OF_JOB = (
    "state",
    "started_at",
    "ended_at",
    "error",
    "hint",
    "failure",
    "not_before",
    "smaller",
    "message",
    "stop_reason",
)
_AS_ASKED = ("title", "phase", "domain", "subject", "priority", "heavy", "created_at", *EXPECTED)


class Replay:
    """Puts the jobs of run folders into a fresh store. `salvage` is what could be read of the old one."""

    def __init__(self, store: Store, salvage: Salvage) -> None:
        self.store = store
        self.workspace = store.workspace
        self.rows = {int(row["id"]): row for row in salvage.of(Job)}
        self.attempts = {(row["job_id"], row["number"]): row for row in salvage.of(JobAttempt)}
        self.specs: dict[int, dict[str, Any]] = {}  # the newest of each job, by number

    def add_jobs(self, jobs: dict[int, list[Attempt]]) -> None:
        """The jobs themselves, queued, with nothing yet of what became of them."""
        with self.store.write() as session:
            for number, attempts in sorted(jobs.items()):
                spec = next((one.spec for one in reversed(attempts) if one.spec is not None), None)
                row = self.rows.get(number)
                if spec is not None:
                    self.specs[number] = spec
                    session.add(job_of(spec, number, min(one.started_at for one in attempts), row))
                elif row is not None:
                    session.add(Job(**{**row, "attempt": 0}))

    def record(self, jobs: dict[int, list[Attempt]]) -> None:
        """What became of them, attempt by attempt."""
        order: list[tuple[float, Attempt, bool]] = []
        for attempts in jobs.values():
            at = 0.0
            for one in attempts:
                at = max(at, one.ended.ended if one.ended is not None else one.last_sign)
                order.append((at, one, one is attempts[-1]))
        numbers = {id(one): number for number, attempts in jobs.items() for one in attempts}
        for _, one, last in sorted(order, key=lambda entry: (entry[0], entry[1].job, entry[1].number)):
            number = numbers[id(one)]
            with self.store.write() as session:
                job = session.get(Job, number)
            if job is None:
                continue  # a folder in which nothing was started, of a job that nothing else is known of
            if one.ended is None:
                self._claimed(number, one)
            else:
                self._ended(number, one)
            if last:
                self._as_left(number, one)

    def _claimed(self, number: int, attempt: Attempt) -> None:
        """A claim whose runner was gone before anything was started."""
        with self.store.write() as session:
            job = session.get(Job, number)
            assert job is not None
            job.attempt = attempt.number
            run_dir = self.workspace.relative(attempt.folder)
            session.add(
                JobAttempt(job_id=number, number=attempt.number, run_dir=run_dir, started_at=attempt.started_at)
            )

    def _ended(self, number: int, attempt: Attempt) -> None:
        assert attempt.ended is not None
        known = self._row_of(number, attempt)
        asked = attempt.asked or {"cancelled": "cancel", "paused": "pause"}.get((known or {}).get("outcome") or "")
        row = self.rows.get(number)
        if asked is None and row is not None and row["attempt"] == attempt.number and row["stop_requested_at"]:
            asked = row["stop_reason"] or "cancel"
        with self.store.write() as session:
            job = session.get(Job, number)
            assert job is not None
            job.attempt = attempt.number
            if attempt.spec is not None:
                job.smaller = int(attempt.spec.get("smaller") or 0)
            ledger.begin(session, job, self.workspace.relative(attempt.folder), attempt.started_at)
            if asked is not None:
                job.stop_requested_at, job.stop_reason = attempt.last_sign, asked
        try:
            ledger.finish(self.store, number, attempt.ended)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # What one job wrote must not keep all the others from coming back.
            ledger.fail(self.store, number, f"its end cannot be recorded: {error!r}", f"see {attempt.folder}")
        with self.store.write() as session:
            recorded = session.get(JobAttempt, (number, attempt.number))
            assert recorded is not None
            if known is not None:
                recorded.sqlmodel_update({name: known[name] for name in _OF_ATTEMPT})
            self._come_along(session, number, attempt)

    def _row_of(self, number: int, attempt: Attempt) -> dict[str, Any] | None:
        """What the old store said of an attempt, where that agrees with its folder."""
        row = self.attempts.get((number, attempt.number))
        if row is None or attempt.ended is None or row["ended_at"] is None:
            return None
        same = (row["exit_code"], row["exit_signal"]) == (attempt.ended.code, attempt.ended.signal)
        good = (row["outcome"] == "succeeded") == (attempt.ended.code == 0)
        return row if same and good else None

    def _as_left(self, number: int, attempt: Attempt) -> None:
        """How a job stands after its newest attempt: as the old store said, where that agrees with the folder. What is
        not known to have been queued is not started by itself."""
        row = self.rows.get(number)
        with self.store.write() as session:
            job = session.get(Job, number)
            assert job is not None
            told = row is not None and row["attempt"] == attempt.number and row["state"] not in _ACTIVE
            if told and row is not None and (row["state"] == "succeeded") == (job.state == "succeeded"):
                job.sqlmodel_update({name: row[name] for name in _OF_JOB})
                return
            if job.state == "queued":
                job.state, job.not_before = "interrupted", None
                job.ended_at = attempt.last_sign
                job.error = job.error or "its runner was gone before it was started"
                job.hint = f"tara jobs retry {number}"
                recorded = session.get(JobAttempt, (number, attempt.number))
                if recorded is not None and recorded.ended_at is not None:
                    recorded.outcome = "interrupted"

    def _come_along(self, session: Session, number: int, attempt: Attempt) -> None:
        """Where the workspace was moved since, what an attempt made is where the workspace is now."""
        old = Workspace(Path(str((attempt.spec or {}).get("workspace") or self.workspace.root)))
        if old.root == self.workspace.root:
            return
        for artifact in session.exec(select(Artifact).where(Artifact.job_id == number)).all():
            artifact.path = old.relative(Path(artifact.path))

    # -- between jobs --------------------------------------------------------------------------------------------

    def add_the_others(self) -> tuple[int, int]:
        """The jobs and attempts without a run folder, as the old store had them; how many of each."""
        added = tried = 0
        with self.store.write() as session:
            for number, row in sorted(self.rows.items()):
                if session.get(Job, number) is None:
                    session.add(_without_folder(Job(**row)))
                    added += 1
            session.flush()
            for (number, attempt), row in sorted(self.attempts.items()):
                if session.get(Job, number) is not None and session.get(JobAttempt, (number, attempt)) is None:
                    session.add(JobAttempt(**row))
                    tried += 1
        return added, tried

    def connect(self, salvage: Salvage) -> int:
        """What needs what; then what is blocked, and what is not any more. Returns how many the old store told."""
        salvaged = {(row["job_id"], row["needs_id"]) for row in salvage.of(JobDependency)}
        edges = set(salvaged)
        with self.store.write() as session:
            jobs = {job.id: job for job in session.exec(select(Job)).all()}
            by_key: dict[str, list[int]] = defaultdict(list)
            for number, job in sorted(jobs.items()):
                by_key[job.key].append(number or 0)
            for number, spec in self.specs.items():
                known = known_of(spec).get("needs")
                if isinstance(known, list):
                    edges |= {(number, needed) for needed in known if isinstance(needed, int)}
                elif not any(one == number for one, _ in edges):
                    keys = spec["params"].get("_parents") or []
                    needed = [[one for one in by_key.get(key, []) if one < number] for key in keys]
                    edges |= {(number, found[-1]) for found in needed if found}
            for job_id, needs_id in sorted(edges):
                if job_id != needs_id and job_id in jobs and needs_id in jobs:
                    session.add(JobDependency(job_id=job_id, needs_id=needs_id))
            session.flush()
            for _, job in sorted(jobs.items()):
                waits = job.state in ("queued", "blocked") and block_where_needed(session, job)
                if job.state == "blocked" and not waits:  # what it waited for succeeded after all
                    job.state, job.error, job.hint, job.ended_at = "queued", None, None, None
                session.flush()
            return len(salvaged & {(one.job_id, one.needs_id) for one in session.exec(select(JobDependency)).all()})

    def sort_measurements(self) -> None:
        """Number all measurements by their dates: the newest of a name is the one that counts."""
        with self.store.write() as session:
            found = session.exec(select(Measurement).order_by(col(Measurement.measured_at), col(Measurement.id))).all()
            values = [one.model_dump(exclude={"id"}) for one in found]
            session.exec(delete(Measurement))
            session.flush()
            session.add_all(Measurement(**one) for one in values)


def known_of(spec: dict[str, Any]) -> dict[str, Any]:
    """What a spec holds of the store; empty in those of an older program."""
    found = spec.get("store")
    return found if isinstance(found, dict) else {}


def job_of(spec: dict[str, Any], number: int, started: float, row: dict[str, Any] | None) -> Job:
    """A job's row from its spec, before its first attempt; what the old store said of it goes first."""
    known, root = known_of(spec), Workspace(Path(spec["workspace"]))
    kind = spec["kind"]
    job = Job(
        id=number,
        kind=kind,
        title=str(spec.get("title") or kind),
        key=spec["key"],
        phase=spec.get("phase"),
        domain=spec.get("domain"),
        priority=int(known.get("priority") or 0),
        heavy=bool(known.get("heavy", KINDS[kind].heavy if kind in KINDS else True)),
        params=dump(spec["params"]),
        inputs=dump(_relative(root, spec["inputs"])),
        out=root.relative(Path(spec["out"])) if spec.get("out") else None,
        created_at=float(known.get("created_at") or started),
        subject=subject_of(spec["params"]),
        **{name: known[name] for name in EXPECTED if name in known},
    )
    if row is not None and row["key"] == spec["key"]:
        job.sqlmodel_update({name: row[name] for name in _AS_ASKED})
    return job


def _without_folder(job: Job) -> Job:
    """A job whose run folder is gone, if it ever had one."""
    if job.state == "starting":
        job.state = "queued"  # nothing was started
    elif job.state in _ACTIVE:
        job.state, job.error, job.hint = "interrupted", "its run folder is gone", f"tara jobs retry {job.id}"
    return job


def _relative(root: Workspace, inputs: Any) -> Any:
    """Every path of a spec's inputs as the store keeps it."""
    if isinstance(inputs, dict):
        return {name: _relative(root, value) for name, value in inputs.items()}
    if isinstance(inputs, list):
        return [_relative(root, value) for value in inputs]
    return root.relative(Path(str(inputs)))
