"""Messages as words: matching is always on word boundaries, so that "know" never holds "now"."""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_BREAK = re.compile(r"[.!?;:,\n()—–]|\bbut\b|\bhowever\b|\balthough\b", re.IGNORECASE)
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'"})
_VOWEL = re.compile(r"[aeiouy]")


def listed(text: str) -> frozenset[str]:
    """The words of a text that lists them."""
    return frozenset(text.split())


# Words that say nothing about the subject of a message: function words, and the small change of chatting.
STOPWORDS = listed(
    """
    a about above after again against ain't all almost also always am an and another any anybody anymore anyone
    anything are aren't around as ask asked asking at away back be became because been before being below besides
    best better between both but by came can can't cannot come comes could couldn't did didn't do does doesn't doing
    don't done down during each either else enough even ever every everyone everything few first for from further gave
    get gets getting give given go goes going gone gonna good got gotta great had hadn't happen happened happens has
    hasn't have haven't having he he'd he'll he's hello help helps her here here's hers herself hey hi him himself his
    hm how how's i i'd i'll i'm i've idea if in instead into is isn't it it'd it'll it's its itself just keep keeps
    kept kind know knows last least less let let's like likes little lol look looking lot lots made make makes making
    many maybe me mean means might mine more most much must my myself need needs never next no nobody nor not nothing
    now of off often oh ok okay on once one ones only onto or other others our ours ourselves out over own per perhaps
    please pretty put quick quite rather really right said same say says see seem seems shall she she'd she's should
    shouldn't since so some somebody someone something sometimes somewhere soon sort still stuff such sure take takes
    taking tell thank thanks that that'd that'll that's the their theirs them themselves then there there's these they
    they'd they'll they're they've thing things think this those though through thus till to today together told too
    took toward towards try trying two um under until up upon us use used using very via want wanted wants was wasn't
    way ways we we'd we'll we're we've well went were weren't what what's whatever when when's where where's whether
    which while who who's whom whose why why's will with within without won't would wouldn't yes yet you you'd you'll
    you're you've your yours yourself yourselves
    """
)


class Word(NamedTuple):
    """One word of a message. `clause` counts from 0 and rises at punctuation and at "but"."""

    text: str  # lower case, plain apostrophes
    capitals: bool  # written in capitals, two letters or more
    start: int
    end: int
    clause: int


def normalise(text: str) -> str:
    """`text` in one Unicode form, with plain apostrophes and without invisible characters."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).translate(_APOSTROPHES)


def split_words(text: str) -> list[Word]:
    """The words of a message that `normalise` has been through."""
    breaks = [found.start() for found in _BREAK.finditer(text)]
    words: list[Word] = []
    clause = 0
    for found in _WORD.finditer(text):
        while clause < len(breaks) and breaks[clause] <= found.start():
            clause += 1
        raw = found.group()
        words.append(Word(raw.lower(), len(raw) > 1 and raw.isupper(), found.start(), found.end(), clause))
    return words


@lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """A word without its commonest English endings ("teams", "managing" → "team", "manag"); others as they are.

    Far lighter than Porter's stemmer: it only has to map the same word's forms to one key, on both sides.
    """
    if word.endswith("'s"):
        word = word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-3] + "y" if word.endswith("ies") and len(word) > 4 else word[:-1]
    for ending in ("ing", "ed"):
        root = word[: -len(ending)]
        if word.endswith(ending) and len(root) >= 3 and _VOWEL.search(root):
            doubled = root[-1] == root[-2] and root[-1] not in "lsz"
            return root[:-1] if doubled else root
    if len(word) > 4 and word.endswith("e"):
        return word[:-1]
    return word


def content_stems(words: Iterable[Word]) -> list[str]:
    """The stems of the words that may say what a message is about, in order; numbers are left out."""
    return [stem(word.text) for word in words if word.text not in STOPWORDS and not word.text[0].isdigit()]


def stem_phrase(phrase: str) -> tuple[str, ...]:
    """A configured keyword or phrase as the stems to look for, function words included."""
    return tuple(stem(word.text) for word in split_words(normalise(phrase)))
