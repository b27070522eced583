"""How a job gets its key: the hash of everything its result follows from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.catalog import Catalog
from core.files import hash_json, sha256_of
from core.phases.kinds import KINDS, subject_of
from core.phases.needs import Estimator, footprint
from core.phases.planned import SHORT_KEY, Plan, PlannedJob
from core.phases.predictor import Predictor
from core.phases.scored_work import SCORED
from core.phases.unread import unread
from core.phases.work import STUDENTS, work_of
from core.runner.admission import Need
from core.store.reads import Reader
from core.training.data import Example, read_examples
from core.workspace import Workspace


class JobMaker:
    """Makes jobs for plans: their keys, files, needs and predictions. Files are read and hashed once."""

    def __init__(self, workspace: Workspace, catalog: Catalog, reader: Reader) -> None:
        self.workspace = workspace
        self.catalog = catalog
        self.predictor = Predictor(reader, catalog.settings)
        self._recorded = reader.recorded()
        self._estimator = Estimator(workspace, catalog)
        self._bases: dict[str, tuple[dict[str, Any], str]] = {}  # facts and identity
        self._examples: dict[Path, list[Example]] = {}
        self._hashes: dict[Path, str] = {}

    def _add(
        self,
        plan: Plan,
        kind: str,
        title: str,
        name: str,
        params: dict[str, Any],
        inputs: Mapping[str, Any],
        *,
        bases: tuple[str, ...],
        phase: int | None,
        domain: str | None = None,
        hashed: dict[str, Any] | None = None,
        after: Sequence[PlannedJob] = (),
    ) -> PlannedJob:
        """Put a job into the plan unless one of its key is there; inputs are jobs, files, or mappings of those, `bases`
        the bases it loads, by which its needs are estimated. It also waits for the jobs `after`, which change nothing
        of its result."""
        needs: list[str] = []
        stored, identity = self._resolve(inputs, needs)
        about = KINDS[kind]
        key = hash_json(
            {"kind": kind, "version": about.version, "params": params if hashed is None else hashed, "inputs": identity}
        )
        if key in plan.jobs:
            return plan.jobs[key]
        out = (
            self.workspace.artifacts / about.folder / f"{name}-{key[:SHORT_KEY]}{about.suffix}"
            if about.folder is not None
            else None
        )
        job = PlannedJob(
            kind,
            title,
            key,
            {**params, "_parents": list(dict.fromkeys(needs))},
            stored,
            out,
            tuple(dict.fromkeys([*needs, *(one.key for one in after)])),
            phase,
            domain,
            subject=subject_of(params),
            need=self._estimator.need(kind, params, bases),
            footprint=footprint(kind, params, [self._bases[name][1] for name in bases]),
            bases=bases,
        )
        job = replace(job, done=True) if self._is_done(job) else self._with_prediction(job, inputs)
        plan.jobs[key] = job
        return job

    def _with_prediction(self, job: PlannedJob, inputs: Mapping[str, Any]) -> PlannedJob:
        data: Any = inputs.get("data")
        examples: Any = self._read(data) if isinstance(data, Path) else []
        if job.kind == "repair-adapter":
            examples = {job.params["domain"]: examples}
        elif job.kind in ("check-merge", *STUDENTS, *SCORED):
            examples = {name: self._read(path) for name, path in data.items()}
        texts = len(unread(job.params, inputs["examples"])) if job.kind == "package" else 0
        work = work_of(job.kind, job.params, self._estimator.largest(job.bases).parameters, examples, texts)
        expected = self.predictor.expected(job.kind, job.params, job.need, job.footprint, work)
        return replace(job, work=work, expected=expected)

    def needed(self, kind: str, params: Mapping[str, Any], bases: Sequence[str]) -> Need:
        """What a job of a kind would take, by estimate: of one that is in no plan."""
        return self._estimator.need(kind, params, bases)

    def varied(
        self, job: PlannedJob, *, params: Mapping[str, Any] | None = None, bases: tuple[str, ...] | None = None
    ) -> PlannedJob:
        """The job with other settings or bases as far as its needs go: to look whether it would fit, not to be run.
        Other bases are estimated by shape alone. Raises what `locate` raises for a base that is not here."""
        changed = job.params if params is None else {**job.params, **params}
        need = self._estimator.need(job.kind, changed, bases or job.bases)
        known = None if bases else footprint(job.kind, changed, [self._bases[name][1] for name in job.bases])
        return replace(job, params=changed, need=need, footprint=known, bases=bases or job.bases, expected=None)

    def _is_done(self, job: PlannedJob) -> bool:
        path = self._recorded.get(job.key)
        return path is not None and self.workspace.absolute(path).exists()

    def _resolve(self, value: Any, needs: list[str]) -> tuple[Any, Any]:
        """Inputs as the store keeps them, and as the key sees them."""
        if isinstance(value, PlannedJob):
            needs.append(value.key)
            assert value.out is not None
            return self.workspace.relative(value.out), {"job": value.key}
        if isinstance(value, Path):
            return self.workspace.relative(value), {"file": self._hash(value)}
        pairs = {name: self._resolve(one, needs) for name, one in value.items()}
        return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}

    def _read(self, data: Path) -> list[Example]:
        if data not in self._examples:
            self._examples[data] = read_examples(data)
        return self._examples[data]

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = sha256_of(path)
        return self._hashes[path]
