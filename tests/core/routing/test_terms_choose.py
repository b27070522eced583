"""Each of the terms beside content chooses who answers, with the encoder and by words: between domains that are told
the same, and with every other term held."""

from dataclasses import replace
from typing import Any

import pytest

from core.chat.preference import PREFERENCES
from core.encoder import Encoder
from core.routing import Desk, Router, build_routing_data
from core.routing.decision import ENCODER, KEYWORDS
from core.routing.past import Past
from tests.core.routing.conftest import FEW, starter_prompts

PLAIN = "How do I prepare a lesson on fractions for my class?"
QUICK = {"first_token_s": 0.1, "tokens_per_s": 100.0, "quality": 0.3, "quality_examples": 50.0}
SLOW = {**QUICK, "first_token_s": 1.0, "tokens_per_s": 10.0}
GOOD = {**SLOW, "quality": 0.6}
PROFILE = dict.fromkeys(("joy", "sadness", "anger", "fear", "surprise", "disgust", "trust", "anticipation"), 0.0)


def twins(catalog: Any, encoder: Encoder | None, measured: dict[str, Any], **profiles: dict[str, float]) -> Desk:
    """A desk for "first" and "second", two domains that are the same but in name, figures and profile, and another."""
    own = catalog.domains["education"]
    domains = [
        replace(own, name=name, emotional_profile=profiles.get(name, own.emotional_profile))
        for name in ("first", "second")
    ]
    prompts = dict.fromkeys(("first", "second"), starter_prompts("education")[:FEW])
    return Desk(
        build_routing_data(
            [*domains, catalog.domains["healthcare"]],
            {**prompts, "healthcare": starter_prompts("healthcare")[:FEW]},
            {"healthcare": SLOW, **measured},
            catalog.settings.routing_dict(),
            encoder=encoder,
        ),
        "" if encoder is not None else "none",
    )


@pytest.fixture(params=[ENCODER, KEYWORDS])
def reader(request: pytest.FixtureRequest) -> Encoder | None:
    """By what a message's subject is told."""
    return request.getfixturevalue("encoder") if request.param == ENCODER else None


def chosen(desk: Desk, text: str, **how: Any) -> str | None:
    decision = desk.route(text, **how)
    assert [one.domain for one in decision.candidates if one.near_best] != []
    assert not decision.unsure
    return decision.domain


def test_who_is_in_a_hurry_is_sent_to_the_faster(catalog: Any, reader: Encoder | None) -> None:
    for slow, quick in (("first", "second"), ("second", "first")):
        with twins(catalog, reader, {slow: GOOD, quick: QUICK}) as desk:
            assert chosen(desk, PLAIN) == slow  # the better one, while nobody is in a hurry
            assert chosen(desk, f"{PLAIN} I need it right now!") == quick


def test_a_preference_changes_who_answers(catalog: Any, reader: Encoder | None) -> None:
    with twins(catalog, reader, {"first": {**QUICK, "quality": 0.25}, "second": GOOD}) as desk:
        chose = {name: chosen(desk, PLAIN, weights=one.weights(desk.weights)) for name, one in PREFERENCES.items()}
    assert chose["speed"] == "first"
    assert chose["quality"] == "second"


def test_the_better_one_answers_where_all_else_is_equal(catalog: Any, reader: Encoder | None) -> None:
    for better, other in (("first", "second"), ("second", "first")):
        with twins(catalog, reader, {better: GOOD, other: SLOW}) as desk:
            assert chosen(desk, PLAIN) == better


def test_what_is_not_resident_waits_in_a_hurry(catalog: Any, reader: Encoder | None) -> None:
    loading = {**QUICK, "load_s": 30.0}
    with twins(catalog, reader, {"first": loading, "second": loading}) as desk:
        for name in ("first", "second"):
            assert chosen(desk, f"{PLAIN} It is urgent!", resident={name, "healthcare"}) == name


def test_a_feeling_chooses_the_domain_that_is_for_it(catalog: Any, reader: Encoder | None) -> None:
    feelings = {"joy": f"I am so happy! {PLAIN}", "anger": f"I am furious! {PLAIN}"}
    profiles = {"first": {**PROFILE, "joy": 1.0}, "second": {**PROFILE, "anger": 1.0, "disgust": 0.3}}
    with twins(catalog, reader, {"first": SLOW, "second": SLOW}, **profiles) as desk:
        assert chosen(desk, feelings["joy"]) == "first"
        assert chosen(desk, feelings["anger"]) == "second"


def test_a_person_s_past_chooses_where_the_message_says_nothing(catalog: Any, reader: Encoder | None) -> None:
    with twins(catalog, reader, {"first": SLOW, "second": SLOW}) as desk:
        for name in ("first", "second"):
            past = Past(emotions={}, domains={name: 20.0})
            assert chosen(desk, PLAIN, past=past) == name


def test_no_term_brings_in_what_the_message_is_not_about(catalog: Any, reader: Encoder | None) -> None:
    with twins(catalog, reader, {"first": SLOW, "second": SLOW, "healthcare": {**QUICK, "quality": 1.0}}) as desk:
        for one in PREFERENCES.values():
            weights = one.weights(desk.weights)
            assert chosen(desk, f"{PLAIN} Right now!", weights=weights) in ("first", "second")


def test_the_confidence_of_one_of_two_alike_is_that_either_can_answer(catalog: Any, encoder: Encoder) -> None:
    with twins(catalog, encoder, {"first": QUICK, "second": SLOW}) as desk:
        assert isinstance(desk.router, Router)
        calm, hurried = desk.route(PLAIN), desk.route(f"{PLAIN} Right now!")
        assert (calm.unsure, hurried.unsure) == (False, False)
        first, second = calm.candidates[:2]
        assert first.content == pytest.approx(second.content)
        assert calm.confidence <= calm.inside


def test_a_profile_that_says_nothing_neither_helps_nor_harms(catalog: Any, reader: Encoder | None) -> None:
    flat = dict.fromkeys(PROFILE, 0.5)
    with twins(catalog, reader, {"first": SLOW, "second": SLOW}, first=flat, second={**PROFILE, "joy": 1.0}) as desk:
        for text in (f"I am so happy! {PLAIN}", f"I am furious! {PLAIN}", PLAIN):
            decision = desk.route(text, past=Past({**PROFILE, "anger": 0.8}, {}))
            (own,) = [one for one in decision.candidates if one.domain == "first"]
            assert own.emotion == pytest.approx(0.5)
