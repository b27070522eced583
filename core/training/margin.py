"""What a unified model loses of each domain, held against a margin. Nothing heavy is imported here."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Kept:
    """A domain's held-out figures: losses in nats a token, accuracies from 0 to 1, of the base, of the domain's own
    adapter and of the unified model, over the same answers' tokens."""

    domain: str
    base_loss: float
    adapter_loss: float
    unified_loss: float
    base_accuracy: float
    adapter_accuracy: float
    unified_accuracy: float
    examples: int
    tokens: int

    @property
    def change(self) -> float:
        """The unified model's loss against the own adapter's, relative: 0.01 is one per cent worse."""
        return self.unified_loss / self.adapter_loss - 1

    def within(self, margin: float) -> bool:
        """Whether the domain loses no more than the margin."""
        return self.change <= margin

    def verdict(self, margin: float) -> str:
        """`kept` or `loses`."""
        return "kept" if self.within(margin) else "loses"

    def as_dict(self, margin: float | None = None) -> dict[str, Any]:
        """The figures as JSON data, with the verdict where there is a margin."""
        found = {**asdict(self), "change": self.change}
        return found if margin is None else {**found, "verdict": self.verdict(margin)}

    def one_line(self, margin: float) -> str:
        """The figures as a person reads them."""
        return (
            f"{self.domain} base {self.base_loss:.3f}, own adapter {self.adapter_loss:.3f}, "
            f"unified {self.unified_loss:.3f} ({self.change:+.1%}, {self.verdict(margin)})"
        )


def kept_of(rows: Iterable[Mapping[str, Any]]) -> list[Kept]:
    """Rows of JSON data as they were. Raises KeyError for one that lacks a figure."""
    names = [field.name for field in fields(Kept)]
    return [Kept(**{name: row[name] for name in names}) for row in rows]
