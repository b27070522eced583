"""What a message is about: evidence for each domain from its words, as probabilities with a "none of these".

The evidence of a domain is the sum of what the message's words say for it: configured keywords and phrases (found as
whole words), and weighted terms from the domain's own training prompts and description. The probabilities are a
softmax over the domains and one more, "none", which grows with the words no domain knows. Without any evidence all
domains are equal, and "none" is ahead.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from core.routing.words import STOPWORDS, Word, content_stems, stem

KEYWORD_WEIGHT = 4.0  # log-odds one configured keyword stands for; shared keywords are split among their domains
MOST_KEYWORDS = 4  # keywords of one domain counted in one message
MOST_UNKNOWN = 8  # unknown words counted in one message


def features(words: list[Word]) -> list[str]:
    """The terms of a message: stems of its content words, and pairs of neighbouring words of which one is content."""
    stems = [(stem(word.text), word.text in STOPWORDS) for word in words]
    pairs = [f"{a} {b}" for (a, stop_a), (b, stop_b) in pairwise(stems) if not (stop_a and stop_b)]
    return list(dict.fromkeys(content_stems(words) + pairs))


@dataclass(frozen=True)
class Evidence:
    """What a message's words say. `scores` are log-odds by domain, not below 0."""

    scores: dict[str, float]
    keywords: dict[str, float]  # by domain, what its configured keywords alone say
    matched: dict[str, tuple[str, ...]]  # by domain, the keywords and terms that counted as written, heaviest first
    content_words: int
    unknown_words: int  # content words that no domain knows


@dataclass(frozen=True)
class Calibration:
    """How log-odds become probabilities; fitted by `core.routing.fit`."""

    temperature: float = 2.0
    none_bias: float = 2.0
    none_per_unknown: float = 0.5


class ContentModel:
    """The terms and keywords of a set of domains, with the calibration of their scores."""

    def __init__(
        self,
        terms: Mapping[str, Mapping[str, float]],
        keywords: Mapping[str, list[tuple[str, ...]]],
        calibration: Calibration,
    ) -> None:
        self.domains = sorted(terms)
        self.calibration = calibration
        owners: dict[tuple[str, ...], list[str]] = {}
        for name in self.domains:
            for phrase in dict.fromkeys(keywords.get(name, ())):
                owners.setdefault(phrase, []).append(name)
        # Looked up by term and by a phrase's first word: a message holds few of either, the domains together thousands.
        self._terms: dict[str, list[tuple[str, float]]] = {}
        for name in self.domains:
            for term, weight in terms[name].items():
                self._terms.setdefault(term, []).append((name, weight))
        self._phrases: dict[str, list[tuple[tuple[str, ...], float, list[str]]]] = {}
        for phrase, names in owners.items():
            if phrase:
                self._phrases.setdefault(phrase[0], []).append((phrase, KEYWORD_WEIGHT / len(names), names))
        self._known = {*self._terms, *(word for phrase in owners for word in phrase)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "ContentModel":
        """The model in routing data that `data.validate` has passed."""
        domains = data["domains"]
        terms = {name: entry["terms"] for name, entry in domains.items()}
        keywords = {name: [tuple(phrase.split()) for phrase in entry["keywords"]] for name, entry in domains.items()}
        fitted = data["calibration"]
        return cls(
            terms,
            keywords,
            Calibration(fitted["temperature"], fitted["none_bias"], fitted["none_per_unknown"]),
        )

    def evidence(self, words: list[Word]) -> Evidence:
        """What the words of a message say for each domain."""
        found = features(words)
        hits: dict[str, dict[str, float]] = {name: {} for name in self.domains}
        for term in found:
            for name, weight in self._terms.get(term, ()):
                hits[name][term] = weight
        phrases = self._phrases_in([stem(word.text) for word in words])
        keywords = dict.fromkeys(self.domains, 0.0)
        for name, held in phrases.items():
            # "my team" is one piece of evidence, not two: a keyword inside a longer one that matched says nothing more.
            longest = [one for one in held if not any(one != other and f" {one} " in f" {other} " for other in held)]
            for phrase in sorted(longest, key=lambda one: (-held[one], one))[:MOST_KEYWORDS]:
                hits[name][phrase] = max(hits[name].get(phrase, 0.0), held[phrase])
                keywords[name] += held[phrase]
        scores = {name: math.fsum(own.values()) for name, own in hits.items()}
        first = {stem(word.text): word.text for word in reversed(words)}
        written = {
            term: " ".join([first.get(part, part) for part in term.split()]) for term in {*chain(*hits.values())}
        }
        matched = {
            name: tuple([written[term] for _, term in sorted([(-weight, term) for term, weight in own.items()])])
            for name, own in hits.items()
        }
        single = [term for term in found if " " not in term]
        unknown = sum(term not in self._known for term in single)
        return Evidence(scores, keywords, matched, len(single), unknown)

    def _phrases_in(self, stems: list[str]) -> dict[str, dict[str, float]]:
        """The keywords a message holds as runs of whole words, by domain, each with its weight."""
        held: dict[str, dict[str, float]] = {}
        for at, first in enumerate(stems):
            for phrase, weight, names in self._phrases.get(first, ()):
                if tuple(stems[at : at + len(phrase)]) == phrase:
                    for name in names:
                        held.setdefault(name, {})[" ".join(phrase)] = weight
        return held

    def probabilities(self, evidence: Evidence) -> dict[str, float]:
        """P(domain) for each domain; they sum to less than 1, the rest being "none of these"."""
        return probabilities(evidence.scores, evidence.unknown_words, self.calibration)


def probabilities(scores: Mapping[str, float], unknown: int, calibration: Calibration) -> dict[str, float]:
    """Softmax of `scores` and of "none" with `unknown` unknown words, "none" left out of the answer."""
    logits = {name: score / calibration.temperature for name, score in scores.items()}
    none = calibration.none_bias + calibration.none_per_unknown * min(unknown, MOST_UNKNOWN)
    top = max([none, *logits.values()])
    total = math.fsum(math.exp(value - top) for value in logits.values()) + math.exp(none - top)
    return {name: math.exp(value - top) / total for name, value in logits.items()}
