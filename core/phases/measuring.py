"""Queueing a measurement: a quantized file of a phase, or of a single domain, against the F16 file it was made from."""

from collections.abc import Sequence
from pathlib import Path

from core.catalog import Catalog, load_catalog
from core.catalog.bases import base_identity, locate
from core.errors import EnvironmentLacks, InvalidInput, Refused
from core.phases.checks import check_disk
from core.phases.measured import Artifact, build_seconds, find_artifacts, label
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
            reference, model = parents_of(reader, artifact)
            sources = _sources(workspace, reader, artifact, model)
            planner.measured(
                plan, artifact, reference, model, sources, max_tokens=max_tokens, text=plain,
                build_s=build_seconds(reader, artifact),
            )  # fmt: skip
    check_disk(workspace, catalog, plan)
    with open_store(workspace).write() as session:
        ids = enqueue(session, workspace, plan)
    if ids:
        ensure_runner(workspace)
    return ids, artifacts


def parents_of(reader: Reader, artifact: Artifact) -> tuple[Artifact, Artifact]:
    """A GGUF model's F16 file (itself, where it is that) and the model folder both come from. Raises InvalidInput where
    it is no GGUF model of this workspace, or where they are gone."""
    if artifact["kind"] != "gguf":
        raise InvalidInput(f"{label(artifact)} is no GGUF model but of kind {artifact['kind']}", "name a GGUF file")
    if artifact["id"] is None:
        raise InvalidInput(
            f"{artifact['path']} was not made here, so its F16 parent is not known", "tara export-domain"
        )
    reference = next((row for row in reader.parents(artifact["id"]) if row["kind"] == "gguf"), artifact)
    model = next((row for row in reader.parents(reference["id"]) if row["kind"] in ("base", "merged", "small")), None)
    there = [artifact, reference, *([model] if model else [])]
    gone = [row["path"] for row in there if not reader.workspace.absolute(row["path"]).exists()]
    if gone or model is None:
        raise InvalidInput(
            f"{label(artifact)} cannot be measured: {gone[0] if gone else 'the model it was made from'} is gone",
            "build it again",
        )
    return reference, model


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
        self._adapter_files = reader.artifacts(kind="gguf-adapter")

    def measured(
        self,
        plan: Plan,
        artifact: Artifact,
        reference: Artifact,
        model: Artifact,
        sources: Sequence[DomainSource],
        *,
        max_tokens: int,
        text: Path | None = None,
        build_s: float | None = None,
    ) -> PlannedJob:
        """Put the measurement of a recorded file into a plan. A merged model is scored as it is, a base with each
        domain's adapter on. Raises Refused where an adapter is not built with the present settings."""
        phase, own = artifact["phase"], artifact["domain"]
        merged = model["kind"] == "merged"
        if model["kind"] == "small":
            adapters = self._cut_adapters(plan, model, sources)
        else:
            adapters = {} if merged else {source.name: self._built_adapter(plan, source, phase) for source in sources}
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
            "reference": self._made(plan, reference),
            "model": self._made(plan, model),
            "data": {source.name: self._data(source) for source in sources},
            "adapters": adapters,
            **({"text": text} if text is not None else {}),
        }
        for source in sources:
            self._base(Plan(), source.base, phase)  # so that its identity is known
        return self._add(
            plan, "measure", f"measure {label(artifact)}", label(artifact), {**params, "build_s": build_s}, inputs,
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

    def _cut_adapters(self, plan: Plan, model: Artifact, sources: Sequence[DomainSource]) -> dict[str, PlannedJob]:
        """The domains' adapters that were cut for a smaller model; none where the domains are part of its weights."""
        wanted, found = model["meta"]["base_sha256"], {}
        for row in self._adapter_files:
            if row["meta"].get("base_sha256") == wanted and row["name"] in {source.name for source in sources}:
                found[row["name"]] = self._made(plan, row)
        return found

    def _made(self, plan: Plan, row: Artifact) -> PlannedJob:
        """A recorded artifact as a job that is done."""
        job = PlannedJob(row["kind"], label(row), row["key"], {}, {}, self.workspace.absolute(row["path"]), done=True)
        return plan.jobs.setdefault(row["key"], job)
