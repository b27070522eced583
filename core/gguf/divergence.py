"""How far a quantized model's predictions are from its unquantized parent's, in bounded memory.

The reference's distribution at a position is kept as its 256 most likely tokens, the mass of all others, and 32 tokens
drawn from those others: 2.3 kB a position, where llama-perplexity's file holds the whole vocabulary. From this come

- a lower bound: the divergence over the partition of the vocabulary into 257 parts. By the data-processing inequality
  (Cover and Thomas, Elements of Information Theory, 2.8) it is never above the divergence over the whole vocabulary.
  What it leaves out is how the two models differ among the other tokens, which is much where a text surprises both;
- an estimate without bias: the bound, and for what it leaves out the mean over the tokens drawn. With
  KL(P||Q) = bound + mass x KL(p||q), p and q being the models among the others, each token drawn from p contributes
  log(p/q) + q/p - 1, whose expectation is KL(p||q) and which is never negative (Schulman, Approximating KL Divergence,
  2020, estimator k3).

Logarithms are natural: losses and divergences are in nats a token.
"""

import math
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput, TaraError

TOP = 256
DRAWN = 32
MIN_BLOCKS = 8  # texts, from which on a standard error is taken over texts

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Kept:
    """What is kept of a model's predictions at n positions.

    `ids` [n, k]: tokens, k at most 256. `logs` [n, k]: their log-probabilities. `rest` [n]: log of the mass of all
    other tokens, -inf where there are none. `drawn` [n, 32]: tokens the reference drew among those, with repetitions
    (0 where there are none); `drawn_logs` [n, 32]: their log-probabilities. `best` [n]: the most likely token. `loss`
    [n]: cross entropy of the token that really follows, nats.
    """

    ids: Ids
    logs: Floats
    rest: Floats
    drawn: Ids
    drawn_logs: Floats
    best: Ids
    loss: Floats

    def __len__(self) -> int:
        return len(self.best)

    def rows(self, start: int, stop: int) -> "Kept":
        """The positions from `start` to before `stop`."""
        return Kept(*(getattr(self, name)[start:stop] for name in _FIELDS))


def keep(
    logits: npt.NDArray[np.floating[Any]], targets: npt.NDArray[np.integer[Any]], random: np.random.Generator
) -> Kept:
    """The reference's side: `logits` [n, vocabulary] before softmax, `targets` [n] the tokens that really follow;
    `random` draws. Raises InvalidInput where a logit is not finite.
    """
    logs = log_softmax(logits)
    top = min(TOP, logs.shape[1])
    ids = np.argpartition(-logs, top - 1, axis=1)[:, :top]
    return _at(logs, targets, ids, _draw(logs, ids, random))


def keep_at(logits: npt.NDArray[np.floating[Any]], targets: npt.NDArray[np.integer[Any]], reference: Kept) -> Kept:
    """The other model's side: as `keep`, of the tokens that the reference kept and drew."""
    return _at(log_softmax(logits), targets, reference.ids, reference.drawn)


def log_softmax(logits: npt.NDArray[np.floating[Any]]) -> Doubles:
    """Log-probabilities [n, vocabulary] in float64. Raises InvalidInput where a logit is not finite."""
    values = logits.astype(np.float64)
    if not np.isfinite(values).all():
        raise InvalidInput("the model predicts values that are no numbers", "its file is broken: build it again")
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def _draw(
    logs: Doubles, ids: npt.NDArray[np.integer[Any]], random: np.random.Generator
) -> npt.NDArray[np.integer[Any]]:
    """Tokens [n, 32] among those not in `ids`, by systematic sampling: one point in each 32nd of their mass, so each
    token comes as often as its share on average, and the estimate varies less than with independent draws."""
    others = np.exp(_others(logs, ids)[0])
    sums = others.cumsum(axis=1)
    points = (np.arange(DRAWN) + random.random((len(logs), 1))) / DRAWN * sums[:, -1:]
    found = [np.searchsorted(row, at, side="right") for row, at in zip(sums, points, strict=True)]
    last = others.shape[1] - 1 - (others[:, ::-1] > 0).argmax(axis=1)  # a point may be rounded up to the whole mass
    return np.where(sums[:, -1:] > 0, np.minimum(np.stack(found), last[:, None]), 0)


def _others(logs: Doubles, ids: npt.NDArray[np.integer[Any]]) -> tuple[Doubles, Doubles]:
    """Logs [n, vocabulary] of the tokens not in `ids`, -inf for those, less the largest [n] of each row, so that what
    is small beside the likely tokens is not lost."""
    others = logs.copy()
    np.put_along_axis(others, ids, -np.inf, axis=1)
    most = others.max(axis=1)
    most[~np.isfinite(most)] = 0.0
    return others - most[:, None], most


def _at(
    logs: Doubles,
    targets: npt.NDArray[np.integer[Any]],
    ids: npt.NDArray[np.integer[Any]],
    drawn: npt.NDArray[np.integer[Any]],
) -> Kept:
    rows = np.arange(len(logs))
    best = logs.argmax(axis=1)
    loss = -logs[rows, targets]
    chosen = np.take_along_axis(logs, ids, axis=1)
    drawn_logs = np.take_along_axis(logs, drawn, axis=1)
    others, most = _others(logs, ids)
    with np.errstate(divide="ignore"):
        rest = np.log(np.exp(others).sum(axis=1)) + most
    return Kept(
        ids.astype(np.int32),
        chosen.astype(np.float32),
        rest.astype(np.float32),
        drawn.astype(np.int32),
        drawn_logs.astype(np.float32),
        best.astype(np.int32),
        loss.astype(np.float32),
    )


def divergences(reference: Kept, other: Kept) -> tuple[Doubles, Doubles]:
    """KL(reference || other) at each position, nats: the lower bound [n] and the estimate without bias [n].

    float32 log-probabilities are off by at most 1e-6 of a nat, so a bound that is 0 may come out as -1e-6.
    """
    if not (np.array_equal(reference.ids, other.ids) and np.array_equal(reference.drawn, other.drawn)):
        raise ValueError("the two sides keep different tokens")
    p, q = reference.logs.astype(np.float64), other.logs.astype(np.float64)
    bound = np.asarray((np.exp(p) * (p - q)).sum(axis=1), dtype=np.float64)
    there = np.isfinite(reference.rest)
    rest_p, rest_q = reference.rest[there].astype(np.float64), other.rest[there].astype(np.float64)
    mass = np.exp(rest_p)
    bound[there] += mass * (rest_p - rest_q)
    ratio = (other.drawn_logs[there] - rest_q[:, None]) - (reference.drawn_logs[there] - rest_p[:, None])
    whole = bound.copy()
    whole[there] += mass * (np.exp(ratio) - 1 - ratio).mean(axis=1)
    return bound, whole


def whole_divergences(
    reference: npt.NDArray[np.floating[Any]], other: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """KL(reference || other) at each position over the whole vocabulary, from logits [n, vocabulary]: what the bounded
    method is checked against, and what llama-perplexity computes."""
    p, q = log_softmax(reference), log_softmax(other)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=1))


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; `over` says what was taken as independent: texts or positions."""

    mean: float
    se: float | None  # None for a single position
    over: str


def estimate(values: Doubles, blocks: Sequence[int]) -> Estimate:
    """Mean of `values` [n] with a standard error; `blocks` [n] numbers the text each position belongs to.

    Positions of one text are not independent. From 8 texts on the error is clustered by text, for the mean as a ratio
    of sums so that texts may differ in length (Miller, Adding Error Bars to Evals, arXiv:2411.00640, section 2.2, with
    B / (B - 1) for few clusters). Below, there are too few texts to tell, and it is that of independent positions,
    which is too small where positions are alike.
    """
    count, mean = len(values), float(np.mean(values))
    numbers, inverse = np.unique(np.asarray(blocks), return_inverse=True)
    if len(numbers) >= MIN_BLOCKS:
        sums = np.bincount(inverse, weights=values - mean)
        se = math.sqrt(len(numbers) / (len(numbers) - 1) * float((sums**2).sum())) / count
        return Estimate(mean, se, "texts")
    return Estimate(mean, float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else None, "positions")


@dataclass(frozen=True)
class Comparison:
    """Two models on the same text, over `positions` of `texts`. Losses in nats a token; shares from 0 to 1."""

    positions: int
    texts: int
    kl: Estimate
    kl_bound: Estimate  # over the 257 parts: never above the divergence over the whole vocabulary
    kl_p99: float
    kl_max: float
    same_top: Estimate
    loss: Estimate
    reference_loss: Estimate
    loss_difference: Estimate  # other less reference, position by position: the error of the pair, not of each

    @property
    def perplexity(self) -> float:
        """exp of the mean cross entropy of the other model, inf where a float cannot hold it."""
        return _exp(self.loss.mean)

    @property
    def reference_perplexity(self) -> float:
        """exp of the mean cross entropy of the reference."""
        return _exp(self.reference_loss.mean)

    @property
    def perplexity_change(self) -> Estimate:
        """perplexity / reference perplexity - 1; its error by the delta method from that of the paired difference."""
        ratio = _exp(self.loss_difference.mean)
        error = self.loss_difference.se
        return Estimate(ratio - 1, None if error is None else ratio * error, self.loss_difference.over)


def _exp(value: float) -> float:
    return math.exp(value) if value < math.log(sys.float_info.max) else math.inf


class Comparing:
    """Collects what is compared, text by text: five numbers a position are held, whatever the vocabulary."""

    def __init__(self) -> None:
        self._columns: list[Doubles] = []
        self._blocks: list[int] = []
        self.texts = 0

    def add(self, reference: Kept, other: Kept) -> None:
        """One text's positions."""
        bound, whole = divergences(reference, other)
        same = reference.best == other.best
        self._columns.append(np.stack([whole, bound, same, other.loss, reference.loss]).astype(np.float64))
        self._blocks += [self.texts] * len(reference)
        self.texts += 1

    def extend(self, more: "Comparing") -> None:
        """The texts of another collection after these."""
        self._columns += more._columns
        self._blocks += [self.texts + block for block in more._blocks]
        self.texts += more.texts

    def result(self) -> Comparison:
        """All together. Raises InvalidInput where nothing was added."""
        if not self._blocks:
            raise InvalidInput("there is no position to compare", "give held-out examples or a longer text")
        kl, bound, same, loss, reference = np.concatenate(self._columns, axis=1)
        return Comparison(
            positions=len(self._blocks),
            texts=self.texts,
            kl=estimate(kl, self._blocks),
            kl_bound=estimate(bound, self._blocks),
            kl_p99=float(np.quantile(kl, 0.99)),
            kl_max=float(kl.max()),
            same_top=estimate(same, self._blocks),
            loss=estimate(loss, self._blocks),
            reference_loss=estimate(reference, self._blocks),
            loss_difference=estimate(loss - reference, self._blocks),
        )


def join(parts: Sequence[Kept]) -> Kept:
    """The positions of several parts, in order."""
    return Kept(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


_FIELDS = ("ids", "logs", "rest", "drawn", "drawn_logs", "best", "loss")


class ReferenceWriter:
    """Writes what is kept of the reference, text by text, into an .npz file: 2 kB a position, one text in memory."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._texts = 0

    def add(self, kept: Kept) -> None:
        """The next text's positions."""
        for name in _FIELDS:
            with self._archive.open(f"{self._texts}.{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(getattr(kept, name)), allow_pickle=False)
        self._texts += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._archive.close()


def read_reference(path: Path) -> Iterator[Kept]:
    """The texts of a file of `ReferenceWriter` in order, one at a time. Raises TaraError for a file that is none."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            for text in range(len(archive.files) // len(_FIELDS)):
                yield Kept(*(archive[f"{text}.{name}"] for name in _FIELDS))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TaraError(f"{path} cannot be read: {error}", "measure again") from error
