"""The router: crisis gate first, then content, emotion, speed and quality weighed, then "unsure" where it is."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.routing import terms
from core.routing.complexity import complexity_of
from core.routing.content import ContentModel, Evidence
from core.routing.crisis import Crisis, find_crisis, safest_domain
from core.routing.data import TERMS, load_routing_data, validate
from core.routing.emotion import Emotion, read_emotion
from core.routing.past import Past, with_past
from core.routing.urgency import urgency_of
from core.routing.words import Word, listed, normalise, split_words

_POINTING_BACK = listed("it that this those these he she they them his her their him one ones same else")
_FOLLOWING_ON = listed("and but so also then why ok okay yes no yeah thanks thank what how more")


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

    def recompute(self, weights: Mapping[str, float]) -> float:
        """The total again from the terms."""
        return math.fsum(weights[name] * getattr(self, name) for name in TERMS)


@dataclass(frozen=True)
class Decision:
    """Where a message goes, and why.

    `domain` None means: the base model without an adapter. `confidence` is the probability of the chosen domain, or
    of the best one when unsure; 1.0 for a crisis, which is decided by a rule. `candidates` are ordered best first, and
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

    @property
    def emotions(self) -> dict[str, float]:
        """The eight emotions, each in [0, 1]."""
        return self.emotion.values

    @property
    def intensity(self) -> float:
        """The strongest emotion's value."""
        return self.emotion.intensity


def rank(candidates: Collection[Candidate], weights: Mapping[str, float]) -> tuple[Candidate, ...]:
    """Candidates best first: those near the best in content, then by total, then by name.

    With a content weight of 0 content decides nothing, this gate included.
    """
    gate = weights["content"] > 0
    return tuple(sorted(candidates, key=lambda c: (gate and not c.near_best, -c.total, c.domain)))


class Router:
    """Routes messages among the domains of one set of routing data. Holds no state between messages."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._content = ContentModel.from_data(data)
        self._settings = data["settings"]
        self._resources: dict[str, str] = data["resources"]
        entries = data["domains"]
        self.domains: tuple[str, ...] = tuple(self._content.domains)
        self._tiers = [(name, entries[name]["safety_tier"]) for name in self.domains]
        self._profiles = {name: entries[name]["emotional_profile"] for name in self.domains}
        self._measured = {name: entries[name]["measured"] for name in self.domains}
        self.read_emotion: Callable[[str, list[Word]], Emotion] = read_emotion
        self.emotion_method = "word list"

    @classmethod
    def from_data(cls, data: dict[str, Any], source: str = "routing data") -> "Router":
        """A router from routing data; InvalidInput names `source` and the key that cannot be used."""
        return cls(validate(data, source))

    @classmethod
    def load(cls, path: Path) -> "Router":
        """A router from a `routing.json`."""
        return cls(load_routing_data(path))

    @property
    def weights(self) -> dict[str, float]:
        """The configured weights of the four terms."""
        return {name: float(self._settings["weights"][name]) for name in TERMS}

    def route(
        self,
        text: str,
        previous_domain: str | None = None,
        resident: Collection[str] | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        past: Past | None = None,
    ) -> Decision:
        """Where `text` goes. `previous_domain` lets a short follow-up stay; `resident` names the domains whose base is
        loaded, None where that is not known; `weights` takes the place of the configured ones; `past` is what the
        person's earlier messages left, with its capped share in the emotion term. Same arguments, same decision; no
        text makes it raise."""
        plain = normalise(text)
        words = split_words(plain)
        emotion = self.read_emotion(plain, words)
        urgency, complexity = urgency_of(plain), complexity_of(plain, words)
        weights = dict(weights) if weights is not None else self.weights
        if found := find_crisis(plain):
            return Decision(
                domain=safest_domain(found.kind, self._tiers),
                confidence=1.0,
                unsure=False,
                reason=f"crisis wording ({found.kind}): the safest domain, by rule",
                crisis=found,
                resources=self._resources[found.kind],
                urgency=urgency,
                complexity=complexity,
                emotion=emotion,
                candidates=(),
                weights=weights,
            )
        evidence = self._content.evidence(words)
        candidates = rank(self._weigh(evidence, emotion, urgency, complexity, weights, resident, past), weights)
        domain, confidence, reason, follow_up = self._decide(words, evidence, candidates, previous_domain)
        return Decision(
            domain=domain,
            confidence=confidence,
            unsure=domain is None,
            reason=reason,
            crisis=None,
            resources=None,
            urgency=urgency,
            complexity=complexity,
            emotion=emotion,
            candidates=candidates,
            weights=weights,
            follow_up=follow_up,
        )

    def _weigh(
        self,
        evidence: Evidence,
        emotion: Emotion,
        urgency: int,
        complexity: float,
        weights: Mapping[str, float],
        resident: Collection[str] | None,
        past: Past | None,
    ) -> list[Candidate]:
        content = self._content.probabilities(evidence)
        feeling = with_past(terms.emotion_terms(emotion, self._profiles), past, self._profiles)
        speed, no_speed = terms.speed_terms(
            self._measured,
            answer_tokens=self._settings["answer_tokens"],
            urgency=urgency,
            complexity=complexity,
            resident=resident,
        )
        quality, no_quality = terms.quality_terms(self._measured)
        least = self._settings["near_best"] * max(content.values())
        made: list[Candidate] = []
        for name in self.domains:
            notes = [terms.SPEED_NOT_MEASURED] if name in no_speed else []
            notes += [terms.QUALITY_NOT_MEASURED] if name in no_quality else []
            four = {"content": content[name], "emotion": feeling[name], "speed": speed[name], "quality": quality[name]}
            total = math.fsum(weights[key] * four[key] for key in TERMS)
            near = content[name] >= least
            made.append(
                Candidate(name, **four, total=total, near_best=near, notes=tuple(notes), matched=evidence.matched[name])
            )
        return made

    def _decide(
        self, words: list[Word], evidence: Evidence, candidates: tuple[Candidate, ...], previous: str | None
    ) -> tuple[str | None, float, str, bool]:
        best = candidates[0]
        confidence = best.content
        if not words:
            return None, confidence, "no words to go by", False
        if max(evidence.scores.values()) > 0 and confidence >= self._settings["unsure_below"]:
            seen = ", ".join(best.matched[:3])
            return best.domain, confidence, f"speaks of {seen}", False
        if previous in self.domains and _follows_on(words, evidence):
            stayed = next(candidate for candidate in candidates if candidate.domain == previous)
            return previous, stayed.content, "a short follow-up: stays with the previous domain", True
        if max(evidence.scores.values()) <= 0:
            return None, confidence, "no word of any domain in it", False
        second = next((c for c in candidates[1:] if c.content >= 0.5 * best.content), None)
        if second is not None:
            return None, confidence, f"between {best.domain} and {second.domain}", False
        return None, confidence, f"too little to go by; nearest is {best.domain}", False


def _follows_on(words: list[Word], evidence: Evidence) -> bool:
    """Whether a message without clear evidence reads as going on with the conversation."""
    points = words[0].text in _FOLLOWING_ON or any(word.text in _POINTING_BACK for word in words)
    if points:
        return evidence.content_words <= 4 and evidence.unknown_words <= 2
    return evidence.content_words <= 3 and evidence.unknown_words == 0
