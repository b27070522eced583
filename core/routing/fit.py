"""Making the content model: terms of each domain from its own prompts, and the calibration by cross-validation."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from core.routing.content import MOST_UNKNOWN, Calibration, ContentModel, features
from core.routing.words import normalise, split_words, stem_phrase

MOST_TERMS = 400  # kept for each domain, the heaviest
DESCRIPTION_WEIGHT = 1.5  # log-odds a word of the description stands for at least
_SMOOTHING = 1.0
_LEAST_PAIR_COUNT = 2
_FOLDS = 5
_MOST_LEFT_OUT = 8  # domains left out in turn, to see messages that belong to none
_NONE_SHARE = 0.5  # weight of left-out domains: they are nearer to the others than most messages that belong to none
_LEAST_PROMPTS = 10  # for each domain, for a fit
_GRID = {
    "temperature": (0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0),
    "none_bias": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
    "none_per_unknown": (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0),
}


@dataclass(frozen=True)
class Fit:
    """A calibration and how it was obtained. The shares are cross-validated on the prompts; None without a fit."""

    calibration: Calibration
    method: str
    n: int
    accuracy: float | None = None  # the right domain has the most evidence


def prompt_features(text: str) -> list[str]:
    """The terms of one prompt or description."""
    return features(split_words(normalise(text)))


def weigh_terms(
    prompts: Mapping[str, Sequence[Sequence[str]]], descriptions: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """For each domain, the terms that speak for it against the other domains, with their smoothed log-odds.

    `prompts` holds, by domain, the features of each prompt. A term's weight is the logarithm of how much larger the
    share of the domain's prompts holding it is than the share of the others', times n / (n + 1) for a term seen in n
    prompts, since one prompt proves little; only positive ones are kept, the heaviest `MOST_TERMS`. With one domain
    every term of its prompts counts by its frequency alone.
    """
    counts = {name: Counter(term for terms in rows for term in terms) for name, rows in prompts.items()}
    everywhere: Counter[str] = Counter()
    for counted in counts.values():
        everywhere.update(counted)
    number = {name: len(rows) for name, rows in prompts.items()}
    total = sum(number.values())
    weights: dict[str, dict[str, float]] = {}
    for name, counted in counts.items():
        own = number[name] + 2 * _SMOOTHING
        others = total - number[name] + 2 * _SMOOTHING
        weighed: dict[str, float] = {}
        for term, count in counted.items():
            if " " in term and count < _LEAST_PAIR_COUNT:
                continue
            share, rest = (count + _SMOOTHING) / own, (everywhere[term] - count + _SMOOTHING) / others
            weight = math.log(share / rest) if total > number[name] else math.log1p(count)
            weight *= count / (count + 1)
            if weight > 0:
                weighed[term] = weight
        for term in prompt_features(descriptions.get(name, "")):
            if " " not in term:
                weighed[term] = max(weighed.get(term, 0.0), DESCRIPTION_WEIGHT)
        heaviest = sorted(weighed, key=lambda term: (-weighed[term], term))[:MOST_TERMS]
        weights[name] = {term: round(weighed[term], 3) for term in heaviest}
    return weights


def stem_keywords(keywords: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[str, ...]]]:
    """The configured keywords of each domain as stems."""
    return {name: list(dict.fromkeys(filter(None, map(stem_phrase, words)))) for name, words in keywords.items()}


def fit_calibration(
    prompts: Mapping[str, Sequence[str]], descriptions: Mapping[str, str], keywords: Mapping[str, Sequence[str]]
) -> Fit:
    """Fit the calibration to the lowest log-loss on prompts the model did not see.

    Prompts of a domain are held out in five folds, for "this domain"; whole domains are left out in turn, for "none of
    these". Without two domains of ten prompts each, the defaults are kept.
    """
    usable = sorted(name for name, rows in prompts.items() if len(rows) >= _LEAST_PROMPTS)
    if len(usable) < 2:
        return Fit(Calibration(), "defaults: too few prompts to fit", 0)
    words = {name: [split_words(normalise(text)) for text in prompts[name]] for name in usable}
    rows = {name: [features(each) for each in words[name]] for name in usable}
    stems = stem_keywords({name: keywords.get(name, ()) for name in usable})
    seen: list[tuple[str | None, dict[str, float], int]] = []
    for fold in range(_FOLDS):
        part = {name: [terms for at, terms in enumerate(rows[name]) if at % _FOLDS != fold] for name in usable}
        model = ContentModel(weigh_terms(part, descriptions), stems, Calibration())
        for name in usable:
            for each in words[name][fold::_FOLDS]:
                evidence = model.evidence(each)
                seen.append((name, evidence.scores, evidence.unknown_words))
    right = sum(max(scores.values()) > 0 and max(scores, key=scores.__getitem__) == name for name, scores, _ in seen)
    inside = len(seen)
    for left_out in usable[:: max(1, math.ceil(len(usable) / _MOST_LEFT_OUT))]:
        rest = [name for name in usable if name != left_out]
        model = ContentModel(
            weigh_terms({name: rows[name] for name in rest}, descriptions),
            {name: stems[name] for name in rest},
            Calibration(),
        )
        for each in words[left_out]:
            evidence = model.evidence(each)
            seen.append((None, evidence.scores, evidence.unknown_words))
    loss = _loss_of(seen, usable, inside)
    best = Calibration()
    for _ in range(3):  # coordinate search; the loss is smooth and has one valley here
        for key, values in _GRID.items():
            best = min((replace(best, **{key: value}) for value in values), key=loss)
    return Fit(best, f"{_FOLDS}-fold cross-validation on the training prompts", inside, round(right / inside, 4))


def _loss_of(
    seen: Sequence[tuple[str | None, dict[str, float], int]], names: Sequence[str], inside: int
) -> Callable[[Calibration], float]:
    """Mean log-loss of the rows inside (the first) plus a share of that of the rows of left-out domains, of what
    `content.probabilities` makes of all rows: here at once, as arrays."""
    import numpy as np

    scores = np.array([[own.get(name, -np.inf) for name in names] for _, own, _ in seen])
    unknown = np.array([min(count, MOST_UNKNOWN) for *_, count in seen], float)
    told = np.array([len(names) if name is None else names.index(name) for name, *_ in seen])

    def loss(calibration: Calibration) -> float:
        none = calibration.none_bias + calibration.none_per_unknown * unknown
        logits = np.column_stack([scores / calibration.temperature, none])
        logits -= logits.max(1, keepdims=True)
        chances = np.exp(logits[np.arange(len(told)), told]) / np.exp(logits).sum(1)
        costs = -np.log(np.maximum(chances, 1e-12))
        return float(costs[:inside].mean() + _NONE_SHARE * costs[inside:].sum() / max(1, len(costs) - inside))

    return loss
