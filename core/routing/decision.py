"""A routing decision: who answers, and every number it came from."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from core.routing.crisis import Crisis
from core.routing.data import TERMS
from core.routing.emotion import Emotion

ENCODER, KEYWORDS = "encoder", "keywords"  # by what it was told what a message is about
GATE_BY_ENCODER, GATE_BY_LETTERS = "encoder", "expressions and letters"  # by what the crisis gate read it


@dataclass(frozen=True)
class Candidate:
    """One domain with its four terms in [0, 1]. `total` is the weighted sum of them."""

    domain: str
    content: float
    emotion: float
    speed: float
    quality: float
    total: float
    near_best: bool  # its content is near enough to the best one's for the other terms to decide
    notes: tuple[str, ...] = ()  # "speed not measured", …
    matched: tuple[str, ...] = ()  # the words that spoke for it
    score: float = 0.0  # log-odds behind `content`, which is the softmax over all domains' and the decision's `none`
    signs: Mapping[str, float] = field(default_factory=dict)  # what the score is the weighted sum of

    def recompute(self, weights: Mapping[str, float]) -> float:
        """The total again from the terms."""
        return math.fsum(weights[name] * getattr(self, name) for name in TERMS)


@dataclass(frozen=True)
class Decision:
    """Where a message goes, and why.

    `domain` None means: the base model without an adapter. `confidence` is the calibrated probability that the chosen
    domain is right, or the best one when unsure; of a crisis, that it is one. `candidates` are ordered best first, and
    empty for a crisis.
    """

    domain: str | None
    confidence: float
    unsure: bool
    reason: str
    crisis: Crisis | None
    resources: str | None  # what to show before any answer, in a crisis
    urgency: int  # 0 none, 1 soon, 2 urgent, 3 emergency
    complexity: float
    emotion: Emotion
    candidates: tuple[Candidate, ...]
    weights: dict[str, float]
    follow_up: bool = False  # stayed with the previous domain for want of evidence
    method: str = KEYWORDS  # by what it was told what the message is about
    inside: float = 0.0  # probability that one of the domains is meant
    none: float | None = None  # log-odds of "none of these" by the encoder
    nearest: float | None = None  # cosine of the nearest text of any domain
    tie: float = 0.0  # log-odds that going on with the message before adds to its domain
    topic_changed: bool = False
    consensus: tuple[str, str] | None = None  # the two to be asked where the router is unsure, but not by much
    unavailable: Mapping[str, str] = field(default_factory=dict)  # domains that were no candidates, and why
    note: str = ""  # why it was decided in another way than was asked for
    crisis_method: str = GATE_BY_LETTERS  # by what the crisis gate read the message; by letters it finds far less

    @property
    def emotions(self) -> dict[str, float]:
        """The eight emotions, each in [0, 1]."""
        return self.emotion.values

    @property
    def intensity(self) -> float:
        """How strong the feeling is, in [0, 1], read from its wording and not measured; 0 where there is none."""
        return self.emotion.intensity


def rank(candidates: Collection[Candidate], weights: Mapping[str, float]) -> tuple[Candidate, ...]:
    """Candidates best first: those near the best in content, then by total, then by name.

    With a content weight of 0 content decides nothing, this gate included.
    """
    gate = weights["content"] > 0
    return tuple(sorted(candidates, key=lambda c: (gate and not c.near_best, -c.total, c.domain)))
