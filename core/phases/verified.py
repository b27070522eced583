"""How many of their questions the domains of a bundle, or of an exported file, answered as a sound model does."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.store.reads import Reader
from core.store.views import PhaseView
from core.text import NOT_MEASURED

Row = dict[str, Any]  # of a domain: how many questions were `asked`, `passed`, `passed_again` and `needed` to pass


def verified_phase(reader: Reader, phase: PhaseView) -> list[Row]:
    """Of the domains of a phase's bundle; none where there is no bundle, or it was verified before this was counted."""
    bundle = next((row for row in reader.artifacts(kind="bundle") if row["path"] == phase.bundle_path), None)
    parents = reader.parents(bundle["id"]) if bundle is not None else []
    return _rows(next((row for row in parents if row["kind"] == "verification"), None))


def verified_file(reader: Reader, path: str) -> list[Row]:
    """Of the domain that is part of an exported file, by its stored path; none where it was not verified."""
    for row in reader.artifacts(kind="verification"):
        if any(parent["path"] == path for parent in reader.parents(row["id"])):
            return _rows(row)
    return []


def _rows(verification: Mapping[str, Any] | None) -> list[Row]:
    answers = verification["meta"].get("answers", {}) if verification is not None else {}
    return [{"domain": name, **counts} for name, counts in answers.items()]


def answers_line(rows: Sequence[Row]) -> str:
    """The same in a line."""
    if not rows:
        return f"verification: how many answers passed is {NOT_MEASURED}"
    told = [
        f"{row['domain']} {row['passed']} of {row['asked']}"
        + (f" ({row['passed_again']} asked again as in chat)" if row["passed_again"] else "")
        for row in rows
    ]
    return f"verification, answers that passed: {', '.join(told)}"
