"""What the message before says of this one: whether it reads as going on. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from core.routing.vectors import Embedding
from core.routing.words import STOPWORDS, Word, listed

POINTING_BACK = listed("it that this those these he she they them his her their him one ones same else")
FOLLOWING_ON = listed("and but so also then why ok okay yes no yeah thanks thank what how more")
# What the signs of `tie_signs` count, in log-odds; fitted by benchmarks/fit_conversation.py.
TIE = (-1.65, 8.96, 2.16, 3.75)
CLOSE_S = 600.0  # a message within so many seconds goes on where it left off; after that the tie is half as strong


@dataclass(frozen=True)
class Before:
    """The message before: its text, how many seconds ago (None: just now), and its vector where there is one."""

    text: str
    seconds: float | None = None
    embedding: Embedding | None = None


def goes_on(words: Sequence[Word], before: Before | None, embedding: Embedding | None) -> float:
    """The log-odds by which the message before speaks for its domain, not below 0: more for a short message, one that
    points back ("and what about that?"), one like the one before; less as time goes by."""
    if not words:
        return 0.0
    line = math.fsum(map(mul, TIE, tie_signs(words, before, embedding)))
    tie = math.log1p(math.exp(min(30.0, line)))
    if before is not None and before.seconds is not None and before.seconds > CLOSE_S:
        tie *= 0.5 ** (before.seconds / CLOSE_S - 1)
    return tie


def tie_signs(words: Sequence[Word], before: Before | None, embedding: Embedding | None) -> tuple[float, ...]:
    """What in a message ties it to the one before: always 1; how short it is, from 1 for one content word or none
    towards 0; the same where it points back; the cosine of the two, 0 where it is not known."""
    content = sum(word.text not in STOPWORDS for word in words)
    short = math.exp(-max(0, content - 1) / 4)
    points = words[0].text in FOLLOWING_ON or any(word.text in POINTING_BACK for word in words[:12])
    earlier = before.embedding if before is not None else None
    likeness = 0.0
    if earlier is not None and embedding is not None and earlier.encoder == embedding.encoder:
        likeness = float(earlier.vector @ embedding.vector)
    return 1.0, short, short if points else 0.0, likeness
