"""Reading emotion, on the held-out fifth of the XED rows given: the heads, the word list, and "all eight always".

    make bench-emotion DATA=FOLDER

FOLDER holds the data files named in docs/emotion.md, or has them in `emotion/`. The held-out fifth took no part in
training, calibration or thresholds. An emotion counts as named where its value is 0.5 or more. Prints a table, or with
--json everything.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.encoder import Encoder, find_encoder
from core.errors import EnvironmentLacks, TaraError
from core.routing.emotion import PRESENT, Emotion, read_emotion
from core.routing.emotion_data import Row, held_out, read_rows
from core.routing.emotion_figures import calibration_error, f1_scores, micro_f1
from core.routing.lexicon import EMOTIONS
from core.routing.vectors import Embedding
from core.routing.words import normalise, split_words
from core.text import table

Reader = Callable[[str], Emotion]
LEAST_MACRO_F1 = 0.47
ALWAYS = Emotion(dict.fromkeys(EMOTIONS, 1.0), 1.0, 1.0, "all eight always")


def by_heads(encoder: Encoder) -> Reader:
    """The heads, the encoder's time included."""

    def read(text: str) -> Emotion:
        plain = normalise(text)
        return read_emotion(plain, split_words(plain), Embedding(encoder.embed([text])[0], encoder.identity))

    return read


def by_list(text: str) -> Emotion:
    """The word list."""
    plain = normalise(text)
    return read_emotion(plain, split_words(plain))


def measure(read: Reader, rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of one way to read, over all held-out rows; F1 over those that hold a feeling."""
    readings, ms = [], []
    for row in rows:
        began = time.perf_counter()
        readings.append(read(row.text))
        ms.append(1000 * (time.perf_counter() - began))
    felt = np.array([not row.neutral for row in rows])
    labels = np.array([[name in row.emotions for name in EMOTIONS] for row in rows], np.float32)
    values = np.array([[reading.values[name] for name in EMOTIONS] for reading in readings], np.float32)
    chosen = values >= PRESENT
    by_name = f1_scores(chosen[felt], labels[felt])
    chances = [[reading.probabilities.get(name, np.nan) for name in EMOTIONS] for reading in readings]
    errors = [calibration_error(np.array(chances, np.float32)[felt, k], labels[felt, k]) for k in range(len(EMOTIONS))]
    best = [reading.dominant for reading in readings]
    return {
        "method": readings[0].method,
        "macro_f1": float(by_name.mean()),
        "micro_f1": micro_f1(chosen[felt], labels[felt]),
        "f1": {name: float(score) for name, score in zip(EMOTIONS, by_name, strict=True)},
        "macro_f1_with_neutral_rows": float(f1_scores(chosen, labels).mean()),
        "strongest_is_right": float(np.mean([best[i] in rows[i].emotions for i in np.flatnonzero(felt)])),
        "felt_with_any": float(chosen[felt].any(1).mean()),
        "neutral_with_any": float(chosen[~felt].any(1).mean()),
        "calibration_error": float(np.mean(errors)) if readings[0].probabilities else None,
        "ms_median": statistics.median(ms),
        "ms_p95": statistics.quantiles(ms, n=20)[-1],
    }


def main() -> int:
    """Measure all ways in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the data")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        rows = held_out(read_rows(given.data))
        file = find_encoder()
        if file is None:
            raise EnvironmentLacks("TARA_ENCODER switches the encoder off", "unset it")
        with Encoder(file) as encoder:
            encoder.start()
            ways = [measure(read, rows) for read in (by_heads(encoder), by_list, lambda _: ALWAYS)]
            found = {"encoder": encoder.identity, "rows": sum(not r.neutral for r in rows), "ways": ways}
    except TaraError as error:
        print(error.one_line(), file=sys.stderr)
        return int(error.exit_code)
    found |= {"neutral_rows": sum(row.neutral for row in rows), "python": platform.python_version()}
    if given.json:
        print(json.dumps(found, indent=1))
        return 0
    holds = ways[0]["macro_f1"] >= LEAST_MACRO_F1
    felt, neutral = found["rows"], found["neutral_rows"]
    print(f"XED, held-out fifth: {felt} rows with a feeling, {neutral} neutral; {os.cpu_count()} cores")
    print(_table(ways))
    print(f"{'holds ' if holds else 'MISSED'} macro-F1 {ways[0]['macro_f1']:.3f}, at least {LEAST_MACRO_F1}")
    return 0 if holds else 1


def _table(ways: Sequence[dict[str, Any]]) -> str:
    names = {
        "macro_f1": "macro-F1",
        "micro_f1": "micro-F1",
        "macro_f1_with_neutral_rows": "macro-F1, neutral rows too",
        "strongest_is_right": "strongest one is right",
        "felt_with_any": "any named, with a feeling",
        "neutral_with_any": "any named, neutral",
        "calibration_error": "calibration error",
        "ms_median": "ms, median",
        "ms_p95": "ms, 95th percentile",
    }
    lines = [(title, *("" if way[key] is None else f"{way[key]:.3f}" for way in ways)) for key, title in names.items()]
    lines[1:1] = [(f"  {name}", *(f"{way['f1'][name]:.3f}" for way in ways)) for name in EMOTIONS]
    return table(("", *(way["method"] for way in ways)), lines)


if __name__ == "__main__":
    sys.exit(main())
