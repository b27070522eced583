"""Queueing a measurement: a quantized file of a phase, or of a domain, against the F16 file of the whole model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from core.catalog import Catalog, load_catalog
from core.catalog.bases import base_identity, locate
from core.errors import EnvironmentLacks, InvalidInput, Refused
from core.phases.built_in import BuildTime, build_time
from core.phases.checks import check_disk
from core.phases.lineage import Lineage, delivered_with, lineage_of, trained_as
from core.phases.measured import Artifact, find_artifacts, label
from core.phases.plan import Planner
from core.phases.planned import DomainSource, Plan, PlannedJob
from core.phases.queue import enqueue
from core.phases.unfinished import source_of
from core.runner.client import ensure_runner
from core.store.engine import open_store
from core.store.reads import Reader, open_reader
from core.store.tables import Domain
from core.workspace import Workspace

MAX_TOKENS = 1000  # scored positions a domain
WINDOW = 512


def measure_artifact(
    workspace: Workspace, name: str, *, max_tokens: int = MAX_TOKENS, text: str | None = None
) -> tuple[list[int], list[Artifact]]:
    """Queue the measurement of what a name stands for. Returns the jobs' numbers, none where it is measured, and the
    files. `text` is a plain text file to measure on besides the held-out examples.

    Raises InvalidInput for what is no GGUF model or has lost its parents, Refused where the adapters are not built.
    """
    if max_tokens < 1:
        raise InvalidInput(f"at least one token must be scored, not {max_tokens}")
    plain = Path(text).expanduser().resolve() if text is not None else None
    if plain is not None and not plain.is_file():
        raise InvalidInput(f"there is no file {plain}")
    catalog = load_catalog(workspace)
    plan = Plan()
    with open_reader(workspace) as reader:
        artifacts = find_artifacts(reader, name)
        quantized = [one for one in artifacts if one["meta"].get("file_type") != "F16"]
        artifacts = quantized or artifacts  # of a phase: its F16 files are only the measure of the others
        planner = MeasuringPlanner(workspace, catalog, reader)
        for artifact in artifacts:
            line = parents_of(reader, artifact)
            sources = _sources(workspace, reader, artifact, line.model)
            planner.measured(
                plan, artifact, line, sources, max_tokens=max_tokens, text=plain,
                built_in=build_time(reader, artifact),
            )  # fmt: skip
    check_disk(workspace, catalog, plan)
    with open_store(workspace).write() as session:
        ids = enqueue(session, workspace, plan)
    if ids:
        ensure_runner(workspace)
    return ids, artifacts


def parents_of(reader: Reader, artifact: Artifact) -> Lineage:
    """What a GGUF model is measured with: the F16 file it is held against (itself, where it is that), of a pruned model
    that of the whole one, and the folders both come from. Raises InvalidInput where it is no GGUF model of this
    workspace, or where they are gone."""
    if artifact["kind"] != "gguf":
        raise InvalidInput(f"{label(artifact)} is no GGUF model but of kind {artifact['kind']}", "name a GGUF file")
    if artifact["id"] is None:
        raise InvalidInput(
            f"{artifact['path']} was not made here, so its F16 parent is not known", "tara export-domain"
        )
    line = lineage_of(reader, artifact)
    there = [artifact, *([line.reference, line.model, line.whole] if line is not None else [])]
    gone = [row["path"] for row in there if not reader.workspace.absolute(row["path"]).exists()]
    if gone or line is None:
        raise InvalidInput(
            f"{label(artifact)} cannot be measured: {gone[0] if gone else 'the model it was made from'} is gone",
            "build it again",
        )
    return line


def _sources(workspace: Workspace, reader: Reader, artifact: Artifact, model: Artifact) -> list[DomainSource]:
    """The domains a file answers for: its own, or those of its phase that have its base."""
    catalog = load_catalog(workspace)
    wanted = [artifact["domain"]] if artifact["domain"] else []

    def of_base(name: str) -> bool:
        if name == base or model["meta"].get("identity") is None or name not in catalog.bases:
            return name == base
        try:  # another name of the same files
            return base_identity(locate(catalog.bases[name], workspace)) == model["meta"]["identity"]
        except EnvironmentLacks:
            return False  # not on this machine

    if not wanted and artifact["phase"] is not None:
        base = model["meta"].get("base", model["name"])  # of a unified model, the base it was made of
        wanted = [domain.name for domain in reader.phase(artifact["phase"]).domains if of_base(domain.base)]
    with open_store(workspace).write() as session:
        rows = [row for name in wanted if (row := session.get(Domain, name)) is not None]
        found = [source_of(row, catalog) for row in rows]
    if not found:
        raise Refused(f"no domain of a phase uses {label(artifact)}", "put one into a phase: tara add-domain N NAME")
    return found


class MeasuringPlanner(Planner):
    """A planner that also measures what was made."""

    def __init__(self, workspace: Workspace, catalog: Catalog, reader: Reader) -> None:
        super().__init__(workspace, catalog, reader)
        self._reader = reader

    def measured(
        self,
        plan: Plan,
        artifact: Artifact,
        line: Lineage,
        sources: Sequence[DomainSource],
        *,
        max_tokens: int,
        text: Path | None = None,
        built_in: BuildTime | None = None,
    ) -> PlannedJob:
        """Put the measurement of a recorded file into a plan. A merged model is scored as it is, a base with each
        domain's adapter on: the file with those it is delivered with, the reference with those they come from. Raises
        Refused where an adapter is not built with the present settings."""
        phase, own = artifact["phase"], artifact["domain"]
        adapters, original = self._adapters(plan, artifact, line, sources)
        params = {
            "name": label(artifact),
            "domains": {source.name: self._taught(source) for source in sources},
            "seed": self.catalog.settings.seed,
            "held_out_fraction": self.catalog.settings.held_out_fraction,
            "sequence_length": min(WINDOW, self.catalog.settings.evaluation_sequence_length),
            "max_tokens": max_tokens,
        }
        inputs = {
            "gguf": self._made(plan, artifact),
            "reference": self._made(plan, line.reference),
            "model": self._made(plan, line.model),
            "data": {source.name: self._data(source) for source in sources},
            "adapters": adapters,
            **({"reference_adapters": original} if original != adapters else {}),
            **({"reference_model": self._made(plan, line.whole)} if line.smaller else {}),
            **({"text": text} if text is not None else {}),
        }
        known = {"build_s": built_in.seconds, "build_how": built_in.method} if built_in is not None else {}
        for source in sources:
            self._base(Plan(), source.base, phase)  # so that its identity is known
        return self._add(
            plan, "measure", f"measure {label(artifact)}", label(artifact), {**params, **known}, inputs,
            bases=(sources[0].base,), phase=phase, domain=own, hashed=params,
        )  # fmt: skip

    def _built_adapter(self, plan: Plan, source: DomainSource, phase: int) -> PlannedJob:
        scratch = Plan()
        job = self._adapter_gguf(scratch, source, self._adapter(scratch, source, phase), phase)
        if not job.done:
            raise Refused(
                f"the adapter of {source.name} is not built with its present settings", f"tara build-phase {phase}"
            )
        return plan.jobs.setdefault(job.key, job)

    def _adapters(
        self, plan: Plan, artifact: Artifact, line: Lineage, sources: Sequence[DomainSource]
    ) -> tuple[dict[str, PlannedJob], dict[str, PlannedJob]]:
        """The domains' adapters for the file, and for the reference; none where the domains are part of the weights."""
        if line.whole["kind"] == "merged":
            return {}, {}
        original = {source.name: self._built_adapter(plan, source, artifact["phase"]) for source in sources}
        recorded = {row["key"]: row for row in self._reader.artifacts(keys=[job.key for job in original.values()])}
        wanted = {name: trained_as(self._reader, recorded[job.key]) for name, job in original.items()}
        found = self._of_bundle(artifact, line, wanted)
        if found is None:
            if not line.smaller:
                return original, original
            found = self._cut(line, wanted)
        return {name: self._made(plan, found[name]) for name in original}, original

    def _of_bundle(
        self, artifact: Artifact, line: Lineage, wanted: Mapping[str, str | None]
    ) -> Mapping[str, Artifact] | None:
        """The adapters that a file is delivered with: of its phase's bundle, else of the newest one that holds it and
        the adapters `wanted`, by the keys of their trainings. None where no bundle does, or it is an F16 file, to which
        no adapter of a bundle belongs."""
        if line.f16["id"] == artifact["id"]:
            return None
        phase = artifact["phase"]
        current = self._reader.phase(phase).bundle_path if phase is not None else None
        for bundle, adapters in sorted(
            delivered_with(self._reader, artifact), key=lambda pair: pair[0]["path"] != current
        ):
            older = [name for name, key in wanted.items() if not self._is_of(adapters.get(name), key)]
            if not older:
                return adapters
            if bundle["path"] == current:
                raise Refused(
                    f"the bundle of phase {phase} has no adapter of {', '.join(older)} with its present settings",
                    f"tara build-phase {phase}",
                )
        return None

    def _cut(self, line: Lineage, wanted: Mapping[str, str | None]) -> dict[str, Artifact]:
        """The domains' adapters that were cut for a smaller model and not changed since."""
        found: dict[str, Artifact] = {}
        for row in self._reader.artifacts(kind="gguf-adapter"):
            name = row["domain"]
            mine = row["meta"].get("base_sha256") == line.model["key"] and "repaired" not in row["meta"]
            if mine and name in wanted and self._is_of(row, wanted[name]):
                found.setdefault(name, row)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise Refused(
                f"no adapter of {', '.join(missing)} was cut for {label(line.model)}", "build the phase again"
            )
        return found

    def _is_of(self, adapter: Artifact | None, key: str | None) -> bool:
        return adapter is not None and key is not None and trained_as(self._reader, adapter) == key

    def _made(self, plan: Plan, row: Artifact) -> PlannedJob:
        """A recorded artifact as a job that is done."""
        job = PlannedJob(row["kind"], label(row), row["key"], {}, {}, self.workspace.absolute(row["path"]), done=True)
        return plan.jobs.setdefault(row["key"], job)
