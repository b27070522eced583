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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from operator import mul
from pathlib import Path
from typing import Any

from core.encoder.place import NAME, SOURCE_SHA256, file_name
from core.routing.words import normalise, split_words, stem

WEIGHTS = Path(__file__).with_name("crisis_weights.json")
ADAPTER = Path(__file__).with_name("crisis_adapter.gguf")
CASES = Path(__file__).with_name("crisis_cases.txt")
ORDINARY = Path(__file__).with_name("crisis_ordinary.txt")
VERSION = 3
BUCKETS = 8192
WORDED = 0.3  # the probability from which a message is a crisis that an expression takes for one
MOST_CHARACTERS = 4000  # of a text that letters are read from
_LENGTHS = (3, 4, 5)  # of runs of letters
# Two: a text's plain sentence vector, and that under the gate's adapter, None where the other readings leave no doubt.
CrisisVectors = Sequence[Sequence[float] | None]


def adapter_of(encoder_file: Path | None) -> Path | None:
    """The gate's adapter where it fits the encoder: the shipped one, whose file is called by its source's hash."""
    fits = encoder_file is not None and encoder_file.name == file_name(NAME, SOURCE_SHA256)
    return ADAPTER if fits else None


def letters(text: str) -> dict[int, float]:
    """Hashed features of a text, a vector of length 1: stems, pairs of them next to and two apart, runs of letters."""
    words = split_words(normalise(text[:MOST_CHARACTERS]))
    stems = ["<", *(stem(word.text) for word in words), ">"]
    features = set(stems[1:-1])
    features.update(f"{one} {other}" for one, other in pairwise(stems))
    features.update(f"{one} _ {other}" for one, other in zip(stems, stems[2:], strict=False))
    hashes = {_hash(feature) for feature in features}
    hashes.update(*(_runs(word.text) for word in words))
    found: dict[int, float] = {}
    for value in hashes:
        found[value % BUCKETS] = found.get(value % BUCKETS, 0.0) + (1.0 if value >> 31 else -1.0)
    length = math.sqrt(sum(value * value for value in found.values())) or 1.0
    return {bucket: value / length for bucket, value in found.items()}


def _runs(word: str) -> tuple[int, ...]:
    """The hashes of a word's runs of letters."""
    whole = f"^{word}$"
    return tuple(_hash("#" + whole[at : at + size]) for size in _LENGTHS for at in range(len(whole) - size + 1))


def _hash(feature: str) -> int:
    return zlib.crc32(feature.encode("utf-8", "replace"))


@dataclass(frozen=True)
class Model:
    """The weights. Kinds come first among the classes."""

    kinds: tuple[str, ...]
    meaning: tuple[Sequence[float], ...]  # a row a class: the weights of the vector, then the bias
    hidden: tuple[Sequence[float], ...]  # a row a hidden unit: the weights of the plain vector, then the bias
    subject: tuple[Sequence[float], ...]  # a row a class: the weights of the hidden units, then the bias
    letters: tuple[Sequence[float], ...]  # a row a class: the weights of the buckets, then the bias
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

    def letter_scores(self, text: str) -> list[float]:
        """The logit of each class of the third reading."""
        found = letters(text)
        values = list(found.values())
        return [sum(map(mul, map(row.__getitem__, found), values)) + row[-1] for row in self.letters]

    def probability(self, text: str, vectors: CrisisVectors | None, worded: bool, excused: bool) -> tuple[float, str]:
        """The calibrated probability that a text is a crisis, and the kind it would be.

        `vectors` are the text's plain sentence vector and that under the gate's adapter. `worded` says that an
        uncertain expression matched, `excused` that one matched which speaks for harmlessness.
        """
        if vectors is None:
            scores = self.letter_scores(text)
            total = self._said("without_encoder", scores, worded, excused)
        else:
            plain, adapted = vectors
            if plain is None or adapted is None:
                raise ValueError("a probability is of both vectors")
            scores = self.meaning_scores(adapted)
            total = self.leaning(text, plain, worded, excused)
            total += self.fitted["with_encoder"]["meaning"] * self._margin(scores)
        likeliest = max(range(len(self.kinds)), key=lambda at: scores[at])
        return _sigmoid(total), self.kinds[likeliest]

    def leaning(self, text: str, plain: Sequence[float], worded: bool, excused: bool) -> float:
        """The log-odds of a crisis by all but the meaning, which alone needs the vector under the adapter."""
        said = self._said("with_encoder", self.letter_scores(text), worded, excused)
        return said + float(self.fitted["with_encoder"]["subject"]) * self._margin(self.subject_scores(plain))

    def _said(self, how: str, by_letters: Sequence[float], worded: bool, excused: bool) -> float:
        """What letters and expressions add up to, log-odds."""
        fitted = self.fitted[how]
        total = fitted["letters"] * self._margin(by_letters)
        return float(total + fitted["worded"] * worded + fitted["unexcused"] * (not excused) + fitted["bias"])

    def in_doubt(self, text: str, plain: Sequence[float], worded: bool, excused: bool, *, corrected: bool) -> bool:
        """Whether the meaning could still make a crisis of a text. `corrected` says that `plain` is the vector of the
        text with its spelling put right, which may hide something: so more is doubted."""
        least = self.fitted["screen"]["corrected" if corrected else "written"]["least"]
        return worded or self.leaning(text, plain, worded, excused) >= least

    def threshold(self, with_encoder: bool) -> float:
        """The probability from which a message is a crisis."""
        return float(self.fitted["with_encoder" if with_encoder else "without_encoder"]["threshold"])

    def read(self, text: str, vectors: CrisisVectors | None, worded: bool, excused: bool) -> tuple[float, str] | None:
        """The probability and the kind of a crisis, None where it is below the threshold."""
        probability, kind = self.probability(text, vectors, worded, excused)
        least = self.threshold(vectors is not None)
        return (probability, kind) if probability >= (min(least, WORDED) if worded else least) else None

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
        letters=tuple(_unpacked(row) for row in data["letters"]),
        fitted=data["fitted"],
    )


def packed(row: Sequence[float]) -> dict[str, Any]:
    """A row of weights as 8-bit numbers, their scale, and the last number, the bias, as it is."""
    most = max(abs(value) for value in row[:-1]) or 1.0
    numbers = array("b", (round(value / most * 127) for value in row[:-1]))
    return {"scale": most / 127, "bias": row[-1], "weights": base64.b64encode(numbers.tobytes()).decode("ascii")}


def _unpacked(row: dict[str, Any]) -> list[float]:
    numbers = array("b", base64.b64decode(row["weights"]))
    return [*(number * row["scale"] for number in numbers), row["bias"]]


def _layer(rows: Any, values: Any) -> Any:
    """Each row's product with the values, and its bias."""
    import numpy as np

    return np.vecdot(rows[:, :-1], np.asarray(values, float)) + rows[:, -1]


def _log_sum(values: Sequence[float]) -> float:
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
