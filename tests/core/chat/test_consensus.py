"""Where the router is torn: both answer, a stated rule chooses, cost and both are shown; bounded, not in a crisis."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from core.chat.client import Done, Engine, Token
from core.chat.consensus import RULE, TIE, Compared, Said, choose, compare
from core.chat.protocol import EngineClosed, EngineError, Judged
from core.chat.session import Conversation, Notice
from core.routing import Decision, Desk
from tests.core.chat.conftest import FIVE, SEEDED, answer, write_bundle

PAIR = ("business", "creative")


@dataclass(frozen=True)
class Torn(Decision):
    """A decision as the router makes it in the band just under its threshold."""

    consensus: tuple[str, str] | None = None


def torn(conversation: Conversation, pair: tuple[str, str] = PAIR) -> Conversation:
    """A conversation whose router is always torn between two."""
    route = conversation.router.route

    def routed(text: str, *context: object, **more: object) -> Decision:
        found = route(text, *context, **more)  # type: ignore[arg-type]
        if found.crisis is not None:
            return Torn(**{**vars(found), "consensus": pair})
        return Torn(**{**vars(found), "domain": None, "unsure": True, "consensus": pair})

    assert isinstance(conversation.router, Desk)
    conversation.router.route = routed  # type: ignore[method-assign,assignment]
    return conversation


@pytest.fixture
def conversation(tiny_bundle: Path, tiny: Engine) -> Conversation:
    return torn(Conversation(tiny_bundle, engine=tiny, sampling=SEEDED))


def said(domain: str, gain: float) -> Said:
    return Said(domain, "text", 10, 1.0, -2.0 + gain, -2.0)


def test_the_answer_that_its_question_makes_more_probable_is_taken_and_the_first_of_two_equals() -> None:
    assert choose(said("a", 0.5), said("b", 0.9)) == "b"
    assert choose(said("a", 0.9), said("b", 0.5)) == "a"
    assert choose(said("a", 0.5), said("b", 0.5 + TIE / 2)) == "a"
    compared = Compared((said("a", 0.5), said("b", 0.9)), "b", 3.25)
    assert compared.rule == RULE
    assert compared.other.domain == "a"
    assert compared.line() == "b of two (a +0.50, b +0.90 nats a token from the question; 20 tokens in 3.2 s)"


def test_both_answer_and_the_better_one_stays_in_the_history(conversation: Conversation) -> None:
    turn = conversation.ask("hello there")
    events = list(turn.events())
    assert turn.pair == PAIR
    (compared,) = [event for event in events if isinstance(event, Compared)]
    assert turn.compared is compared
    assert [one.domain for one in compared.answers] == list(PAIR)
    for one in compared.answers:
        messages = conversation.messages_for("hello there", one.domain, None, [])
        alone = answer(conversation.engine, messages, one.domain, SEEDED, context=2048).text
        assert one.text == alone
        assert one.tokens > 0
        assert one.seconds > 0
    assert compared.chosen == choose(*compared.answers) == turn.domain
    taken = next(one for one in compared.answers if one.domain == compared.chosen)
    assert turn.done is events[-1]
    assert turn.done is not None
    assert turn.done.text == taken.text == conversation.history[-1]["content"]
    assert len(conversation.history) == 2
    notices = [event for event in events if isinstance(event, Notice)]
    assert "both answer" in notices[0].text
    # What is read is the first answer, and where the second is better, that one anew.
    anew = [at for at, event in enumerate(events) if isinstance(event, Notice) and event.anew]
    assert bool(anew) == (compared.chosen == PAIR[1])


def test_the_second_answer_takes_the_place_of_the_first_where_it_is_better(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = iter((Judged(1, -3.0, -3.0, 5), Judged(2, -2.0, -3.0, 5)))
    monkeypatch.setattr(conversation.engine, "judge", lambda *_: next(judged))
    turn = conversation.ask("hello there")
    events = list(turn.events())
    assert turn.domain == PAIR[1]
    assert turn.done is not None
    assert turn.done.domain == PAIR[1]
    at = next(n for n, event in enumerate(events) if isinstance(event, Notice) and event.anew)
    assert events[at + 1] == Token(turn.done.text)
    assert conversation.history[-1]["content"] == turn.done.text
    assert conversation._previous == PAIR[1]
    assert conversation.memory.past().domains == {PAIR[1]: 1.0}


def test_each_of_the_two_answers_in_its_own_domains_tone(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "I'm thrilled, what if we closed the deal today?"
    prompts: dict[str | None, str] = {}
    whole = conversation.engine.ask

    def recorded(messages: list[dict[str, str]], domain: str | None, *more: object, **how: object) -> Iterator[object]:
        prompts[domain] = messages[0]["content"]
        yield from whole(messages, domain, *more, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(conversation.engine, "ask", recorded)
    for gains, chosen in (((1.0, 0.0), PAIR[0]), ((0.0, 1.0), PAIR[1])):
        judged = iter(Judged(1, -3.0 + gain, -3.0, 5) for gain in gains)
        monkeypatch.setattr(conversation.engine, "judge", lambda *_, judged=judged: next(judged))
        conversation.reset()
        turn = conversation.ask(message)
        assert turn.guidance is not None
        assert (turn.domain, turn.guidance.domain) == (PAIR[0], PAIR[0])  # as is shown before the answer
        list(turn.events())
        assert turn.domain == chosen
        assert turn.guidance.domain == chosen  # as is in the record
    tones = {name: conversation._guidance(turn.decision, name, message, []) for name in (*PAIR, None)}
    assert len({tone.instruction for tone in tones.values() if tone is not None}) == 3
    for name in PAIR:
        tone = tones[name]
        assert tone is not None
        assert tone.domain == name
        assert prompts[name].endswith(tone.instruction)


def test_a_first_answer_without_words_leaves_the_conversation_before_it_alone(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(conversation.ask("hello there", domain="education").events())
    before = conversation.history
    whole = conversation.engine.ask

    def silent(messages: list[dict[str, str]], domain: str | None, *more: object, **how: object) -> Iterator[object]:
        if domain == PAIR[0]:
            yield Done("", 0, None, None, "eos", domain)
        else:
            yield from whole(messages, domain, *more, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(conversation.engine, "ask", silent)
    turn = conversation.ask("and now?")
    events = list(turn.events())
    assert any(isinstance(event, Notice) and event.text == "not compared: business said nothing" for event in events)
    assert conversation.history == before


def test_never_in_a_crisis_nor_where_a_person_chose(conversation: Conversation) -> None:
    crisis = conversation.ask("I want to kill myself")
    assert getattr(crisis.decision, "consensus", None) == PAIR
    assert crisis.pair is None
    assert conversation.ask("hello there", domain="education").pair is None


def test_only_with_what_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "two", ("first", "second"), FIVE, tiny_model)
    with Engine(folder, n_ctx=512, threads=1) as engine:
        conversation = torn(Conversation(folder, engine=engine, sampling=SEEDED))  # business and creative: two bases
        assert conversation.ask("hello there").pair is None
        engine.prepare("business")
        assert conversation.ask("hello there").pair is None
        engine.prepare("creative")
        assert conversation.ask("hello there").pair == PAIR


# -- the second answer, without an engine ------------------------------------------------------------------------------

DONE = Done("an answer", 3, None, None, "eos", "a")


def compared_with(
    second: object, limit_s: float = 30.0, took: float = 1.0, judged: Exception | None = None
) -> Compared | str:
    """`compare` with a second answer that is made of events, or is an error."""

    def ask(_domain: str) -> Iterator[object]:
        if isinstance(second, Exception):
            raise second
        yield Token("x")
        yield second

    def judge(answer: str) -> Judged:
        if judged is not None:
            raise judged
        return Judged(1, -1.0, -2.0, len(answer))

    return compare(("a", DONE, took), "b", ask, judge, lambda: None, lambda: False, limit_s)


def test_why_two_answers_were_not_compared_is_said() -> None:
    assert isinstance(compared_with(replace(DONE, text="another")), Compared)
    assert "one answer took 20 s" in str(compared_with(DONE, took=20.0))
    assert compared_with(replace(DONE, stopped_by="cancelled")) == "b was not done within 30 s"
    assert compared_with(replace(DONE, text=" ")) == "b said nothing"
    assert compared_with(EngineError("no file")) == "b could not answer: no file"
    unjudged = compared_with(replace(DONE, text="another"), judged=EngineError("too long"))
    assert unjudged == "the base could not judge: too long"
    with pytest.raises(EngineClosed):
        compared_with(EngineClosed("closed"))


def test_a_second_answer_that_takes_too_long_is_cancelled(conversation: Conversation) -> None:
    conversation._consensus_limit_s = 1.0
    engine, whole, cancel = conversation.engine, conversation.engine.ask, conversation.engine.cancel
    domains: list[str | None] = []
    due = threading.Event()

    def slow(messages: list[dict[str, str]], domain: str | None, *_: object, **__: object) -> Iterator[object]:
        domains.append(domain)
        if domain == PAIR[0]:
            yield from whole(messages, domain, replace(SEEDED, max_tokens=2), cached=False)
            return
        yield Token("on and on")
        stopped = "cancelled" if due.wait(20) else "length"
        yield Done("on and on", 3, None, None, stopped, domain)

    def cancelled() -> None:
        cancel()
        due.set()

    engine.ask, engine.cancel = slow, cancelled  # type: ignore[method-assign,assignment]
    try:
        turn = conversation.ask("hello there")
        events = list(turn.events())
    finally:
        engine.ask, engine.cancel = whole, cancel  # type: ignore[method-assign]
    assert domains == list(PAIR)
    assert turn.compared is None
    assert turn.domain == PAIR[0]
    assert Notice("not compared: creative was not done within 1 s") in events
