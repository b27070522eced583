"""What was recorded where a person went on below a phase's quality threshold."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.store.reads import Reader
from core.store.views import PhaseView

if TYPE_CHECKING:
    from core.store.tables import Note  # takes longer to import than a command that only shows may

ACTION = "override-quality"  # of a note; its detail says for what: build or deploy
BUILD, DEPLOY = "build", "deploy"


def overrides(reader: Reader, phase: PhaseView) -> list[dict[str, Any]]:
    """The overrides recorded of a phase since it was made, newest first: `at`, `for` (build or deploy), `threshold`,
    `reason`, `below` (each domain in a phrase), and of a deployment its `target`."""
    return [
        {"at": at, "for": DEPLOY, "threshold": None, **detail}
        for at, action, detail in reader.notes(f"phase {phase.number}")
        if action == ACTION and at >= phase.created_at
    ]


def note_of(
    number: int, reason: str, what_for: str, threshold: float | None, found: Sequence[str], **more: str
) -> "Note":
    """A row that records an override; `found` are the domains below, each in a phrase."""
    from core.store.engine import dump
    from core.store.tables import Note

    detail = {"reason": reason, "for": what_for, "threshold": threshold, "below": list(found), **more}
    return Note(subject=f"phase {number}", action=ACTION, detail=dump(detail))
