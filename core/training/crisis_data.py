"""What the crisis gate is trained on: the shipped cases and the development set, divided by a hash of the text."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import InvalidInput
from core.routing.crisis import KINDS
from core.routing.crisis_model import CASES
from core.routing.words import normalise

_PARTS = 10  # one of which is held out
EVERYDAY = "ordinary"  # the class of messages that nobody would take for a crisis
TALK = "talk"  # and of what people say to each other
# Spellings and what is written in their place by ear.
_SOUNDS = (
    ("ough", "o"), ("ough", "uff"), ("aught", "ort"), ("augh", "aff"), ("ight", "ite"), ("tion", "shun"), ("ph", "f"),
    ("wh", "w"), ("kn", "n"), ("wr", "r"), ("ck", "k"), ("ch", "k"), ("ea", "ee"), ("ee", "ea"), ("ea", "e"),
    ("ai", "ay"), ("ai", "a"), ("ou", "ow"), ("ow", "o"), ("oa", "o"), ("oo", "u"), ("ie", "ei"), ("ei", "ie"),
    ("ss", "s"), ("ll", "l"), ("tt", "t"), ("mm", "m"), ("pp", "p"), ("rr", "r"), ("ce", "se"), ("ci", "si"),
    ("le", "el"), ("er", "a"), ("or", "er"), ("our", "er"), ("ous", "us"), ("es", "s"), ("ed", "d"), ("ing", "in"),
    ("th", "f"), ("y", "ie"), ("qu", "kw"), ("x", "ks"), ("ve", "v"), ("se", "s"), ("me", "m"), ("ke", "k"),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A message, as `words.normalise` leaves it, and its class: a kind of crisis or of harmless message.

    `label` is None where it is only known to be harmless, as in the development set.
    """

    text: str
    label: str | None
    developed: bool = False  # of the development set
    written: bool = False  # for the gate, to be hard to tell

    @property
    def crisis(self) -> bool:
        return self.label in KINDS

    @property
    def everyday(self) -> bool:
        """Whether it was not made to be mistaken for a crisis."""
        return self.label in (EVERYDAY, TALK) and not self.written

    @property
    def held_out(self) -> bool:
        """Whether thresholds are chosen on it: all of the development set, and a tenth of the shipped cases."""
        number = int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:8], "big")
        return self.developed or number % _PARTS == 0


def shipped_cases(path: Path = CASES) -> list[Case]:
    """The cases of `crisis_cases.txt`, all written for the gate, or of `crisis_ordinary.txt`, which has a section of
    such. Raises InvalidInput for a line before the first section."""
    cases: list[Case] = []
    label: str | None = None
    written = False
    for line in path.read_text("utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            label, _, of_gate = line[1:-1].partition(": ")
            written = path == CASES or bool(of_gate)
        elif label is None:
            raise InvalidInput(f"{path.name} has a case before its first section: {line!r}")
        else:
            cases.append(Case(normalise(line.strip()), label, written=written))
    return cases


def everyday_cases(path: Path) -> list[Case]:
    """The rows of `routing_develop.jsonl` or `everyday_develop.jsonl` of benchmarks/data, as ordinary messages that are
    held out."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [Case(normalise(row["text"]), EVERYDAY, developed=True) for row in rows]


def development_cases(path: Path) -> list[Case]:
    """The rows of `benchmarks/data/crisis_develop.jsonl`."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [Case(normalise(row["text"]), row["kind"], developed=True) for row in rows]


def classes_of(cases: Sequence[Case]) -> tuple[str, ...]:
    """All classes: the kinds of crisis, then the others by name."""
    labels = {case.label for case in cases if case.label is not None}
    return (*KINDS, *sorted(labels - set(KINDS)))


def _bare_words(text: str) -> list[str]:
    return "".join(letter for letter in text.lower() if letter.isalnum() or letter in " '").split()


def misspelled(text: str, seed: random.Random) -> str:
    """`text` in small letters and without punctuation, with about every third longer word written as it sounds."""
    words = _bare_words(text)
    for at, word in enumerate(words):
        if len(word) > 3 and seed.random() < 0.35:
            found = [pair for pair in _SOUNDS if pair[0] in word]
            if found:
                words[at] = word.replace(*seed.choice(found), 1)
    return " ".join(words)


def mistyped(text: str, seed: random.Random) -> str:
    """`text` in small letters and without punctuation, with a slip of the keyboard in about every eighth word."""
    words = _bare_words(text)
    for at, word in enumerate(words):
        if len(word) > 3 and seed.random() < 0.125:
            where = seed.randrange(1, len(word) - 1)
            swapped = word[:where] + word[where + 1] + word[where] + word[where + 2 :]
            words[at] = seed.choice(
                (swapped, word[:where] + word[where + 1 :], word[:where] + word[where] + word[where:])
            )
    return " ".join(words)
