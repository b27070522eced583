"""Logistic regression on dense and sparse features at once, by L-BFGS in numpy: for rebuilding the emotion heads."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
_MEMORY = 10  # pairs that L-BFGS keeps (Nocedal and Wright, Numerical Optimization, algorithm 7.4)


class Sparse:
    """A matrix [rows, columns] of few values, to be multiplied from both sides."""

    def __init__(self, rows: Sequence[npt.NDArray[np.int64]], values: Sequence[Array], columns: int) -> None:
        self.shape = (len(rows), columns)
        index = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        value = np.concatenate(values) if rows else np.zeros(0, np.float32)
        lengths = np.array([len(row) for row in rows], np.int64)
        self._by_row = (index, value, _starts(lengths))
        owner = np.repeat(np.arange(len(rows)), lengths)
        order = np.argsort(index, kind="stable")
        self._by_column = (owner[order], value[order], _starts(np.bincount(index, minlength=columns)))

    def times(self, matrix: Array) -> Array:
        """self @ matrix, [rows, k]."""
        return _product(*self._by_row, matrix)

    def transposed_times(self, matrix: Array) -> Array:
        """self.T @ matrix, [columns, k]."""
        return _product(*self._by_column, matrix)


def _starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _product(index: npt.NDArray[np.int64], value: Array, starts: npt.NDArray[np.int64], matrix: Array) -> Array:
    made = np.zeros((len(starts) - 1, matrix.shape[1]), np.float32)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        made[filled] = np.add.reduceat(matrix[index] * value[:, None], starts[filled], axis=0)
    return made


def fit(
    dense: Array, sparse: Sparse, labels: Array, weights: Array, *, l2_dense: float, l2_sparse: float, rounds: int
) -> tuple[Array, Array, Array]:
    """Weights of `dense` [d, k], of `sparse` [columns, k] and biases [k] that least mistake the 0/1 `labels` [n, k].

    `weights` [n, k] say how much a label counts. The penalties are half the sum of squares times `l2_*`; biases are
    free.
    """
    d, k = dense.shape[1], labels.shape[1]
    total = float(weights.sum()) / k
    transposed = np.ascontiguousarray(dense.T)

    def loss(flat: Vector) -> tuple[float, Vector]:
        at = flat.reshape(-1, k).astype(np.float32)
        logits = dense @ at[:d] + sparse.times(at[d:-1]) + at[-1]
        value = (weights * (np.logaddexp(0, logits) - labels * logits)).sum(dtype=np.float64)
        value += 0.5 * l2_dense * np.square(at[:d]).sum(dtype=np.float64)
        value += 0.5 * l2_sparse * np.square(at[d:-1]).sum(dtype=np.float64)
        off = weights * (sigmoid(logits) - labels)
        slope = np.empty_like(at)
        slope[:d] = transposed @ off + l2_dense * at[:d]
        slope[d:-1] = sparse.transposed_times(off) + l2_sparse * at[d:-1]
        slope[-1] = off.sum(0)
        return value / total, (slope / total).astype(np.float64).ravel()

    found = minimise(loss, np.zeros((d + sparse.shape[1] + 1) * k), rounds).reshape(-1, k).astype(np.float32)
    return found[:d], found[d:-1], found[-1]


def minimise(
    function: Callable[[Vector], tuple[float, Vector]], x: Vector, rounds: int, settled: float = 1e-6
) -> Vector:
    """Where a smooth function, given with its slope, is least, by L-BFGS with a halving line search.

    Ends after `rounds`, or when a round gains less than `settled` of the value.
    """
    steps: list[Vector] = []
    turns: list[Vector] = []
    value, slope = function(x)
    for _ in range(rounds):
        direction = _direction(slope, steps, turns)
        rate = 1.0 if steps else min(1.0, 1 / float(np.abs(slope).sum()))
        descent = float(slope @ direction)
        while True:
            ahead = x + rate * direction
            next_value, next_slope = function(ahead)
            if next_value <= value + 1e-4 * rate * descent or rate < 1e-8:
                break
            rate /= 2
        step, turn = ahead - x, next_slope - slope
        if step @ turn > 1e-12:
            steps, turns = [*steps, step][-_MEMORY:], [*turns, turn][-_MEMORY:]
        gained = abs(value - next_value)
        x, value, slope = ahead, next_value, next_slope
        if gained < settled * max(1.0, abs(value)):
            break
    return x


def _direction(slope: Vector, steps: list[Vector], turns: list[Vector]) -> Vector:
    way = slope.copy()
    shares: list[float] = []
    for step, turn in zip(reversed(steps), reversed(turns), strict=True):
        share = float(step @ way) / float(turn @ step)
        shares.append(share)
        way -= share * turn
    if steps:
        way *= float(steps[-1] @ turns[-1]) / float(turns[-1] @ turns[-1])
    for step, turn, share in zip(steps, turns, reversed(shares), strict=True):
        way += step * (share - float(turn @ way) / float(turn @ step))
    return -way


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    made: Array = np.exp(-np.logaddexp(0, -logits))
    return made


def calibrate(logits: Array, labels: Array) -> tuple[float, float]:
    """Slope and offset that make logits [n] of 0/1 `labels` [n] honest.

    Platt, "Probabilistic outputs for support vector machines" (1999), with its targets a little off 0 and 1, which keep
    the slope finite where the logits part the labels entirely.
    """
    yes = float(labels.sum())
    no = len(labels) - yes
    targets = np.where(labels > 0, (yes + 1) / (yes + 2), 1 / (no + 2))
    inputs = np.stack([logits.astype(np.float64), np.ones(len(logits))], axis=1)

    def loss(at: Vector) -> tuple[float, Vector]:
        said = inputs @ at
        off = np.exp(-np.logaddexp(0, -said)) - targets
        return float((np.logaddexp(0, said) - targets * said).mean()), inputs.T @ off / len(labels)

    slope, offset = minimise(loss, np.array([1.0, 0.0]), 200, settled=1e-12)
    return float(slope), float(offset)
