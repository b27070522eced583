"""The eight emotions by a hand-written word list: what is felt, and how strongly it is worded.

Word lists find emotion in well under half of the messages that hold it. With an encoder the list only says how strong
the wording is and what a negation denies; without one it is the whole reading.
"""

from dataclasses import dataclass

from core.routing import lexicon
from core.routing.lexicon import EMOTIONS
from core.routing.words import Word

NEGATION_WINDOW = 3  # words before, within the clause
_PERSONAL = frozenset(("i", "i'm", "i've", "my", "me", "we", "our", "i'd", "we're"))
_SAD_FROM_NO_JOY = 0.6  # "not happy" says some sadness; "not angry" says nothing else
_CAPITALS = 1.25
_MARK = 0.1  # an exclamation mark, up to three
_MOST = 0.97


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
class Wording:
    """What the list found. `strengths` holds each emotion's strength in [0, 1], 0 where no word says it; `plain` the
    strongest word's own, before boosters and dampeners."""

    strengths: dict[str, float]
    plain: dict[str, float]
    denied: frozenset[str]  # emotions that are only named to be denied
    hits: int  # words and signs that count
    personal: bool  # whether the person speaks of themselves
    emphasis: float  # of capitals and exclamation marks, 1 where there are none


def read_wording(text: str, words: list[Word]) -> Wording:
    """What the list finds in a message: `text` from `words.normalise`, `words` from `words.split_words`.

    Entries count with their strength, raised by boosters, capitals and exclamation marks, lowered by dampeners, and
    dropped where a negation stands up to three words before them in the same clause.
    """
    left = dict.fromkeys(EMOTIONS, 1.0)  # product of (1 - strength): what is left of neutral
    shouting = bool(words) and sum(word.capitals for word in words) > len(words) / 2
    marks = 1 + _MARK * min(3, text.count("!"))
    raised = any(word.capitals and len(word.text) > 2 for word in words)
    hits, signs = 0, False
    plain = dict.fromkeys(EMOTIONS, 0.0)
    denied: set[str] = set()
    at = 0
    while at < len(words):
        could = _TABLE.get(words[at].text, ())
        found = [e for e in could if tuple(w.text for w in words[at : at + len(e[0])]) == e[0]]
        if not found:
            at += 1
            continue
        size = len(found[0][0])
        negated, factor = _emphasis(words, at)
        if words[at].capitals and not shouting:
            factor *= _CAPITALS
        for entry, emotion, strength in found:
            if len(entry) < size:
                continue
            felt = min(_MOST, strength * factor * marks)
            if not negated:
                left[emotion] *= 1 - felt
                plain[emotion] = max(plain[emotion], strength)
                hits += 1
                continue
            denied.add(emotion)
            if emotion == "joy":
                left["sadness"] *= 1 - felt * _SAD_FROM_NO_JOY
                hits += 1
        at += size
    for sign, (emotion, strength) in lexicon.SIGNS.items():
        if sign in text:
            left[emotion] *= 1 - strength
            plain[emotion] = max(plain[emotion], strength)
            signs = True
            hits += 1
    strengths = {name: round(1 - left[name], 4) for name in EMOTIONS}
    return Wording(
        strengths=strengths,
        plain=plain,
        denied=frozenset(name for name in denied if strengths[name] == 0),
        hits=hits,
        personal=signs or any(word.text in _PERSONAL for word in words),
        emphasis=marks * (_CAPITALS if raised else 1.0),
    )


def _emphasis(words: list[Word], at: int) -> tuple[bool, float]:
    """Whether the word at `at` is negated, and the factor of the boosters and dampeners before it in its clause."""
    before = [w.text for w in words[max(0, at - NEGATION_WINDOW) : at] if w.clause == words[at].clause]
    factor = 1.0
    for word in before:
        factor *= lexicon.BOOSTERS.get(word, 1.0) * lexicon.DAMPENERS.get(word, 1.0)
    # "so" and "very" behind a negation weaken what the negation leaves; they never un-negate it.
    return any(word in lexicon.NEGATORS for word in before), factor
