"""How the domains of a phase reach its bundle: what was asked for, checked, and what was measured of it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.catalog import Settings
from core.catalog.loading import HIGHEST_MARGIN, load_settings
from core.catalog.model import MERGE_METHODS, MERGES
from core.errors import InvalidInput
from core.phases.kinds import UNIFIED
from core.store.reads import Reader
from core.store.views import PhaseView
from core.training.margin import Kept, kept_of

if TYPE_CHECKING:
    from core.store.tables import Phase  # takes longer to import than a command that only shows may


@dataclass(frozen=True)
class Merging:
    """`mode` is one of MERGES. Of `unified`: the method, and the margin where it is not the settings' own."""

    mode: str = "none"
    method: str | None = None
    margin: float | None = None

    def margin_in(self, settings: Settings) -> float:
        """The margin that counts, as a share of a domain's held-out loss."""
        return settings.merge_margin if self.margin is None else self.margin


@dataclass(frozen=True)
class MergeWish:
    """What a person said of it for a build; what was not said stays as the phase has it."""

    mode: str | None = None
    method: str | None = None
    margin: float | None = None

    def over(self, phase: "Phase | PhaseView | None" = None) -> Merging:
        """What is to be built where the phase has its settings, or is yet to be made. Raises InvalidInput."""
        if self.mode is not None and self.mode not in MERGES:
            raise InvalidInput(f"unknown merge {self.mode}", f"one of {', '.join(MERGES)}")
        if self.method is not None and self.method not in MERGE_METHODS:
            raise InvalidInput(f"unknown merge method {self.method}", f"one of {', '.join(MERGE_METHODS)}")
        if self.margin is not None and not (math.isfinite(self.margin) and 0 <= self.margin <= HIGHEST_MARGIN):
            raise InvalidInput(f"a margin is a share from 0 to {HIGHEST_MARGIN:g}, not {self.margin:g}")
        mode = self.mode or (phase.merge if phase is not None else "none")
        if mode != "unified":
            for name, value in (("--merge-method", self.method), ("--margin", self.margin)):
                if value is not None:
                    raise InvalidInput(f"{name} is for --merge unified, and this is {mode}", "add --merge unified")
            return Merging(mode)
        kept = phase if phase is not None and phase.merge == "unified" else None
        method = self.method or (kept.merge_method if kept is not None else None) or MERGE_METHODS[0]
        margin = self.margin if self.margin is not None or kept is None else kept.merge_margin
        return Merging(mode, method, margin)


def remember(phase: "Phase", merging: Merging) -> None:
    """Write what is built into the phase's row."""
    phase.merge, phase.merge_method, phase.merge_margin = merging.mode, merging.method, merging.margin


def margin_of(reader: Reader, phase: PhaseView) -> float:
    """The margin that counts for a phase, as a share."""
    return load_settings(reader.workspace).merge_margin if phase.merge_margin is None else phase.merge_margin


def measured_merges(reader: Reader, phase: PhaseView) -> dict[str, list[Kept]]:
    """The newest figures of the phase's unified models, by base, of the method it has now; kept also where they were
    refused. Empty where nothing was measured."""
    if phase.merge != "unified":
        return {}
    found: dict[str, list[Kept]] = {}
    for row in reader.artifacts(kind="merge-check"):
        base = row["name"].removesuffix(UNIFIED)
        if row["phase"] == phase.number and row["meta"].get("method") == phase.merge_method and base not in found:
            found[base] = kept_of(row["meta"]["rows"])
    return found
