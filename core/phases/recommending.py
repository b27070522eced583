"""Which type and technique to build a phase or a domain with, on this machine: every choice with what is known of it.

Sizes come from dry runs, the rest from this workspace's reports where there are any, else from estimates that say so.
Nothing is changed by looking.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from core.catalog import Catalog, load_catalog
from core.catalog.bases import base_identity, locate
from core.catalog.model import AS_IS, QUANTIZATIONS
from core.errors import InvalidInput, Refused
from core.gguf.inspect import inspect_gguf
from core.phases.checks import check_fraction, check_target, compression_of
from core.phases.choices import DRY_RUN, ESTIMATED, MEASURED, Bounds, Choice, Figure, Ranked, rank
from core.phases.dry_runs import Outline, outline_of
from core.phases.forecast import MEASURED as BY_MEASURED
from core.phases.forecast import Machine, judge
from core.phases.gating import gate_of
from core.phases.kinds import COMPRESSION_TYPES
from core.phases.merging import MergeWish
from core.phases.model_figures import ModelFigures, combined
from core.phases.outlook import look_at_machine
from core.phases.plan_merged import PhasePlanner
from core.phases.planned import DomainSource, Plan, PlannedJob
from core.phases.service import sources
from core.phases.unfinished import source_of
from core.runner.intake import MEASURED_SLACK
from core.store.engine import open_store
from core.store.reads import Reader, open_reader
from core.store.tables import Domain
from core.store.views import PhaseView
from core.workspace import Workspace

_QUALITY = re.compile(r"(?P<before>kl)?[:= ]?(?P<number>[0-9.eE+-]+) ?(?P<after>kl)?", re.IGNORECASE)

# The bytes of a file by technique, from the outline, the type and the budget (None: the plain type's own size). A
# mixture never takes more than its budget, and leaves little of it over: of a model with many matrices less than a
# thousandth, of one with two that hold nearly all its weights up to a tenth. A technique that is not listed has no size
# that could be told before it is built.
SIZES: Mapping[str, Callable[[Outline, str, int | None], int]] = {
    "standard": lambda outline, quantization, _: outline.sizes[quantization],
    "hybrid": lambda outline, quantization, budget: (
        outline.sizes[quantization] if budget is None else min(max(budget, outline.least_bytes), outline.f16_bytes)
    ),
}


@dataclass(frozen=True)
class Wish:
    """What a person wants of a file: megabytes of 10^6 bytes, a bound on quality, speed, megabytes of memory to chat
    in. What is None is as the phase is set, or as the machine is."""

    target_mb: float | None = None
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
        target = phase.target_size_mb if wish.target_mb is None else check_target(wish.target_mb)
        speed = phase.speed_priority if wish.speed is None else wish.speed
        whole = replace(wish, target_mb=target, speed=speed)
        return _PhaseChoices(workspace, catalog, reader, planner, phase, domains, whole).recommendation()


def recommend_domain(workspace: Workspace, name: str, wish: Wish) -> Recommendation:
    """The choices for one merged file of a domain, as `export-domain` makes it."""
    catalog = load_catalog(workspace)
    catalog.domain(name)
    with open_store(workspace).write() as session:
        row = session.get(Domain, name)
        source = source_of(row, catalog) if row is not None else DomainSource(name, catalog.mapping[name].current)
        phase = row.phase if row is not None else None
    if wish.target_mb is not None:
        check_target(wish.target_mb)
    with open_reader(workspace) as reader:
        planner = PhasePlanner(workspace, catalog, reader, MergeWish().over(None))
        return _DomainChoices(workspace, catalog, reader, planner, source, phase, wish).recommendation()


def _ruled_by(technique: str) -> str:
    return "the engine's own rules" if technique == "standard" else "its budget, of which a mixture leaves little over"


def _memory(megabytes: float) -> int:
    if not 0 < megabytes < float("inf"):
        raise InvalidInput(f"memory is a number of megabytes above 0, not {megabytes:g}")
    return round(megabytes * 1e6)


class _Choices:
    """What phases and domains share: sizes, figures, what the machine lacks."""

    title = ""

    def __init__(
        self, workspace: Workspace, catalog: Catalog, reader: Reader, planner: PhasePlanner, wish: Wish
    ) -> None:
        self.workspace, self.catalog, self.reader, self.planner, self.wish = workspace, catalog, reader, planner, wish
        self.target = None if wish.target_mb is None else round(wish.target_mb * 1e6)
        self._outlines: dict[str, Outline] = {}
        self._figures: dict[str, ModelFigures] = {}

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
        built = [one for one in real if one is not None]
        sized = SIZES.get(choice.technique)
        if sized is None and len(built) < len(real):
            return replace(choice, cannot="its size cannot be told before it is built")
        outlines = [self.outline(plan, job) for job in files]
        said = [sized(outline, choice.quantization, budget) for outline in outlines] if sized else built
        sizes = [
            Figure(predicted, DRY_RUN, _ruled_by(choice.technique))
            if there is None
            else Figure(there, MEASURED, "size of the file")
            for predicted, there in zip(said, real, strict=True)
        ]
        about = [
            self.figures(str(job.params["name"]), outline).of(
                job.key, choice.technique, choice.quantization, int(one.value), budget
            )
            for job, outline, one in zip(files, outlines, sizes, strict=True)
        ]
        missing = plan.missing()
        times = [job.expected.seconds if job.expected is not None else None for job in missing]
        measured = all(job.expected is not None and job.expected.seconds_by == BY_MEASURED for job in missing)
        known = None if any(one is None for one in times) else sum(one or 0.0 for one in times)
        return replace(
            choice,
            bytes=combined(sizes, sum),
            largest=combined(sizes, max),
            predicted_bytes=sum(said) if sized else None,
            memory=combined([one.memory for one in about], max),
            speed=combined([one.speed for one in about], min),
            kl=combined([one.kl for one in about], max),
            same_top=combined([one.same_top for one in about], min),
            loss_change=combined([one.loss_change for one in about], max),
            seconds=None
            if known is None
            else Figure(known, MEASURED if measured else ESTIMATED, f"{len(missing)} jobs"),
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
        return self._outline_of(base)

    def _outline_of(self, base: str) -> Outline:
        if base not in self._outlines:
            located = locate(self.catalog.bases[base], self.workspace)
            self._outlines[base] = outline_of(located.file, base_identity(located))
        return self._outlines[base]

    def figures(self, name: str, outline: Outline) -> ModelFigures:
        """What is known of a model's files."""
        if name not in self._figures:
            self._figures[name] = ModelFigures(self.reader, name, outline)
        return self._figures[name]

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
            before += job.need.disk
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
    ) -> None:
        super().__init__(workspace, catalog, reader, planner, wish)
        self.phase, self.domains = phase, domains
        self.title = f"phase {phase.number}"

    def choice(self, quantization: str, technique: str, machine: Machine) -> Choice:
        """One of them; of the mixtures, the one beside the type that would be taken without has the target as its
        budget, the others are as large as their type."""
        start = Choice(technique, quantization)
        megabytes = self._budget_mb(quantization) if technique == "hybrid" else None
        try:
            plan, files = self._plan(quantization, technique, megabytes)
        except Refused as error:
            return replace(start, cannot=error.one_line())
        said = ["tara", "build-phase", str(self.phase.number), "--quantization", quantization]
        said += ["--compression-type", technique]
        said += ["--target-size", f"{megabytes:g}"] if megabytes is not None else []
        budget = None if megabytes is None else round(megabytes * 1e6)
        filled = self.filled(replace(start, command=" ".join(said)), plan, files, budget, machine)
        if technique == "hybrid" and not filled.there:
            filled = replace(filled, note=f"where the mixture is no better, the plain {quantization} is kept")
        return filled

    def kept(self, machine: Machine) -> list[Choice]:
        """The base's own GGUF file, without a loss, where all bases of the phase are such files."""
        names = dict.fromkeys(source.base for source in self.domains)
        located = [locate(self.catalog.bases[name], self.workspace) for name in names]
        if not located or any(one.gguf_file is None for one in located):
            return []
        about = [
            self.figures(one.name, self._outline_of(one.name)).of("", AS_IS, "", one.file.stat().st_size, None)
            for one in located
        ]
        kinds = ", ".join(dict.fromkeys(inspect_gguf(one.file).file_type for one in located))
        files = [one.file.stat().st_size for one in located]
        own = "the base's own file; nothing is rounded again"
        return [
            Choice(
                AS_IS,
                kinds,
                f"tara build-phase {self.phase.number} --quantization {AS_IS}",
                self._changed(),
                bytes=Figure(sum(files), MEASURED, own),
                largest=Figure(max(files), MEASURED, own),
                memory=combined([one.memory for one in about], max),
                speed=combined([one.speed for one in about], min),
                kl=Figure(0.0, ESTIMATED, own),
                same_top=Figure(1.0, ESTIMATED, own),
            )
        ]

    def _changed(self) -> str:
        """Why the bases' own files cannot be what the phase is set to be; '' where they can."""
        if self.phase.merge != "none":
            return f"--merge {self.phase.merge} writes other weights"
        return "--repair gives back what quantization takes" if self.phase.repair else ""

    def _plan(self, quantization: str, technique: str, megabytes: float | None) -> tuple[Plan, list[PlannedJob]]:
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
    ) -> None:
        super().__init__(workspace, catalog, reader, planner, wish)
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
