"""From signs to probabilities: likeness by an encoder, keywords, complexity and urgency as one score a domain.

The score of a domain is a weighted sum of its signs (a conditional logit: the weights are the same for every domain, so
they hold for sets they were not fitted on); the probabilities are a softmax over the domains and one more, "none of
these", whose score comes from how near the nearest texts are, of the domains and of those outside. Plain Python.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InvalidInput
from core.routing.conversation import NO_TIE, Tie

if TYPE_CHECKING:
    from core.routing.likeness import Likeness

FILE = Path(__file__).with_name("blend.json")
LIKENESS = ("centre", "nearest", "about", "topic", "topics", "subject")
SIGNS = (*LIKENESS, "words", "complexity", "urgency")
NONE_SIGNS = ("bias", "outside", "outsides", "best", "general", "size")
SHARE_COUNTS = 0.4  # in confidence, log-odds of the domain among the others beside those of that any of them is meant
MOST_WORDS = 8.0  # log-odds of keywords counted: two keywords of the domain alone
COMPLEXITY_WIDTH = 0.2  # a message so much more or less complex than usual for a domain is a full sign against it


@dataclass(frozen=True)
class Blend:
    """Weights by sign, and two curves on log-odds, each an intercept, a slope and what the logarithm of the number of
    domains counts: `inside` for that any of the domains is meant, `right` for that the best of them is right. `encoder`
    is the identity it was fitted with."""

    weights: Mapping[str, float]
    none: Mapping[str, float]
    right: tuple[float, float, float]
    inside: tuple[float, float, float]
    encoder: str
    method: str
    n: int
    accuracy: float | None  # share of the fitted rows whose right domain came first, each left out in turn

    def as_dict(self) -> dict[str, Any]:
        """As JSON data; `blend_from` reads it."""
        return asdict(self)


@dataclass(frozen=True)
class Reading:
    """What a message seems to be about. `scores` are log-odds against nothing, `none` that of "none of these"."""

    scores: dict[str, float]
    none: float
    probabilities: dict[str, float]  # by domain; the rest to 1 is "none of these"
    inside: float  # calibrated probability that one of the domains is meant
    odds: float  # log-odds of that before calibration
    blend: Blend

    def confidence(self, domain: str) -> float:
        """Calibrated probability that `domain` is right. That of the likeliest one comes from the odds that any of the
        domains is meant, and from its own among them, which count less: which of two near domains answers matters less
        than whether either can. What is left of `inside` is shared among the others as they are likely."""
        among = math.fsum(self.probabilities.values())
        likeliest = max(self.probabilities, key=lambda name: (self.probabilities[name], name))
        highest = self.probabilities[likeliest] / among if among > 0 else 1 / len(self.probabilities)
        curved = _curve(self.blend.right, self.odds + SHARE_COUNTS * log_odds(highest), len(self.probabilities))
        first = min(self.inside, curved)
        if domain == likeliest:
            return first
        rest = among - self.probabilities[likeliest]
        return min(first, (self.inside - first) * self.probabilities[domain] / rest) if rest > 0 else 0.0

    def can_answer(self, domain: str) -> float:
        """How sure it is that `domain` can answer, where other terms than what a message is about put it first: the
        confidence in the likeliest one, as much less as it is less likely. The likeliest one has its own."""
        likeliest = max(self.probabilities, key=lambda name: (self.probabilities[name], name))
        most = self.probabilities[likeliest]
        return self.confidence(likeliest) * (self.probabilities[domain] / most if most > 0 else 1.0)


def read(
    blend: Blend,
    signs: Mapping[str, Sequence[float]],
    against: Sequence[float],
    previous: str | None = None,
    tie: Tie = NO_TIE,
) -> Reading:
    """The reading of a message: `signs` by domain in the order of SIGNS, `against` in that of NONE_SIGNS. `tie` is
    what the conversation says for the domain `previous` and against "none of these"."""
    factors = [blend.weights[name] for name in SIGNS]
    scores = {
        name: math.fsum(map(mul, factors, values)) + (tie.domain if name == previous else 0.0)
        for name, values in signs.items()
    }
    none = math.fsum(blend.none[name] * value for name, value in zip(NONE_SIGNS, against, strict=True))
    none -= tie.none
    top = max(none, *scores.values())
    total = math.fsum(math.exp(score - top) for score in scores.values()) + math.exp(none - top)
    found = {name: math.exp(score - top) / total for name, score in scores.items()}
    odds = -log_odds(math.exp(none - top) / total)
    return Reading(scores, none, found, _curve(blend.inside, odds, len(scores)), odds, blend)


def domain_signs(
    likeness: "Likeness",
    names: Sequence[str],
    words: Mapping[str, float],
    habits: Mapping[str, Mapping[str, float]],
    complexity: float,
    urgency: int,
) -> dict[str, list[float]]:
    """The signs of each domain, in the order of SIGNS. `words` are the keywords' log-odds, `habits` what is usual."""
    rows = likeness.signs().tolist()
    return {
        name: [
            *rows[at],
            min(MOST_WORDS, words[name]),
            complexity_sign(complexity, habits[name]["complexity"]),
            urgency_sign(urgency, habits[name]["urgent"]),
        ]
        for at, name in enumerate(names)
    }


def complexity_sign(complexity: float, usual: float) -> float:
    """How well a message's complexity fits what is usual for a domain, from -1 to 0."""
    return -min(1.0, abs(complexity - usual) / COMPLEXITY_WIDTH)


def urgency_sign(urgency: int, usual: float) -> float:
    """The share of a domain's messages that are urgent, for an urgent message; 0 for others."""
    return usual if urgency >= 2 else 0.0


def log_odds(share: float) -> float:
    """The logarithm of a share over the rest of it, of shares from 1e-9 to 1 - 1e-9."""
    held = min(1 - 1e-9, max(1e-9, share))
    return math.log(held / (1 - held))


def _curve(coefficients: tuple[float, float, float], value: float, domains: int) -> float:
    exponent = coefficients[0] + coefficients[1] * value + coefficients[2] * math.log(domains)
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, exponent))))


@cache
def shipped_blend() -> Blend:
    """The weights TARA ships, made by `benchmarks/fit_router.py`."""
    return blend_from(json.loads(FILE.read_text("utf-8")), str(FILE))


def blend_from(data: Any, source: str) -> Blend:
    """A blend from JSON data. Raises InvalidInput naming the source and the key."""

    def fail(key: str) -> None:
        raise InvalidInput(f"{source}: {key} cannot be used", "package the phase again, or restore the file")

    if not isinstance(data, dict):
        fail("blend")
    for table, names in (("weights", SIGNS), ("none", NONE_SIGNS)):
        values = data.get(table)
        if not isinstance(values, dict) or any(not _number(values.get(name)) for name in names):
            fail(f"blend.{table}")
    for curve in ("right", "inside"):
        pair = data.get(curve)
        if not isinstance(pair, list | tuple) or len(pair) != 3 or not all(map(_number, pair)):
            fail(f"blend.{curve}")
    accuracy = data.get("accuracy")
    return Blend(
        {name: float(data["weights"][name]) for name in SIGNS},
        {name: float(data["none"][name]) for name in NONE_SIGNS},
        (float(data["right"][0]), float(data["right"][1]), float(data["right"][2])),
        (float(data["inside"][0]), float(data["inside"][1]), float(data["inside"][2])),
        str(data.get("encoder", "")),
        str(data.get("method", "")),
        int(data["n"]) if _number(data.get("n")) else 0,
        float(accuracy) if _number(accuracy) else None,
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
