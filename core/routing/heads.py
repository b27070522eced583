"""The emotion heads: nine logistic models on a message's embedding and wording, read from a small file.

Made by `core.routing.train_emotion`. Plain Python: a message takes well under a millisecond and no library is loaded.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import mul
from pathlib import Path
from typing import Any

from core.errors import InvalidInput
from core.routing.lexicon import EMOTIONS

FORMAT = 1
FILE = Path(__file__).with_name("emotion_heads.json")
NEUTRAL = "neutral"
NAMES = (*EMOTIONS, NEUTRAL)
PRESENT = 0.5  # a value of this and more says that the emotion is there


@dataclass(frozen=True)
class EmotionHeads:
    """Weights for one encoder. `thresholds` are probabilities: what reaches its own counts as there."""

    encoders: tuple[str, ...]  # SHA-256 of the encoder files they were trained with
    dense: tuple[tuple[float, ...], ...]  # by name in NAMES, one weight a dimension
    bias: tuple[float, ...]
    rows: Mapping[str, int]  # by feature of the wording, its row in `words`
    words: memoryview  # of signed bytes: a weight a name, row after row
    word_unit: float  # what 1 stands for in them
    thresholds: tuple[float, ...]
    measured: Mapping[str, Any]  # figures on rows that were held out

    def suits(self, encoder: str) -> bool:
        """Whether the weights were trained with this encoder; with any other they say nothing."""
        return encoder in self.encoders

    def probabilities(self, embedding: Sequence[float], features: Iterable[str]) -> dict[str, float]:
        """The probability of each of NAMES: `embedding` a unit vector, `features` from `wording_features`.

        Those of the eight are calibrated on texts that hold a feeling (mean of 1.3 a text), neutral's on texts of which
        about a third hold none. Raises InvalidInput for a vector of another length.
        """
        if len(embedding) != len(self.dense[0]):
            raise InvalidInput(f"an embedding of {len(embedding)} numbers; the heads want {len(self.dense[0])}")
        starts = [len(NAMES) * self.rows[name] for name in features if name in self.rows]
        scale = self.word_unit / math.sqrt(max(1, len(starts)))
        sums = [sum(self.words[start + k] for start in starts) for k in range(len(NAMES))]
        logits = (
            bias + sum(map(mul, row, embedding)) + scale * said
            for bias, row, said in zip(self.bias, self.dense, sums, strict=True)
        )
        return {name: _sigmoid(logit) for name, logit in zip(NAMES, logits, strict=True)}

    def value(self, name: str, probability: float) -> float:
        """A probability as a value of which PRESENT and more means that the emotion is there; monotone."""
        threshold = self.thresholds[NAMES.index(name)]
        if probability < threshold:
            return PRESENT * probability / threshold
        return PRESENT + (1 - PRESENT) * (probability - threshold) / (1 - threshold)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


@cache
def shipped_heads() -> EmotionHeads:
    """The heads TARA ships, read once."""
    return load_heads(FILE)


def load_heads(path: Path) -> EmotionHeads:
    """Heads from a file. Raises InvalidInput for one that is damaged or of another format."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["format"] != FORMAT:
            raise InvalidInput(f"{path} has format {data['format']!r}, this program reads {FORMAT}", _HINT)
        heads = EmotionHeads(
            encoders=tuple(map(str, data["encoder"]["sha256"])),
            dense=tuple(tuple(map(float, data["heads"][name]["dense"])) for name in NAMES),
            bias=tuple(float(data["heads"][name]["bias"]) for name in NAMES),
            rows={str(word): row for row, word in enumerate(data["words"])},
            words=memoryview(base64.b64decode(data["word_weights"], validate=True)).cast("b"),
            word_unit=float(data["word_unit"]),
            thresholds=tuple(float(data["heads"][name]["threshold"]) for name in NAMES),
            measured=data["measured"],
        )
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", _HINT) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is damaged: {error}", _HINT) from error
    width = len(heads.dense[0])
    whole = len(heads.rows) == len(data["words"]) and len(heads.words) == len(NAMES) * len(heads.rows)
    if not width or any(len(row) != width for row in heads.dense) or not whole:
        raise InvalidInput(f"{path} is damaged: rows of different lengths", _HINT)
    if not all(0 < threshold < 1 for threshold in heads.thresholds):
        raise InvalidInput(f"{path} is damaged: a threshold is not between 0 and 1", _HINT)
    return heads


_HINT = "restore the file, or make it again with python -m core.routing.train_emotion --data FOLDER"
