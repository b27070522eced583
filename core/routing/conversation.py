"""What the message before says of this one: whether it reads as going on. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.routing.vectors import Embedding
from core.routing.words import STOPWORDS, Word, listed

POINTING_BACK = listed("it that this those these he she they them his her their him one ones same else")
FOLLOWING_ON = listed("and but so also then why ok okay yes no yeah thanks thank what how more")
# Log-odds that a message which can only be a follow-up adds to the domain before. Not fitted: chosen by hand beside the
# scores of the blend, which it must keep up with when these are fitted anew.
WEIGHT = 6.5
CLOSE_S = 600.0  # a message within so many seconds goes on where it left off; after that the tie is half as strong
LIKE = 0.25  # cosine of two messages above which they are about the same thing, somewhat


@dataclass(frozen=True)
class Before:
    """The message before: its text, how many seconds ago (None: just now), and its vector where there is one."""

    text: str
    seconds: float | None = None
    embedding: Embedding | None = None


def goes_on(words: Sequence[Word], before: Before | None, embedding: Embedding | None) -> float:
    """How much a message reads as going on with the one before, 0..1: by being short, by pointing back ("and what
    about that?"), by its likeness to it; less as time goes by."""
    if not words:
        return 0.0
    content = sum(word.text not in STOPWORDS for word in words)
    short = math.exp(-max(0, content - 1) / 4)
    points = words[0].text in FOLLOWING_ON or any(word.text in POINTING_BACK for word in words[:12])
    tie = short * (1.0 if points else 0.5)
    earlier = before.embedding if before is not None else None
    if earlier is not None and embedding is not None and earlier.encoder == embedding.encoder:
        tie += max(0.0, float(earlier.vector @ embedding.vector) - LIKE)
    if before is not None and before.seconds is not None and before.seconds > CLOSE_S:
        tie *= 0.5 ** (before.seconds / CLOSE_S - 1)
    return min(1.0, tie)
