"""The measured quality of a phase's domains, held against the phase's threshold. Nothing heavy is imported here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OWN, UNIFIED, SMALL, DELIVERED = "its adapter", "the unified model", "the smaller file", "the delivered file"
WHAT_TO_DO = "train longer or on more data, lower --quality-threshold, or --override-quality REASON (recorded)"


@dataclass(frozen=True)
class Judged:
    """A domain's quality: its held-out token accuracy, 0 to 1, None where it was not measured, and which model it was
    measured of. What a person `declared` stands beside it and counts for nothing."""

    domain: str
    quality: float | None
    of: str = OWN
    declared: float | None = None

    def meets(self, threshold: float) -> bool:
        """Whether it was measured and is no lower than the threshold."""
        return self.quality is not None and self.quality >= threshold

    def one_line(self) -> str:
        """The figure as a person reads it, and that a declared one is none."""
        said = f"{self.domain} " + ("not measured" if self.quality is None else f"{self.quality:.3f} measured")
        if self.of != OWN:
            said += f" of {self.of}"
        return said if self.declared is None else f"{said} (declared {self.declared:g} does not count)"

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON data."""
        return {"quality": self.quality, "of": self.of, "declared": self.declared}


def judged(
    evaluations: Mapping[str, Mapping[str, Any]],
    checks: Iterable[Mapping[str, Any]] = (),
    declared: Mapping[str, float] | None = None,
    delivered: Mapping[str, Any] | None = None,
) -> list[Judged]:
    """Each domain's quality from the reports of `evaluate` by domain; a domain that is in a unified model answers from
    that, so its quality is that of the report of `check-merge`. The report of `check-delivered` is of all domains, and
    of the files they will answer from: where it is there it counts alone."""
    unified = {row["domain"]: row["unified_accuracy"] for check in checks for row in check["rows"]}
    said = declared or {}
    if delivered is not None:
        return [
            Judged(row["domain"], _figure(row["accuracy"]), DELIVERED, said.get(row["domain"]))
            for row in delivered["rows"]
        ]
    return [
        Judged(name, unified[name], UNIFIED, said.get(name))
        if name in unified
        else Judged(name, _figure(report.get("tuned_accuracy")), OWN, said.get(name))
        for name, report in evaluations.items()
    ]


def below(found: Sequence[Judged], threshold: float) -> list[Judged]:
    """Those that do not meet the threshold."""
    return [one for one in found if not one.meets(threshold)]


def refusal(found: Sequence[Judged], threshold: float, number: int) -> str:
    """Why a phase goes no further: its domains below the threshold, each with its measured quality."""
    return f"below the quality threshold {threshold:g} of phase {number}: {'; '.join(one.one_line() for one in found)}"


def _figure(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
