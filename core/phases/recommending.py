"""Which type and technique to build a phase or a domain with, on this machine: every choice with what is known of it.

Sizes come from dry runs, the rest from this workspace's reports where there are any, else from estimates that say so.
Nothing is changed by looking.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.catalog import Catalog, load_catalog
from core.catalog.bases import locate
from core.catalog.model import AS_IS, QUANTIZATIONS
from core.errors import InvalidInput, Refused
from core.gguf.inspect import inspect_gguf
from core.phases.checks import (
    check_as_is,
    check_fraction,
    check_repair,
    compression_of,
    target_of,
)
from core.phases.choices import DRY_RUN, ESTIMATED, MEASURED, Bounds, Choice, Figure, Ranked, rank
from core.phases.dry_runs import Outline, outline_of
from core.phases.file_sizes import SIZES, FileSizes, cut_as, fewer_layers
from core.phases.forecast import MEASURED as BY_MEASURED
from core.phases.forecast import Machine, judge
from core.phases.gating import gate_of
from core.phases.kinds import COMPRESSION_TYPES, NO_TARGET, TargetWish
from core.phases.merging import MergeWish
from core.phases.model_figures import ModelFigures, combined
from core.phases.outlook import look_at_machine
from core.phases.plan_merged import PhasePlanner
from core.phases.planned import DomainSource, Plan, PlannedJob
from core.phases.service import sources
from core.phases.shrinking import SHRINKING
from core.phases.unfinished import source_of
from core.runner.intake import MEASURED_SLACK
from core.store.engine import open_store
from core.store.reads import Reader, open_reader
from core.store.tables import Domain
from core.store.views import PhaseView
from core.workspace import Workspace

_QUALITY = re.compile(r"(?P<before>kl)?[:= ]?(?P<number>[0-9.eE+-]+) ?(?P<after>kl)?", re.IGNORECASE)


@dataclass(frozen=True)
class Wish:
    """What a person wants of a file: megabytes of 10^6 bytes, a bound on quality, speed, megabytes of memory to chat
    in. What is None is as the phase is set, or as the machine is; without a target size it is "none"."""

    target_mb: TargetWish = None
    quality: str | None = None
    speed: bool | None = None
    memory_mb: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """All choices in order for a phase or a domain, with what they were held against."""

    title: str
    rows: tuple[Ranked, ...]
    bounds: Bounds
    machine: Machine

    @property
    def best(self) -> Ranked | None:
        """The recommended choice; None where nothing fits."""
        return self.rows[0] if self.rows and self.rows[0].recommended else None

    @property
    def verdict(self) -> str:
        """What is recommended and how it is built, or that nothing fits and what comes nearest."""
        if self.best is not None:
            done = " (it is built)" if self.best.choice.there else ""
            return f"recommended: {self.best.choice.name}, {self.best.why}{done}"
        nearest = next((row for row in self.rows if not row.choice.cannot), None)
        if nearest is None:
            return "nothing can be built"
        return f"nothing fits; the nearest is {nearest.choice.name}: {nearest.why}"


def parse_quality(text: str | None) -> tuple[float | None, float | None]:
    """The least share of same top tokens and the most KL divergence that `0.95` or `kl:0.05` ask for. Raises
    InvalidInput."""
    if text is None or not text.strip():
        return None, None
    found = _QUALITY.fullmatch(text.strip())
    try:
        value = float(found["number"]) if found is not None else None
    except ValueError:
        value = None
    if found is None or value is None:
        raise InvalidInput(f"a quality is a share such as 0.95, or a KL such as kl:0.05, not {text!r}")
    if not (found["before"] or found["after"]):
        return check_fraction("the share of same top tokens", value), None
    if not 0 < value < float("inf"):
        raise InvalidInput(f"a KL divergence is a number above 0, not {value:g}")
    return None, value


def recommend_phase(workspace: Workspace, number: int | None, wish: Wish) -> Recommendation:
    """The choices for a phase (None: the current one), by its own target size and priority where the wish names none.

    Raises InvalidInput for what is not there or no wish, EnvironmentLacks where a base is not here.
    """
    catalog = load_catalog(workspace)
    with open_reader(workspace) as reader:
        if number is None:
            number = next((phase.number for phase in reader.phases() if phase.current), None)
            if number is None:
                raise Refused("there is no phase yet", "tara create-phase 1 --domains …, or name a domain")
        phase = reader.phase(number)
        domains = sources(workspace, catalog, number)
        planner = PhasePlanner(workspace, catalog, reader, MergeWish().over(phase))
        speed = phase.speed_priority if wish.speed is None else wish.speed
        target = target_of(wish.target_mb, phase.target_size_mb)
        whole = replace(wish, speed=speed)
        return _PhaseChoices(workspace, catalog, reader, planner, phase, domains, whole, target).recommendation()


def recommend_domain(workspace: Workspace, name: str, wish: Wish) -> Recommendation:
    """The choices for one merged file of a domain, as `export-domain` makes it."""
    catalog = load_catalog(workspace)
    catalog.domain(name)
    with open_store(workspace).write() as session:
        row = session.get(Domain, name)
        source = source_of(row, catalog) if row is not None else DomainSource(name, catalog.mapping[name].current)
        phase = row.phase if row is not None else None
    target = target_of(wish.target_mb, None)
    with open_reader(workspace) as reader:
        planner = PhasePlanner(workspace, catalog, reader, MergeWish().over(None))
        return _DomainChoices(workspace, catalog, reader, planner, source, phase, wish, target).recommendation()


def _bases(files: Sequence[PlannedJob]) -> list[str]:
    return [base for job in files for base in job.bases]


def _time_of(missing: Sequence[PlannedJob]) -> Figure | None:
    """Seconds that jobs take one after the other; None where one's time is not known."""
    times = [job.expected.seconds if job.expected is not None else None for job in missing]
    measured = all(job.expected is not None and job.expected.seconds_by == BY_MEASURED for job in missing)
    if any(one is None for one in times):
        return None
    return Figure(sum(one or 0.0 for one in times), MEASURED if measured else ESTIMATED, f"{len(missing)} jobs")


def _memory(megabytes: float) -> int:
    if not 0 < megabytes < float("inf"):
        raise InvalidInput(f"memory is a number of megabytes above 0, not {megabytes:g}")
    return round(megabytes * 1e6)


class _Choices:
    """What phases and domains share: sizes, figures, what the machine lacks."""

    title = ""

    def __init__(
        self,
        workspace: Workspace,
        catalog: Catalog,
        reader: Reader,
        planner: PhasePlanner,
        wish: Wish,
        target_mb: float | None,
    ) -> None:
        self.workspace, self.catalog, self.reader, self.planner, self.wish = workspace, catalog, reader, planner, wish
        self.target = None if target_mb is None else round(target_mb * 1e6)
        self._sizes = FileSizes(workspace, catalog)
        self._figures: dict[tuple[str, int], ModelFigures] = {}

    def recommendation(self) -> Recommendation:
        """Every choice, in order."""
        same_top, kl = parse_quality(self.wish.quality)
        machine = look_at_machine(self.workspace, self.catalog, self.reader, self.planner, Plan())
        free, whose = machine.memory_free - machine.memory_reserve, "free now beside the reserve"
        if self.wish.memory_mb is not None:
            free, whose = _memory(self.wish.memory_mb), "given"
        bounds = Bounds(self.target, free, whose, same_top, kl, bool(self.wish.speed))
        return Recommendation(self.title, tuple(rank(self.choices(machine), bounds)), bounds, machine)

    def choices(self, machine: Machine) -> list[Choice]:
        """Every type with every technique."""
        found = [self.choice(name, technique, machine) for name in QUANTIZATIONS for technique in COMPRESSION_TYPES]
        return [*found, *self.kept(machine)]

    def choice(self, quantization: str, technique: str, machine: Machine) -> Choice:
        """One of them."""
        raise NotImplementedError

    def kept(self, machine: Machine) -> list[Choice]:
        """The base's own file as a choice, where it is a GGUF."""
        return []

    def filled(
        self, choice: Choice, plan: Plan, files: Sequence[PlannedJob], budget: int | None, machine: Machine
    ) -> Choice:
        """A choice with its figures, from the plan that builds it and the jobs that make its files."""
        real = [self._bytes_of(job) for job in files]
        outlines = [self.outline(plan, job) for job in files]
        said, how = None, ""
        if choice.technique in SIZES:
            said, how = self._sizes.of(choice.technique, choice.quantization, budget, outlines)
        elif None in real:
            cuts = [self._sizes.cut(base, choice.quantization, choice.technique, budget) for base in _bases(files)]
            if cannot := next((one.cannot for one in cuts if one.cannot), ""):
                return replace(choice, cannot=cannot)
            said, how = [one.bytes for one in cuts], cut_as(cuts)
            outlines = [fewer_layers(outline, cut) for outline, cut in zip(outlines, cuts, strict=True)]
        sizes = [
            Figure((said or [])[at], DRY_RUN, how) if there is None else Figure(there, MEASURED, "size of the file")
            for at, there in enumerate(real)
        ]
        about = [
            self.figures(str(job.params["name"]), outline, choice.technique).of(
                job.key, choice.technique, choice.quantization, int(one.value), budget
            )
            for job, outline, one in zip(files, outlines, sizes, strict=True)
        ]
        missing = plan.missing()
        return replace(
            choice,
            bytes=combined(sizes, sum),
            largest=combined(sizes, max),
            predicted_bytes=sum(said) if said is not None else None,
            memory=combined([one.memory for one in about], max),
            speed=combined([one.speed for one in about], min),
            kl=combined([one.kl for one in about], max),
            same_top=combined([one.same_top for one in about], min),
            loss_change=combined([one.loss_change for one in about], max),
            seconds=_time_of(missing),
            lacks=self._lacks(missing, machine),
            there=all(one is not None for one in real),
        )

    def outline(self, plan: Plan, job: PlannedJob) -> Outline:
        """The outline of what a job makes smaller: of its F16 file where that is there, else of the base."""
        (base,) = job.bases
        whole = next((plan.jobs[key] for key in job.needs if plan.jobs[key].kind == "convert"), None)
        if whole is not None and whole.done and whole.out is not None:
            rows = self.reader.artifacts(keys=[whole.key])
            return outline_of(whole.out, str(rows[0]["sha256"]))
        return self._sizes.outline(base)

    def figures(self, name: str, outline: Outline, technique: str = "") -> ModelFigures:
        """What is known of a model's files; of one that parts were taken out of also of those of the whole one."""
        key = name, outline.cache_bytes_a_token
        if key not in self._figures:
            whole = name.removesuffix(f"+{technique}") if technique in SHRINKING else name
            self._figures[key] = ModelFigures(self.reader, name, outline, whole)
        return self._figures[key]

    def _bytes_of(self, job: PlannedJob) -> int | None:
        if not job.done:
            return None
        rows = self.reader.artifacts(keys=[job.key])
        return int(rows[0]["bytes"]) if rows else None

    def _lacks(self, missing: Sequence[PlannedJob], machine: Machine) -> str:
        """Why this machine cannot do a job of a plan, in words; '' where it can do all."""
        before = 0
        for job in missing:
            peak = self.planner.predictor.peak(job.footprint)
            verdict = judge(job.need, machine, before, slack=MEASURED_SLACK, measured=peak)
            if verdict.never:
                return f"{job.title}: {verdict.why}"
            before += job.need.left
        return ""


class _PhaseChoices(_Choices):
    def __init__(
        self,
        workspace: Workspace,
        catalog: Catalog,
        reader: Reader,
        planner: PhasePlanner,
        phase: PhaseView,
        domains: Sequence[DomainSource],
        wish: Wish,
        target_mb: float | None,
    ) -> None:
        super().__init__(workspace, catalog, reader, planner, wish, target_mb)
        self.phase, self.domains = phase, domains
        self.title = f"phase {phase.number}"

    def choice(self, quantization: str, technique: str, machine: Machine) -> Choice:
        """One of them; of the mixtures, the one beside the type that would be taken without has the target as its
        budget, the others are as large as their type. What parts are taken out of is cut to the target, unless it is
        built already as the phase is set and keeps it."""
        start, megabytes = Choice(technique, quantization), self._megabytes(quantization, technique)
        wish: TargetWish = NO_TARGET if megabytes is None else megabytes
        try:
            plan, files = self._plan(quantization, technique, wish)
            if technique in SHRINKING and megabytes is not None and not all(job.done for job in files):
                other = self._plan(quantization, technique, None)
                sizes = [self._bytes_of(job) for job in other[1]]
                if all(one is not None and one <= round(megabytes * 1e6) for one in sizes):
                    (plan, files), megabytes, wish = other, None, None
        except Refused as error:
            return replace(start, cannot=error.one_line())
        budget = None if megabytes is None else round(megabytes * 1e6)
        command = self._command(quantization, technique, wish)
        filled = self.filled(replace(start, command=command), plan, files, budget, machine)
        if technique == "hybrid" and not filled.there:
            filled = replace(filled, note=f"where the mixture is no better, the plain {quantization} is kept")
        return filled

    def _command(self, quantization: str, technique: str, wish: TargetWish = None) -> str:
        said = f"tara build-phase {self.phase.number} --quantization {quantization} --compression-type {technique}"
        if wish is None or technique == "standard" or (wish == NO_TARGET and self.phase.target_size_mb is None):
            return said  # as it is set
        return f"{said} --target-size {wish if wish == NO_TARGET else format(wish, 'g')}"

    def _megabytes(self, quantization: str, technique: str) -> float | None:
        if technique == "hybrid":
            return self._budget_mb(quantization)
        return self.target / 1e6 if technique in SHRINKING and self.target is not None else None

    def kept(self, machine: Machine) -> list[Choice]:
        """The base's own GGUF file, without a loss, where any base of the phase is such a file; all must be."""
        names = dict.fromkeys(source.base for source in self.domains)
        located = {name: locate(self.catalog.bases[name], self.workspace) for name in names}
        infos = {name: inspect_gguf(one.file) for name, one in located.items() if one.gguf_file is not None}
        if not infos:
            return []
        kinds = ", ".join(dict.fromkeys(info.file_type for info in infos.values()))
        start = Choice(AS_IS, kinds, self._command(AS_IS, "standard"))
        folders = [name for name in names if name not in infos]
        if folders:
            is_a = "is a folder" if len(folders) == 1 else "are folders"
            return [replace(start, cannot=f"{', '.join(folders)} {is_a} of weights and no GGUF file")]
        try:
            check_repair(self.phase.repair, self.phase.merge, AS_IS)
            check_as_is(AS_IS, "standard", self.phase.merge)
            plan, files = self._plan(AS_IS, "standard", None)
        except (InvalidInput, Refused) as error:
            return [replace(start, cannot=error.message)]
        bare = next((name for name, info in infos.items() if not info.chat_template), None)
        if bare is not None:
            return [replace(start, cannot=f"the file of {bare} has no chat template, and as it is it is given none")]
        return [self._as_it_is(start, plan, files, [infos[name].bytes for name in _bases(files)], machine)]

    def _as_it_is(
        self, start: Choice, plan: Plan, files: Sequence[PlannedJob], sizes: Sequence[int], machine: Machine
    ) -> Choice:
        own = "the base's own file; nothing is rounded again"
        about = [
            self.figures(str(job.params["name"]), self.outline(plan, job)).of(job.key, AS_IS, "", there, None)
            for job, there in zip(files, sizes, strict=True)
        ]
        missing = plan.missing()
        return replace(
            start,
            bytes=Figure(sum(sizes), MEASURED, own),
            largest=Figure(max(sizes), MEASURED, own),
            memory=combined([one.memory for one in about], max),
            speed=combined([one.speed for one in about], min),
            kl=combined([one.kl for one in about], max) or Figure(0.0, ESTIMATED, own),
            same_top=combined([one.same_top for one in about], min) or Figure(1.0, ESTIMATED, own),
            loss_change=combined([one.loss_change for one in about], max),
            seconds=_time_of(missing),
            lacks=self._lacks(missing, machine),
            there=all(job.done for job in files),
        )

    def _plan(self, quantization: str, technique: str, megabytes: TargetWish) -> tuple[Plan, list[PlannedJob]]:
        """What would be built, and the jobs that make the models of the bundle."""
        wanted = compression_of(self.phase, quantization=quantization, technique=technique, target_size_mb=megabytes)
        number = self.phase.number
        plan = self.planner.phase(number, self.domains, wanted, gate_of(self.reader, self.phase))
        packaged = next(job for job in plan.jobs.values() if job.kind == "package")
        paths = set(packaged.inputs["bases"].values())
        files = [job for job in plan.jobs.values() if job.out is not None and self.workspace.relative(job.out) in paths]
        return plan, files

    def _budget_mb(self, quantization: str) -> float | None:
        """The target size of a mixture in megabytes; None where it is simply as large as its type."""
        if self.target is None:
            return None
        plan, files = self._plan(QUANTIZATIONS[0], "standard", None)
        sizes = max((self.outline(plan, job).sizes for job in files), key=lambda one: one[QUANTIZATIONS[0]])
        fitting = [name for name in QUANTIZATIONS if sizes[name] <= self.target]
        beside = max(fitting, key=lambda name: sizes[name]) if fitting else min(sizes, key=lambda name: sizes[name])
        return self.target / 1e6 if quantization == beside else -(-sizes[quantization] // 10**4) / 100


class _DomainChoices(_Choices):
    def __init__(
        self,
        workspace: Workspace,
        catalog: Catalog,
        reader: Reader,
        planner: PhasePlanner,
        source: DomainSource,
        phase: int | None,
        wish: Wish,
        target_mb: float | None,
    ) -> None:
        super().__init__(workspace, catalog, reader, planner, wish, target_mb)
        self.source, self.number = source, phase
        self.title = f"domain {source.name}, merged into one file"

    def choice(self, quantization: str, technique: str, machine: Machine) -> Choice:
        """One of them: a single domain's file has a plain type."""
        start = Choice(technique, quantization)
        if technique != "standard":
            return replace(start, cannot="export-domain makes plain types only")
        plan = self.planner.export(self.source, self.number, quantization)
        command = f"tara export-domain {self.source.name} --quantization {quantization}"
        made = list(plan.jobs.values())[-1]
        return self.filled(replace(start, command=command), plan, [made], None, machine)
