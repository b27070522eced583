"""Signs from how messages of one subject vary, and the probabilities made of signs."""

import math

import numpy as np
import pytest

from core.routing.blend import NONE_SIGNS, SIGNS, Reading, read, shipped_blend
from core.routing.conversation import Tie
from core.routing.decision import Candidate
from core.routing.router import _confidence
from core.routing.subject import GENERAL, LeftOut, SubjectModel

DIMENSION = 24


def drawn(counts: list[int], general: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of subjects with so many texts each and of none, their owners, and the subjects' middles."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(len(counts), DIMENSION))
    spread = np.linspace(1.2, 0.1, DIMENSION)
    owners = np.repeat(np.arange(len(counts)), counts)
    texts = middles[owners] + rng.normal(size=(len(owners), DIMENSION)) * spread
    texts = np.concatenate([texts, rng.normal(size=(general, DIMENSION)) * 1.2])
    owners = np.concatenate([owners, np.full(general, GENERAL)])
    return (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32), owners, middles


def test_messages_find_their_subject_however_few_it_is_known_by() -> None:
    counts = [80, 4, 80, 4, 80]
    texts, owners, _ = drawn([count + 40 for count in counts], 60)
    known = np.concatenate([np.flatnonzero(owners == at)[:count] for at, count in enumerate(counts)])
    known = np.concatenate([known, np.flatnonzero(owners == GENERAL)[:40]])
    model = SubjectModel(texts[known], owners[known], len(counts))
    new = np.setdiff1d(np.arange(len(texts)), known)
    scores = np.stack([model.compare(texts[row])[0] for row in new])
    for at in range(len(counts)):
        own = scores[owners[new] == at]
        assert (own.argmax(1) == at).mean() > 0.9, f"subject {at} known by {counts[at]}"
        assert np.median(own[:, at]) > 0
    nobody = scores[owners[new] == GENERAL].max(1)
    somebody = scores[owners[new] != GENERAL].max(1)
    assert (somebody[:, None] > nobody[None]).mean() > 0.9
    general = np.array([model.compare(texts[row])[1] for row in new])
    assert general[owners[new] == GENERAL].mean() > general[owners[new] != GENERAL].mean()


def test_a_left_out_text_is_not_known() -> None:
    texts, owners, _ = drawn([30, 30, 30], 30)
    whole, left = SubjectModel(texts, owners, 3), LeftOut(texts, owners, 3)
    own = [(whole.compare(texts[row])[0][owners[row]], left.compare(row)[0][owners[row]]) for row in range(90)]
    differ = [one > other for one, other in own if one != other]  # equal are those at the cap
    assert len(differ) > 10
    assert np.mean(differ) > 0.9


@pytest.mark.parametrize(("counts", "general"), [([5], 0), ([1], 0), ([1, 1], 3), ([0, 4], 0)])
def test_small_sets_have_numbers(counts: list[int], general: int) -> None:
    texts, owners, _ = drawn(counts, general)
    scores, none = SubjectModel(texts, owners, len(counts)).compare(texts[0])
    assert np.isfinite(scores).all()
    assert math.isfinite(none)
    assert all(scores[at] == pytest.approx(0, abs=0.5) for at, count in enumerate(counts) if count == 0)


def reading(values: list[float], against: float, tie: float = 0.0) -> Reading:
    """What `read` makes of domains that differ in one sign alone."""
    blend = shipped_blend()
    at = SIGNS.index("nearest")
    signs = {f"d{k}": [value if place == at else 0.0 for place in range(len(SIGNS))] for k, value in enumerate(values)}
    none = [against if name == "outside" else float(name == "bias") for name in NONE_SIGNS]
    return read(blend, signs, none, "d0" if tie else None, Tie(tie, tie))


def test_confidence_is_shared_among_the_domains() -> None:
    found = reading([0.8, 0.6, 0.5, 0.2], 0.1)
    sure = [found.confidence(name) for name in found.scores]
    assert sure == sorted(sure, reverse=True)
    assert 0 < sure[-1] < sure[0] <= found.inside < 1
    assert math.fsum(sure) <= found.inside + 1e-9


def test_confidence_grows_with_likeness_and_falls_with_what_speaks_against() -> None:
    likes = [reading([like, 0.3, 0.3], 0.3).confidence("d0") for like in (0.35, 0.5, 0.7, 0.9)]
    assert likes == sorted(likes)
    against = [reading([0.7, 0.3, 0.3], value).confidence("d0") for value in (0.1, 0.4, 0.8)]
    assert against == sorted(against, reverse=True)
    more = [reading([0.8, *[0.3] * count], 0.3).confidence("d0") for count in (1, 5, 30)]
    assert more == sorted(more, reverse=True)  # among more domains it is easier to be wrong
    assert reading([0.4, 0.4], 0.4, tie=3.0).confidence("d0") > reading([0.4, 0.4], 0.4).confidence("d0")


def test_one_domain_and_equal_ones_are_defined() -> None:
    alone = reading([0.6], 0.2)
    assert 0 < alone.confidence("d0") <= alone.inside
    equal = reading([0.5] * 4, 0.2)
    assert len(set(equal.probabilities.values())) == 1
    assert all(0 < equal.confidence(name) < 1 for name in equal.scores)


def test_a_domain_that_is_not_near_borrows_no_confidence() -> None:
    """Where the likeliest domain cannot answer, another is not sure of itself for it."""
    found = reading([0.8, 0.6, 0.2], 0.1)

    def candidate(name: str, near: bool) -> Candidate:
        return Candidate(name, found.probabilities[name], 0.5, 1.0, 0.3, 0.5, near)

    first, second = candidate("d0", True), candidate("d1", True)
    assert _confidence(found, (second, first)) == pytest.approx(found.can_answer("d1"))
    assert _confidence(found, (second,)) == found.confidence("d1") < found.can_answer("d1")
    assert _confidence(found, (candidate("d1", False), first)) == found.confidence("d1")
