"""What commands say and are told of merging: options, and the table of what a unified model keeps."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from core.store.views import PhaseView
from core.text import figure_table

if TYPE_CHECKING:
    from core.store.reads import Reader

F = TypeVar("F", bound=Callable[..., Any])


def merge_options(command: F) -> F:
    """`--merge`, `--merge-method` and `--margin`, given to the command as one `merge`: None where none was said."""

    @wraps(command)
    def told(*args: Any, merge: str | None, merge_method: str | None, margin: float | None, **others: Any) -> Any:
        from core.phases.merging import MergeWish

        said = any(one is not None for one in (merge, merge_method, margin))
        return command(*args, merge=MergeWish(merge, merge_method, margin) if said else None, **others)

    mode = click.option("--merge", metavar="NAME", help="none, exact (a model a domain) or unified (one model a base).")
    method = click.option("--merge-method", metavar="NAME", help="Of unified: ties, cat, dare or linear.")
    margin = click.option(
        "--margin", type=float, metavar="SHARE", help="Of unified: most that a domain's held-out loss may rise."
    )
    return mode(method(margin(told)))  # type: ignore[return-value]


repair_option = click.option(
    "--repair/--no-repair",
    default=None,
    help="Whether adapters give back a part of what quantization took, where that wins (default: as set).",
)


def checks_json(reader: "Reader", phase: PhaseView) -> dict[str, Any]:
    """A phase's merge for scripts: what is set, and what was measured of each unified model."""
    facts = {"merge": phase.merge, "merge_method": phase.merge_method}
    if phase.merge != "unified":
        return {**facts, "merge_margin": None, "unified": {}}
    from core.phases.merging import margin_of, measured_merges

    margin = margin_of(reader, phase)
    found = {base: [row.as_dict(margin) for row in rows] for base, rows in measured_merges(reader, phase).items()}
    return {**facts, "merge_margin": margin, "unified": found}


def merge_line(reader: "Reader", phase: PhaseView) -> str:
    """How the domains of a phase are merged, in a phrase; '' where each keeps its adapter."""
    if phase.merge == "none":
        return ""
    if phase.merge == "exact":
        return "merged exactly, a model a domain"
    from core.phases.merging import margin_of

    return f"unified by {phase.merge_method}, margin {margin_of(reader, phase):.2%}"


def merge_table(reader: "Reader", phase: PhaseView) -> str:
    """What each unified model of a phase keeps of its domains; '' where nothing was measured."""
    from core.phases.outcome import unified

    kept = unified(reader, phase)
    return figure_table(kept) if kept is not None else ""
