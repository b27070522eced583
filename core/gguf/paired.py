"""Two candidates on the same held-out positions: which loses less, and whether by more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.gguf.divergence import Doubles, Estimate, estimate

ERRORS = 2.0  # standard errors by which two must differ, so that chance does not choose


@dataclass(frozen=True)
class Paired:
    """Mean divergence from the reference, nats a token, of a candidate, of the plain way, and of their difference
    position by position (candidate less plain)."""

    candidate: Estimate
    plain: Estimate
    difference: Estimate
    positions: int
    texts: int

    @property
    def better(self) -> bool:
        """Whether the candidate loses less by more than chance would have it."""
        error = self.difference.se
        return error is not None and self.difference.mean + ERRORS * error < 0

    @property
    def figures(self) -> str:
        """The difference with its error, and on how much it was measured, in a phrase."""
        error = f" ± {self.difference.se:.5f}" if self.difference.se is not None else ""
        return f"difference {self.difference.mean:+.5f}{error} on {self.positions} held-out positions"


def paired(candidate: Doubles, plain: Doubles, blocks: Sequence[int]) -> Paired:
    """The verdict on divergences [n] at the same positions; `blocks` [n] numbers the text each belongs to."""
    return Paired(
        estimate(candidate, blocks),
        estimate(plain, blocks),
        estimate(candidate - plain, blocks),
        len(blocks),
        len(set(blocks)),
    )
