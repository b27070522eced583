"""The quality threshold of a phase: what holds for a build, what was overridden, and whether it is known to fail."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import BelowThreshold, InvalidInput
from core.phases.checks import check_fraction
from core.phases.overrides import BUILD, overrides
from core.phases.planned import Plan, PlannedJob
from core.store.reads import Reader
from core.store.views import DomainView, PhaseView
from core.training.threshold import WHAT_TO_DO, Judged, below, judged, refusal
from core.workspace import Workspace


@dataclass(frozen=True)
class Gate:
    """What a build is held against. `override` is why it goes on below the threshold; `declared`: by domain what a
    person said of its quality, which is named beside what was measured and counts for nothing."""

    threshold: float
    override: str | None = None
    declared: dict[str, float] = field(default_factory=dict)


def gate_of(
    reader: Reader, phase: PhaseView, *, threshold: float | None = None, override: str | None = None
) -> Gate | None:
    """The gate of a phase as it is set, but for what is given; None where it has no threshold. An override that was
    given for a build holds until the threshold is another. Raises InvalidInput."""
    wanted = phase.quality_threshold if threshold is None else check_fraction("quality threshold", threshold)
    if override is not None and not override.strip():
        raise InvalidInput("an override needs a reason", "--override-quality REASON")
    if wanted is None:
        if override is not None:
            raise InvalidInput(
                f"phase {phase.number} has no quality threshold, so there is nothing to override", "leave it out"
            )
        return None
    kept = next((one["reason"] for one in overrides(reader, phase) if _stands(one, wanted)), None)
    return Gate(wanted, override or kept, declared_of(phase.domains))


def declared_of(domains: Sequence[DomainView]) -> dict[str, float]:
    """The qualities that a person declared, by domain."""
    found = {one.name: one.measurements.get("declared_quality") for one in domains}
    return {name: float(value.value) for name, value in found.items() if value is not None}


def known_below(workspace: Workspace, plan: Plan) -> list[Judged]:
    """The domains that a gate of a plan would find below the threshold, where all that it judges is there already;
    none where the gates are done or have to wait for what is yet to be measured."""
    for gate in plan.jobs.values():
        if gate.kind != "quality-gate" or gate.done or not all(plan.jobs[key].done for key in gate.needs):
            continue
        if found := below(_judged_by(workspace, gate), float(gate.params["threshold"])):
            return found
    return []


def _judged_by(workspace: Workspace, gate: PlannedJob) -> list[Judged]:
    def read(path: str) -> dict[str, Any]:
        return dict(json.loads(workspace.absolute(path).read_text("utf-8")))

    evaluations = {name: read(path) for name, path in gate.inputs.get("evaluations", {}).items()}
    checks = [read(path) for path in gate.inputs.get("checks", {}).values()]
    delivered = read(gate.inputs["delivered"]) if "delivered" in gate.inputs else None
    return judged(evaluations, checks, gate.params["declared"], delivered)


def refuse_below(workspace: Workspace, plan: Plan, number: int, gate: Gate | None) -> list[Judged]:
    """The domains that are known to be below; raises BelowThreshold for them where nothing overrides it."""
    found = known_below(workspace, plan) if gate is not None else []
    if gate is not None and found and gate.override is None:
        raise BelowThreshold(refusal(found, gate.threshold, number), WHAT_TO_DO, tuple(one.one_line() for one in found))
    return found


def _stands(override: dict[str, Any], threshold: float) -> bool:
    return override["for"] == BUILD and override["threshold"] == threshold
