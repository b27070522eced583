"""The emotion of a message in eight values, from a word list: a fallback whose confidence is always low.

Word lists find emotion in well under half of the messages that hold it, so a reading of "neutral" means "nothing was
found", and no reading is trusted above `LOW_CONFIDENCE`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from core.routing import lexicon
from core.routing.lexicon import EMOTIONS
from core.routing.words import Word

LOW_CONFIDENCE = 0.5  # the most a word list is trusted
NEUTRAL_BELOW = 0.15
NEGATION_WINDOW = 3  # words before, within the clause
_PERSONAL = frozenset(("i", "i'm", "i've", "my", "me", "we", "our"))
_MIXED_SHARE = 0.6  # a second emotion this near to the first makes the feeling mixed
_SAD_FROM_NO_JOY = 0.6  # "not happy" says some sadness; "not angry" says nothing else


def _build() -> dict[str, list[tuple[tuple[str, ...], str, float]]]:
    """First word of each entry → its words, emotion and strength, longest first."""
    table: dict[str, list[tuple[tuple[str, ...], str, float]]] = {}
    for emotion, tiers in lexicon.WORDS.items():
        for strength, tier in zip(lexicon.STRENGTHS, tiers, strict=True):
            for entry in tier.split():
                words = tuple(entry.split("_"))
                table.setdefault(words[0], []).append((words, emotion, strength))
    for entries in table.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return table


_TABLE = _build()


@dataclass(frozen=True)
class Emotion:
    """A reading. `values` holds the eight emotions in [0, 1], each by itself (they need not sum to 1)."""

    values: dict[str, float]
    intensity: float  # the largest value
    confidence: float  # of the reading; at most LOW_CONFIDENCE for the word list
    method: str = "word list"

    @property
    def neutral(self) -> bool:
        """Whether nothing worth naming was found."""
        return self.intensity < NEUTRAL_BELOW

    @property
    def dominant(self) -> str | None:
        """The strongest emotion, None for a neutral message. Equal ones: the first in the order of EMOTIONS."""
        return None if self.neutral else max(EMOTIONS, key=lambda name: self.values[name])

    @property
    def mixed(self) -> tuple[str, ...]:
        """The emotions of a mixed feeling, strongest first; empty where there is one or none."""
        named = [n for n in EMOTIONS if self.values[n] >= max(NEUTRAL_BELOW, _MIXED_SHARE * self.intensity)]
        return tuple(sorted(named, key=lambda name: -self.values[name])) if len(named) > 1 else ()


def _emphasis(words: list[Word], at: int) -> tuple[bool, float]:
    """Whether the word at `at` is negated, and the factor of the boosters and dampeners before it in its clause."""
    before = [w.text for w in words[max(0, at - NEGATION_WINDOW) : at] if w.clause == words[at].clause]
    factor = 1.0
    for word in before:
        factor *= lexicon.BOOSTERS.get(word, 1.0) * lexicon.DAMPENERS.get(word, 1.0)
    # "so" and "very" behind a negation weaken what the negation leaves; they never un-negate it.
    return any(word in lexicon.NEGATORS for word in before), factor


def read_emotion(text: str, words: list[Word]) -> Emotion:
    """The emotion of a message: `text` from `words.normalise`, `words` from `words.split_words`.

    Entries of the word list count with their strength, raised by boosters, capitals and exclamation marks, lowered by
    dampeners, and dropped where a negation stands up to three words before them in the same clause.
    """
    left = dict.fromkeys(EMOTIONS, 1.0)  # product of (1 - strength): what is left of neutral
    shouting = bool(words) and sum(word.capitals for word in words) > len(words) / 2
    marks = 1 + 0.1 * min(3, text.count("!"))
    hits, signs = 0, False
    at = 0
    while at < len(words):
        found = [e for e in _TABLE.get(words[at].text, ()) if tuple(w.text for w in words[at : at + len(e[0])]) == e[0]]
        size = len(found[0][0]) if found else 1
        negated, factor = _emphasis(words, at)
        if words[at].capitals and not shouting:
            factor *= 1.25
        for entry, emotion, strength in found:
            if len(entry) < size:
                continue
            felt = min(0.97, strength * factor * marks)
            if not negated:
                left[emotion] *= 1 - felt
                hits += 1
            elif emotion == "joy":
                left["sadness"] *= 1 - felt * _SAD_FROM_NO_JOY
                hits += 1
        at += size
    for sign, (emotion, strength) in lexicon.SIGNS.items():
        if sign in text:
            left[emotion] *= 1 - strength
            signs = True
            hits += 1
    values = {name: round(1 - left[name], 4) for name in EMOTIONS}
    personal = signs or any(word.text in _PERSONAL for word in words)
    # A word of feeling is the person's own more often where they speak of themselves.
    confidence = (0.4 if hits == 1 else LOW_CONFIDENCE) if personal else 0.2
    return Emotion(values, max(values.values()), confidence if hits else 0.0)


def similarity(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Cosine of two emotion vectors, in [0, 1]; 0 where either is empty."""
    dot = sum(first.get(name, 0.0) * second.get(name, 0.0) for name in EMOTIONS)
    norms = math.hypot(*(first.get(name, 0.0) for name in EMOTIONS)) * math.hypot(
        *(second.get(name, 0.0) for name in EMOTIONS)
    )
    return min(1.0, max(0.0, dot / norms)) if norms else 0.0
