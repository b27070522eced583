"""The router: crisis gate first, then content, emotion, speed and quality weighed, then "unsure" where it is."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.routing import terms
from core.routing.blend import SIGNS, Reading, blend_from, domain_signs, read
from core.routing.content import ContentModel, Evidence
from core.routing.conversation import FOLLOWING_ON, NO_TIE, POINTING_BACK, Before, Tie, goes_on
from core.routing.crisis import FOLLOWING, Crisis, find_crisis, resources_for, safest_domain
from core.routing.crisis_model import CrisisVectors
from core.routing.data import TERMS, load_routing_data, validate
from core.routing.decision import (
    ENCODER,
    GATE_BY_ENCODER,
    GATE_BY_LETTERS,
    KEYWORDS,
    Candidate,
    Decision,
    rank,
)
from core.routing.emotion import Emotion, EmotionReader, read_emotion
from core.routing.past import Past, with_past
from core.routing.typos import Speller
from core.routing.vectors import Embedding
from core.routing.words import Word, normalise, split_words
from core.routing.written import Written

if TYPE_CHECKING:
    from core.routing.likeness import LikenessModel

KEYWORDS_COUNT = 0.78  # of `unsure_below`: what keywords alone are sure of is right more often than they say


class Router:
    """Routes messages among the domains of one set of routing data. Holds no state between messages."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self._content = ContentModel.from_data(data)
        self._settings = data["settings"]
        self._resources: dict[str, str] = data["resources"]
        entries = data["domains"]
        self.domains: tuple[str, ...] = tuple(self._content.domains)
        self._tiers = [(name, entries[name]["safety_tier"]) for name in self.domains]
        self._profiles = {name: entries[name]["emotional_profile"] for name in self.domains}
        self._measured = {name: entries[name]["measured"] for name in self.domains}
        self._habits = {name: entries[name]["habits"] for name in self.domains}
        self._likeness: LikenessModel | None = None
        self.speller = Speller(known_words(data))
        self.read_emotion: EmotionReader = read_emotion

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

    @property
    def encoder(self) -> str | None:
        """The identity of the encoder whose vectors the data holds; None without vectors."""
        return self._data["vectors"]["encoder"] if self._data["vectors"] is not None else None

    def with_data(self, data: dict[str, Any]) -> "Router":
        """A router for other data of the same domains, reading emotion as this one does."""
        other = Router(data)
        other.read_emotion = self.read_emotion
        return other

    def written(self, text: str) -> Written:
        """A message with what its words tell, for `route`."""
        return Written(text, self.speller, self._content)

    def readable(self, text: str) -> str:
        """A message as it is compared: in one Unicode form, misspelled words put right. What `embedding` is of."""
        return self.written(text).readable

    def warm(self) -> None:
        """Load now what the first message would wait for."""
        self.speller.warm()
        if self.encoder is not None:
            self._model()

    def _model(self) -> "LikenessModel":
        if self._likeness is None:
            from core.routing.prepare import model_of  # loads numpy: at the first vector, not before

            self._likeness = model_of(self._data)
            self._blend = blend_from(self._data["blend"], "routing data")
        return self._likeness

    def route(
        self,
        text: str | Written,
        previous_domain: str | None = None,
        resident: Collection[str] | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        past: Past | None = None,
        embedding: Embedding | None = None,
        before: Before | None = None,
        unavailable: Mapping[str, str] | None = None,
        crisis_vectors: CrisisVectors | None = None,
        crisis_before: Crisis | None = None,
    ) -> Decision:
        """Where `text` goes, or what `written` made of it. `previous_domain` answered the message `before`, and a short
        follow-up stays with it; `resident` names the domains whose base is loaded, None where that is not known;
        `weights` takes the place of the configured ones; `past` is what the person's earlier messages left, with its
        capped share in the emotion term; `embedding` is of `readable(text)`: without one, or with one of another
        encoder than the data's, keywords alone tell what it is about; `unavailable` gives domains that cannot answer
        now, each with the reason: they are no candidates; `crisis_vectors` are of `normalise(text)`, the plain one and
        that under the crisis gate's adapter, and without them far less is found; `crisis_before` is the crisis of the
        message before, which a short message goes on with. Same arguments, same decision; no text makes it raise."""
        written = self.written(text) if isinstance(text, str) else text
        found = find_crisis(written.crisis, crisis_vectors, crisis_before)
        # What reads emotion may remember what it read; of a crisis nothing is kept.
        emotion = (read_emotion if found else self.read_emotion)(written.plain, written.words, embedding)
        urgency, complexity = written.urgency, written.complexity
        weights = dict(weights) if weights is not None else self.weights
        gate = GATE_BY_ENCODER if crisis_vectors is not None else GATE_BY_LETTERS
        if found:
            how = FOLLOWING if found.matched == FOLLOWING else "crisis wording"
            return Decision(
                domain=safest_domain(found.kind, self._tiers),
                confidence=found.probability,
                unsure=False,
                reason=f"{how} ({found.kind}): the safest domain, by rule",
                crisis=found,
                resources=resources_for(found.kind, self._resources),
                urgency=urgency,
                complexity=complexity,
                emotion=emotion,
                candidates=(),
                weights=weights,
                crisis_method=gate,
            )
        words, evidence = written.readable_words, written.evidence
        previous = previous_domain if previous_domain in self.domains else None
        tie = goes_on(words, before, embedding) if previous is not None else NO_TIE
        subject = self._subject(evidence, embedding, words, complexity, urgency, previous, tie)
        gone = {name: why for name, why in (unavailable or {}).items() if name in self.domains}
        message = _Message(emotion, urgency, complexity, evidence, subject)
        made = self._weigh(message, weights, resident, past)
        candidates = rank([one for one in made if one.domain not in gone], weights)
        domain, confidence, reason, follow_up = self._decide(words, message, candidates, previous)
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
            method=subject.method,
            inside=subject.inside,
            none=subject.none,
            nearest=subject.nearest,
            tie=round(tie.domain, 4) if subject.reading is not None else 0.0,  # words are not weighed with it
            topic_changed=previous is not None and domain is not None and domain != previous,
            consensus=self._torn(subject, domain, confidence, candidates),
            unavailable=gone,
            crisis_method=gate,
        )

    def _subject(
        self,
        evidence: Evidence,
        embedding: Embedding | None,
        words: list[Word],
        complexity: float,
        urgency: int,
        previous: str | None,
        tie: Tie,
    ) -> "_Subject":
        """What the message is about, by the encoder's vectors where there are any, else by its words."""
        if embedding is None or embedding.encoder != self.encoder or not words:
            found = self._content.probabilities(evidence)
            return _Subject(KEYWORDS, found, dict.fromkeys(found, 0.0), math.fsum(found.values()))
        model = self._model()
        likeness = model.compare(embedding.vector)
        signs = domain_signs(likeness, model.names, evidence.keywords, self._habits, complexity, urgency)
        against = likeness.none_signs()
        alone = read(self._blend, signs, against)
        reading = alone
        if previous is not None:
            reading = read(self._blend, signs, against, previous, tie)
        return _Subject(
            ENCODER,
            reading.probabilities,
            reading.scores,
            reading.inside,
            reading.none,
            likeness.best,
            reading,
            alone,
            {name: dict(zip(SIGNS, values, strict=True)) for name, values in signs.items()},
        )

    def _weigh(
        self,
        message: "_Message",
        weights: Mapping[str, float],
        resident: Collection[str] | None,
        past: Past | None,
    ) -> list[Candidate]:
        subject, evidence = message.subject, message.evidence
        content = subject.content
        feeling = with_past(terms.emotion_terms(message.emotion, self._profiles), past, self._profiles)
        speed, no_speed = terms.speed_terms(
            self._measured,
            answer_tokens=self._settings["answer_tokens"],
            # Whoever prefers speed is in a hurry.
            urgency=max(message.urgency, 2 if weights["speed"] > self._settings["weights"]["speed"] else 0),
            complexity=message.complexity,
            resident=resident,
        )
        quality, no_quality = terms.quality_terms(self._measured)
        least = self._settings["near_best"] * max(content.values())
        of_terms = [weights[name] for name in TERMS]
        made: list[Candidate] = []
        for name in self.domains:
            notes = [terms.SPEED_NOT_MEASURED] if name in no_speed else []
            notes += [terms.QUALITY_NOT_MEASURED] if name in no_quality else []
            four = content[name], feeling[name], speed[name], quality[name]
            made.append(
                Candidate(
                    name,
                    **dict(zip(TERMS, four, strict=True)),
                    total=math.fsum(map(mul, of_terms, four)),
                    near_best=content[name] >= least,
                    notes=tuple(notes),
                    matched=evidence.matched[name],
                    score=subject.scores[name],
                    signs=subject.signs.get(name, {}),
                )
            )
        return made

    def _decide(
        self, words: list[Word], message: "_Message", candidates: tuple[Candidate, ...], previous: str | None
    ) -> tuple[str | None, float, str, bool]:
        """Who answers, how sure that is, why, and whether it is for the domain before."""
        if not candidates:
            return None, 0.0, "no domain can answer now", False
        best, subject = candidates[0], message.subject
        if not words:
            return None, best.content, "no words to go by", False
        if subject.reading is None:
            return self._decide_by_words(words, message.evidence, candidates, previous)
        confidence = _confidence(subject.reading, candidates)
        sure = confidence >= self._settings["unsure_below"]
        if sure and best.domain == previous and subject.alone is not None:
            alone = subject.alone
            own = max(alone.probabilities, key=lambda name: (alone.probabilities[name], name))
            if own != previous or alone.confidence(previous) < self._settings["unsure_below"]:
                return previous, confidence, "a short follow-up: stays with the previous domain", True
        seen = ", ".join(best.matched[:3])
        if sure:
            return best.domain, confidence, f"speaks of {seen}" if seen else f"like what {best.domain} is asked", False
        if subject.inside < 0.5:
            return None, confidence, f"nearer to other subjects; of the domains {best.domain} is nearest", False
        second = next((c for c in candidates[1:] if c.content >= 0.5 * best.content), None)
        if second is not None:
            return None, confidence, f"between {best.domain} and {second.domain}", False
        return None, confidence, f"too little to go by; nearest is {best.domain}", False

    def _decide_by_words(
        self, words: list[Word], evidence: Evidence, candidates: tuple[Candidate, ...], previous: str | None
    ) -> tuple[str | None, float, str, bool]:
        best = candidates[0]
        confidence = best.content
        if max(evidence.scores.values()) > 0 and confidence >= self._least(by_words=True):
            seen = ", ".join(best.matched[:3])
            return best.domain, confidence, f"speaks of {seen}", False
        stayed = next((candidate for candidate in candidates if candidate.domain == previous), None)
        if stayed is not None and _follows_on(words, evidence):
            return previous, stayed.content, "a short follow-up: stays with the previous domain", True
        if max(evidence.scores.values()) <= 0:
            return None, confidence, "no word of any domain in it", False
        second = next((c for c in candidates[1:] if c.content >= 0.5 * best.content), None)
        if second is not None:
            return None, confidence, f"between {best.domain} and {second.domain}", False
        return None, confidence, f"too little to go by; nearest is {best.domain}", False

    def _least(self, *, by_words: bool) -> float:
        """The confidence from which the router is sure."""
        least = float(self._settings["unsure_below"])
        return KEYWORDS_COUNT * least if by_words else least

    def _torn(
        self, subject: "_Subject", domain: str | None, confidence: float, candidates: tuple[Candidate, ...]
    ) -> tuple[str, str] | None:
        """The two best domains where the router is unsure, but not by much, and both are near what the message is
        about."""
        if domain is not None or len(candidates) < 2 or not candidates[1].near_best:
            return None
        least = self._least(by_words=subject.reading is None)
        if not least - self._settings["consensus_band"] <= confidence < least:
            return None
        if subject.reading is None and not any(one.matched for one in candidates):
            return None  # no word of any domain is in it
        return candidates[0].domain, candidates[1].domain


@dataclass(frozen=True)
class _Subject:
    """What a message is about. `reading` and `alone` (without the conversation) are the encoder's, with `signs`."""

    method: str
    content: dict[str, float]
    scores: dict[str, float]
    inside: float
    none: float | None = None
    nearest: float | None = None
    reading: Reading | None = None
    alone: Reading | None = None
    signs: Mapping[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Message:
    """What was read in a message."""

    emotion: Emotion
    urgency: int
    complexity: float
    evidence: Evidence
    subject: _Subject


def _confidence(reading: Reading, candidates: Sequence[Candidate]) -> float:
    """In the first candidate: as one that is near the likeliest domain, where that could answer and was put second."""
    best = candidates[0]
    likeliest = max(reading.probabilities, key=lambda name: (reading.probabilities[name], name))
    near = best.near_best and any(one.domain == likeliest for one in candidates)
    return reading.can_answer(best.domain) if near else reading.confidence(best.domain)


def known_words(data: Mapping[str, Any]) -> set[str]:
    """The words of the domains' texts, which are known however rare they are."""
    texts = [
        text
        for entry in data["domains"].values()
        for text in (entry["title"], entry["about"], *entry["said"], *entry["topics"])
    ]
    return {word.text for text in texts for word in split_words(normalise(text))}


def _follows_on(words: list[Word], evidence: Evidence) -> bool:
    """Whether a message without clear evidence reads as going on with the conversation."""
    points = words[0].text in FOLLOWING_ON or any(word.text in POINTING_BACK for word in words)
    if points:
        return evidence.content_words <= 4 and evidence.unknown_words <= 2
    return evidence.content_words <= 3 and evidence.unknown_words == 0
