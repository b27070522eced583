"""The router on a real sentence encoder: where messages go, that all numbers add up, and what it does without one."""

import json
import math
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.chat.caches import EmotionCache
from core.encoder import Encoder
from core.errors import InvalidInput
from core.routing import Desk, Router, build_routing_data, crisis_wording, urgency
from core.routing.blend import shipped_blend
from core.routing.crisis_model import load_model
from core.routing.data import TERMS, validate
from core.routing.decision import KEYWORDS
from core.routing.prepare import with_vectors
from core.routing.router import KEYWORDS_COUNT
from core.routing.rows import rows_from
from core.routing.vectors import unpacked
from tests.core.routing.conftest import SMALL

PLAIN = {
    "How should I lead my team?": "leadership",
    "nobody on my staff says a word in meetings any more": "leadership",
    "The skin around my toenail is red and throbs": "healthcare",
    "Why does the moon change its shape, for my science class": "education",
    "my throte hurts and i hav a feever": "healthcare",
}
OUTSIDE = (
    "hello", "tell me a joke", "what's the weather like tomorrow", "my brakes squeal", "best beach on the island?",
    "你好,请帮我修自行车", "Как починить велосипед?", "qwertz uiop", "???", "", " \n", "😀😀🎉", "a" * 10_000, "\ud800",
)  # fmt: skip


@pytest.mark.parametrize(("text", "domain"), PLAIN.items())
def test_where_plain_messages_go(desk: Desk, text: str, domain: str) -> None:
    decision = desk.route(text)
    assert (decision.domain, decision.method) == (domain, "encoder")


@pytest.mark.parametrize("text", OUTSIDE)
def test_what_belongs_nowhere_is_not_forced(desk: Desk, text: str) -> None:
    decision = desk.route(text)
    assert decision.domain is None
    assert decision.unsure
    assert decision.reason


def test_ten_thousand_characters_are_routed(desk: Desk) -> None:
    assert desk.route("How do I give feedback to my team and keep morale up? " * 200).domain == "leadership"


def test_random_text_never_fails(desk: Desk) -> None:
    rng = random.Random(7)
    letters = "abc knot'’-.!?\n\t😀é中\u202e\x1b0123456789"
    for _ in range(25):
        text = "".join(rng.choice(letters) for _ in range(rng.randint(0, 120)))
        assert desk.route(text) == desk.route(text)


def test_every_number_of_a_decision_can_be_recomputed(desk: Desk) -> None:
    blend = shipped_blend()
    for text in PLAIN:
        decision = desk.route(text)
        assert decision.none is not None
        whole = math.fsum(math.exp(one.score) for one in decision.candidates) + math.exp(decision.none)
        for one in decision.candidates:
            assert one.total == pytest.approx(one.recompute(decision.weights), abs=1e-9)
            assert one.score == pytest.approx(sum(blend.weights[k] * v for k, v in one.signs.items()), abs=1e-9)
            assert one.content == pytest.approx(math.exp(one.score) / whole, abs=1e-9)
            assert all(0 <= getattr(one, name) <= 1 for name in TERMS)
        assert 0 <= decision.confidence <= decision.inside <= 1


def test_the_order_of_domains_and_texts_changes_nothing(desk: Desk, small: dict[str, Any], encoder: Encoder) -> None:
    turned = {**small, "domains": dict(reversed(small["domains"].items()))}
    router = Router.from_data(turned)
    for text in PLAIN:
        again = router.route(text, embedding=desk.embedding(text))
        same = replace(desk.route(text), crisis_method=again.crisis_method)  # the router alone was given no such vector
        assert replace(again, note="") == replace(same, note="")


def test_a_domain_nobody_speaks_of_changes_no_winner(
    desk: Desk, small: dict[str, Any], catalog: Any, encoder: Encoder
) -> None:
    data = {**small, "vectors": None, "blend": None}
    other = build_routing_data([catalog.domains["mythology"]], {}, {}, examples={"mythology": ["Who was Odin?"]})
    data["domains"] = {**data["domains"], "mythology": other["domains"]["mythology"]}
    wider = Router.from_data(with_vectors(data, encoder))
    for text, domain in PLAIN.items():
        assert wider.route(text, embedding=desk.embedding(text)).domain == domain


def test_urgency_never_falls_and_wording_of_danger_goes_first(desk: Desk) -> None:
    for text in PLAIN:
        assert desk.route(f"{text} right now, urgent").urgency >= desk.route(text).urgency
    crisis = desk.route("I have a medical emergency and need help")
    assert crisis.crisis is not None
    assert crisis.domain == "healthcare"
    assert crisis.candidates == ()
    assert crisis.consensus is None


def test_domains_that_cannot_answer_are_no_candidates(desk: Desk) -> None:
    decision = desk.route("How should I lead my team?", unavailable={"leadership": "its adapter is damaged"})
    assert decision.unavailable == {"leadership": "its adapter is damaged"}
    assert "leadership" not in [one.domain for one in decision.candidates]
    assert decision.domain is None  # the others are no better for it
    nobody = desk.route("How should I lead my team?", unavailable=dict.fromkeys(SMALL, "no memory"))
    assert nobody.domain is None
    assert nobody.candidates == ()


def test_the_two_best_are_named_in_the_band_below_the_threshold(desk: Desk, small: dict[str, Any]) -> None:
    def with_threshold(text: str, least: float) -> Any:
        settings = {**small["settings"], "unsure_below": least, "consensus_band": 0.05}
        return Router.from_data({**small, "settings": settings}).route(text, embedding=desk.embedding(text))

    both = "my team has headaches"
    sure = desk.route(both).confidence
    torn = with_threshold(both, sure + 0.01)
    assert torn.unsure
    assert set(torn.consensus) == {"healthcare", "leadership"}
    assert with_threshold(both, sure + 0.2).consensus is None
    assert with_threshold(both, sure - 0.01).consensus is None
    one = "How should I lead my class?"  # near to one alone, and to that not very
    assert with_threshold(one, desk.route(one).confidence + 0.01).consensus is None


def test_by_words_two_are_torn_in_the_band_below_their_own_threshold(built: dict[str, Any]) -> None:
    def torn(text: str, least: float) -> Any:
        settings = {**built["settings"], "unsure_below": least / KEYWORDS_COUNT, "consensus_band": 0.05}
        return Router.from_data({**built, "settings": settings}).route(text)

    both, nothing = "a story about my business", "flibbertigibbet"
    sure = torn(both, 0.1)
    assert sure.domain == "creative"
    assert set(torn(both, sure.confidence + 0.01).consensus) == {"business", "creative"}
    assert torn(both, sure.confidence + 0.2).consensus is None
    assert torn(nothing, torn(nothing, 0.5).confidence + 0.01).consensus is None


def test_a_follow_up_stays_and_a_new_topic_goes(desk: Desk) -> None:
    before = "How do I add two fractions?"
    assert desk.route(before).domain == "education"
    alone = desk.route("and with three of them?")
    stayed = desk.route("and with three of them?", "education", previous=before)
    assert alone.domain is None
    assert (stayed.domain, stayed.follow_up, stayed.topic_changed) == ("education", True, False)
    late = desk.route("and with three of them?", "education", previous=before, seconds=7200)
    assert late.tie < stayed.tie / 10
    by_words = desk.router.route("and with three of them?", "education")
    assert (by_words.method, by_words.tie) == (KEYWORDS, 0.0)  # nothing was added, so that nothing is told
    other = desk.route("My throat hurts and I have a fever", "education", previous=before)
    assert (other.domain, other.follow_up, other.topic_changed) == ("healthcare", False, True)


def test_a_dead_encoder_is_replaced_and_a_broken_one_is_said(small: dict[str, Any], tmp_path: Path) -> None:
    with Desk(small) as desk:
        desk.start()
        first = desk.encoder_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert desk.route("How should I lead my team?").method == "encoder"
        assert desk.encoder_pid != first
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and nothing behind it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TARA_ENCODER", str(broken))
        with Desk(small) as desk:
            decision = desk.route("How should I lead my team?")
    assert (decision.domain, decision.method) == ("leadership", "keywords")
    assert "broken.gguf" in decision.note


def test_starting_leaves_nothing_for_the_first_message_to_load(
    built: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TARA_ENCODER", "none")
    made = (crisis_wording._expressions, crisis_wording._of_languages, urgency._expressions, load_model)
    for one in made:
        one.cache_clear()
    with Desk(built) as by_words:
        by_words.start()
        assert [one.cache_info().currsize for one in made] == [1] * len(made)


def test_starting_asks_no_cache(small: dict[str, Any]) -> None:
    """What caches knew is shown to the person, who has asked nothing yet."""
    with Desk(small) as desk:
        emotions = EmotionCache()
        desk.read_emotion = emotions.reading(desk.read_emotion)
        desk.start()
        assert desk.encoder_pid is not None
        assert (emotions.figures.hits, emotions.figures.misses) == (0, 0)
        desk.route("How should I lead my team?")
        assert emotions.figures.misses == 1


def test_vectors_of_another_encoder_are_made_anew(small: dict[str, Any]) -> None:
    foreign = {**small, "vectors": {**small["vectors"], "encoder": "0" * 64}}
    with Desk(foreign) as desk:
        assert desk.route("How should I lead my team?").domain == "leadership"
        assert desk.data["vectors"]["encoder"] == small["vectors"]["encoder"]
    with_none = {**small, "vectors": None, "blend": None}
    with Desk(with_none) as desk:
        assert desk.route("How should I lead my team?").method == "encoder"


def test_data_of_the_first_version_is_routed_by_keywords(small: dict[str, Any]) -> None:
    old = json.loads(json.dumps(small))
    old["version"] = 1
    for name in ("outside", "vectors", "blend"):
        del old[name]
    del old["settings"]["consensus_band"]
    for entry in old["domains"].values():
        for name in ("said", "about", "topics", "habits"):
            del entry[name]
    with Desk(old) as desk:
        decision = desk.route("How should I lead my team?")
    assert (decision.domain, decision.method) == ("leadership", "keywords")
    assert "build and deploy it again" in decision.note


def test_an_encoder_of_ones_own_has_weights_of_its_own(small: dict[str, Any], encoder: Encoder) -> None:
    class Turned:
        """The same vectors turned in space and stretched towards one direction: other cosines."""

        identity = "f" * 64

        def embed(self, texts: Any) -> Any:
            rows = encoder.embed(texts) @ np.linalg.qr(np.random.default_rng(0).normal(size=(384, 384)))[0]
            rows[:, 0] += 0.5
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    data = with_vectors({**small, "vectors": None, "blend": None}, Turned())
    assert data["blend"]["encoder"] == Turned.identity
    assert data["blend"]["weights"] != small["blend"]["weights"]
    assert data["blend"]["accuracy"] > 0.6


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda d: d["vectors"].update(data=d["vectors"]["data"][:-8]), "vectors"),
        (lambda d: d["vectors"].update(data="no base64!"), "vectors"),
        (lambda d: d["vectors"].update(dimension=0), "vectors"),
        (lambda d: d["blend"]["weights"].pop("centre"), "blend.weights"),
        (lambda d: d["blend"].update(right=[1.0]), "blend.right"),
        (lambda d: d["blend"]["none"].update(bias=float("inf")), "blend.none"),
        (lambda d: d.update(outside=[["a"]]), "outside"),
        (lambda d: d["domains"]["education"].update(said="x"), "domains.education.said"),
        (lambda d: d["domains"]["education"]["habits"].update(urgent=2), "domains.education.habits.urgent"),
    ],
)
def test_a_fault_is_named(small: dict[str, Any], change: Any, key: str) -> None:
    copy = json.loads(json.dumps(small))
    change(copy)
    with pytest.raises(InvalidInput, match=key.replace(".", r"\.")):
        validate(copy, "routing.json")


def test_vectors_survive_as_text(small: dict[str, Any], encoder: Encoder) -> None:
    texts = rows_from(small).texts()
    stored = unpacked(small["vectors"], len(texts))
    fresh = encoder.embed(texts[:20])
    assert (stored[:20] * fresh).sum(1).min() > 0.99999


def test_a_decision_without_the_encoder_takes_milliseconds(small: dict[str, Any]) -> None:
    router = Router.from_data({**small, "vectors": None, "blend": None})
    router.speller.warm()
    spent = []
    for text in [*PLAIN, *OUTSIDE] * 3:
        started = time.process_time()
        router.route(text)
        spent.append(time.process_time() - started)
    assert sorted(spent)[int(0.9 * len(spent))] < 0.02  # ten times the goal: a busy machine is no fault of the router
