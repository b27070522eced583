"""What a person's earlier messages say of the next one: feelings that fade, domains that were asked. Pure.

The influence is capped: of the emotion term at most MOST_INFLUENCE comes from here, so that history can decide between
domains that are near each other and never outvotes the message.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from core.routing.emotion import suits
from core.routing.lexicon import EMOTIONS

MOST_INFLUENCE = 0.3
HALF_LIFE_S = 2 * 86_400.0
ENOUGH = 5.0  # decayed questions after which the share of domains counts for half of what it can
STEP = 0.05  # to which a past is rounded, so that decisions can be remembered
_PAIRS = (("joy", "sadness"), ("trust", "disgust"), ("fear", "anger"), ("surprise", "anticipation"))
OPPOSITE = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}


class Moment(NamedTuple):
    """One message: when (seconds since the epoch), who answered, and the eight emotions read in it, 0..1."""

    at: float
    domain: str | None
    emotions: Mapping[str, float]


@dataclass(frozen=True)
class Past:
    """`emotions` are the eight as they stand now, 0..1; `domains` the questions each domain answered, old ones counting
    less. An empty one has no influence."""

    emotions: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(EMOTIONS, 0.0))
    domains: Mapping[str, float] = field(default_factory=dict)

    @property
    def mood(self) -> float:
        """How strong the feelings are that are left: the strongest one's value."""
        return max(self.emotions.values(), default=0.0)

    @property
    def habit(self) -> float:
        """How much there is to go by in the domains asked, 0..1: half at ENOUGH questions."""
        count = sum(self.domains.values())
        return count / (count + ENOUGH)

    @property
    def weight(self) -> float:
        """The share of the emotion term that comes from here, at most MOST_INFLUENCE."""
        return MOST_INFLUENCE * max(self.mood, self.habit)

    def rounded(self) -> "Past":
        """The same in steps of STEP: what is decided by it is decided by everything that rounds to it."""
        return Past(
            {name: round(round(value / STEP) * STEP, 2) for name, value in self.emotions.items()},
            {name: float(round(count)) for name, count in sorted(self.domains.items()) if round(count)},
        )

    def key(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """It as something to look up by."""
        return tuple(self.emotions.items()), tuple(self.domains.items())


def felt(before: Mapping[str, float], reading: Mapping[str, float]) -> dict[str, float]:
    """The eight emotions after one more message: what is read in it is added, saturating at 1, and takes the same share
    off its opposite (joy and sadness, trust and disgust, fear and anger, surprise and anticipation)."""
    left = {name: before.get(name, 0.0) * (1 - reading.get(OPPOSITE[name], 0.0)) for name in EMOTIONS}
    return {name: left[name] + reading.get(name, 0.0) * (1 - left[name]) for name in EMOTIONS}


def faded(past: Past, seconds: float, half_life_s: float = HALF_LIFE_S) -> Past:
    """What is left of a past so many seconds later; a clock that was set back takes nothing away."""
    kept = 0.5 ** (max(0.0, seconds) / half_life_s)
    return Past(
        {name: value * kept for name, value in past.emotions.items()},
        {name: count * kept for name, count in past.domains.items()},
    )


def with_moment(past: Past, moment: Moment) -> Past:
    """A past, as it stands at the moment, with the moment in it."""
    domains = dict(past.domains)
    if moment.domain is not None:
        domains[moment.domain] = domains.get(moment.domain, 0.0) + 1
    return Past(felt(past.emotions, moment.emotions), domains)


def past_of(moments: Iterable[Moment], now: float, half_life_s: float = HALF_LIFE_S) -> Past:
    """What is left at `now` of messages in the order of time; each counts half after `half_life_s` seconds."""
    past, since = Past(), now
    for moment in moments:
        past, since = with_moment(faded(past, moment.at - since, half_life_s), moment), moment.at
    return faded(past, now - since, half_life_s)


def past_term(past: Past, profile: Mapping[str, float], domain: str) -> float:
    """How well a domain fits the past, 0..1: the fit of its profile with the feelings that are left, and how often it
    was asked beside the one asked most, each moved from 0.5 as far as there is something to go by."""
    fits = 0.5 + past.mood * (suits(past.emotions, profile) - 0.5)
    most = max(past.domains.values(), default=0.0)
    asked = 0.5 + past.habit * (past.domains.get(domain, 0.0) / most - 0.5) if most else 0.5
    return (fits + asked) / 2


def with_past(
    terms: Mapping[str, float], past: Past | None, profiles: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """The emotion terms of all domains with the past's share in them; unchanged where there is no past."""
    if past is None or past.weight == 0:
        return dict(terms)
    share = past.weight
    return {name: (1 - share) * term + share * past_term(past, profiles[name], name) for name, term in terms.items()}
