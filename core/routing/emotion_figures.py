"""How good emotion readings are: F1, the threshold that serves it, calibration. In numpy, for rebuild and benchmark."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
_SMOOTH = 51  # neighbouring thresholds that are averaged, so that one lucky row does not decide
_BINS = 10


def f1_scores(chosen: npt.NDArray[np.bool_], labels: Array) -> Array:
    """F1 of each column of decisions [n, k] on 0/1 labels [n, k]; 0 where there is neither decision nor label."""
    hits = (chosen & (labels > 0)).sum(0)
    made: Array = 2 * hits / np.maximum(1, chosen.sum(0) + labels.sum(0))
    return made


def micro_f1(chosen: npt.NDArray[np.bool_], labels: Array) -> float:
    """F1 of all decisions together."""
    return float(2 * (chosen & (labels > 0)).sum() / max(1, chosen.sum() + labels.sum()))


def best_threshold(chances: Array, labels: Array) -> float:
    """The chance [n] from which on "yes" has the best F1 on 0/1 labels [n], smoothed over neighbouring ones."""
    order = np.argsort(-chances, kind="stable")
    hits = np.cumsum(labels[order])
    scores = 2 * hits / (np.arange(1, len(order) + 1) + labels.sum())
    width = min(_SMOOTH, len(scores))
    smooth = np.convolve(scores, np.ones(width) / width, "valid")
    return float(chances[order[int(smooth.argmax()) + width // 2]])


def calibration_error(chances: Array, labels: Array) -> float:
    """Expected calibration error of chances on 0/1 labels, both [n]: ten bins of equally many rows."""
    order = np.argsort(chances, kind="stable")
    off = [abs(float(chances[part].mean() - labels[part].mean())) * len(part) for part in np.array_split(order, _BINS)]
    return sum(off) / len(order)


def area_under_curve(chances: Array, labels: Array) -> float:
    """Chance that a row with the label has the higher value, ties by half."""
    _, inverse, counts = np.unique(chances, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    with_label = float(labels.sum())
    below = float(ranks[labels > 0].sum()) - with_label * (with_label + 1) / 2
    return below / (with_label * (len(labels) - with_label))
