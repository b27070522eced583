"""Scoring texts with a loaded model: which positions count, and what is kept of the predictions there.

Imports llama_cpp through the runtime: for worker processes only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.gguf.divergence import Kept, join, keep, keep_at
from core.gguf.runtime import Runtime

OUTPUTS = 64  # positions of a step whose logits are held; steps of 32 and less take another, slower way in the engine
ROWS = 16  # of them, how many are worked on at once in float64


@dataclass(frozen=True)
class Text:
    """Tokens of one text; `targets[i]` says whether `tokens[i]` is to be predicted from those before it."""

    tokens: tuple[int, ...]
    targets: tuple[bool, ...]

    @property
    def positions(self) -> int:
        """How many predictions are scored; the first token of a text never is one."""
        return sum(self.targets[1:])


def windows(tokens: Sequence[int], length: int, beginning: int | None = None) -> list[Text]:
    """Plain text cut into whole windows of `length` tokens, of each the second half scored, as llama-perplexity does
    (tools/perplexity/perplexity.cpp): every token has at least half a window before it. What is left at the end is
    dropped. `beginning` takes the place of each window's first token where the vocabulary wants one."""
    targets = tuple(at > length // 2 for at in range(length))
    cut = [tuple(tokens[at : at + length]) for at in range(0, len(tokens) - length + 1, length)]
    return [Text(one if beginning is None else (beginning, *one[1:]), targets) for one in cut]


def predictions(runtime: Runtime, text: Text) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[Any]]]:
    """Logits [at most 16, vocabulary] at the scored positions in order, and the tokens that really follow there."""
    wanted = [*text.targets[1:], False]
    following = np.asarray([token for token, one in zip(text.tokens[1:], text.targets[1:], strict=True) if one])
    for where, logits in runtime.scored(text.tokens, wanted):
        mine = following[where]
        for at in range(0, len(mine), ROWS):
            yield logits[at : at + ROWS], mine[at : at + ROWS]


def kept_of_reference(runtime: Runtime, text: Text, random: np.random.Generator) -> Kept:
    """What is kept of the reference's predictions in a text."""
    return join([keep(logits, following, random) for logits, following in predictions(runtime, text)])


def kept_beside(runtime: Runtime, text: Text, reference: Kept) -> Kept:
    """The other model's predictions of the tokens the reference kept in the same text."""
    parts, at = [], 0
    for logits, following in predictions(runtime, text):
        parts.append(keep_at(logits, following, reference.rows(at, at + len(following))))
        at += len(following)
    return join(parts)
