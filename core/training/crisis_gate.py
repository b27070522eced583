"""Rebuilds the weights of the crisis gate: python -m core.training.crisis_gate DATA [FOLDER].

Trained is on the cases, on everyday messages and on what people say to each other (the emotion data in DATA, see
docs/emotion.md), without what is held out: a tenth of all, and the development sets. What was held out then says how
the three readings and the expressions come together (Platt 1999) and where the thresholds lie. The test set is never
read. It took an hour and ten minutes on one of two cores; what was broken off goes on from FOLDER. The encoder's
package must be installed.
"""

import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.encoder.place import NAME, SOURCE_SHA256, package_folder
from core.files import discard, hash_json, sha256_of, staging_beside, write_atomically
from core.routing.crisis_model import ADAPTER, BUCKETS, CASES, ORDINARY, VERSION, WEIGHTS, WORDED, letters, packed
from core.routing.crisis_wording import KINDS, CrisisWording
from core.routing.emotion_data import ATTRIBUTION
from core.training.crisis_cases import DATA, SEED, training_cases
from core.training.crisis_data import TALK, Case, classes_of, misspelled, mistyped
from core.training.crisis_lora import CrisisEncoder, fit_letters
from core.training.crisis_screen import write_screen
from core.training.crisis_subject import fit_subject

EPOCHS = 8
# The share a threshold may let through of the development set's harmless messages, and of everyday ones. The tenth of
# the cases that is held out has no say here: both sides of it were written to be hard to tell apart.
FALSE_ALARMS = 0.02
EVERYDAY_ALARMS = {"with_encoder": 0.0125, "without_encoder": 0.01}
_READINGS = 3  # the first columns with the encoder; the others are of expressions
MOST_EXCUSE = 2.0  # log-odds that a figure of speech takes off at most: a crisis may stand beside it


def rebuild(model: Path, said: Path, scratch: Path | None = None, data_folder: Path = DATA) -> dict[str, Any]:
    """Train, and write the adapter and the weights. `model` is the encoder's model folder, `said` holds the emotion
    data, `scratch` is for what is half trained, `data_folder` holds the development sets."""
    cases = training_cases(said, data_folder)
    classes = classes_of(cases)
    held = [case for case in cases if case.held_out]
    seen = [case for case in cases if not case.held_out]
    say(f"{len(cases)} cases, {sum(case.crisis for case in cases)} of them crises; {len(held)} held out")
    encoder = CrisisEncoder(model, classes, SEED)
    say("reading what the messages are about")
    chance = random.Random(SEED)
    read = [case.text for case in seen] + [chance.choice((mistyped, misspelled))(case.text, chance) for case in seen]
    labels = [classes.index(str(case.label)) for case in seen]
    subject = fit_subject(encoder.vectors(read), labels * 2, len(KINDS), len(classes), SEED)
    plain_held = encoder.vectors([case.text for case in held])
    encoder.fit(seen, say, scratch / "adapter.safetensors" if scratch is not None else None, epochs=EPOCHS)
    texts = [case.text for case in held]
    by_letters = _letter_rows(seen)
    fitted = fit(held, encoder.margins(texts), _margins(by_letters, texts), subject_margins(subject, plain_held))
    for name, part in fitted.items():
        say(
            f"{name}: recall {part['recall']:.3f} and false alarms {part['false_alarms']:.3f} of the development set, "
            f"{part['hard_recall']:.3f} and {part['hard_false_alarms']:.3f} of the cases held out, "
            f"{part['everyday_alarms']:.3f} of everyday messages"
        )
    staged = staging_beside(ADAPTER)
    try:
        encoder.write_adapter(staged)
        os.replace(staged, ADAPTER)
    finally:
        discard(staged)
    data = {
        "version": VERSION,
        "encoder": {"name": NAME, "sha256": SOURCE_SHA256},
        "adapter_sha256": sha256_of(ADAPTER),
        "cases_sha256": sha256_of(CASES),
        "ordinary_sha256": sha256_of(ORDINARY),
        "talk_sha256": hash_json([case.text for case in cases if case.label == TALK]),
        "attribution": f"Trained beside lines of {ATTRIBUTION}, on all-MiniLM-L6-v2 (Apache-2.0).",
        "kinds": list(KINDS),
        "classes": list(classes),
        "meaning": [packed(row) for row in encoder.head_rows()],
        "letters": [packed(row) for row in by_letters],
        "hidden": [packed(row) for row in subject[0]],
        "subject": [packed(row) for row in subject[1]],
        "fitted": fitted,
    }
    write_atomically(WEIGHTS, json.dumps(data, indent=1) + "\n")
    say(f"the adapter is asked from a leaning of {write_screen(cases)}")
    return data


def _letter_rows(cases: Sequence[Case]) -> list[list[float]]:
    """The weights of letters: a row a kind, and one for none."""
    labels = [KINDS.index(case.label) if case.label in KINDS else len(KINDS) for case in cases]
    return fit_letters([letters(case.text) for case in cases], labels, len(KINDS) + 1, BUCKETS)


def _margins(rows: Sequence[Sequence[float]], texts: Sequence[str]) -> npt.NDArray[np.float64]:
    table = np.array(rows)
    margins = []
    for text in texts:
        found = letters(text)
        scores = table[:, list(found)] @ np.array(list(found.values())) + table[:, -1]
        kinds, others = scores[: len(KINDS)], scores[len(KINDS) :]
        margins.append(float(np.logaddexp.reduce(kinds) - np.logaddexp.reduce(others)))
    return np.array(margins)


def subject_margins(
    rows: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]], vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The log-odds of a crisis by the reading of the subject, of vectors [n, dimension]."""
    hidden, last = np.array(rows[0]), np.array(rows[1])
    seen = np.maximum(vectors @ hidden[:, :-1].T + hidden[:, -1], 0.0)
    scores = seen @ last[:, :-1].T + last[:, -1]
    kinds, others = scores[:, : len(KINDS)], scores[:, len(KINDS) :]
    found: npt.NDArray[np.float64] = np.logaddexp.reduce(kinds, 1) - np.logaddexp.reduce(others, 1)
    return found


def fit(
    held: Sequence[Case],
    by_meaning: npt.NDArray[np.float64],
    by_letters: npt.NDArray[np.float64],
    by_subject: npt.NDArray[np.float64],
) -> dict[str, dict[str, float]]:
    """How the readings come together, with an encoder and without: weights, bias, threshold, and what they reach."""
    crisis = np.array([case.crisis for case in held])
    everyday = np.array([case.everyday for case in held])
    developed = np.array([case.developed for case in held]) & ~everyday
    wordings = [CrisisWording(case.text) for case in held]
    certain = np.array([one.certain is not None for one in wordings])  # whatever is read
    worded = np.array([one.worded is not None for one in wordings], float)
    unexcused = np.array([not one.excused for one in wordings], float)
    common = {"letters": by_letters, "worded": worded, "unexcused": unexcused}
    fitted = {}
    vectors = {"meaning": by_meaning, "subject": by_subject}
    for name, columns in {"with_encoder": {**vectors, **common}, "without_encoder": common}.items():
        table = np.stack(list(columns.values()), 1)
        # What an expression weighs is not to be learned from the development set, with which in view some were written.
        # Without an encoder an expression decides alone.
        fitting = ~certain & ~developed if name == "with_encoder" else ~certain
        weights, bias = _logistic(table[fitting], crisis[fitting].astype(float))
        excess = max(0.0, weights[-1] - MOST_EXCUSE)
        weights[-1], bias = weights[-1] - excess, bias + excess
        if name == "with_encoder":
            # What expressions weigh is learned where twins stand beside crises. What the readings weigh is learned from
            # what a gate meets: everyday messages, and crises.
            met, said = fitting & (crisis | everyday), table[:, _READINGS:] @ weights[_READINGS:]
            weights[:_READINGS], bias = _logistic(table[met, :_READINGS], crisis[met].astype(float), said[met])
            # How sure that makes one is calibrated with the twins again, or all that is found would seem certain.
            scale, less = _logistic((table[fitting] @ weights + bias)[:, None], crisis[fitting].astype(float))
            weights, bias = weights * scale[0], bias * scale[0] + less
        probability = 1 / (1 + np.exp(-table @ weights - bias))
        believed = (worded > 0) & (probability >= WORDED)
        always = certain | (believed if name == "with_encoder" else worded > 0)
        threshold = max(
            _threshold(probability[developed], crisis[developed], always[developed], FALSE_ALARMS),
            _threshold(probability[everyday], crisis[everyday], always[everyday], EVERYDAY_ALARMS[name]),
        )
        alarm = always | (probability >= threshold)
        fitted[name] = {
            **{key: round(float(weight), 4) for key, weight in zip(columns, weights, strict=True)},
            "bias": round(float(bias), 4),
            "threshold": round(threshold, 4),
            "recall": round(float(alarm[crisis & developed].mean()), 4),
            "false_alarms": round(float(alarm[~crisis & developed].mean()), 4),
            "hard_recall": round(float(alarm[crisis & ~developed].mean()), 4),
            "hard_false_alarms": round(float(alarm[~crisis & ~developed & ~everyday].mean()), 4),
            "everyday_alarms": round(float(alarm[everyday].mean()), 4),
        }
    return fitted


def _threshold(
    probability: npt.NDArray[np.float64], crisis: npt.NDArray[np.bool_], always: npt.NDArray[np.bool_], share: float
) -> float:
    """The lowest probability that lets through no more than `share` of the harmless; `always` are alarms anyway."""
    most = int(share * (~crisis).sum()) - int((always & ~crisis).sum())
    ranked = np.sort(probability[~crisis & ~always])[::-1]
    return float((ranked[most] + ranked[most - 1]) / 2) if most > 0 else float(ranked[0]) + 1e-4


def _logistic(
    columns: npt.NDArray[np.float64], target: npt.NDArray[np.float64], offset: npt.NDArray[np.float64] | float = 0.0
) -> tuple[npt.NDArray[np.float64], float]:
    """Logistic regression by Newton's method, with a ridge of 0.01; no weight is below 0, as each column speaks for.
    `offset` are log-odds that are there already."""
    used = np.ones(columns.shape[1], bool)
    while True:
        table = np.column_stack([columns[:, used], np.ones(len(columns))])
        weights = np.zeros(table.shape[1])
        for _ in range(50):
            probability = 1 / (1 + np.exp(-table @ weights - offset))
            gradient = table.T @ (probability - target) + 0.01 * weights
            curvature = (table * (probability * (1 - probability))[:, None]).T @ table + 0.01 * np.eye(len(weights))
            weights = weights - np.linalg.solve(curvature, gradient)
        if (weights[:-1] >= 0).all():
            full = np.zeros(columns.shape[1])
            full[used] = weights[:-1]
            return full, float(weights[-1])
        used[np.flatnonzero(used)[weights[:-1] < 0]] = False


def say(line: str) -> None:
    """Show how far it is."""
    print(line, flush=True)


def main(arguments: list[str]) -> int:
    """Rebuild; the exit status."""
    if len(arguments) not in (1, 2) or any(one.startswith("-") for one in arguments):
        print("usage: python -m core.training.crisis_gate DATA [FOLDER]", file=sys.stderr)
        return 2
    rebuild(package_folder(), *map(Path, arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
