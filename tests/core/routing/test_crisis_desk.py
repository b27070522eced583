"""The crisis gate where messages are routed: before everything else, its adapter in doubt, and nothing of it kept."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.chat.only import OnlyOne
from core.encoder import Encoder, EncoderError
from core.routing import Desk, build_routing_data, explain, headline
from core.routing.crisis import ADVICE, FOLLOWING, KINDS, WHOLE, WORDED, Crisis
from core.routing.crisis_model import ADAPTER
from core.routing.crisis_wording import CrisisWording
from core.routing.emotion import read_emotion
from core.routing.words import normalise, split_words

MARK = "quinceblossom"
MEANT = "I gave my cat away this morning and wrote to everyone. After tonight none of it will matter."
TEAM = "How should I lead my team?"
# The messages that the original program misrouted (`docs/routing.md`), and where they belong among all five.
MISROUTED = {
    TEAM: "leadership",
    "help me now": None,
    "hello": None,
    "What is a good market strategy for a small company?": "business",
    "I have a medical emergency and need help": "healthcare",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Path | None]]]:
    """What encoders are asked for from now on: which text, under which adapters."""
    requests: list[tuple[str, list[Path | None]]] = []
    plain, adapted = Encoder.embed, Encoder.embed_adapted

    def embed(self: Encoder, texts: Any, meanwhile: Any = None) -> Any:
        requests.append((*texts, [None]))
        return plain(self, texts, meanwhile)

    def embed_adapted(self: Encoder, texts: Any, adapters: Any) -> Any:
        requests.append((*texts, list(adapters)))
        return adapted(self, texts, adapters)

    monkeypatch.setattr(Encoder, "embed", embed)
    monkeypatch.setattr(Encoder, "embed_adapted", embed_adapted)
    return requests


@pytest.mark.parametrize(("text", "domain"), MISROUTED.items())
def test_what_the_original_misrouted_goes_right(router: Any, text: str, domain: str | None) -> None:
    decision = router.route(text)
    assert decision.domain == domain
    assert (decision.crisis is not None) == ("emergency" in text)


def test_a_happy_message_is_no_health_matter(desk: Desk) -> None:
    decision = desk.route("I am so happy about my new job")
    assert decision.crisis is None
    assert decision.domain != "healthcare"


def test_a_message_is_read_once_and_in_doubt_under_the_adapter_too(desk: Desk, asked: list[Any]) -> None:
    text = "How do I share the work out in a team of nine?"
    desk.route(text)
    assert asked == [(text, [None])]
    desk.route(text)
    assert len(asked) == 1
    assert desk.route(MEANT).crisis is not None
    assert asked[1:] == [(MEANT, [None]), (MEANT, [ADAPTER])]


def test_a_certain_wording_needs_no_second_reading(desk: Desk, asked: list[Any]) -> None:
    text = "I want to kill myself"
    assert desk.route(text).crisis == Crisis("suicide", "i want to kill myself")
    assert asked == [(text, [None])]


def test_the_subject_is_read_as_it_was_meant_and_a_crisis_as_it_was_written(
    desk: Desk, encoder: Encoder, asked: list[Any]
) -> None:
    quiet = "how do i plann a budgit for a smal compeny"
    desk.route(quiet)
    ((read, adapters),) = asked
    assert (adapters, read != quiet) == ([None], True)
    asked.clear()
    text = "i tok all the pilz and i dont want to wak up ever agen"
    assert desk.router.readable(text) != text
    assert desk.route(text).crisis is not None
    ((read, adapters), written_as) = asked
    assert (adapters, read != text, written_as) == ([None], True, (text, [None, ADAPTER]))
    vectors = desk.reader.read(desk.router.written(text))
    assert vectors is not None
    assert vectors.crisis is not None
    written, meant = encoder.embed([text, read])
    assert np.allclose(vectors.crisis[0], written, atol=1e-4)
    assert np.allclose(vectors.topic.vector, meant, atol=1e-4)


def test_a_crisis_of_no_known_wording_goes_to_the_safest_domain(desk: Desk) -> None:
    assert CrisisWording(MEANT).worded is None
    decision = desk.route(MEANT)
    assert decision.crisis == Crisis("suicide", WHOLE)
    assert (decision.domain, decision.candidates, decision.consensus) == ("healthcare", (), None)
    assert decision.resources is not None


def test_a_short_message_after_a_crisis_stays_for_as_long_as_they_are_short(desk: Desk) -> None:
    assert desk.route("I don't know").crisis is None
    once = desk.route("I don't know", "healthcare", previous=MEANT, crisis_before=desk.route(MEANT).crisis)
    assert once.crisis == Crisis("suicide", FOLLOWING)
    assert once.resources is not None
    again = desk.route("yes", "healthcare", previous="I don't know", crisis_before=once.crisis)
    assert again.crisis == Crisis("suicide", FOLLOWING)
    assert desk.route(TEAM, "healthcare", previous="yes", crisis_before=again.crisis).crisis is None


def test_nothing_of_a_crisis_is_kept_or_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    text = f"I want to kill myself, {MARK}"
    with caplog.at_level(logging.DEBUG):
        found = desk.route(text)
        desk.route("ok", "healthcare", previous=text, crisis_before=found.crisis)
    assert not any(MARK in plain for plain in desk.reader._kept)
    assert MARK not in caplog.text + headline(found) + "\n".join(explain(found))


@pytest.mark.parametrize("text", [TEAM, "hello", "In my novel:", "years ago", "", "😀", "x" * 3000, "kill the process"])
def test_a_certain_sentence_beside_any_message_is_a_crisis(desk: Desk, text: str) -> None:
    for whole in (f"{text} I want to kill myself", f"My husband beats me. {text}"):
        assert desk.route(whole).crisis is not None


@pytest.mark.parametrize("number", ["14 14 14", "70 70 70"])
def test_the_help_lines_are_those_of_the_configured_region(catalog: Any, number: str) -> None:
    crisis = {"region": "here", "resources": {"here": f"Call {number}.", "elsewhere": "Call 0."}}
    data = build_routing_data([catalog.domains["healthcare"]], {}, {}, {"crisis": crisis})
    assert set(data["resources"]) == set(ADVICE)
    assert all(number in text and "Call 0." not in text for text in data["resources"].values())


def test_other_help_lines_hold_at_once(small: dict[str, Any]) -> None:
    """A workspace's region, of a release that was built with another."""
    with Desk(small) as desk:
        before = desk.route(TEAM)
        assert desk.route("I want to kill myself").resources != "Call 116 123."
        desk.use_resources(dict.fromkeys(WORDED, "Call 116 123."))
        assert desk.route("I want to kill myself").resources == "Call 116 123."
        assert desk.route(TEAM) == before


@pytest.fixture
def only(encoder: Encoder) -> Iterator[OnlyOne]:
    """What a conversation with a single model asks, with the shipped encoder."""
    made = OnlyOne(None, dict.fromkeys(KINDS, "call somebody"))
    made.use(str(encoder.gguf))
    yield made
    made.close()


def test_one_model_alone_says_where_the_encoder_failed(only: OnlyOne, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what its letters made of a message is not kept for when the encoder is back."""
    assert (only.method, only.route(TEAM).note) == ("encoder", "")

    def broken(*_: object, **__: object) -> None:
        raise EncoderError("it fell over")

    monkeypatch.setattr(Encoder, "embed", broken)
    failed = only.route("How do I keep nine people together?")
    assert (only.method, failed.note) == ("encoder", "it fell over")


def test_one_model_alone_is_guarded_as_well(only: OnlyOne) -> None:
    found = only.route(MEANT)
    assert (found.crisis, found.resources) == (Crisis("suicide", WHOLE), "call somebody")
    assert normalise(MEANT) not in only.reader._kept
    assert only.route("ok", previous=MEANT, crisis_before=found.crisis).crisis == Crisis("suicide", FOLLOWING)
    assert only.route(TEAM).crisis is None


def test_one_model_alone_is_told_the_emotion_as_a_release_is(only: OnlyOne, desk: Desk) -> None:
    text = "Everyone clapped at the end of my talk and my legs are still shaking."
    assert only.route(text).emotion == desk.route(text).emotion
    plain = normalise(text)
    assert only.route(text).emotion != read_emotion(plain, split_words(plain))  # which goes by words alone


def test_without_the_encoder_one_model_alone_goes_by_wording_and_says_so(tmp_path: Path) -> None:
    only = OnlyOne(None, dict.fromkeys(KINDS, "call somebody"))
    only.use(str(tmp_path / "gone.gguf"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TARA_ENCODER", raising=False)
        found = only.route("I want to kill myself")
    assert found.crisis is not None
    assert "gone.gguf" in only.reader.note
    only.close()
