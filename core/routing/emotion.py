"""The emotion of a message in eight values: by heads on a sentence encoder, or by a word list where there is none.

The heads' values are measured (docs/emotion.md has the figures); the word list's are not, and its confidence is low.
Intensity is read from the wording in both and is not measured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import mul
from typing import Protocol

from core.routing.emotion_features import wording_features
from core.routing.heads import NEUTRAL, PRESENT, EmotionHeads, shipped_heads
from core.routing.lexicon import EMOTIONS
from core.routing.vectors import Embedding
from core.routing.wordlist import Wording, read_wording
from core.routing.words import Word

__all__ = ["EMOTIONS", "LOW_CONFIDENCE", "PRESENT", "Emotion", "EmotionReader", "read_emotion", "similarity"]

NO_PREFERENCE = 0.5
LOW_CONFIDENCE = 0.5  # the most a word list is trusted
WORD_LIST = "word list"
HEADS = "encoder"
PLEASANT = frozenset(("joy", "trust", "anticipation"))
UNPLEASANT = frozenset(("sadness", "anger", "fear", "disgust"))
_MIXED_SHARE = 0.6  # of the strongest value: a feeling of the other kind that reaches it makes the feeling mixed
_LEAST_SAID = 0.55  # what the word list calls plain; such a word of one's own feeling is believed
_DENIED = 0.3  # what is left of a value whose emotion is only named to be denied
_PLAIN, _SURE = 0.4, 0.75  # intensity of a feeling that is just there, and of one that is certain, by usual words


@dataclass(frozen=True)
class Emotion:
    """A reading. `values` holds the eight emotions in [0, 1], each by itself (they need not sum to 1); PRESENT and more
    says that it is there."""

    values: dict[str, float]
    intensity: float  # how strong the feeling is, in [0, 1]; 0 where there is none
    confidence: float  # of the strongest emotion: its calibrated probability, LOW_CONFIDENCE at most by words alone
    method: str = WORD_LIST
    note: str = ""  # why it was read in another way than was asked for
    probabilities: dict[str, float] = field(default_factory=dict)  # calibrated; empty for the word list

    @property
    def neutral(self) -> bool:
        """Whether no emotion is there."""
        return self.dominant is None

    @property
    def dominant(self) -> str | None:
        """The strongest emotion that is there, None in a neutral message. Equal ones: the first of EMOTIONS."""
        best = max(EMOTIONS, key=lambda name: self.values[name])
        return best if self.values[best] >= PRESENT else None

    @property
    def mixed(self) -> tuple[str, ...]:
        """The strongest pleasant and unpleasant emotion of a mixed feeling, stronger first; else empty."""
        pair = [max(kind & self.values.keys(), key=self._rank, default="") for kind in (PLEASANT, UNPLEASANT)]
        if not all(pair):
            return ()
        first, second = sorted(pair, key=self._rank, reverse=True)
        least = max(PRESENT, _MIXED_SHARE * max(self.values.values()))
        return (first, second) if self.values[second] >= least else ()

    def _rank(self, name: str) -> tuple[float, int]:
        return self.values[name], -EMOTIONS.index(name)


class EmotionReader(Protocol):
    """What reads a message's emotion; `read_emotion` does."""

    def __call__(self, text: str, words: list[Word], embedding: Embedding | None = None, /) -> "Emotion":
        """The emotion of a text from `words.normalise`, with its words and, where there is an encoder, its vector."""


def read_emotion(
    text: str, words: list[Word], embedding: Embedding | None = None, heads: EmotionHeads | None = None
) -> Emotion:
    """The emotion of a message: `text` from `words.normalise`, `words` from `words.split_words`.

    With an `embedding` of the encoder that `heads` (the shipped ones) were trained with, the heads read it; with that
    of another encoder, or without one, the word list does, and `note` says why. Raises InvalidInput where the heads'
    file is damaged.
    """
    wording = read_wording(text, words)
    if embedding is None:
        return _by_list(wording)
    heads = heads or shipped_heads()
    if not heads.suits(embedding.encoder):
        return _by_list(wording, f"the emotion heads were not trained with the encoder {embedding.encoder[:12]}")
    vector: list[float] = embedding.vector.tolist()
    return _by_heads(wording, heads, heads.probabilities(vector, wording_features(text, words)))


def _by_list(wording: Wording, note: str = "") -> Emotion:
    """By the word list alone. Every emotion it finds is there; how strong it is says the intensity."""
    values = {name: _found(felt) for name, felt in wording.strengths.items()}
    # A word of feeling is the person's own more often where they speak of themselves.
    confidence = (0.4 if wording.hits == 1 else LOW_CONFIDENCE) if wording.personal else 0.2
    strongest = max(wording.strengths.values())
    return Emotion(values, strongest, confidence if wording.hits else 0.0, note=note)


def _found(strength: float) -> float:
    """A word's strength as a value: what is named at all is there."""
    return round(PRESENT + (1 - PRESENT) * strength, 4) if strength > 0 else 0.0


def _by_heads(wording: Wording, heads: EmotionHeads, probabilities: dict[str, float]) -> Emotion:
    """The heads' values, corrected by what the wording says outright."""
    values = {name: heads.value(name, probabilities[name]) for name in EMOTIONS}
    if heads.value(NEUTRAL, probabilities[NEUTRAL]) >= PRESENT:
        values = {name: min(value, 0.999 * PRESENT) for name, value in values.items()}
    outright = set()
    for name in EMOTIONS:
        if name in wording.denied:
            values[name] *= _DENIED
        elif wording.personal and wording.plain[name] >= _LEAST_SAID:
            outright.add(name)
            values[name] = max(values[name], _found(wording.strengths[name]))
    strongest = max(EMOTIONS, key=lambda name: values[name])
    there = values[strongest] >= PRESENT
    return Emotion(
        values={name: round(value, 4) for name, value in values.items()},
        intensity=round(_intensity(values[strongest], wording, strongest), 4) if there else 0.0,
        # What a person says outright of themselves is trusted as far as the list is.
        confidence=round(max(probabilities[strongest], LOW_CONFIDENCE if strongest in outright else 0.0), 4),
        method=HEADS,
        probabilities={name: round(probability, 4) for name, probability in probabilities.items()},
    )


def _intensity(value: float, wording: Wording, strongest: str) -> float:
    """How strong a feeling that is there is worded.

    The list's strength where it knows a word of the feeling, with its boosters and dampeners; else from a middle
    intensity up with the value, raised by capitals and exclamation marks. Not measured: no data with intensities is
    part of the training.
    """
    said = wording.strengths[strongest]
    if said > 0:
        return said
    plain = _PLAIN + (_SURE - _PLAIN) * (value - PRESENT) / (1 - PRESENT)
    return 1 - (1 - plain) ** wording.emphasis


def suits(values: Mapping[str, float], profile: Mapping[str, float]) -> float:
    """How well a domain's profile fits a feeling, in [0, 1]: their cosine, and NO_PREFERENCE for a profile that says
    nothing, all eight emotions being alike."""
    return similarity(values, profile) if len(set(profile.values())) > 1 else NO_PREFERENCE


def similarity(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Cosine of two emotion vectors, in [0, 1]; 0 where either is empty."""
    one, other = [first.get(name, 0.0) for name in EMOTIONS], [second.get(name, 0.0) for name in EMOTIONS]
    norms = math.hypot(*one) * math.hypot(*other)
    return min(1.0, max(0.0, sum(map(mul, one, other)) / norms)) if norms else 0.0
