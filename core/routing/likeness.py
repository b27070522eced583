"""How like a message is to each domain, by vectors of a sentence encoder. Loads numpy: import it where it is used."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput
from core.routing.rows import GENERAL, Rows
from core.routing.subject import GENERAL as NO_SUBJECT
from core.routing.subject import LeftOut, SubjectModel

NEAREST = 3  # texts whose mean likeness counts
SIGNS = ("centre", "nearest", "about", "topic", "topics", "subject")

Vector = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Likeness:
    """Cosines of a message (`subject` and `general` apart), by domain in the order of `LikenessModel.names`, each
    [domains].

    `centre` is that with the mean of what was said, `nearest` the mean of the three nearest texts said, `about` that of
    title and description, `topic` that of the nearest group of keywords and `topics` the mean of the three nearest.
    `subject` is the score of `core.routing.subject`, `general` its score of no subject at all. `outside` is the nearest
    text that belongs to none, `outsides` the mean of the three nearest, `best` the nearest text of all domains, said or
    about.
    """

    centre: Numbers
    nearest: Numbers
    about: Numbers
    topic: Numbers
    topics: Numbers
    subject: Numbers
    outside: float
    outsides: float
    best: float
    general: float

    def signs(self) -> Numbers:
        """[domains, SIGNS]."""
        return np.stack([self.centre, self.nearest, self.about, self.topic, self.topics, self.subject], 1)

    def none_signs(self) -> tuple[float, ...]:
        """What speaks for none of the domains, in the order of `blend.NONE_SIGNS`."""
        return (1.0, self.outside, self.outsides, self.best, self.general, float(np.log(len(self.centre))))


class LikenessModel:
    """The vectors of a set of domains, ready to be compared with."""

    def __init__(self, rows: Rows, vectors: Vector) -> None:
        """`vectors` is [rows.texts(), dimension], rows of length 1. Raises InvalidInput for other numbers."""
        if vectors.shape[0] != len(rows.texts()) or not np.isfinite(vectors).all():
            raise InvalidInput("the routing data's vectors do not fit its texts", "package the phase again")
        self.names = rows.names
        self.dimension = int(vectors.shape[1])
        said, about, topics, at = [], [], [], 0
        for name in self.names:
            own = rows.domains[name]
            said.append(vectors[at : at + len(own.said)])
            about.append(vectors[at + len(own.said)])
            topics.append(vectors[at + len(own.said) + 1 : at + len(own.said) + 1 + len(own.topics)])
            at += len(own.said) + 1 + len(own.topics)
        self._about = np.stack(about)
        # A domain to which nobody has said anything yet is known by its description and keywords.
        described = [np.concatenate([about[k][None], topics[k]]) for k in range(len(self.names))]
        self._said, self._said_at = _stacked([s if len(s) else described[k] for k, s in enumerate(said)])
        self._topics, self._topics_at = _stacked([t if len(t) else about[k][None] for k, t in enumerate(topics)])
        self._nearest_said, self._nearest_topics = (
            _Nearest(self._said_at, len(self._said)),
            _Nearest(self._topics_at, len(self._topics)),
        )
        self._sums = np.stack([block.sum(0) for block in _blocks(self._said, self._said_at)])
        self._outside = vectors[at:]
        self._groups = np.array([group for group, _ in rows.outside], dtype=object)
        others = {group: len(self.names) + at for at, group in enumerate(dict.fromkeys(self._groups))}
        others[GENERAL] = NO_SUBJECT
        counts = np.diff([*self._said_at, len(self._said)])
        owners = [*np.repeat(np.arange(len(counts)), counts), *(others[group] for group in self._groups)]
        known = np.concatenate([self._said, self._outside]), np.array(owners, np.int64), len(counts)
        self._subjects, self._left_out = SubjectModel(*known), LeftOut(*known)

    def compare(self, vector: Vector) -> Likeness:
        """How like a unit vector is to each domain."""
        subject = self._subjects.compare(vector)
        return self._compare(vector, times(self._said, vector), self._sums, times(self._outside, vector), subject)

    def compare_said(self, domain: int, at: int) -> Likeness:
        """How like the text said to the domain at this place of `names`, as its text number `at`, is to each domain if
        it had not been said."""
        row = int(self._said_at[domain]) + at
        vector = self._said[row]
        likes = times(self._said, vector)
        sums = self._sums.copy()
        sums[domain] -= vector
        likes[row] = -1.0
        return self._compare(vector, likes, sums, times(self._outside, vector), self._left_out.compare(row))

    def compare_outside(self, row: int) -> Likeness:
        """How like a text of no domain is to each, if it and all of its group were not known."""
        vector = self._outside[row]
        likes = times(self._outside, vector)
        group = self._groups[row]
        likes[row] = -1.0
        if group:
            likes[self._groups == group] = -1.0
        subject = self._left_out.compare(len(self._said) + row)
        return self._compare(vector, times(self._said, vector), self._sums, likes, subject)

    def _compare(
        self, vector: Vector, said: Vector, sums: Vector, outside: Vector, subject: tuple[Numbers, float]
    ) -> Likeness:
        lengths = np.linalg.norm(sums, axis=1)
        centre = times(sums, vector) / np.where(lengths > 0, lengths, 1)
        about = times(self._about, vector)
        topics = times(self._topics, vector)
        three = self._nearest_topics.of(topics)
        return Likeness(
            centre.astype(float),
            _mean(self._nearest_said.of(said)),
            about.astype(float),
            three.max(1),
            _mean(three),
            subject[0],
            float(outside.max()) if len(outside) else 0.0,
            _top(outside) if len(outside) else 0.0,
            float(max(said.max(), about.max())),
            subject[1],
        )


def times(rows: npt.NDArray[np.floating[Any]], vector: npt.NDArray[np.floating[Any]]) -> Any:
    """Each row's product with a vector, row by row: BLAS's threads take turns where the cores are busy."""
    return np.vecdot(rows, vector)


class _Nearest:
    """The NEAREST largest values of each block of a row of numbers that begin at `starts`."""

    def __init__(self, starts: npt.NDArray[np.int64], total: int) -> None:
        counts = np.diff([*starts, total])
        widest = max(NEAREST, int(counts.max()))
        places = starts[:, None] + np.arange(widest)
        self._places = np.where(np.arange(widest) < counts[:, None], places, total)  # one past the end: no value

    def of(self, values: Vector) -> Numbers:
        """[blocks, NEAREST], -inf where a block has fewer."""
        found = np.append(values, -np.inf)[self._places]
        return np.partition(found, found.shape[1] - NEAREST, axis=1)[:, -NEAREST:].astype(float)


def _mean(values: Numbers) -> Numbers:
    known = np.isfinite(values)
    mean: Numbers = np.where(known, values, 0.0).sum(1) / known.sum(1)
    return mean


def _top(values: Vector) -> float:
    """The mean of the largest values, NEAREST of them where there are so many."""
    count = min(NEAREST, len(values))
    return float(np.partition(values, len(values) - count)[-count:].mean())


def _stacked(blocks: list[Vector]) -> tuple[Vector, npt.NDArray[np.int64]]:
    counts = [len(block) for block in blocks]
    return np.concatenate(blocks), np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def _blocks(values: Vector, starts: npt.NDArray[np.int64]) -> list[Vector]:
    return np.split(values, starts[1:])
