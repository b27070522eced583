"""Fitting the weights of `core.routing.blend` to rows each of which was left out in turn. Loads numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from core.routing.blend import NONE_SIGNS, SHARE_COUNTS, SIGNS, Blend, domain_signs
from core.routing.complexity import complexity_of
from core.routing.content import ContentModel
from core.routing.likeness import Likeness, LikenessModel
from core.routing.urgency import urgency_of
from core.routing.words import normalise, split_words

Numbers = npt.NDArray[np.float64]
PRIOR_ROWS = 25.0  # how many rows the weights a fit begins with count for
OUTSIDE_WEIGHT = 0.5  # of a row that belongs to no domain: there are as many as one cares to write
_STEPS = 100


@dataclass(frozen=True)
class Cases:
    """Messages as the fit sees them: `signs` [n, domains + 1, SIGNS and NONE_SIGNS], the last place being "none of
    these"; `right` [n] the place of the right one; `weights` [n]."""

    signs: Numbers
    right: npt.NDArray[np.int64]
    weights: Numbers

    def joined(self, other: "Cases") -> "Cases":
        """Both, which are of the same domains."""
        return Cases(
            np.concatenate([self.signs, other.signs]),
            np.concatenate([self.right, other.right]),
            np.concatenate([self.weights, other.weights]),
        )


def case_of(
    likeness: Likeness, names: Sequence[str], text: str, words: ContentModel, habits: Mapping[str, Mapping[str, float]]
) -> Numbers:
    """One message's signs, [domains + 1, SIGNS and NONE_SIGNS]."""
    plain = normalise(text)
    split = split_words(plain)
    found = domain_signs(
        likeness, names, words.evidence(split).keywords, habits, complexity_of(plain, split), urgency_of(plain)
    )
    case = np.zeros((len(names) + 1, len(SIGNS) + len(NONE_SIGNS)))
    case[:-1, : len(SIGNS)] = [found[name] for name in names]
    case[-1, len(SIGNS) :] = likeness.none_signs()
    return case


def left_out_cases(
    model: LikenessModel,
    said: Mapping[str, Sequence[str]],
    outside: Sequence[str],
    words: ContentModel,
    habits: Mapping[str, Mapping[str, float]],
) -> Cases:
    """What was said to each domain, and what belongs to none, each as if it were not known. `said` are the texts by
    domain, `outside` those of `model.outside`, both in the order of the model's rows."""
    cases, right, weights = [], [], []
    for place, name in enumerate(model.names):
        for at, text in enumerate(said[name]):
            cases.append(case_of(model.compare_said(place, at), model.names, text, words, habits))
            right.append(place)
            weights.append(1.0)
    for at, text in enumerate(outside):
        cases.append(case_of(model.compare_outside(at), model.names, text, words, habits))
        right.append(len(model.names))
        weights.append(OUTSIDE_WEIGHT)
    shape = (0, len(model.names) + 1, len(SIGNS) + len(NONE_SIGNS))
    return Cases(np.stack(cases) if cases else np.zeros(shape), np.array(right, dtype=np.int64), np.array(weights))


def fit(start: Blend, cases: Sequence[Cases], prior_rows: float = PRIOR_ROWS) -> Blend:
    """The weights of the greatest likelihood over all cases, held to those of `start` as by `prior_rows` rows.

    Newton's method with halved steps; the likelihood of a conditional logit is concave, so there is one optimum.
    """
    before = _values(start)
    hold = prior_rows / (1 + before**2)
    values = before.copy()
    current = _loss(values, cases, before, hold)
    for _ in range(_STEPS):
        slope, bend = np.zeros_like(values), np.diag(hold)
        slope -= hold * (values - before)
        for one in cases:
            chances = chances_of(one, values)
            mean = np.matmul(chances[:, None], one.signs)[:, 0]
            slope += one.weights @ (one.signs[np.arange(len(one.right)), one.right] - mean)
            flat = one.signs.reshape(-1, one.signs.shape[2])
            weighed = (chances * one.weights[:, None]).reshape(-1, 1)
            bend += (flat * weighed).T @ flat - (mean * one.weights[:, None]).T @ mean
        step = np.linalg.solve(bend, slope)
        size = 1.0
        while size > 1e-6 and _loss(values + size * step, cases, before, hold) > current:
            size /= 2
        values = values + size * step
        new = _loss(values, cases, before, hold)
        if current - new < 1e-9 * max(1.0, abs(current)):
            break
        current = new
    weights = {name: round(float(value), 4) for name, value in zip((*SIGNS, *NONE_SIGNS), values, strict=True)}
    return replace(
        start,
        weights={name: weights[name] for name in SIGNS},
        none={name: weights[name] for name in NONE_SIGNS},
    )


def with_curves(blend: Blend, cases: Sequence[Cases], held: float = 20.0) -> Blend:
    """The blend with its two calibration curves fitted (Platt scaling) to the cases, held to a straight curve as by
    `held` rows; and with the accuracy over the cases inside."""
    seen = [odds_of(blend, one) for one in cases]
    right, inside = np.concatenate([one[2] for one in seen]), np.concatenate([one[3] for one in seen])
    weights = np.concatenate([one.weights for one in cases])
    sizes = np.log(np.concatenate([np.full(len(one.right), one.signs.shape[1] - 1) for one in cases]))
    sure = _platt(np.concatenate([one[1] for one in seen]), sizes, right, weights, held)
    within = _platt(np.concatenate([one[0] for one in seen]), sizes, inside, weights, held)
    return replace(blend, right=sure, inside=within, accuracy=accuracy_of(blend, cases), n=int(inside.sum()))


def accuracy_of(blend: Blend, cases: Sequence[Cases]) -> float:
    """The share of the cases inside whose right domain comes first."""
    seen = [odds_of(blend, one) for one in cases]
    return round(float(np.concatenate([one[2][one[3]] for one in seen]).mean()), 4)


def odds_of(blend: Blend, one: Cases) -> tuple[Numbers, Numbers, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """For each case the log-odds of being inside and of the confidence in the best domain, both before calibration,
    whether that domain is right, and whether the case is inside."""
    chances = chances_of(one, _values(blend))
    none = chances[:, -1]
    shares = chances[:, :-1].max(1) / np.maximum(1 - none, 1e-12)
    inside = -_log_odds(none)
    sure = inside + SHARE_COUNTS * _log_odds(shares)
    return inside, sure, chances[:, :-1].argmax(1) == one.right, one.right < chances.shape[1] - 1


def accepting(blend: Blend, one: Cases, acceptable: npt.NDArray[np.bool_]) -> Cases:
    """The cases with the domain that the blend puts first as the right one where `acceptable` [n, domains] has it."""
    best = chances_of(one, _values(blend))[:, :-1].argmax(1)
    return replace(one, right=np.where(acceptable[np.arange(len(best)), best], best, one.right))


def _values(blend: Blend) -> Numbers:
    return np.array([*(blend.weights[name] for name in SIGNS), *(blend.none[name] for name in NONE_SIGNS)])


def _platt(
    odds: Numbers, sizes: Numbers, hit: npt.NDArray[np.bool_], weights: Numbers, held: float
) -> tuple[float, float, float]:
    design = np.stack([np.ones(len(odds)), odds, sizes], 1)
    start = np.array([0.0, 1.0, 0.0])
    values, prior = start.copy(), held * 0.1

    def loss(at: Numbers) -> float:
        missed = weights @ np.logaddexp(0, np.where(hit, -1, 1) * (design @ at))
        return float(missed + prior * ((at - start) ** 2).sum() / 2)

    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(design @ values, -50, 50)))
        spread = weights * chances * (1 - chances)
        bend = (design * spread[:, None]).T @ design + prior * np.eye(3)
        step = np.linalg.solve(bend, design.T @ (weights * (hit - chances)) - prior * (values - start))
        size, current = 1.0, loss(values)
        while size > 1e-6 and loss(values + size * step) > current:
            size /= 2
        values = values + size * step
        if np.abs(step).max() < 1e-9:
            break
    return round(float(values[0]), 4), round(float(values[1]), 4), round(float(values[2]), 4)


def chances_of(one: Cases, values: Numbers) -> Numbers:
    """Probabilities of each case's domains and of none, [n, domains + 1], by weights in the order of the signs."""
    scores = one.signs @ values
    scores -= scores.max(1, keepdims=True)
    raised = np.exp(scores)
    found: Numbers = raised / raised.sum(1, keepdims=True)
    return found


def _loss(values: Numbers, cases: Sequence[Cases], before: Numbers, hold: Numbers) -> float:
    total = float((hold * (values - before) ** 2).sum() / 2)
    for one in cases:
        chances = chances_of(one, values)[np.arange(len(one.right)), one.right]
        total -= float(one.weights @ np.log(np.maximum(chances, 1e-300)))
    return total


def _log_odds(shares: Numbers) -> Numbers:
    held = np.clip(shares, 1e-9, 1 - 1e-9)
    found: Numbers = np.log(held / (1 - held))
    return found
