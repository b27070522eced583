"""What a person may do to phases and domains. Commands and the console call these and those of `declaring`; nothing
else changes a phase.

Every function either does all it says or raises a TaraError and leaves the store and the files as they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session, col, select

from core.catalog import Catalog, load_catalog
from core.catalog.loading import HIGHEST_PHASE
from core.catalog.model import AS_IS, QUANTIZATIONS
from core.errors import InvalidInput, Refused, SettingsChanged
from core.phases.checks import (
    check_as_is,
    check_compression,
    check_disk,
    check_fraction,
    check_quantization,
    check_repair,
    check_target,
    compression_of,
    target_of,
)
from core.phases.exporting import ExportPlanner
from core.phases.gating import Gate, gate_of, refuse_below
from core.phases.imports import import_adapter
from core.phases.kinds import TargetWish
from core.phases.merging import MergeWish, remember
from core.phases.overrides import BUILD, note_of
from core.phases.plan import Planner
from core.phases.plan_merged import PhasePlanner
from core.phases.planned import DomainSource, Plan
from core.phases.queue import enqueue
from core.phases.unfinished import Choice, carry_out, settle, source_of
from core.store.engine import open_store
from core.store.reads import Reader, open_reader
from core.store.tables import Domain, Fact, Phase
from core.store.views import PhaseView
from core.training.data import find_data, read_examples
from core.workspace import Workspace


def create_phase(
    workspace: Workspace,
    number: int,
    domains: Sequence[str],
    *,
    quantization: str | None = None,
    compression_type: str = "standard",
    target_size_mb: float | None = None,
    quality_threshold: float | None = None,
    speed_priority: bool = False,
    merge: MergeWish | None = None,
    repair: bool = False,
) -> None:
    """Make a phase with its domains; the first phase becomes the current one."""
    catalog = load_catalog(workspace)
    merging = (merge or MergeWish()).over()
    chosen = check_quantization(quantization or catalog.settings.quantization)
    check_compression(compression_type)
    check_repair(repair, merging.mode, chosen)
    check_as_is(chosen, compression_type, merging.mode)
    if not 1 <= number <= HIGHEST_PHASE:
        raise InvalidInput(f"a phase number is 1 to {HIGHEST_PHASE}, not {number}")
    if quality_threshold is not None:
        check_fraction("quality threshold", quality_threshold)
    if target_size_mb is not None:
        check_target(target_size_mb)
    names = list(dict.fromkeys(name.strip() for name in domains if name.strip()))
    for name in names:
        catalog.domain(name)
    with open_store(workspace).write() as session:
        if session.get(Phase, number) is not None:
            raise Refused(f"phase {number} exists already", f"tara show-phase {number}, or choose another number")
        session.add(
            Phase(
                number=number,
                quantization=chosen,
                compression_type=compression_type,
                target_size_mb=target_size_mb,
                quality_threshold=quality_threshold,
                speed_priority=speed_priority,
                merge=merging.mode,
                merge_method=merging.method,
                merge_margin=merging.margin,
                repair=repair,
            )
        )
        session.flush()
        for position, name in enumerate(names):
            _put_domain(session, catalog, name, number, position)
        if session.get(Fact, "current_phase") is None:
            session.add(Fact(name="current_phase", value=str(number)))


def add_domain(
    workspace: Workspace, number: int, name: str, *, adapter_path: str | Path | None = None, data: str | None = None
) -> bool:
    """Put a domain into a phase, with an adapter from elsewhere where `adapter_path` names one.

    Returns False where there was nothing to change.
    """
    catalog = load_catalog(workspace)
    catalog.domain(name)
    source = Path(adapter_path).expanduser().resolve() if adapter_path is not None else None
    store = open_store(workspace)
    base = catalog.mapping[name].current
    with store.write() as session:
        _phase(session, number)
        known = session.get(Domain, name)
        if known is not None and known.phase not in (None, number):
            raise Refused(f"{name} belongs to phase {known.phase}", "a domain is in one phase; choose another domain")
    stored_data = _checked_data(workspace, data) if data is not None else None
    imported = import_adapter(workspace, catalog, store, name, base, source) if source is not None else None
    with store.write() as session:
        _phase(session, number)
        position = len(session.exec(select(Domain).where(Domain.phase == number)).all())
        known = session.get(Domain, name)
        before = (known.phase, known.base, known.adapter_path, known.data_path) if known is not None else None
        row = _put_domain(session, catalog, name, number, position)
        if imported is not None:
            row.adapter_path, row.base = imported, base
        if stored_data is not None:
            row.data_path = stored_data
        return before != (row.phase, row.base, row.adapter_path, row.data_path)


def without_data(workspace: Workspace, number: int) -> list[str]:
    """The domains of a phase that have no data to be trained on or measured with, in their order."""
    missing = []
    for source in sources(workspace, load_catalog(workspace), number):
        try:
            if source.data_path is None:
                find_data(workspace, source.name)
        except InvalidInput:
            missing.append(source.name)
    return missing


@dataclass(frozen=True)
class Asked:
    """How a phase is to be built, where that is said anew; what is None is as the phase is set."""

    quantization: str | None = None
    compression_type: str | None = None
    target_size_mb: TargetWish = None
    merge: MergeWish | None = None
    repair: bool | None = None
    quality_threshold: float | None = None
    override_quality: str | None = None  # why the build goes on below the threshold


AS_SET = Asked()


def plan_build(workspace: Workspace, number: int, asked: Asked = AS_SET) -> Plan:
    """What building a phase would do, without doing it."""
    catalog = load_catalog(workspace)
    return _plan_build(workspace, catalog, number, asked, sources(workspace, catalog, number))


def asked_about(workspace: Workspace, number: int, asked: Asked = AS_SET) -> tuple[str, ...]:
    """What `build_phase` would refuse to decide alone: a line for each unfinished training with other settings."""
    catalog = load_catalog(workspace)

    def make(domains: Sequence[DomainSource]) -> Plan:
        return _plan_build(workspace, catalog, number, asked, domains)

    try:
        settle(workspace, catalog, sources(workspace, catalog, number), make, None)
    except SettingsChanged as error:
        return error.lines
    return ()


def _plan_build(
    workspace: Workspace, catalog: Catalog, number: int, asked: Asked, domains: Sequence[DomainSource]
) -> Plan:
    with open_reader(workspace) as reader:
        phase = reader.phase(number)
        merging = (asked.merge or MergeWish()).over(phase)
        planner = PhasePlanner(workspace, catalog, reader, merging)
        wanted = compression_of(
            phase, quantization=asked.quantization, technique=asked.compression_type,
            target_size_mb=asked.target_size_mb, repair=asked.repair,
        )  # fmt: skip
        check_repair(wanted.repair, merging.mode, wanted.quantization)
        check_as_is(wanted.quantization, wanted.technique, merging.mode)
        return planner.phase(number, domains, wanted, _gate(reader, phase, asked))


def _gate(reader: Reader, phase: PhaseView, asked: Asked) -> Gate | None:
    return gate_of(reader, phase, threshold=asked.quality_threshold, override=asked.override_quality)


def build_phase(
    workspace: Workspace, number: int, asked: Asked = AS_SET, *, unfinished: Choice | None = None
) -> list[int]:
    """Queue what is missing of a phase's build, and remember how it is to be built. Returns the jobs' numbers; none
    where all is there.

    What is said of quantization, merge and quality is remembered for the phase. `unfinished` is what becomes of
    unfinished trainings with other settings. Raises SettingsChanged where there is one and nothing was said,
    BelowThreshold where the domains are measured, some below the phase's threshold, and no override is given or stands.
    """
    catalog = load_catalog(workspace)

    def make(domains: Sequence[DomainSource]) -> Plan:
        return _plan_build(workspace, catalog, number, asked, domains)

    settled = settle(workspace, catalog, sources(workspace, catalog, number), make, unfinished)
    plan = settled.plan
    check_disk(workspace, catalog, plan)
    with open_reader(workspace) as reader:
        gate = _gate(reader, reader.phase(number), asked)
    failing = refuse_below(workspace, plan, number, gate)
    bases = {source.name: source.base for source in settled.sources}
    store = open_store(workspace)
    with store.write() as session:
        phase = _phase(session, number)
        carry_out(session, workspace, settled)
        for row in session.exec(select(Domain).where(Domain.phase == number)).all():
            row.base = bases.get(row.name, row.base)
        phase.bundle_key = plan.bundle
        phase.quantization = asked.quantization or phase.quantization
        phase.compression_type = asked.compression_type or phase.compression_type
        phase.target_size_mb = target_of(asked.target_size_mb, phase.target_size_mb)
        phase.repair = phase.repair if asked.repair is None else asked.repair
        if asked.merge is not None:
            remember(phase, asked.merge.over(phase))
        if gate is not None:
            phase.quality_threshold = gate.threshold
            if asked.override_quality is not None:
                lines = [one.one_line() for one in failing]
                session.add(note_of(number, asked.override_quality, BUILD, gate.threshold, lines))
        ids = enqueue(session, workspace, plan)
    if ids:
        _start(workspace)
    return ids


def train_domain(
    workspace: Workspace,
    name: str,
    *,
    preset: str | None = None,
    data: str | None = None,
    unfinished: Choice | None = None,
) -> list[int]:
    """Queue a domain's training and evaluation. Returns the jobs' numbers; none where it is trained as asked.

    `unfinished` is what becomes of an unfinished training: `old` goes on with one of other settings, `fresh` leaves it
    and starts at step 0. Raises SettingsChanged where there is one of other settings and nothing was said.
    """
    catalog = load_catalog(workspace)
    catalog.domain(name)
    if preset is not None:
        catalog.preset(preset)
    stored = _checked_data(workspace, data) if data is not None else None
    store = open_store(workspace)
    with store.write() as session:
        row = session.get(Domain, name)
        if row is not None and row.adapter_path is not None:
            raise Refused(
                f"{name} uses an adapter from elsewhere ({row.adapter_path})",
                f"to train it here instead: tara update-domain {name} --train-here",
            )
        source = DomainSource(
            name,
            catalog.mapping[name].current,
            preset or (row.preset if row else None),
            stored or (row.data_path if row else None),
        )
        phase = row.phase if row else None

    def make(domains: Sequence[DomainSource]) -> Plan:
        with open_reader(workspace) as reader:
            return Planner(workspace, catalog, reader).training(domains[0], phase)

    settled = settle(workspace, catalog, [source], make, unfinished, anew=True)
    plan, chosen = settled.plan, settled.sources[0]
    check_disk(workspace, catalog, plan)
    with store.write() as session:
        row = session.get(Domain, name) or _put_domain(session, catalog, name, None, 0)
        carry_out(session, workspace, settled)
        row.base = chosen.base
        if chosen is source:  # with the settings of before nothing is remembered for the next time
            row.preset, row.data_path = source.preset, source.data_path
        ids = enqueue(session, workspace, plan)
    if ids:
        _start(workspace)
    return ids


def export_domain(workspace: Workspace, name: str, quantization: str = "F16") -> tuple[list[int], Path]:
    """Queue one merged GGUF of a trained domain. Returns the jobs' numbers and where the file will be."""
    if quantization == AS_IS:
        raise Refused(
            f"an export has the adapter in its weights, so that it cannot be the base's file {AS_IS}",
            f"choose F16 or one of {', '.join(QUANTIZATIONS)}",
        )
    if quantization != "F16":
        check_quantization(quantization)
    catalog = load_catalog(workspace)
    store = open_store(workspace)
    with store.write() as session:
        row = session.get(Domain, name)
        if row is None:
            catalog.domain(name)
            raise Refused(f"{name} has not been trained", f"tara train-domain {name}")
        source, phase = source_of(row, catalog), row.phase

    def make(domains: Sequence[DomainSource]) -> Plan:
        with open_reader(workspace) as reader:
            return ExportPlanner(workspace, catalog, reader).export(domains[0], phase, quantization)

    try:
        settled = settle(workspace, catalog, [source], make, None)
    except SettingsChanged as error:
        raise Refused(error.message, f"tara train-domain {name} --resume-old or --fresh comes first") from error
    plan = settled.plan
    check_disk(workspace, catalog, plan)
    with store.write() as session:
        carry_out(session, workspace, settled)
        ids = enqueue(session, workspace, plan)
    if ids:
        _start(workspace)
    last = [job for job in plan.jobs.values() if job.kind in ("convert", "quantize")][-1]
    assert last.out is not None
    return ids, last.out


def sources(workspace: Workspace, catalog: Catalog, number: int) -> list[DomainSource]:
    """The domains of a phase as a plan needs them, in their order."""
    with open_store(workspace).write() as session:
        _phase(session, number)
        rows = session.exec(
            select(Domain).where(Domain.phase == number).order_by(col(Domain.position), col(Domain.name))
        ).all()
        return [source_of(row, catalog) for row in rows]


def _start(workspace: Workspace) -> None:
    from core.runner.client import ensure_runner

    ensure_runner(workspace)


def _phase(session: Session, number: int) -> Phase:
    phase = session.get(Phase, number)
    if phase is None:
        known = (
            ", ".join(str(one) for one in session.exec(select(Phase.number).order_by(col(Phase.number)))) or "none yet"
        )
        raise InvalidInput(f"there is no phase {number} (phases: {known})", f"tara create-phase {number} --domains …")
    return phase


def _put_domain(session: Session, catalog: Catalog, name: str, phase: int | None, position: int) -> Domain:
    row = session.get(Domain, name)
    if row is None:
        row = Domain(name=name, base=catalog.mapping[name].current, phase=phase, position=position)
    elif row.phase is None:
        row.phase, row.position = phase, position
    elif phase is not None and row.phase != phase:
        raise Refused(f"{name} belongs to phase {row.phase}", "a domain is in one phase; choose another domain")
    session.add(row)
    return row


def _checked_data(workspace: Workspace, data: str) -> str:
    path = Path(data).expanduser().resolve()
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    read_examples(path)
    return workspace.relative(path)
