"""What came of a phase: sentences and tables on its bundle, its files and what was allowed, as they were recorded."""

from collections.abc import Mapping
from typing import Any

from core.phases.measured import compressed, kept_changes, repaired
from core.phases.merging import margin_of, measured_merges
from core.phases.overrides import overrides
from core.phases.smoked import smoked
from core.phases.verified import answers_line, verified_phase
from core.store.reads import Reader
from core.store.views import PhaseView
from core.text import NOT_MEASURED, Table, iso, size


def outcome(reader: Reader, phase: PhaseView) -> list[str | Table]:
    """How many answers passed, the smoke test, what each technique and repair did and lost, overrides of the quality
    threshold, what rounding left of merged adapters; `unified` is the table of a unified model."""
    told: list[str | Table] = []
    report = smoked(reader, phase)
    if phase.bundle_path is not None:
        told.append(answers_line(verified_phase(reader, phase)))
    if phase.bundle_path is not None or report is not None:
        told.append(f"smoke test: {NOT_MEASURED}" if report is None else smoke_line(report))
    for small in compressed(reader, phase):
        told.append(f"base {small['base']}: {small['why']}")
        if small.get("taught"):
            told.append(f"base {small['base']}: {small['taught']['says']}")
        if "rows" in small:
            told.append(losses(small))
    told += [f"adapter {one['domain']}: {one['why']}" for one in repaired(reader, phase)]
    told += [override_line(one) for one in overrides(reader, phase)]
    return told + [_left(one) for one in kept_changes(reader, phase)]


def outcome_json(reader: Reader, phase: PhaseView) -> dict[str, Any]:
    """The same for scripts, but for overrides and unified models, which are told with what is set."""
    return {
        "compressed": compressed(reader, phase),
        "repaired": repaired(reader, phase),
        "kept_changes": kept_changes(reader, phase),
        "smoke": smoked(reader, phase),
        "verification": verified_phase(reader, phase),
    }


def smoke_line(report: Mapping[str, Any]) -> str:
    """A report of `tara smoke` in a line."""
    return f"smoke test: {report['line']} ({iso(report['at'])[:16]})"


def losses(small: Mapping[str, Any]) -> Table:
    """What a smaller model's file loses of its domains, beside plain files of the whole model."""
    names = list(small["sizes"])
    headers = ("held-out loss", *(f"{name} {size(small['sizes'][name])}" for name in names))
    return headers, [(row["domain"], *(f"{row['loss'][name]:.3f}" for name in names)) for row in small["rows"]]


def unified(reader: Reader, phase: PhaseView) -> Table | None:
    """What each unified model of a phase keeps of its domains; None where nothing was measured."""
    if phase.merge != "unified":
        return None
    margin = margin_of(reader, phase)
    rows: list[tuple[str, ...]] = [
        (
            row.domain, base, f"{row.base_loss:.3f}", f"{row.adapter_loss:.3f}", f"{row.unified_loss:.3f}",
            f"{row.change:+.2%}", row.verdict(margin),
        )
        for base, found in measured_merges(reader, phase).items()
        for row in found
    ]  # fmt: skip
    headers = ("unified", "base", "base loss", "own adapter", "unified", "change", f"margin {margin:.2%}")
    return (headers, rows) if rows else None


def override_line(one: Mapping[str, Any]) -> str:
    """A recorded override of the quality threshold, in a line."""
    threshold = "" if one["threshold"] is None else f" {one['threshold']:g}"
    what = f"{one['for']} below the quality threshold{threshold}, {iso(one['at'])[:16]}: {one['reason']}"
    return what + (f" ({'; '.join(one['below'])})" if one["below"] else " (given before anything was measured)")


def _left(one: Mapping[str, Any]) -> str:
    """How much of a merged domain's adapter rounding left, as a line."""
    if one["share"] is None:
        return f"merged {one['domain']}: what {one['file_type']} left of its adapter is {NOT_MEASURED}"
    return (
        f"merged {one['domain']}: {one['file_type']} left {one['share']:.1%} of its adapter's change, "
        f"with an error of {one['error']:.1%} of it"
    )
