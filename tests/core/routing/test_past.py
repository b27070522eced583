"""What earlier messages say: it fades, opposites take each other away, and its influence is capped."""

import random

import pytest

from core.routing.lexicon import EMOTIONS
from core.routing.past import (
    HALF_LIFE_S,
    MOST_INFLUENCE,
    OPPOSITE,
    Moment,
    Past,
    felt,
    past_of,
    past_term,
    with_past,
)

JOY = {"joy": 0.8}


def test_what_was_felt_halves_in_its_half_life() -> None:
    moments = [Moment(0.0, "healthcare", JOY)]
    for lives, left in ((0, 0.8), (1, 0.4), (2, 0.2)):
        past = past_of(moments, lives * HALF_LIFE_S)
        assert past.emotions["joy"] == pytest.approx(left)
        assert past.domains["healthcare"] == pytest.approx(0.5**lives)
    assert past_of(moments, 100.0, half_life_s=10.0).mood < 0.001
    assert past_of(moments, -5.0).emotions["joy"] == pytest.approx(0.8)  # a clock that was set back


def test_opposites_take_each_other_away() -> None:
    assert {frozenset((one, OPPOSITE[one])) for one in EMOTIONS} == {
        frozenset(pair)
        for pair in (("joy", "sadness"), ("trust", "disgust"), ("fear", "anger"), ("surprise", "anticipation"))
    }
    sad = felt({}, {"sadness": 0.8})
    glad = felt(sad, {"joy": 0.5})
    assert glad["sadness"] == pytest.approx(0.4)
    assert glad["joy"] == pytest.approx(0.5)
    assert felt(sad, {"fear": 0.5})["sadness"] == pytest.approx(0.8)


def test_values_stay_between_nothing_and_one_whatever_comes() -> None:
    draw = random.Random(3)
    moments, at = [], 0.0
    for _ in range(300):
        at += draw.expovariate(1 / HALF_LIFE_S)
        moments.append(Moment(at, draw.choice(("a", "b", None)), {name: draw.random() for name in EMOTIONS}))
        past = past_of(moments, at)
        assert all(0 <= value <= 1 for value in past.emotions.values())
        assert 0 <= past.weight <= MOST_INFLUENCE
        profile = {name: draw.random() for name in EMOTIONS}
        assert 0 <= past_term(past, profile, "a") <= 1


def test_nothing_has_no_influence_and_the_most_is_capped() -> None:
    terms = {"a": 0.2, "b": 0.9}
    profiles = {"a": {"joy": 1.0}, "b": {"sadness": 1.0}}
    assert with_past(terms, None, profiles) == terms
    assert with_past(terms, Past(), profiles) == terms
    strongest = past_of([Moment(0.0, "a", {"joy": 1.0})] * 1000, 0.0)
    leaning = with_past(terms, strongest, profiles)
    assert leaning["a"] == pytest.approx(0.7 * 0.2 + 0.3 * past_term(strongest, profiles["a"], "a"))
    for name, term in terms.items():
        assert abs(leaning[name] - term) <= MOST_INFLUENCE
    assert leaning["b"] > leaning["a"]  # a message that speaks clearly is not outvoted


def test_who_was_asked_often_is_leaned_to() -> None:
    even = {"a": {"joy": 0.5}, "b": {"joy": 0.5}}
    past = past_of([Moment(0.0, "a", {})] * 5 + [Moment(0.0, "b", {})], 0.0)
    leaning = with_past({"a": 0.5, "b": 0.5}, past, even)
    assert leaning["a"] > leaning["b"]
    assert past.habit == pytest.approx(6 / 11)
    assert past.mood == 0


def test_what_is_rounded_decides_the_same() -> None:
    past = past_of([Moment(0.0, "a", {"joy": 0.512})] * 3, 7.0)
    other = past_of([Moment(0.0, "a", {"joy": 0.514})] * 3, 9.0)
    assert past != other
    assert past.rounded() == other.rounded()
    assert past.rounded().key() == other.rounded().key()
    assert past.rounded().rounded() == past.rounded()
