"""What a plan will take on this machine, before it is queued: each job with its verdict and, where it does not fit, the
nearest choice that does; and how far earlier predictions were off. Nothing is changed by looking."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from core.catalog import Catalog, load_catalog
from core.catalog.model import QUANTIZATIONS
from core.errors import EnvironmentLacks, InvalidInput
from core.memory import available_memory, total_memory
from core.phases.checks import check_as_is, check_repair, compression_of
from core.phases.forecast import AT_WORK, Error, Expected, KindError, Machine, Verdict, error_of, errors_by_kind, judge
from core.phases.gating import gate_of
from core.phases.kinds import TargetWish
from core.phases.merging import MergeWish
from core.phases.plan import Planner
from core.phases.plan_merged import PhasePlanner
from core.phases.planned import DomainSource, Plan, PlannedJob
from core.phases.service import sources
from core.phases.unfinished import source_of
from core.runner.admission import Need, most_disk
from core.runner.intake import MEASURED_SLACK, held_by
from core.store.engine import open_store
from core.store.reads import Reader, open_reader
from core.store.tables import Domain
from core.training.smaller import steps_down
from core.workspace import Workspace

_AT_WORK = ("starting", "running", "stopping")
NONE_FITS = "none fits"
_TYPED = ("quantize", "hybrid")  # jobs whose file goes by the plain type that is asked for
# Kinds of jobs that another choice does without, what that choice is, and what is done in their place.
_WITHOUT = {
    **dict.fromkeys(
        ("type-costs", "hybrid", "prune", "teach", "heal", "distil", "check-small"),
        ("--compression-type standard", "quantize"),
    ),
    **dict.fromkeys(("repair", "repair-adapter"), ("building without --repair", "adapter-convert")),
    **dict.fromkeys(("unify", "check-merge", "merge"), ("--merge none", "adapter-convert")),
    "imatrix": ("calibration_tokens: 0 in configs/settings.yaml, with more loss at few bits", "quantize"),
}


@dataclass(frozen=True)
class JobOutlook:
    """One job that is to be done. `alternative`: the nearest choice that fits, where it does not itself."""

    job: PlannedJob
    expected: Expected
    verdict: Verdict
    alternative: str = ""


@dataclass(frozen=True)
class Outlook:
    """All that is to be done of a plan, on a machine. `there`: how many jobs are done already."""

    title: str
    jobs: tuple[JobOutlook, ...]
    there: int
    machine: Machine

    @property
    def fits(self) -> bool:
        """Whether this machine can run every job."""
        return not any(one.verdict.never for one in self.jobs)

    @property
    def seconds(self) -> float:
        """Of all jobs whose time is known, one after the other."""
        return sum(one.expected.seconds or 0.0 for one in self.jobs)

    @property
    def unknown(self) -> int:
        """How many jobs' time is not known."""
        return sum(one.expected.seconds is None for one in self.jobs)

    @property
    def memory(self) -> int:
        """The most that one job takes, in bytes."""
        return max((one.expected.memory for one in self.jobs), default=0)

    @property
    def disk(self) -> int:
        """The most bytes that all jobs together take of the disk, one after the other."""
        return most_disk(one.job.need for one in self.jobs)

    def notes(self) -> list[str]:
        """A sentence for each reason for which jobs do not fit now, with the jobs it is true of and what would fit."""
        found: dict[tuple[str, str], list[str]] = {}
        of_disk = [one for one in self.jobs if one.verdict.lacks == "disk"]
        for one in self.jobs:
            if one.verdict.why and one not in of_disk[1:]:
                found.setdefault((one.verdict.why, one.alternative), []).append(one.job.title)
        notes = []
        for (why, alternative), titles in found.items():
            behind = f" and {len(of_disk) - 1} after it" if why.startswith("disk") and len(of_disk) > 1 else ""
            notes.append(f"{', '.join(titles)}{behind}: {why}" + (f"; {alternative}" if alternative else ""))
        return notes


def outlook_of_phase(
    workspace: Workspace,
    number: int,
    *,
    quantization: str | None = None,
    merge: MergeWish | None = None,
    compression_type: str | None = None,
    target_size_mb: TargetWish = None,
    repair: bool | None = None,
    quality_threshold: float | None = None,
) -> Outlook:
    """What building a phase would take, with the settings of now."""
    catalog = load_catalog(workspace)
    domains = sources(workspace, catalog, number)
    with open_reader(workspace) as reader:
        phase = reader.phase(number)
        merging = (merge or MergeWish()).over(phase)
        planner = PhasePlanner(workspace, catalog, reader, merging)
        wanted = compression_of(
            phase, quantization=quantization, technique=compression_type, target_size_mb=target_size_mb, repair=repair
        )
        check_repair(wanted.repair, merging.mode, wanted.quantization)
        check_as_is(wanted.quantization, wanted.technique, merging.mode)
        plan = planner.phase(number, domains, wanted, gate_of(reader, phase, threshold=quality_threshold))
        return _outlook(f"phase {number}", catalog, reader, planner, plan)


def outlook_of_domain(workspace: Workspace, name: str, *, preset: str | None = None) -> Outlook:
    """What training and evaluating a domain would take."""
    catalog = load_catalog(workspace)
    catalog.domain(name)
    if preset is not None:
        catalog.preset(preset)
    with open_store(workspace).write() as session:
        row = session.get(Domain, name)
        source = source_of(row, catalog) if row is not None else DomainSource(name, catalog.mapping[name].current)
        phase = row.phase if row is not None else None
    if preset is not None:
        source = DomainSource(name, source.base, preset, source.data_path, source.adapter_path)
    with open_reader(workspace) as reader:
        planner = Planner(workspace, catalog, reader)
        return _outlook(f"domain {name}", catalog, reader, planner, planner.training(source, phase))


def checked(workspace: Workspace, *, phase: int | None = None) -> tuple[list[Error], list[KindError]]:
    """Finished jobs of which something was predicted, newest first, with the errors; and each kind's median error.

    Raises InvalidInput for a phase that is not there.
    """
    with open_reader(workspace) as reader:
        if phase is not None:
            reader.phase(phase)
        jobs = reader.past_jobs(phase=phase)
    errors = [error_of(job) for job in jobs if job.predicted_memory_bytes is not None]
    return errors, errors_by_kind(errors)


def look_at_machine(workspace: Workspace, catalog: Catalog, reader: Reader, planner: Planner, plan: Plan) -> Machine:
    """What there is now, as admission counts it."""
    settings = catalog.settings
    memory, limited_by = available_memory()
    held = owed = promised = 0
    for job in reader.jobs(states=_AT_WORK):
        holds = held_by(workspace.absolute(job.run_dir)) if job.run_dir else 0
        held += holds
        owed += max(0, (job.predicted_memory_bytes or job.memory_bytes or 0) - holds)
        if job.key not in plan.jobs:
            promised += job.disk_bytes or 0
    return Machine(
        memory_free=memory,
        memory_held=held,
        memory_owed=owed,
        memory_total=total_memory(),
        memory_reserve=settings.memory_reserve_mb * 10**6,
        memory_of=limited_by,
        disk_free=shutil.disk_usage(workspace.root).free,
        disk_promised=promised,
        disk_reserve=settings.disk_reserve_mb * 10**6,
        devices=planner.predictor.devices,
    )


def _outlook(title: str, catalog: Catalog, reader: Reader, planner: Planner, plan: Plan) -> Outlook:
    machine = look_at_machine(planner.workspace, catalog, reader, planner, plan)
    at_work = {job.key for job in reader.jobs(states=_AT_WORK)}
    alternatives = Alternatives(catalog, planner, machine, plan.missing())
    jobs: list[JobOutlook] = []
    before = 0
    for job in plan.missing():
        assert job.expected is not None
        verdict = Verdict(AT_WORK) if job.key in at_work else alternatives.verdict(job, before)
        before += job.need.left
        alternative = alternatives.nearest(job, verdict) if verdict.never else ""
        jobs.append(JobOutlook(job, job.expected, verdict, alternative))
    return Outlook(title, tuple(jobs), len(plan.jobs) - len(jobs), machine)


class Alternatives:
    """The nearest choice that fits, tried through the same estimates: for lack of memory or a device of the job alone,
    for lack of disk of all jobs together."""

    def __init__(self, catalog: Catalog, planner: Planner, machine: Machine, missing: Sequence[PlannedJob]) -> None:
        self._catalog = catalog
        self._planner = planner
        self._machine = machine
        self._missing = missing
        self._of_disk: str | None = None

    def verdict(self, job: PlannedJob, before: int) -> Verdict:
        """Whether a job fits after others that leave so much on the disk."""
        peak = self._planner.predictor.peak(job.footprint)
        return judge(job.need, self._machine, before, slack=MEASURED_SLACK, measured=peak)

    def nearest(self, job: PlannedJob, verdict: Verdict) -> str:
        """What fits in a job's place, in words with a command where there is one."""
        if verdict.lacks == "disk":
            if self._of_disk is None:
                self._of_disk = self._for_disk()
            return self._of_disk
        tried = ["smaller ways to run it, other presets and smaller bases"] if job.kind == "train" else []
        if job.kind in _WITHOUT:
            says, kind = _WITHOUT[job.kind]
            if job.kind == "imatrix" and any(one.kind == "hybrid" for one in self._missing):
                says = f"{_WITHOUT['hybrid'][0]}, {says}"  # a mixture is solved by the importance matrix
            need = self._planner.needed(kind, {"type": self._type()}, job.bases)
            if not judge(need, self._machine, 0, slack=MEASURED_SLACK, measured=None).never:
                return f"fits: {says}, which does without this job"
            tried.append(says)
        for says, other in self._smaller_trainings(job) if job.kind == "train" else self._smaller_bases(job):
            if not self.verdict(other, 0).never:
                return f"fits: {says}, needs {self._memory_of(other) / 1e6:.0f} MB"
        if job.kind != "train":
            tried.append("smaller bases")
        return f"{NONE_FITS}; tried were {', and '.join(tried)}"

    def _type(self) -> str | None:
        """The plain type that is asked for, where one is."""
        return next((str(job.params["type"]) for job in self._missing if isinstance(job.params.get("type"), str)), None)

    def _memory_of(self, job: PlannedJob) -> int:
        peak = self._planner.predictor.peak(job.footprint)
        if peak is not None:
            return int(peak * MEASURED_SLACK)
        return job.need.beside_device if job.need.device and self._machine.devices else job.need.memory

    def _smaller_trainings(self, job: PlannedJob) -> Iterator[tuple[str, PlannedJob]]:
        """Least change first: the preset in less memory, as the training itself would run it, then presets that take
        less, then the same on each smaller base."""
        for on, based in [("", job), *self._smaller_bases(job)]:
            if on:
                yield on, based
            yield from self._run_smaller(on, based)
            presets = [one for one in self._catalog.presets.values() if one.name != job.params["preset"]["name"]]
            bases = based.bases if on else None
            varied = [
                (one, self._planner.varied(job, params={"preset": one.as_dict()}, bases=bases)) for one in presets
            ]
            for preset, other in sorted(varied, key=lambda pair: -self._memory_of(pair[1])):
                if self._memory_of(other) < self._memory_of(based):
                    says = ", ".join(filter(None, (on, f"tara train-domain {job.domain} --preset {preset.name}")))
                    yield says, other
                    yield from self._run_smaller(says, other)

    def _run_smaller(self, says: str, job: PlannedJob) -> Iterator[tuple[str, PlannedJob]]:
        preset = job.params["preset"]
        for step in steps_down(preset):
            less = {**preset, "batch_size": step.micro_batch, "sequence_length": step.sequence_length}
            how = f"{step.says}, which the training does by itself"
            # On another base the job has no footprint of its own, and is estimated on that base again.
            bases = None if job.footprint is not None else job.bases
            yield ", ".join(filter(None, (says, how))), self._planner.varied(job, params={"preset": less}, bases=bases)

    def _smaller_bases(self, job: PlannedJob) -> Iterator[tuple[str, PlannedJob]]:
        for name in self._bases_below(max(self._catalog.bases[base].parameters for base in job.bases)):
            try:
                yield f"base {name} (configs/domain_model_mapping.yaml)", self._planner.varied(job, bases=(name,))
            except (EnvironmentLacks, InvalidInput):
                continue  # not on this machine, so nothing can be made of it

    def _bases_below(self, parameters: int) -> list[str]:
        smaller = [base for base in self._catalog.bases.values() if base.parameters < parameters]
        return [base.name for base in sorted(smaller, key=lambda base: -base.parameters)]

    def _for_disk(self) -> str:
        room = self._machine.disk_free - self._machine.disk_promised - self._machine.disk_reserve
        for says, vary in self._less_disk():
            try:
                total = most_disk(vary(job).need for job in self._missing)
            except (EnvironmentLacks, InvalidInput):
                continue
            if total <= room:
                return f"fits: {says}, all of it needs {total / 1e6:.0f} MB"
        return (
            f"{NONE_FITS}; tried were smaller types and bases; tara cleanup-phase and tara checkpoints remove make room"
        )

    def _less_disk(self) -> Iterator[tuple[str, Callable[[PlannedJob], PlannedJob]]]:
        # A mixture for a target size has no type of its own.
        types = [str(job.params["type"]) for job in self._missing if job.kind in _TYPED and job.params["type"]]
        if types:
            largest = max(QUANTIZATIONS.index(one) for one in types)
            for name in reversed(QUANTIZATIONS[:largest]):
                yield f"--quantization {name}", partial(self._with_type, name)
        if any(job.kind == "hybrid" for job in self._missing):
            yield _WITHOUT["hybrid"][0], self._plainly
        largest_base = max(
            (self._catalog.bases[base].parameters for job in self._missing for base in job.bases), default=0
        )
        for base in self._bases_below(largest_base):
            yield f"base {base} (configs/domain_model_mapping.yaml)", partial(self._planner.varied, bases=(base,))

    def _plainly(self, job: PlannedJob) -> PlannedJob:
        """A job of a mixture as it is without one."""
        if job.kind == "type-costs":
            return replace(job, need=Need())
        if job.kind != "hybrid":
            return job
        return replace(job, need=self._planner.needed("quantize", {"type": job.params["type"]}, job.bases))

    def _with_type(self, name: str, job: PlannedJob) -> PlannedJob:
        return self._planner.varied(job, params={"type": name}) if job.kind in _TYPED else job
