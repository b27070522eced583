"""How much a message reads like each domain's own and not like anything else, from how messages of one subject vary.

A probabilistic linear discriminant (Ioffe 2006, "Probabilistic Linear Discriminant Analysis"): vectors of one subject
vary as a normal distribution whose covariance all subjects share, and the subjects' means as another. The score is the
log-likelihood of a message among a domain's, over that of a subject nobody has spoken of yet. How few messages a domain
is known by is accounted for, so that new domains can be put beside old ones. Loads numpy.
"""

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

SHRINKING = 0.2  # of the covariance within subjects towards a round one: there are fewer texts than would fill it
MOST = 3.0  # a score is held to this: more comes from a set known by keywords alone, which are too much alike
GENERAL = -1  # owner of a text that belongs to no subject
GENERAL_SHARE = 1 / 3  # of the texts of no subject in what messages as a whole are like; subjects share the rest alike
_LEAST = 1e-3  # of a subject's own spread in any direction, in units of the spread within subjects
_PARTS = 5  # a left-out text is scored by a model that did not know it, nor every fifth other one
_PER_DIMENSION = 10.0  # scores are per so many dimensions, for they are not as independent as the model thinks

Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class SubjectModel:
    """The subjects of a set of domains."""

    def __init__(self, vectors: npt.NDArray[np.float32], owners: Integers, domains: int) -> None:
        """`vectors` [n, dimension] belong to the subjects `owners` [n]: below `domains` a domain's, from there on
        another group's, or GENERAL."""
        with threadpool_limits(1, "blas"):  # two threads on two busy cores take thirty times as long as one
            self._fit(vectors, owners, domains)

    def _fit(self, vectors: npt.NDArray[np.float32], owners: Integers, domains: int) -> None:
        dimension = vectors.shape[1]
        texts = vectors.astype(np.float64)
        subjects = [owners == owner for owner in np.unique(owners[owners != GENERAL])]
        general = owners == GENERAL
        self._general: Numbers | None = None
        if not subjects:
            subjects = [general]
        spread, free = np.zeros((dimension, dimension)), 0
        for own in subjects:
            apart = texts[own] - texts[own].mean(0)
            spread += apart.T @ apart
            free += len(apart) - 1
        within = spread / free if free and spread.any() else np.eye(dimension) / dimension
        within = (1 - SHRINKING) * within + SHRINKING * np.trace(within) / dimension * np.eye(dimension)
        sizes, axes = np.linalg.eigh(within)
        whiten = axes / np.sqrt(sizes)
        share = np.zeros(len(texts))
        of_general = GENERAL_SHARE if general.any() else 0.0
        for own in subjects:
            share[own] = (1 - of_general) / len(subjects) / own.sum()
        if of_general:
            share[general] += of_general / general.sum()
        self._middle = share @ texts
        seen = (texts - self._middle) @ whiten
        between, turn = np.linalg.eigh((seen * share[:, None]).T @ seen - np.eye(dimension))
        between = np.maximum(between, _LEAST)
        self._axes = np.ascontiguousarray((whiten @ turn).T)
        seen = seen @ turn
        counts = np.array([(owners == at).sum() for at in range(domains)], float)[:, None]
        sums = np.stack([seen[owners == at].sum(0) for at in range(domains)])
        sure = counts * between + 1
        means, spreads = between * sums / sure, 1 + between / sure
        # log N(z; mean, spread) - log N(z; 0, 1 + between), as a constant, a linear and a square part.
        self._constant = (np.log(1 + between) - np.log(spreads) - means**2 / spreads).sum(1) / 2
        self._linear = means / spreads
        self._square = (1 / (1 + between) - 1 / spreads) / 2
        if of_general:
            self._general = seen[general].mean(0)

    def compare(self, vector: npt.NDArray[np.float32]) -> tuple[Numbers, float]:
        """The score of each domain, [domains], and that of belonging to no subject at all, for a unit vector."""
        # Row by row: BLAS's threads take turns where the cores are busy.
        seen = np.vecdot(self._axes, vector.astype(np.float64) - self._middle)
        scores = self._constant + np.vecdot(self._linear, seen) + np.vecdot(self._square, seen**2)
        general = 0.0 if self._general is None else float(self._general @ seen - self._general @ self._general / 2)
        unit = _PER_DIMENSION / len(vector)
        return np.clip(scores * unit, -MOST, MOST), general * unit


class LeftOut:
    """Models for texts that are to be scored as if they were not known: each knows four fifths of them."""

    def __init__(self, vectors: npt.NDArray[np.float32], owners: Integers, domains: int) -> None:
        self._given = vectors, owners, domains
        self._made: dict[int, SubjectModel] = {}

    def compare(self, row: int) -> tuple[Numbers, float]:
        """`SubjectModel.compare` for the text in this row."""
        vectors, owners, domains = self._given
        part = row % _PARTS
        if part not in self._made:
            known = np.arange(len(vectors)) % _PARTS != part
            self._made[part] = SubjectModel(vectors[known], owners[known], domains)
        return self._made[part].compare(vectors[row])
