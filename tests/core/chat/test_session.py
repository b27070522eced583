"""Conversations: routing, history, caches, crisis resources, guidance, and answers that are left or fail."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.chat.client import Done, Engine, Token
from core.chat.guidance import Guidance
from core.chat.memory import Memory
from core.chat.preference import PREFERENCES
from core.chat.process import EngineProcess
from core.chat.protocol import (
    EngineError,
    Event,
    LowMemory,
    PromptRefused,
    SamplingOptions,
)
from core.chat.session import Conversation, Notice
from core.encoder import Encoder, EncoderError
from core.errors import InvalidInput
from core.routing.past import MOST_INFLUENCE, Moment, Past
from tests.core.chat.conftest import GREEDY, LONG, SEEDED


def test_a_question_is_routed_answered_and_remembered(conversation: Conversation) -> None:
    turn = conversation.ask("How should I lead my team?")
    assert turn.domain == "leadership"
    assert turn.decision.domain == "leadership"
    events = list(turn.events())
    assert isinstance(events[-1], Done)
    assert turn.done is events[-1]
    assert turn.done.domain == "leadership"
    assert [message["role"] for message in conversation.history] == ["user", "assistant"]
    assert conversation.history[1]["content"] == turn.done.text
    follow_up = conversation.ask("And what about that?")
    assert follow_up.domain == "leadership"
    assert follow_up.decision.follow_up
    assert "".join(follow_up.pieces()) == (follow_up.done.text if follow_up.done else None)
    assert len(conversation.history) == 4
    conversation.reset()
    assert conversation.history == ()
    assert conversation.ask("And what about that?").domain is None


def test_unsure_is_answered_by_the_base_and_a_named_domain_is_obeyed(conversation: Conversation) -> None:
    unsure = conversation.ask("hello")
    assert unsure.domain is None
    assert unsure.decision.unsure
    list(unsure.events())
    assert unsure.done is not None
    assert unsure.done.domain is None
    forced = conversation.ask("hello", domain="healthcare")
    assert forced.domain == "healthcare"
    with pytest.raises(EngineError, match="no domain"):
        conversation.ask("hello", domain="cooking")


def test_crisis_resources_come_before_the_answer_and_override_a_named_domain(conversation: Conversation) -> None:
    turn = conversation.ask("I want to kill myself", domain="leadership")
    assert turn.domain == "healthcare"
    events = list(turn.events())
    assert events[0] == Notice(turn.resources or "")
    assert "findahelpline" in events[0].text
    assert turn.guidance is not None
    assert (turn.guidance.domain, turn.guidance.name) == ("healthcare", "crisis")
    assert not any(isinstance(event, Notice) for event in events[1:])


def test_of_a_crisis_nothing_is_cached_or_remembered_of_the_person(conversation: Conversation) -> None:
    before = conversation.figures()
    for _ in range(2):
        turn = conversation.ask("I want to kill myself")
        list(turn.events())
        assert turn.done is not None
        assert not turn.done.cached
        # The next message goes on behind it, so that what is known of it would be kept with the crisis.
        assert not conversation.ask("How should I lead a team of nine people who work from home?").private
        conversation.reset()
    after = conversation.figures()
    assert after["routing"].held == before["routing"].held
    assert after["answers"].held == before["answers"].held
    assert after["emotion"].held == before["emotion"].held + 1  # of the other message, read twice
    assert conversation.memory.past() == Past().rounded()


def test_bytes_that_are_no_text_are_asked_and_answered(conversation: Conversation) -> None:
    for text in ("bad \udcff", "\ud83d", "I want to kill myself \udcff"):
        turn = conversation.ask(text)
        list(turn.events())
        assert turn.done is not None
        assert "\ufffd" in turn.message
        assert turn.private == ("kill" in text)
        conversation.reset()


def test_what_was_decided_without_the_encoder_is_decided_anew(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "How do I keep a team together that nobody leads?"
    with monkeypatch.context() as patch:

        def broken(*_: object, **__: object) -> None:
            raise EncoderError("it fell over")

        patch.setattr(Encoder, "embed", broken)
        assert conversation.route(text).method == "keywords"
    assert conversation.route(text).method == "encoder"


def test_short_messages_after_a_crisis_stay_on_the_safe_path(conversation: Conversation) -> None:
    list(conversation.ask("I want to end my life tonight").events())
    for message in ("I don't know", "what should I do"):
        turn = conversation.ask(message)
        assert turn.private
        assert turn.domain == "healthcare"
        assert turn.resources
        list(turn.events())
    conversation.reset()
    assert not conversation.ask("what should I do").private
    failing = conversation.ask("I want to end my life tonight")
    for _ in failing.events():  # resources first; then the reader leaves before a word is said
        break
    assert conversation.ask("what should I do").private


def test_crisis_resources_are_shown_even_when_the_engine_fails(tiny_bundle: Path) -> None:
    with Engine(tiny_bundle, available=lambda: 0) as engine:
        events = Conversation(tiny_bundle, engine=engine).ask("I want to kill myself").events()
        assert isinstance(next(events), Notice)
        told = next(events)
        assert isinstance(told, Notice)
        assert told.anew
        with pytest.raises(LowMemory):
            next(events)


# -- the same question again -----------------------------------------------------------------------------------------


def test_an_answer_and_its_routing_come_from_the_caches_the_second_time(tiny_bundle: Path, tiny: Engine) -> None:
    tiny.answers.clear()
    conversation = Conversation(tiny_bundle, engine=tiny, sampling=SEEDED, memory=Memory(now=lambda: 0.0))
    first = conversation.ask("How should I lead my team?")
    said = "".join(first.pieces())
    conversation.reset()
    conversation.memory.forget()  # what is known of the person is part of what routes
    again = conversation.ask("How should I lead my team?")
    assert again.decision is first.decision
    assert "".join(again.pieces()) == said
    assert again.done is not None
    assert again.done.cached
    assert (again.done.tokens, again.done.first_token_s) == (first.done.tokens if first.done else None, None)
    assert conversation.figures()["routing"].hits == 1
    conversation.reset()
    conversation.memory.forget()
    hotter = conversation.ask("How should I lead my team?", sampling=replace(SEEDED, seed=6))
    list(hotter.events())
    assert hotter.done is not None
    assert not hotter.done.cached


def test_with_other_weights_or_another_history_a_decision_is_made_anew(tiny_bundle: Path, tiny: Engine) -> None:
    conversation = Conversation(tiny_bundle, engine=tiny, sampling=SEEDED, memory=Memory(now=lambda: 0.0))
    first = conversation.route("How should I lead my team?")
    assert conversation.route("How should I lead my team?") is first
    conversation.set_preference(PREFERENCES["speed"])
    fast = conversation.route("How should I lead my team?")
    assert fast is not first
    assert fast.weights["speed"] == pytest.approx(0.3)
    assert fast.weights["quality"] == 0
    conversation.set_preference(PREFERENCES["balanced"])
    list(conversation.ask("I am so happy about my garden", domain="creative").events())
    assert conversation.route("How should I lead my team?") is not first
    assert conversation.figures()["emotion"].hits >= 2  # the same text is read once, whatever is decided of it


def test_a_person_who_asked_a_domain_before_leans_to_it_within_the_cap(tiny_bundle: Path, tiny: Engine) -> None:
    def emotion_terms(memory: Memory) -> dict[str, float]:
        decision = Conversation(tiny_bundle, engine=tiny, memory=memory).route("Which is the second step?")
        for candidate in decision.candidates:
            assert candidate.recompute(decision.weights) == pytest.approx(candidate.total, abs=1e-9)
        return {candidate.domain: candidate.emotion for candidate in decision.candidates}

    glad = {"joy": 0.9, "anticipation": 0.6}
    known = Memory([Moment(0.0, "creative", glad)] * 8, now=lambda: 60.0)
    fresh, leaning = emotion_terms(Memory()), emotion_terms(known)
    assert max(leaning, key=leaning.__getitem__) == "creative"
    assert len(set(fresh.values())) == 1
    for name, term in leaning.items():
        assert abs(term - fresh[name]) <= MOST_INFLUENCE


# -- speed or quality --------------------------------------------------------------------------------------------------


def test_a_preference_decides_context_history_and_length(tiny_bundle: Path) -> None:
    with Conversation(tiny_bundle, prefer=PREFERENCES["speed"]) as conversation:
        assert conversation.engine.n_ctx == 1024
        conversation._history = [{"role": role, "content": f"{n}"} for n in range(9) for role in ("user", "assistant")]
        assert len(conversation.messages_for("hello", None, None)) == 7  # six of eighteen, and the question
        conversation.set_preference(PREFERENCES["quality"])
        assert conversation.engine.n_ctx == 4096
        assert len(conversation.messages_for("hello", None, None)) == 19
        turn = conversation.ask("hello")
        events = turn.events()
        next(events)
        conversation.cancel()
        list(events)


# -- failures and interruptions ----------------------------------------------------------------------------------------


def test_a_conversation_that_is_too_long_is_nobodys_fault(conversation: Conversation) -> None:
    turn = conversation.ask("word " * 3000, domain="leadership")
    with pytest.raises(PromptRefused):
        list(turn.events())
    assert turn.fallback is None


def test_an_engine_killed_in_an_answer_is_told_and_the_conversation_goes_on(conversation: Conversation) -> None:
    list(conversation.ask("hello", domain="creative").events())
    turn = conversation.ask("How should I lead my team?", sampling=LONG)
    events = turn.events()
    next(events)
    os.kill(next(iter(conversation.engine.pids().values())), signal.SIGKILL)
    rest = list(events)
    (told,) = [event for event in rest if isinstance(event, Notice)]
    assert "it was started again and the answer goes on" in told.text
    assert turn.done is rest[-1]
    assert turn.done.restarts == 1
    assert [message["content"] for message in conversation.history[::2]] == ["hello", "How should I lead my team?"]
    assert isinstance(list(conversation.ask("And that?").events())[-1], Done)


def test_the_system_prompt_is_the_domains_with_a_sentence_of_guidance(conversation: Conversation) -> None:
    turn = conversation.ask("I am so furious, how do I lead my team?")
    assert turn.guidance is not None
    assert (turn.guidance.domain, turn.guidance.name) == ("leadership", "open conflict")
    messages = conversation.messages_for(turn.message, turn.domain, turn.guidance)
    assert messages[0]["role"] == "system"
    assert messages[0]["content"].endswith(turn.guidance.instruction)
    assert len(messages[0]["content"]) > len(turn.guidance.instruction) + 1
    assert messages[-1] == {"role": "user", "content": turn.message}
    plain = conversation.ask("How should I lead my team?")
    assert plain.guidance is None
    assert conversation.messages_for("hello", None, None) == [{"role": "user", "content": "hello"}]


def test_a_feeling_changes_how_tokens_are_chosen_but_never_the_text(
    tiny_bundle: Path, tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    furious, calm = "I am so furious, how do I lead my team?", "How should I lead my team?"
    chosen: list[SamplingOptions] = []

    def answered(
        messages: object, domain: str | None, options: SamplingOptions, **others: object
    ) -> Iterator[Token | Done]:
        chosen.append(options)
        yield Token("Go on. Dose: 0.5 mg. OK")
        yield Done("Go on. Dose: 0.5 mg. OK", 1, None, 0.1, "eos", domain)

    monkeypatch.setattr(tiny, "ask", answered)

    def asked(given: SamplingOptions | None, message: str, kept: set[str] | None = None) -> SamplingOptions:
        talk = Conversation(tiny_bundle, engine=tiny, sampling=given, kept=kept)
        turn = talk.ask(message)
        assert "".join(turn.pieces()) == "Go on. Dose: 0.5 mg. OK"
        assert turn.done is not None
        assert turn.done.text == talk.history[1]["content"] == "Go on. Dose: 0.5 mg. OK"
        return chosen[-1]

    conflict = Guidance("", "", "", {"temperature": 0.3, "top_p": 0.9, "max_tokens": 220}, "")
    usual = SamplingOptions(PREFERENCES["balanced"].max_tokens)
    assert asked(None, furious) == conflict.apply(usual)
    assert asked(None, calm) == usual
    assert asked(GREEDY, furious) == GREEDY  # what the person asked for stays
    assert asked(GREEDY, furious, {"max_tokens"}) == conflict.apply(GREEDY)


def test_an_answer_that_was_left_is_remembered_as_far_as_it_was_seen(conversation: Conversation) -> None:
    events = conversation.ask("How should I lead my team?", sampling=LONG).events()
    first = next(events)
    assert isinstance(first, Token)
    events.close()  # type: ignore[attr-defined]
    assert conversation.history[1]["content"] == first.text


def test_an_answer_that_ctrl_c_broke_off_is_remembered_as_far_as_it_was_seen(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = conversation.ask("How should I lead my team?", sampling=LONG).events()
    first = next(events)
    assert isinstance(first, Token)
    with pytest.raises(KeyboardInterrupt):  # while the reader has the word
        events.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert conversation.history[1]["content"] == first.text
    receive, heard = EngineProcess.receive, list[Event]()

    def interrupted(process: EngineProcess) -> Event:
        if len(heard) == 3:
            heard.append(heard[0])
            raise KeyboardInterrupt  # while the engine is waited for
        heard.append(receive(process))
        return heard[-1]

    monkeypatch.setattr(EngineProcess, "receive", interrupted)
    seen: list[str] = []
    turn = conversation.ask("And what about that?", sampling=LONG)
    with pytest.raises(KeyboardInterrupt):
        seen.extend(turn.pieces())
    assert seen
    assert conversation.history[2]["content"] == "And what about that?"
    assert conversation.history[3]["content"] == "".join(seen)
    assert isinstance(list(conversation.ask("hello").events())[-1], Done)


def test_a_turn_that_is_closed_is_an_answer_that_was_left(conversation: Conversation) -> None:
    turn = conversation.ask("How should I lead my team?", sampling=LONG)
    first = next(turn.events())
    assert isinstance(first, Token)
    turn.close()
    assert conversation.history[1]["content"] == first.text
    assert isinstance(list(conversation.ask("hello").events())[-1], Done)


def test_a_cancelled_answer_ends_with_done(conversation: Conversation) -> None:
    turn = conversation.ask("How should I lead my team?", sampling=LONG)
    events = turn.events()
    next(events)
    conversation.cancel()
    assert isinstance(list(events)[-1], Done)
    assert turn.done is not None
    assert turn.done.stopped_by == "cancelled"


def test_a_failed_question_is_not_kept(tiny_bundle: Path) -> None:
    with Conversation(tiny_bundle, engine=Engine(tiny_bundle, available=lambda: 0)) as conversation:
        with pytest.raises(EngineError):
            list(conversation.ask("How should I lead my team?").events())
        assert conversation.history == ()


def test_a_folder_that_is_no_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        Conversation(tmp_path)


def test_the_client_side_loads_no_model_library() -> None:
    code = (
        "import sys, core.chat.session\n"
        "bad = {'torch', 'transformers', 'llama_cpp', 'numpy', 'sqlmodel'} & set(sys.modules)\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
