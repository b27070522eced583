"""Rebuilds the emotion heads: `python -m core.routing.train_emotion --data FOLDER`.

Nine logistic heads (the eight emotions and neutral) on the sentence encoder's vector and on features of the wording,
which are words, pairs of words and marks. XED and GoEmotions are trained on together, each weight being one that both
share and one of XED's own (Daumé, "Frustratingly Easy Domain Adaptation", 2007); what is shipped is the sum, for XED
has the eight emotions themselves. Cross-fitted predictions of the rows that are not held out make the calibration
(Platt) and the thresholds of best F1; the held-out fifth only makes the figures in the file. Everything is in a fixed
order and nothing is drawn, so a rebuild with the same encoder and libraries makes the same file.
"""

import argparse
import base64
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.encoder import Encoder, find_encoder
from core.encoder.place import FLOATS, NAME
from core.errors import EnvironmentLacks, TaraError
from core.files import write_atomically
from core.routing.emotion_data import ATTRIBUTION, FOLDS, Row, read_rows
from core.routing.emotion_features import wording_features
from core.routing.emotion_figures import area_under_curve, best_threshold, calibration_error, f1_scores, micro_f1
from core.routing.heads import FILE, FORMAT, NAMES
from core.routing.lexicon import EMOTIONS
from core.routing.logistic import Array, Sparse, calibrate, fit, sigmoid
from core.routing.words import normalise, split_words

LEAST_XED, LEAST_GO = 5, 20  # rows of either source in which a feature must be, to be one
WEIGHTS = {"xed": 1.0, "go": 0.3, "own": 4.0}  # of a row, by its source
L2_DENSE, L2_SPARSE = 3.0, 2.0
ROUNDS = 60
UNIT = 0.03  # what 1 stands for in the stored weights of features, which are whole numbers from -127 to 127
NEUTRAL_COST = 0.003  # most macro-F1 on texts with a feeling that calling messages neutral may cost
LICENCE = f"Weights trained from {ATTRIBUTION}, on vectors of all-MiniLM-L6-v2 (Apache-2.0)."
Weights = tuple[Array, Array, Array]  # dense [d, 9], of features [columns, 9], bias [9]


class Inputs:
    """All rows as numbers."""

    def __init__(self, rows: Sequence[Row], vectors: Array) -> None:
        self.rows = rows
        self.vectors = vectors
        said = [[*(name in row.emotions for name in EMOTIONS), row.neutral] for row in rows]
        self.labels = np.array(said, np.float32)
        self.xed = np.array([row.source == "xed" for row in rows])
        self.go = np.array([row.source == "go" for row in rows])
        self.felt = ~np.array([row.neutral for row in rows])
        self.fold = np.array([-1 if row.fold is None else row.fold for row in rows])
        found = [wording_features(text, split_words(text)) for text in map(normalise, (row.text for row in rows))]
        self.vocabulary = self._vocabulary(found)
        column = {name: at for at, name in enumerate(self.vocabulary)}
        self._columns = [np.array(sorted(column[n] for n in names if n in column), np.int64) for names in found]
        # XED's neutral rows say nothing of which feeling a feeling is, and would lower what the heads say of feelings.
        own = np.array([WEIGHTS[row.source] for row in rows], np.float32)
        self.weights = np.repeat(own[:, None], len(NAMES), axis=1)
        self.weights[self.xed & ~self.felt, : len(EMOTIONS)] = 0

    def _vocabulary(self, found: Sequence[set[str]]) -> list[str]:
        """Features frequent enough in rows that are not held out."""
        seen: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        for names, go, fold in zip(found, self.go, self.fold, strict=True):
            if fold >= 0:
                seen[bool(go)].update(names)
        return sorted(
            name for name in seen[True] | seen[False] if seen[False][name] >= LEAST_XED or seen[True][name] >= LEAST_GO
        )

    def sparse(self, which: npt.NDArray[np.int64], *, doubled: bool = False) -> Sparse:
        """The features of some rows, by the root of their number; `doubled`: once more where not of GoEmotions."""
        size = len(self.vocabulary)
        columns, values = [], []
        for at in which:
            own = self._columns[at]
            twice = doubled and not self.go[at]
            columns.append(np.concatenate([own, own + size]) if twice else own)
            values.append(np.full(len(columns[-1]), 1 / np.sqrt(max(1, len(own))), np.float32))
        return Sparse(columns, values, 2 * size if doubled else size)

    def train(self, which: npt.NDArray[np.int64]) -> Weights:
        """Weights for texts like XED's."""
        vectors, own = self.vectors[which], (~self.go[which]).astype(np.float32)[:, None]
        d, size = vectors.shape[1], len(self.vocabulary)
        dense = np.concatenate([vectors, vectors * own, own], axis=1)
        w, v, bias = fit(
            dense,
            self.sparse(which, doubled=True),
            self.labels[which],
            self.weights[which],
            l2_dense=L2_DENSE,
            l2_sparse=L2_SPARSE,
            rounds=ROUNDS,
        )
        return w[:d] + w[d : 2 * d], v[:size] + v[size:], bias + w[2 * d]

    def logits(self, which: npt.NDArray[np.int64], weights: Weights) -> Array:
        """What some weights say of some rows, [n, 9]."""
        dense, sparse, bias = weights
        made: Array = self.vectors[which] @ dense + self.sparse(which).times(sparse) + bias
        return made


def calibrated(weights: Weights, slopes: Array, offsets: Array) -> Weights:
    """Weights whose logits are `slopes` times the given ones' plus `offsets`."""
    dense, sparse, bias = weights
    return dense * slopes, sparse * slopes, bias * slopes + offsets


def neutral_threshold(chances: Array, labels: Array, thresholds: Sequence[float]) -> float:
    """The lowest chance of neutral from which on a message may be called so at a cost of at most NEUTRAL_COST.

    `chances` [n, 9] and `labels` [n, 9] of texts with a feeling; `thresholds` of the eight.
    """
    eight, chosen = labels[:, :-1], chances[:, :-1] >= np.array(thresholds)
    free = f1_scores(chosen, eight).mean()
    for threshold in np.arange(0.5, 0.99, 0.01):
        if free - f1_scores(chosen & (chances[:, -1:] < threshold), eight).mean() <= NEUTRAL_COST:
            return float(round(threshold, 2))
    return 0.99


def figures(chances: Array, labels: Array, felt: npt.NDArray[np.bool_], thresholds: Sequence[float]) -> dict[str, Any]:
    """Figures of the heads alone on rows [n, 9], the eight's on those with a feeling."""
    *eight, neutral = thresholds
    quiet = chances[:, -1] >= neutral
    chosen = (chances[:, :-1] >= np.array(eight)) & ~quiet[:, None]
    own, said = labels[felt][:, :-1], chances[felt][:, :-1]
    by_name = f1_scores(chosen[felt], own)
    return {
        "rows": int(felt.sum()),
        "macro_f1": round(float(by_name.mean()), 4),
        "micro_f1": round(micro_f1(chosen[felt], own), 4),
        "f1": {name: round(float(value), 4) for name, value in zip(EMOTIONS, by_name, strict=True)},
        "auroc": round(float(np.mean([area_under_curve(said[:, k], own[:, k]) for k in range(len(EMOTIONS))])), 4),
        "calibration_error": round(
            float(np.mean([calibration_error(said[:, k], own[:, k]) for k in range(len(EMOTIONS))])), 4
        ),
        "neutral_rows": int((~felt).sum()),
        "neutral_called_neutral": round(float((~chosen[~felt].any(1)).mean()), 4),
        "felt_called_neutral": round(float((~chosen[felt].any(1)).mean()), 4),
        "neutral_auroc": round(area_under_curve(chances[:, -1], labels[:, -1]), 4),
    }


def make_heads(inputs: Inputs, encoder: str) -> dict[str, Any]:
    """The heads' file as plain values. `encoder` is the SHA-256 of the encoder's file."""
    given = np.flatnonzero(inputs.fold >= 0)
    crossed = np.zeros((len(inputs.rows), len(NAMES)), np.float32)
    for fold in range(FOLDS):
        print(f"cross-fitting, fold {fold + 1} of {FOLDS}", file=sys.stderr, flush=True)
        left_out = np.flatnonzero((inputs.fold == fold) & inputs.xed)
        others = np.flatnonzero((inputs.fold >= 0) & (inputs.fold != fold))
        crossed[left_out] = inputs.logits(left_out, inputs.train(others))
    seen, both = inputs.xed & (inputs.fold >= 0) & inputs.felt, inputs.xed & (inputs.fold >= 0)
    pairs = [
        calibrate(crossed[judged, k], inputs.labels[judged, k])
        for k, judged in enumerate([seen] * len(EMOTIONS) + [both])
    ]
    slopes, offsets = np.array(pairs, np.float32).T
    chances = sigmoid(crossed[seen] * slopes + offsets)
    thresholds = [round(best_threshold(chances[:, k], inputs.labels[seen, k]), 4) for k in range(len(EMOTIONS))]
    thresholds.append(neutral_threshold(chances, inputs.labels[seen], thresholds))
    print("the whole", file=sys.stderr, flush=True)
    dense, sparse, bias = calibrated(inputs.train(given), slopes, offsets)
    whole = np.clip(np.rint(sparse / UNIT), -127, 127).astype(np.int8)  # what is measured is what is shipped
    dense, bias = dense.round(3), bias.round(3)
    measured = np.flatnonzero(inputs.xed & (inputs.fold < 0))
    shipped: Weights = (dense, whole.astype(np.float32) * UNIT, bias)
    return {
        "format": FORMAT,
        "licence": LICENCE,
        "made_by": "python -m core.routing.train_emotion",
        "encoder": {"name": f"{NAME}, {FLOATS}", "sha256": [encoder]},
        "trained_on": dict(Counter(inputs.rows[int(at)].source for at in given)),
        "measured": figures(
            sigmoid(inputs.logits(measured, shipped)), inputs.labels[measured], inputs.felt[measured], thresholds
        ),
        "heads": {
            name: {
                "bias": float(f"{bias[k]:.3f}"),
                "threshold": thresholds[k],
                "dense": [float(f"{value:.3f}") for value in dense[:, k]],
            }
            for k, name in enumerate(NAMES)
        },
        "word_unit": UNIT,
        "words": inputs.vocabulary,
        "word_weights": base64.b64encode(whole.tobytes()).decode("ascii"),
    }


def embed(texts: Sequence[str], encoder: Encoder, cache: Path | None) -> Array:
    """The encoder's vectors [n, d] of texts, kept in the folder `cache` where one is named."""
    digest = hashlib.sha256("\0".join((encoder.identity, *texts)).encode("utf-8")).hexdigest()
    kept = cache / f"vectors-{digest[:16]}.npy" if cache is not None else None
    if kept is not None and kept.is_file():
        made: Array = np.load(kept)
        return made
    parts = []
    for at in range(0, len(texts), 512):
        parts.append(encoder.embed(texts[at : at + 512]))
        print(f"\rembedded {min(at + 512, len(texts)):,} of {len(texts):,}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    made = np.concatenate(parts)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write the file; prints the figures of the held-out fifth."""
    parser = argparse.ArgumentParser(prog="python -m core.routing.train_emotion", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the three data files")
    parser.add_argument("--out", type=Path, default=FILE, help="the file to write (default: the shipped one)")
    parser.add_argument("--cache", type=Path, help="a folder in which the encoder's vectors are kept")
    given = parser.parse_args(arguments)
    try:
        file = find_encoder()
        if file is None:
            raise EnvironmentLacks("TARA_ENCODER switches the encoder off", "unset it")
        rows = sorted(read_rows(given.data), key=lambda row: list(WEIGHTS).index(row.source))
        with Encoder(file) as encoder:
            by_source = [[row.text for row in rows if row.source == source] for source in WEIGHTS]
            vectors = np.concatenate([embed(texts, encoder, given.cache) for texts in by_source])
            heads = make_heads(Inputs(rows, vectors), encoder.identity)
        write_atomically(given.out, json.dumps(heads, ensure_ascii=False, separators=(",", ":")))
    except TaraError as error:
        print(error.one_line(), file=sys.stderr)
        return int(error.exit_code)
    print(json.dumps(heads["measured"], indent=1))
    print(f"{given.out}: {given.out.stat().st_size:,} bytes, {len(heads['words']):,} features", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
