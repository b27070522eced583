"""semantic-router on given vectors, for benchmarks/routing.py: run with the interpreter of its own environment.

Reads one JSON object from standard input, `{"vectors": {text: [number, …]}, "routes": {name: [text, …]}, "fit": [[text,
name or null], …], "messages": [text, …]}`, and prints `{"version", "threshold", "fitted_accuracy", "answers": [[best,
chosen or null, confidence], …], "ms": [number, …]}`. Its calibrator is its own; the threshold is that of the best
accuracy on `fit`, counted as its own evaluation counts (a text without a route is right when nothing passes).
"""

import json
import sys
import time
from importlib.metadata import version

import numpy as np
from semantic_router import IndexedRouter, Route
from semantic_router.encoders import DenseEncoder

given = json.load(sys.stdin)


class Known(DenseEncoder):
    """Vectors that were made by the encoder that TARA uses."""

    def __call__(self, docs: list[str]) -> list[list[float]]:
        return [given["vectors"][text] for text in docs]


router = IndexedRouter(
    encoder=Known(name="known"),
    routes=[Route(name=name, utterances=texts) for name, texts in given["routes"].items()],
)
texts, labels = [row[0] for row in given["fit"]], [row[1] for row in given["fit"]]
report = router.fit(texts, labels)
fitted = [router(text, limit=None, threshold=0.0)[0] for text in texts]
best, threshold = -1.0, 0.0
for step in range(100):  # what router.evaluate counts, without encoding and comparing all texts a hundred times
    picks = [choice.name if choice.confidence >= step / 100 else None for choice in fitted]
    found = float(np.mean([pick == label for pick, label in zip(picks, labels, strict=True)]))
    if found > best:
        best, threshold = found, step / 100
answers, ms = [], []
for text in given["messages"]:
    started = time.perf_counter()
    choice = router(text, limit=None, threshold=0.0)[0]
    ms.append(1000 * (time.perf_counter() - started))
    answers.append([choice.name, choice.name if choice.confidence >= threshold else None, float(choice.confidence)])
print(
    json.dumps(
        {
            "version": version("semantic-router"),
            "threshold": threshold,
            "fitted_accuracy": float(np.round(report.accuracy, 4)),
            "answers": answers,
            "ms": ms,
        }
    )
)
