"""A store as a busy year leaves it: every phase of the catalogue built again and again, all jobs over."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, SQLModel, insert

from core.catalog import Catalog, load_catalog
from core.files import hash_json
from core.phases.kinds import KINDS
from core.phases.service import create_phase
from core.store.engine import dump, open_store
from core.store.tables import (
    Artifact,
    ArtifactParent,
    Deployment,
    Job,
    JobAttempt,
    JobDependency,
    Measurement,
    Metric,
    Phase,
    Release,
)
from core.workspace import Workspace

YEAR_S = 365 * 86400.0
FIGURES = ("loss", "smoothed_loss", "learning_rate", "gradient_norm", "tokens_per_s", "rss_mb")
EVALUATED = ("base_loss", "tuned_loss", "base_accuracy", "quality")
FAILS, RETRIED = 33, 20  # every so many trainings one fails for good, or takes a second attempt
TABLES = (Job, JobDependency, JobAttempt, Metric, Artifact, ArtifactParent, Measurement, Release, Deployment)
BATCH = 20_000


@dataclass
class _Rows:
    """Rows of all tables, in the order in which they may be inserted."""

    of: dict[type[SQLModel], list[dict[str, Any]]] = field(default_factory=lambda: {table: [] for table in TABLES})

    def add(self, row: SQLModel) -> None:
        self.of[type(row)].append(row.model_dump())

    def number(self, table: type[SQLModel]) -> int:
        return len(self.of[table]) + 1


def phases_of(workspace: Workspace) -> dict[int, list[str]]:
    """The catalogue's domains by the phase each is meant for."""
    phases: dict[int, list[str]] = {}
    for domain in load_catalog(workspace).domains.values():
        if domain.phase is not None:
            phases.setdefault(domain.phase, []).append(domain.name)
    return phases


def make_phases(workspace: Workspace) -> int:
    """Create the catalogue's phases with all their domains; the number of the first."""
    phases = phases_of(workspace)
    for number, names in sorted(phases.items()):
        create_phase(workspace, number, names)
    return min(phases)


def fill(workspace: Workspace, jobs: int) -> dict[str, int]:
    """Put `jobs` finished jobs into a workspace that has phases and no job yet; how many rows each table got."""
    rows, catalog = _Rows(), load_catalog(workspace)
    builds = _builds(rows, workspace, catalog, sorted(phases_of(workspace).items()), jobs)
    while rows.number(Job) <= jobs:
        next(builds)
    for kind in {row["kind"] for row in rows.of[Artifact]}:
        (workspace.artifacts / kind).mkdir(parents=True, exist_ok=True)
    for row in rows.of[Artifact]:
        workspace.absolute(row["path"]).mkdir(exist_ok=True)
    for row in rows.of[JobAttempt]:
        workspace.absolute(row["run_dir"]).mkdir(parents=True, exist_ok=True)
    with open_store(workspace).write() as session:
        for table in TABLES:
            values = rows.of[table]
            for at in range(0, len(values), BATCH):
                session.execute(insert(table), values[at : at + BATCH])
        for row in rows.of[Job]:
            if row["kind"] == "package":
                _set_bundle(session, workspace, row)
    return {str(table.__tablename__): len(values) for table, values in rows.of.items()}


def _set_bundle(session: Session, workspace: Workspace, package: dict[str, Any]) -> None:
    """Let a phase's bundle be what a job packaged."""
    phase = session.get(Phase, package["phase"])
    assert phase is not None
    phase.bundle_key = package["key"]
    (workspace.absolute(package["out"]) / "manifest.json").touch()


def _builds(
    rows: _Rows, workspace: Workspace, catalog: Catalog, phases: list[tuple[int, list[str]]], jobs: int
) -> Iterator[None]:
    """Build after build, a phase at a time; each step adds one phase's jobs as the planner makes them."""
    year = _Year(rows, workspace, catalog, jobs)
    bases = {number: [year.job("base", number), year.job("convert", number), year.job("quantize", number)]
             for number, _ in phases}  # fmt: skip
    while True:
        for number, names in phases:
            made: list[int] = []
            for name in names:
                trained = year.job("train", number, name, needs=bases[number][:1])
                evaluated = year.job("evaluate", number, name, needs=[bases[number][0], trained])
                made += [evaluated, year.job("adapter-convert", number, name, needs=[bases[number][0], trained])]
            made = [one for one in made if year.good[one]]  # a build of the domains that did not fail
            verified = year.job("verify", number, needs=[bases[number][2], *made])
            packaged = year.job("package", number, needs=[verified, *made])
            year.job("deploy", number, needs=[packaged])
            yield


class _Year:
    """Adds jobs with all that they leave, evenly over a year. `good`: whether a job succeeded, by number."""

    def __init__(self, rows: _Rows, workspace: Workspace, catalog: Catalog, jobs: int) -> None:
        self._rows, self._workspace, self._catalog = rows, workspace, catalog
        self._born, self._every = time.time() - YEAR_S, YEAR_S / jobs
        self._trainings = 0
        self._artifacts: dict[int, int] = {}  # of each job
        self.good: dict[int, bool] = {}

    def job(self, kind: str, phase: int, domain: str | None = None, needs: list[int] | None = None) -> int:
        """One finished job; its number. What follows a training that failed was cancelled."""
        rows, needs = self._rows, needs or []
        number = rows.number(Job)
        at = self._born + number * self._every
        self._trainings += kind == "train"
        failed = kind == "train" and self._trainings % FAILS == 0
        cancelled = kind in ("evaluate", "adapter-convert") and not all(self.good[one] for one in needs)
        state = "failed" if failed else "cancelled" if cancelled else "succeeded"
        self.good[number] = state == "succeeded"
        attempts = 0 if cancelled else 2 if kind == "train" and self._trainings % RETRIED == 0 else 1
        key = hashlib.sha256(f"{kind} {number}".encode()).hexdigest()
        steps = self._catalog.preset("starter").max_steps if kind == "train" else None
        about, name = KINDS[kind], domain or f"phase-{phase}"
        path = f"artifacts/{about.folder}/{name}-{key[:8]}{about.suffix}" if about.folder else None
        rows.add(
            Job(
                id=number, kind=kind, title=f"{kind} {domain or f'phase {phase}'}", state=state, key=key, phase=phase,
                domain=domain, heavy=about.heavy, attempt=attempts, params=dump(self._params(kind, phase, domain)),
                inputs=dump({str(one): f"artifacts/{one}" for one in needs}), out=path, created_at=at,
                started_at=at + 1 if attempts else None, ended_at=at + 60, step=steps, total=steps, unit="step",
                metrics=dump(dict.fromkeys(FIGURES, 2.125)) if kind == "train" else "{}",
                result=dump({"bytes": 1_000_000}), exit_code=0 if attempts else None,
                error="exit status 3" if failed else None, failure="error" if failed else None,
                run_dir=self._run_dir(number, attempts) if attempts else None, events_offset=9000,
            )
        )  # fmt: skip
        for one in needs:
            rows.add(JobDependency(job_id=number, needs_id=one))
        for attempt in range(1, attempts + 1):
            rows.add(
                JobAttempt(
                    job_id=number, number=attempt, run_dir=self._run_dir(number, attempt), started_at=at + attempt,
                    ended_at=at + 60, outcome="retried" if attempt < attempts else state, exit_code=0, reached=steps,
                    peak_rss_bytes=900_000_000,
                )
            )  # fmt: skip
        for step in range(1, (steps or 0) + 1):
            for figure in FIGURES:
                self._add_metric(number, attempts, step, figure, at + step)
        if self.good[number]:
            self._leave(number, kind, phase, domain, path, key, at + 60, needs)
        return number

    def _leave(
        self, number: int, kind: str, phase: int, domain: str | None, path: str | None, key: str, at: float,
        needs: list[int],
    ) -> None:  # fmt: skip
        rows = self._rows
        if path is not None:
            artifact = self._artifacts[number] = rows.number(Artifact)
            rows.add(
                Artifact(
                    id=artifact, key=key, kind=KINDS[kind].folder or "", name=domain or f"phase-{phase}", path=path,
                    sha256=key, bytes=1_000_000, meta=dump({"domain": domain, "steps": 48, "base_sha256": key}),
                    job_id=number, phase=phase, domain=domain, created_at=at,
                )
            )  # fmt: skip
            for one in needs:
                if one in self._artifacts:
                    rows.add(ArtifactParent(artifact_id=artifact, parent_id=self._artifacts[one]))
            names = {"evaluate": EVALUATED, "train": ("training_loss", "training_tokens_per_s")}.get(kind, ("bytes",))
            for name in names:
                rows.add(
                    Measurement(
                        id=rows.number(Measurement), artifact_id=artifact, job_id=number, domain=domain, name=name,
                        value=0.5, method="a benchmark's filling", n=900, measured_at=at,
                    )
                )  # fmt: skip
        elif kind == "deploy":
            release = rows.number(Release)
            rows.add(
                Release(
                    id=release, phase=phase, version=release, target=f"releases/phase-{phase}", bundle_key=key,
                    bundle_path=f"artifacts/bundle/phase-{phase}", manifest_sha256=key, bytes=1_000_000,
                    job_id=number, created_at=at,
                )
            )  # fmt: skip
            rows.add(Deployment(id=release, release_id=release, action="deploy", at=at))

    def _add_metric(self, job_id: int, attempt: int, step: int, name: str, at: float) -> None:
        # A plain row: a year has half a million of them, and a model of each would take longer than all the rest.
        metrics = self._rows.of[Metric]
        metrics.append(
            {"id": len(metrics) + 1, "job_id": job_id, "attempt": attempt, "step": step, "name": name, "value": 2.125,
             "at": at}
        )  # fmt: skip

    def _params(self, kind: str, phase: int, domain: str | None) -> dict[str, Any]:
        """Settings of about the size that the planner stores."""
        if domain is None:
            facts = {name: {"system_prompt": one.system_prompt, "keywords": list(one.keywords)}
                     for name, one in self._catalog.domains.items() if one.phase == phase}  # fmt: skip
            named = {"name": f"base-{phase}", "base": {"name": f"base-{phase}", "identity": hash_json(phase)}}
            return {"phase": phase, "domains": facts} if kind in ("verify", "package") else named
        preset = self._catalog.preset("starter").as_dict() if kind == "train" else None
        prompt = self._catalog.domain(domain).system_prompt
        return {"domain": domain, "preset": preset, "seed": 7, "system_prompt": prompt, "_parents": [hash_json(domain)]}

    def _run_dir(self, number: int, attempt: int) -> str:
        return self._workspace.relative(self._workspace.run_folder(number, attempt))
