"""Misspelled words of a message put right before it is compared: encoder and keywords know words, not attempts at them.

A word is put right where it is unknown and a known one is near: one edit away, or written as it sounds (the same
skeleton of consonants). Only messages with several such words are touched, and none that is mostly unknown words: a
single rare word is more often a name or a term, and another language is not misspelled English.
"""

import math
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

LEAST_WRONG = 2  # unknown words with a near known one, for a message to be corrected
MOST_WRONG = 0.5  # share of the words that may be unknown
MOST_CHARACTERS = 2000  # of a message that are looked at
# Common words, the commonest first: the tokens of letters alone in BERT's vocabulary (Apache-2.0, see NOTICE).
_FILE = Path(__file__).with_name("words.txt")
_DOMAIN_RANK = 3000  # a word of the domains counts as common as the one at this place
_OTHER_SOUND = 0.7  # cost, in edits, of not sounding the same
_RARITY = 0.4  # cost of being ten times rarer
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SOUNDS = tuple(
    (re.compile(pattern), sound)
    for pattern, sound in (
        ("^kn", "n"), ("^wr", "r"), ("^wh", "w"), ("ph", "f"), ("ght", "t"), ("gh", ""), ("tion|sion|cian", "sn"),
        ("ck", "k"), ("sch", "sk"), ("[cs]h", "C"), ("c(?=[eiy])", "s"), ("[cq]", "k"), ("x", "ks"), ("z", "s"),
        ("dge", "j"), ("g(?=[eiy])", "j"), ("(?<=.)[aeiouyhw]", ""), ("^[aeiouy]", "a"), (r"(.)\1+", r"\1"),
    )
)  # fmt: skip
# Usual shorthand in messages, read as it is meant once a message is known to be carelessly written.
_SHORTHAND = {
    "wat": "what", "wot": "what", "wen": "when", "shud": "should", "cud": "could", "wud": "would", "haf": "have",
    "hav": "have", "dont": "don't", "cant": "can't", "wont": "won't", "doesnt": "doesn't", "didnt": "didn't",
    "isnt": "isn't", "im": "i'm", "ive": "i've", "u": "you", "ur": "your", "r": "are", "pls": "please",
    "plz": "please", "thx": "thanks", "coz": "because", "cuz": "because", "ppl": "people", "tmrw": "tomorrow",
    "wich": "which", "sais": "says", "thru": "through", "tho": "though", "becos": "because", "wanna": "want to",
}  # fmt: skip


@cache
def _ranks() -> dict[str, int]:
    return {word: place for place, word in enumerate(_FILE.read_text("ascii").split())}


@cache
def _by_sound() -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for word in _ranks():
        table.setdefault(skeleton(word), []).append(word)
    return table


@lru_cache(maxsize=4096)
def skeleton(word: str) -> str:
    """How a lower-case word sounds, roughly: its consonants, spellings of one sound as one ("softwear" and "software"
    are "sftr")."""
    for pattern, sound in _SOUNDS:
        word = pattern.sub(sound, word)
    return word


def edits(first: str, second: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour to make one word the other."""
    before: list[int] = []
    row = list(range(len(second) + 1))
    for at, a in enumerate(first, 1):
        new = [at]
        for to, b in enumerate(second, 1):
            cost = min(row[to] + 1, new[-1] + 1, row[to - 1] + (a != b))
            if at > 1 and to > 1 and a == second[to - 2] and first[at - 2] == b:
                cost = min(cost, before[to - 2] + 1)
            new.append(cost)
        before, row = row, new
    return row[-1]


def _one_edit_away(word: str) -> Iterable[str]:
    found: list[str] = []
    for at in range(len(word) + 1):
        head, tail, rest = word[:at], word[at:], word[at + 1 :]
        found += [head + letter + tail for letter in _LETTERS]
        if tail:
            found += [head + letter + rest for letter in _LETTERS]
            found.append(head + rest)
        if len(tail) > 1:
            found.append(head + tail[1] + tail[0] + tail[2:])
    return found


class Speller:
    """Puts misspelled words right, by common English and by `words`, those of the domains."""

    def __init__(self, words: Iterable[str]) -> None:
        self._own = frozenset(word for word in words if word.isascii() and word.isalpha() and len(word) > 2)
        self._sounds: dict[str, list[str]] = {}
        for word in self._own - _ranks().keys():
            self._sounds.setdefault(skeleton(word), []).append(word)
        self._all = self._own.union(_ranks())
        self._right = self._all - _SHORTHAND.keys()
        self._nearest = lru_cache(maxsize=1024)(self._search)

    def warm(self) -> None:
        """Make the table of sounds now, so that the first misspelled message does not wait for it."""
        _by_sound()

    def correct(self, text: str) -> str:
        """`text` with its misspelled words put right; as it is where it holds few of them, or little else."""
        if len(text) > MOST_CHARACTERS:
            return text
        words = _TOKEN.findall(text)
        unknown = [word for word in words if not self._known(word)]
        if len(unknown) < LEAST_WRONG or len(unknown) > MOST_WRONG * len(words):
            return text
        right = {word: near for word in unknown if (near := self._nearest(word)) is not None}
        if sum(word in right for word in unknown) < LEAST_WRONG:
            return text
        return _TOKEN.sub(lambda match: right.get(match[0]) or _SHORTHAND.get(match[0], match[0]), text)

    def _known(self, word: str) -> bool:
        """Words with capitals are names or shouted; both are left alone."""
        if word in self._right:
            return True
        if not word.islower() or not word.isascii() or not word.isalpha() or len(word) < 3:
            return word not in _SHORTHAND
        return word not in _SHORTHAND and word.endswith("s") and word[:-1] in self._all

    def _search(self, word: str) -> str | None:
        """The known word that is most likely meant; None where none is near."""
        if word in _SHORTHAND:
            return _SHORTHAND[word]
        sound, ranks = skeleton(word), _ranks()
        most = max(2, len(word) // 3)
        costs: dict[str, float] = {}
        for near in (*_by_sound().get(sound, ()), *self._sounds.get(sound, ())):
            if abs(len(near) - len(word)) <= most and (count := edits(word, near)) <= most:
                costs[near] = count
        if len(word) > 3:
            for near in self._all.intersection(_one_edit_away(word)):
                costs.setdefault(near, 1 + _OTHER_SOUND)
        if not costs:
            return None
        for near in costs:
            place = min(ranks.get(near, _DOMAIN_RANK), _DOMAIN_RANK if near in self._own else len(ranks))
            costs[near] += _RARITY * math.log10(max(place, 1000) / 1000)
        return min(costs, key=lambda near: (costs[near], near))
