"""The classifier of the crisis gate: a message as a whole, from a sentence encoder's vector and from its letters.

Three readings, all of weights shipped beside this file, trained by `python -m core.training.crisis_gate`:

- *meaning*: a softmax over four kinds of crisis and eleven kinds of harmless message, on the vector that the shipped
  sentence encoder makes of the message with the gate's adapter (`crisis_adapter.gguf`, a LoRA of a few hundred
  kilobytes) on it. The adapter matters: plain sentence vectors hold what a message is about, and here it is about the
  same in "it was my last day, the cake was lovely" and "it is my last day".
- *subject*: the same softmax on the plain vector, behind a hidden layer: what a message is about. Nobody who asks about
  a knee is in danger by that alone, however much the words of the first reading sound like it.
- *letters*: a softmax over four kinds and none, on hashed words, pairs of words and letters within words. All there is
  where there is no encoder.

The letters are read without numpy, which clients that route by words alone do not load.
"""

import base64
import json
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from operator import itemgetter, mul
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from core.encoder.place import NAME, SOURCE_SHA256, file_name
from core.routing.words import Word, normalise, split_words, stem

WEIGHTS = Path(__file__).with_name("crisis_weights.json")
ADAPTER = Path(__file__).with_name("crisis_adapter.gguf")
CASES = Path(__file__).with_name("crisis_cases.txt")
ORDINARY = Path(__file__).with_name("crisis_ordinary.txt")
VERSION = 3
BUCKETS = 8192  # a power of two
_OF_BUCKETS = BUCKETS - 1  # the bits of a hash that name its bucket
_HALF = 1 << 31  # a hash from here on counts 1, below -1
_NOTHING = BUCKETS
WORDED = 0.3  # the probability from which a message is a crisis that an expression takes for one
MOST_CHARACTERS = 4000  # of a text that letters are read from
_LENGTHS = (3, 4, 5)  # of runs of letters
_USUAL_WORD = 40  # letters of a word that is worth remembering: a kilobyte
_MARK = zlib.crc32(b"#")
# Two: a text's plain sentence vector, and that under the gate's adapter, None where the other readings leave no doubt.
CrisisVectors = Sequence[Sequence[float] | None]


def adapter_of(encoder_file: Path | None) -> Path | None:
    """The gate's adapter where it fits the encoder: the shipped one, whose file is called by its source's hash."""
    fits = encoder_file is not None and encoder_file.name == file_name(NAME, SOURCE_SHA256)
    return ADAPTER if fits else None


def letters(text: str, words: Sequence[Word] | None = None) -> dict[int, float]:
    """Hashed features of a text, a vector of length 1: stems, pairs of them next to and two apart, runs of letters.

    `words` are those of the text from `words.normalise`, where they are known.
    """
    plus, minus, length = _buckets(text, words)
    found: dict[int, float] = {}
    for buckets, sign in ((plus, 1.0), (minus, -1.0)):
        for bucket in buckets:
            found[bucket] = found.get(bucket, 0.0) + sign
    return {bucket: value / length for bucket, value in found.items()}


def _buckets(text: str, words: Sequence[Word] | None) -> tuple[list[int], list[int], float]:
    """The buckets of the features that count there, and of those that count against it; the length of their sum."""
    if words is None or len(text) > MOST_CHARACTERS:
        words = split_words(normalise(text[:MOST_CHARACTERS]))
    read = [_BEGIN, *(_known_word(word.text) for word in words), _END]
    for_it: set[int] = set()
    against: set[int] = set()
    for _, _, more, less in read:
        for_it.update(more)
        against.update(less)
    stems = [own for own, _, _, _ in read]
    numbers = [number for _, number, _, _ in read]
    pairs = {*map(zlib.crc32, stems[1:], numbers)}
    pairs.update(zlib.crc32(b" _" + after, number) for after, number in zip(stems[2:], numbers, strict=False))
    for_it.update([one for one in pairs if one >= _HALF])
    against.update([one for one in pairs if one < _HALF])
    plus, minus = ([one & _OF_BUCKETS for one in hashes] for hashes in (for_it, against))
    ups, downs = Counter(plus), Counter(minus)
    # Of the squares of what each bucket has: (up - down)².
    squares = sum(map(mul, ups.values(), ups.values())) + sum(map(mul, downs.values(), downs.values()))
    squares -= 2 * sum(ups[bucket] * downs[bucket] for bucket in ups.keys() & downs.keys())
    return plus, minus, math.sqrt(squares) or 1.0


class _ReadWord(NamedTuple):
    """What a text's features are made of, of one word."""

    stem: bytes  # behind a space
    number: int  # the hash of the stem
    for_it: tuple[int, ...]  # hashes of the stem and of runs of letters, those that count 1
    against: tuple[int, ...]  # those that count -1


def _known_word(word: str) -> _ReadWord:
    return _remembered(word) if len(word) <= _USUAL_WORD else _read_word(word)


@lru_cache(maxsize=4096)  # most words of a message were in one before
def _remembered(word: str) -> _ReadWord:
    return _read_word(word)


def _read_word(word: str) -> _ReadWord:
    own = stem(word).encode("utf-8", "replace")
    number = zlib.crc32(own)
    hashes = {number, *_runs(word)}
    for_it = tuple(one for one in hashes if one >= _HALF)
    return _ReadWord(b" " + own, number, for_it, tuple(one for one in hashes if one < _HALF))


_BEGIN, _END = (_ReadWord(b" " + mark, zlib.crc32(mark), (), ()) for mark in (b"<", b">"))


def _runs(word: str) -> list[int]:
    """The hashes of a word's runs of letters, each behind a "#"."""
    whole = f"^{word}$"
    if not word.isascii():
        return [_hash("#" + whole[at : at + size]) for size in _LENGTHS for at in range(len(whole) - size + 1)]
    # The same by bytes, with the "#" read already: most of the time a new word's letters take goes by here.
    data = whole.encode("ascii")
    return [zlib.crc32(data[at : at + size], _MARK) for size in _LENGTHS for at in range(len(data) - size + 1)]


def _hash(feature: str) -> int:
    return zlib.crc32(feature.encode("utf-8", "replace"))


class Wording(Protocol):
    """What the words of a text say, as `crisis_wording.CrisisWording` has it."""

    @property
    def by_letters(self) -> Sequence[float]:
        """`Model.letter_scores` of the text."""

    @property
    def worded(self) -> object | None:
        """The uncertain expression that matched."""

    @property
    def excused(self) -> bool:
        """Whether an expression matched which speaks for harmlessness."""


@dataclass(frozen=True)
class Model:
    """The weights. Kinds come first among the classes."""

    kinds: tuple[str, ...]
    meaning: tuple[Sequence[float], ...]  # a row a class: the weights of the vector, then the bias
    hidden: tuple[Sequence[float], ...]  # a row a hidden unit: the weights of the plain vector, then the bias
    subject: tuple[Sequence[float], ...]  # a row a class: the weights of the hidden units, then the bias
    letters: tuple["Packed", ...]  # a row a class: the weights of the buckets, and 0 for the bucket _NOTHING
    fitted: dict[str, Any]  # how the three and the expressions come together, and the thresholds

    def meaning_scores(self, embedding: Sequence[float]) -> list[float]:
        """The logit of each class of the first reading."""
        return _layer(self._tables[0], embedding).tolist()

    def subject_scores(self, plain: Sequence[float]) -> list[float]:
        """The logit of each class of the second reading."""
        _, hidden, last = self._tables
        return _layer(last, _layer(hidden, plain).clip(0)).tolist()

    @cached_property
    def _tables(self) -> tuple[Any, Any, Any]:
        """The weights on vectors as arrays: numpy is loaded where there are vectors, not before."""
        import numpy as np

        return np.array(self.meaning), np.array(self.hidden), np.array(self.subject)

    def letter_scores(self, text: str, words: Sequence[Word] | None = None) -> list[float]:
        """The logit of each class of the third reading; `words` are those of the text where they are known."""
        plus, minus, length = _buckets(text, words)
        # Of at least two, so that what they are taken from gives a tuple.
        of_plus, of_minus = (itemgetter(*buckets, _NOTHING, _NOTHING) for buckets in (plus, minus))
        return [
            row.scale * (sum(of_plus(row.numbers)) - sum(of_minus(row.numbers))) / length + row.bias
            for row in self.letters
        ]

    def probability(self, wording: Wording, vectors: CrisisVectors | None) -> tuple[float, str]:
        """The calibrated probability that a text is a crisis, and the kind it would be.

        `vectors` are the text's plain sentence vector and that under the gate's adapter.
        """
        if vectors is None:
            scores = wording.by_letters
            total = self._said("without_encoder", wording)
        else:
            plain, adapted = vectors
            if plain is None or adapted is None:
                raise ValueError("a probability is of both vectors")
            scores = self.meaning_scores(adapted)
            total = self.leaning(wording, plain)
            total += self.fitted["with_encoder"]["meaning"] * self._margin(scores)
        likeliest = max(range(len(self.kinds)), key=lambda at: scores[at])
        return _sigmoid(total), self.kinds[likeliest]

    def leaning(self, wording: Wording, plain: Sequence[float]) -> float:
        """The log-odds of a crisis by all but the meaning, which alone needs the vector under the adapter."""
        said = self._said("with_encoder", wording)
        return said + float(self.fitted["with_encoder"]["subject"]) * self._margin(self.subject_scores(plain))

    def _said(self, how: str, wording: Wording) -> float:
        """What letters and expressions add up to, log-odds."""
        fitted = self.fitted[how]
        total = fitted["letters"] * self._margin(wording.by_letters) + fitted["worded"] * (wording.worded is not None)
        return float(total + fitted["unexcused"] * (not wording.excused) + fitted["bias"])

    def in_doubt(self, wording: Wording, plain: Sequence[float], *, corrected: bool) -> bool:
        """Whether the meaning could still make a crisis of a text. `corrected` says that `plain` is the vector of the
        text with its spelling put right, which may hide something: so more is doubted."""
        least = self.fitted["screen"]["corrected" if corrected else "written"]["least"]
        return wording.worded is not None or self.leaning(wording, plain) >= least

    def threshold(self, with_encoder: bool) -> float:
        """The probability from which a message is a crisis."""
        return float(self.fitted["with_encoder" if with_encoder else "without_encoder"]["threshold"])

    def read(self, wording: Wording, vectors: CrisisVectors | None) -> tuple[float, str] | None:
        """The probability and the kind of a crisis, None where it is below the threshold."""
        probability, kind = self.probability(wording, vectors)
        least = self.threshold(vectors is not None)
        if wording.worded is not None:
            least = min(least, WORDED)
        return (probability, kind) if probability >= least else None

    def _margin(self, scores: Sequence[float]) -> float:
        """The log-odds of any kind of crisis against any other class, of a softmax's logits."""
        return _log_sum(scores[: len(self.kinds)]) - _log_sum(scores[len(self.kinds) :])


@cache  # read at the first message
def load_model() -> Model:
    """The shipped classifier."""
    data = json.loads(WEIGHTS.read_text("utf-8"))
    if data["version"] != VERSION:
        raise ValueError(f"{WEIGHTS.name} is of version {data['version']}, this program reads {VERSION}")
    return Model(
        kinds=tuple(data["kinds"]),
        meaning=tuple(_unpacked(row) for row in data["meaning"]),
        hidden=tuple(_unpacked(row) for row in data["hidden"]),
        subject=tuple(_unpacked(row) for row in data["subject"]),
        letters=tuple(_with_nothing(_read(row)) for row in data["letters"]),
        fitted=data["fitted"],
    )


def packed(row: Sequence[float]) -> dict[str, Any]:
    """A row of weights as 8-bit numbers, their scale, and the last number, the bias, as it is."""
    most = max(abs(value) for value in row[:-1]) or 1.0
    numbers = array("b", (round(value / most * 127) for value in row[:-1]))
    return {"scale": most / 127, "bias": row[-1], "weights": base64.b64encode(numbers.tobytes()).decode("ascii")}


class Packed(NamedTuple):
    """A row of weights as it is stored: small enough to stay in a processor's cache from message to message."""

    numbers: "array[int]"  # of 8 bits
    scale: float
    bias: float


def _read(row: dict[str, Any]) -> Packed:
    return Packed(array("b", base64.b64decode(row["weights"])), float(row["scale"]), float(row["bias"]))


def _with_nothing(row: Packed) -> Packed:
    return row._replace(numbers=row.numbers + array("b", [0]))


def _unpacked(row: dict[str, Any]) -> list[float]:
    read = _read(row)
    return [*(number * read.scale for number in read.numbers), read.bias]


def _layer(rows: Any, values: Any) -> Any:
    """Each row's product with the values, and its bias."""
    import numpy as np

    return np.vecdot(rows[:, :-1], np.asarray(values, float)) + rows[:, -1]


def _log_sum(values: Sequence[float]) -> float:
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
