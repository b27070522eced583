"""Where messages go: known faults of the first router, hand-written queries, and properties of the score."""

import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.routing import Candidate, Decision, Router, build_routing_data, explain
from core.routing.data import TERMS
from core.routing.router import rank
from core.routing.terms import USUAL_QUALITY
from tests.core.routing.conftest import PHASE_1, starter_prompts

QUERIES = [json.loads(line) for line in Path(__file__).with_name("queries.jsonl").read_text("utf-8").splitlines()]
HURRIED = "Which price should I ask? This is urgent, right now!"
WEIGHTS = {"content": 0.4, "emotion": 0.3, "speed": 0.2, "quality": 0.1}


def with_measured(data: dict[str, Any], **by_domain: dict[str, float]) -> Router:
    for name, values in by_domain.items():
        data["domains"][name]["measured"] = values
    return Router.from_data(data)


def term(decision: Decision, domain: str, name: str) -> float:
    return float(getattr(next(c for c in decision.candidates if c.domain == domain), name))


# -- what the first router got wrong -----------------------------------------------------------------------------------


def test_a_question_on_leading_a_team_goes_to_leadership(router: Router) -> None:
    decision = router.route("How should I lead my team?")
    assert decision.domain == "leadership"
    assert not decision.unsure


@pytest.mark.parametrize("text", ["help me now", "hello", "Do you know what I know?"])
def test_a_message_without_a_subject_is_unsure(router: Router, text: str) -> None:
    decision = router.route(text)
    assert decision.domain is None
    assert decision.unsure
    assert decision.reason


def test_joy_about_a_job_is_not_a_health_matter(router: Router) -> None:
    decision = router.route("I am so happy about my new job")
    assert decision.domain != "healthcare"
    assert decision.emotion.dominant == "joy"


def test_a_medical_emergency_goes_to_healthcare_by_rule(router: Router) -> None:
    decision = router.route("I have a medical emergency and need help")
    assert decision.crisis is not None
    assert decision.crisis.kind == "medical emergency"
    assert decision.domain == "healthcare"
    assert decision.resources
    assert decision.candidates == ()


def test_a_market_strategy_question_goes_to_business(router: Router) -> None:
    assert router.route("Which market strategy should our company follow to win customers?").domain == "business"


# -- hand-written queries ----------------------------------------------------------------------------------------------


def test_hand_written_queries(router: Router) -> None:
    seen = {text for name in PHASE_1 for text in starter_prompts(name)}
    assert not seen & {query["text"] for query in QUERIES}
    decisions = [(query["domain"], router.route(query["text"])) for query in QUERIES]
    inside = [(domain, decision) for domain, decision in decisions if domain is not None]
    outside = [decision for domain, decision in decisions if domain is None]
    assert len(inside) == 125
    assert len(outside) == 25
    answered = [(domain, decision) for domain, decision in inside if not decision.unsure]
    right = sum(domain == decision.domain for domain, decision in answered)
    # Measured with the threshold of words, 0.35: 69 % right, 30 % unsure, 1 wrong; 24 of 25 abstained outside. The
    # floors leave room for edits of the starter data and the keywords.
    assert right / len(inside) >= 0.60
    assert right / len(answered) >= 0.93
    assert sum(decision.unsure for decision in outside) / len(outside) >= 0.88
    # Unsure or not, the nearest domain was the right one for 89 %.
    nearest = sum(d.candidates[0].domain == domain for domain, d in inside if d.candidates)
    assert nearest / len(inside) >= 0.80
    assert not any(decision.crisis for _, decision in decisions)


# -- properties of the score -------------------------------------------------------------------------------------------


def random_candidates(rng: random.Random, count: int) -> list[Candidate]:
    made = []
    best = 0.0
    for number in range(count):
        terms = {name: rng.choice((0.0, 0.25, 0.5, rng.random(), 1.0)) for name in TERMS}
        best = max(best, terms["content"])
        made.append(Candidate(f"d{number:02}", **terms, total=0.0, near_best=True))
    return [replace(one, total=one.recompute(WEIGHTS), near_best=one.content >= 0.6 * best) for one in made]


def place(ranked: tuple[Candidate, ...], domain: str) -> int:
    return next(at for at, one in enumerate(ranked) if one.domain == domain)


def test_raising_one_term_alone_never_lowers_a_rank() -> None:
    rng = random.Random(1)
    for _ in range(400):
        made = random_candidates(rng, rng.randint(1, 8))
        chosen, name = rng.choice(made), rng.choice(TERMS)
        higher = replace(chosen, **{name: getattr(chosen, name) + rng.random() * (1 - getattr(chosen, name))})
        changed = [higher if one.domain == chosen.domain else one for one in made]
        best = max(one.content for one in changed)
        changed = [replace(c, total=c.recompute(WEIGHTS), near_best=c.content >= 0.6 * best) for c in changed]
        assert place(rank(changed, WEIGHTS), chosen.domain) <= place(rank(made, WEIGHTS), chosen.domain)


def test_the_order_of_candidates_changes_nothing() -> None:
    rng = random.Random(2)
    for _ in range(200):
        made = random_candidates(rng, rng.randint(1, 8))
        shuffled = rng.sample(made, len(made))
        assert rank(made, WEIGHTS) == rank(shuffled, WEIGHTS)


def test_the_order_of_domains_in_the_data_changes_nothing(data: dict[str, Any], router: Router) -> None:
    data["domains"] = dict(reversed(data["domains"].items()))
    turned = Router.from_data(data)
    for query in QUERIES[::5]:
        assert turned.route(query["text"]) == router.route(query["text"])


@pytest.mark.parametrize("off", TERMS)
def test_a_weight_of_zero_switches_a_term_off(off: str) -> None:
    rng = random.Random(3)
    rest = {name: (0.0 if name == off else weight) for name, weight in WEIGHTS.items()}
    weights = {name: weight / math.fsum(rest.values()) for name, weight in rest.items()}
    for _ in range(100):
        made = [replace(one, total=one.recompute(weights)) for one in random_candidates(rng, 6)]
        other = [replace(one, **{off: rng.random()}) for one in made]
        other = [replace(one, total=one.recompute(weights)) for one in other]
        assert [one.domain for one in rank(made, weights)] == [one.domain for one in rank(other, weights)]


def test_totals_can_be_recomputed_from_the_terms(data: dict[str, Any]) -> None:
    router = with_measured(
        data,
        healthcare={"tokens_per_s": 80.0, "first_token_s": 0.3, "quality": 0.6},
        business={"tokens_per_s": 40.0, "first_token_s": 0.5, "quality": 0.4},
    )
    for query in QUERIES:
        decision = router.route(query["text"])
        for candidate in decision.candidates:
            assert candidate.total == pytest.approx(candidate.recompute(decision.weights), abs=1e-9)
            assert all(0 <= getattr(candidate, name) <= 1 for name in TERMS)


def test_a_strictly_worse_domain_does_not_change_the_winner(data: dict[str, Any], router: Router) -> None:
    data["domains"]["worse"] = {
        **data["domains"]["leadership"], "keywords": [], "terms": {}, "measured": {},
        "emotional_profile": dict.fromkeys(data["domains"]["leadership"]["emotional_profile"], 0.0),
    }  # fmt: skip
    wider = Router.from_data(data)
    for query in QUERIES:
        before = router.route(query["text"])
        if not before.unsure:
            assert wider.route(query["text"]).candidates[0].domain == before.candidates[0].domain


MEASURED = {
    "healthcare": {"tokens_per_s": 80.0, "first_token_s": 0.3, "quality": 0.9, "quality_examples": 2},
    "business": {"tokens_per_s": 60.0, "first_token_s": 0.3, "quality": 0.62, "quality_examples": 200},
    "education": {},
}


@pytest.mark.parametrize("text", [HURRIED, "Which price should I ask?", "I am so terrified and anxious", "urgent!"])
def test_a_domain_that_is_worse_in_all_figures_moves_no_term_of_the_others(data: dict[str, Any], text: str) -> None:
    router = with_measured(data, **MEASURED)
    slow = {"tokens_per_s": 1.0, "first_token_s": 9.0, "load_s": 60.0, "quality": 0.01, "quality_examples": 500}
    wider = with_measured(
        {
            **data,
            "domains": {**data["domains"], "worse": {**data["domains"]["leadership"], "keywords": [], "terms": {}}},
        },
        **MEASURED,
        worse=slow,
    )
    resident = {"healthcare", "worse"}
    before, after = router.route(text, resident=resident), wider.route(text, resident=resident)
    for one in before.candidates:
        other = next(each for each in after.candidates if each.domain == one.domain)
        assert (other.speed, other.quality, other.emotion) == (one.speed, one.quality, one.emotion)


# -- the terms ---------------------------------------------------------------------------------------------------------


def test_a_neutral_message_has_the_same_emotion_term_for_all(router: Router) -> None:
    decision = router.route("Which market should our company enter?")
    assert decision.emotion.neutral
    assert {candidate.emotion for candidate in decision.candidates} == {0.5}


def test_fear_speaks_for_the_domain_whose_profile_has_it(router: Router) -> None:
    decision = router.route("I am so terrified and anxious")
    assert term(decision, "healthcare", "emotion") > term(decision, "creative", "emotion")


def test_speed_and_quality_come_from_measurements(data: dict[str, Any]) -> None:
    router = with_measured(
        data,
        healthcare={"tokens_per_s": 100.0, "first_token_s": 0.2, "quality": 0.7},
        business={"tokens_per_s": 50.0, "first_token_s": 0.4, "quality": 0.5},
        education={"tokens_per_s": 100.0, "first_token_s": 0.2, "quality": 0.6},
    )
    decision = router.route(HURRIED)
    assert term(decision, "healthcare", "speed") == term(decision, "education", "speed") == 1.0
    assert 0.4 < term(decision, "business", "speed") < 0.6
    assert term(decision, "business", "quality") == 0.5
    by_name = {candidate.domain: candidate for candidate in decision.candidates}
    assert by_name["business"].notes == ()
    assert by_name["creative"].notes == ("speed not measured", "quality not measured")
    assert by_name["creative"].speed == pytest.approx(0.5, abs=0.1)  # as if it took twice the fastest time
    assert by_name["creative"].quality == USUAL_QUALITY


def test_few_examples_say_little_of_quality(data: dict[str, Any]) -> None:
    router = with_measured(
        data,
        healthcare={"quality": 0.9, "quality_examples": 2},
        business={"quality": 0.6, "quality_examples": 200},
        education={"quality": 0.3},
    )
    decision = router.route("Which price should I ask?")
    assert term(decision, "healthcare", "quality") == pytest.approx(0.4)  # two lucky answers: near what is usual
    assert term(decision, "business", "quality") == pytest.approx(0.586, abs=0.001)
    assert term(decision, "education", "quality") == 0.3  # of how many is not known: as it is


def test_whoever_prefers_speed_is_in_a_hurry(data: dict[str, Any]) -> None:
    router = with_measured(
        data,
        healthcare={"tokens_per_s": 100.0, "first_token_s": 0.2},
        business={"tokens_per_s": 50.0, "first_token_s": 0.4},
    )
    calm = router.route("Which price should I ask?")
    fast = router.route("Which price should I ask?", weights={**WEIGHTS, "speed": 0.3, "quality": 0.0})
    assert term(calm, "business", "speed") == 1.0
    assert term(fast, "business", "speed") < 0.6


def test_slowness_costs_more_when_urgent_and_less_when_complex(data: dict[str, Any]) -> None:
    router = with_measured(
        data,
        healthcare={"tokens_per_s": 100.0, "first_token_s": 0.2},
        business={"tokens_per_s": 50.0, "first_token_s": 0.4},
    )
    calm = term(router.route("Which price should I ask?"), "business", "speed")
    soon = term(router.route("Which price should I ask? I need it today"), "business", "speed")
    urgent = term(router.route(HURRIED), "business", "speed")
    assert urgent < soon < calm == 1.0
    long = "Which price should I ask, because costs rose, and if I raise it, who leaves, and when do I tell them? "
    complex_ = term(router.route(long * 3 + "This is urgent, right now! And what then? Why?"), "business", "speed")
    assert urgent < complex_ < 1.0


def test_a_domain_that_must_be_loaded_first_is_slower(data: dict[str, Any]) -> None:
    router = with_measured(
        data, **{name: {"tokens_per_s": 100.0, "first_token_s": 0.2, "load_s": 3.0} for name in PHASE_1}
    )
    cold = router.route(HURRIED, resident={"business"})
    assert term(cold, "business", "speed") == 1.0
    assert term(cold, "creative", "speed") < 0.5
    for unknown in (router.route(HURRIED), router.route("Which price should I ask?", resident={"business"})):
        assert {candidate.speed for candidate in unknown.candidates} == {1.0}


# -- conversations, odd input, other sets of domains -------------------------------------------------------------------


def test_a_short_follow_up_stays_with_the_previous_domain(router: Router) -> None:
    assert router.route("And what about that?").domain is None
    decision = router.route("And what about that?", previous_domain="education")
    assert decision.domain == "education"
    assert decision.follow_up
    assert router.route("And what about that?", previous_domain="gone").domain is None
    assert router.route("How should I lead my team?", previous_domain="education").domain == "leadership"
    assert router.route("Which train goes from Vienna to Venice at night?", previous_domain="education").unsure


@pytest.mark.parametrize(
    "text",
    [
        "", "   \n\t ", "😀😀🎉", "!!!???", "\x00\x1b[31m\u202e", "你好,请帮我修自行车", "Как починить велосипед?",
        "Kje je najbližja trgovina s kolesi?", "xq zzv brrrt " * 700, "\ud800", "'" * 10_000, "a" * 10_000,
    ],
)  # fmt: skip
def test_odd_input_is_unsure_and_never_fails(router: Router, text: str) -> None:
    decision = router.route(text, previous_domain="business")
    if decision.domain is not None:
        assert decision.follow_up
    assert router.route(text).unsure
    assert explain(decision)


def test_ten_thousand_characters_are_routed(router: Router) -> None:
    text = "How do I give feedback to my team and keep morale up? " * 200
    decision = router.route(text)
    assert decision.domain == "leadership"
    assert decision.complexity <= 1


def test_random_text_never_fails(router: Router) -> None:
    rng = random.Random(4)
    letters = "abc knot'’-.!?\n\t😀é中\u202e\x1b0123456789"
    for _ in range(300):
        text = "".join(rng.choice(letters) for _ in range(rng.randint(0, 120)))
        assert router.route(text) == router.route(text)


def test_one_domain(catalog: Any) -> None:
    data = build_routing_data([catalog.domains["education"]], {"education": starter_prompts("education")}, {})
    router = Router.from_data(data)
    assert router.route("Can you explain fractions for my maths homework?").domain == "education"
    assert router.route("hello").unsure
    assert router.route("Which train goes from Vienna to Venice at night?").unsure


def test_all_domains_of_the_catalog(catalog: Any) -> None:
    data = build_routing_data(catalog.domains.values(), {name: starter_prompts(name) for name in PHASE_1}, {})
    router = Router.from_data(data)
    assert len(router.domains) == len(catalog.domains) > 50
    decision = router.route("How should I lead my team?")
    assert math.fsum(candidate.content for candidate in decision.candidates) < 1
    assert router.route("hello").unsure
    assert router.route("I want to die").domain in ("mental_health", "healthcare")


def test_routing_data_is_json_and_reproducible(built: dict[str, Any], catalog: Any) -> None:
    again = build_routing_data(
        reversed([catalog.domains[name] for name in PHASE_1]),
        {name: starter_prompts(name) for name in reversed(PHASE_1)},
        {},
        {**catalog.settings.routing_dict(), "crisis": catalog.settings.crisis_dict()},
    )
    assert json.dumps(again, sort_keys=True) == json.dumps(built, sort_keys=True)
    assert built["calibration"]["method"].startswith("5-fold cross-validation")
    assert built["calibration"]["accuracy"] > 0.5


def test_a_decision_is_explained_in_plain_lines(router: Router) -> None:
    lines = explain(router.route("I'm furious, urgent: how do I lead my team?"))
    text = "\n".join(lines)
    assert lines[0].startswith("leadership")
    assert "urgency urgent" in text
    assert "anger" in text
    assert "total = 0.4 content + 0.3 emotion + 0.2 speed + 0.1 quality" in text
    assert "speed not measured" in text
    crisis = explain(router.route("I want to kill myself"))
    assert "findahelpline" in "\n".join(crisis)


def test_importing_the_router_brings_no_model_library() -> None:
    code = (
        "import sys, core.routing\n"
        "bad = {'torch', 'transformers', 'llama_cpp', 'numpy', 'sqlmodel', 'textual'} & set(sys.modules)\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_words_that_spoke_for_a_domain_are_shown_as_they_were_written(router: Router) -> None:
    decision = router.route("Which invoices are late, and how do I raise the marketing budget?")
    shown = {word for candidate in decision.candidates for word in candidate.matched}
    assert "invoices" in shown or "marketing" in shown
    said = "which invoices are late and how do i raise the marketing budget"
    assert all(word in said for word in shown), shown
