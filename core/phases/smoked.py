"""The report of a phase's last smoke test, read from the store."""

import json
from typing import Any

from core.errors import Refused
from core.store.reads import Reader
from core.store.views import PhaseView

NAME, REPORT = "smoke", "smoke_report"  # measurements of a bundle: the share that passed, and all of it as JSON


def bundle_of(reader: Reader, phase: PhaseView) -> dict[str, Any]:
    """The artifact of a phase's newest bundle, else of its active release's. Raises Refused where there is none."""
    rows = {row["path"]: row for row in reader.artifacts(kind="bundle")}
    for path in (phase.bundle_path, *(one.bundle for one in phase.releases if one.active)):
        if path is not None and path in rows and reader.workspace.absolute(path).is_dir():
            return rows[path]
    raise Refused(f"phase {phase.number} has no bundle to ask", f"tara build-phase {phase.number}")


def smoked(reader: Reader, phase: PhaseView) -> dict[str, Any] | None:
    """The newest report on a phase's bundle, as `SmokeReport.as_json`; None where it was never asked."""
    if phase.bundle_path is None and not phase.releases:
        return None
    try:
        bundle = bundle_of(reader, phase)
    except Refused:  # it was removed
        return None
    for one in reversed(reader.measurements(bundle["id"])):
        if one.name == REPORT:
            return dict(json.loads(str(one.value)))
    return None


def report_lines(report: dict[str, Any]) -> list[str]:
    """A report as lines: its summary and, indented, each prompt with what was wrong with its answer."""
    found = [report["line"]]
    for one in report["results"]:
        took = f"{one['tokens']} tokens" + (
            f", first after {one['first_token_s']:.2f} s" if one["first_token_s"] is not None else ""
        )
        found.append(f" {'pass' if one['passed'] else 'FAIL'}  {one['asked']} {one['name']}: {took}")
        found += [f"       {reason}" for reason in one["broken"]]
        if not one["passed"] and one["answer"]:
            found.append(f"       it said: {' '.join(one['answer'].split())}")
    return found
