"""What the message before says of this one: whether it reads as going on. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from core.routing.vectors import Embedding
from core.routing.words import STOPWORDS, Word, listed

POINTING_BACK = listed("it that this those these he she they them his her their him one ones same else")
FOLLOWING_ON = listed("and but so also then why ok okay yes no yeah thanks thank what how more")
# What the signs of `tie_signs` count, in log-odds beside the blend's scores; fitted by benchmarks/fit_conversation.py.
TIE = (-2.46, 9.77, 0.74, 1.74)
# The share of it that speaks against "none of these": always, and for a message that is short and points back. By hand:
# the first is the best of those tried in that fit; the second is for sets of so few examples that nothing is near them.
AGAINST_NONE = (0.25, 1.0)
CLOSE_S = 600.0  # a message within so many seconds goes on where it left off; after that the tie is half as strong


@dataclass(frozen=True)
class Before:
    """The message before: its text, how many seconds ago (None: just now), and its vector where there is one."""

    text: str
    seconds: float | None = None
    embedding: Embedding | None = None


@dataclass(frozen=True)
class Tie:
    """The log-odds by which the message before speaks for its domain, and against that none is meant; none below 0."""

    domain: float = 0.0
    none: float = 0.0


NO_TIE = Tie()


def goes_on(words: Sequence[Word], before: Before | None, embedding: Embedding | None) -> Tie:
    """How a message is tied to the one before: more where it is short, where it points back ("and what about that?"),
    where it is like the one before; less as time goes by."""
    if not words:
        return NO_TIE
    signs = tie_signs(words, before, embedding)
    tie = math.log1p(math.exp(min(30.0, math.fsum(map(mul, TIE, signs)))))
    if before is not None and before.seconds is not None and before.seconds > CLOSE_S:
        tie *= 0.5 ** (before.seconds / CLOSE_S - 1)
    return Tie(tie, tie * against_none(signs))


def against_none(signs: Sequence[float]) -> float:
    """The share of a tie with these signs that speaks against none."""
    return AGAINST_NONE[0] + AGAINST_NONE[1] * signs[2]


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
