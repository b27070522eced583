"""Conversations: routing, history, crisis resources, guidance, and the protocol's lines."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.chat.client import Done, Engine, Token
from core.chat.guidance import Guidance
from core.chat.protocol import (
    Ask,
    Cancel,
    EngineError,
    Event,
    Failed,
    Finished,
    Load,
    Piece,
    Ready,
    Request,
    SamplingOptions,
    decode_event,
    decode_request,
    encode,
)
from core.chat.session import Conversation, Notice
from core.errors import InvalidInput
from tests.core.chat.conftest import GREEDY


@pytest.fixture
def conversation(bundle: Path, engine: Engine) -> Conversation:
    return Conversation(bundle, engine=engine, sampling=GREEDY)


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


def test_crisis_resources_are_shown_even_when_the_engine_fails(bundle: Path) -> None:
    with Engine(bundle, available=lambda: 0) as engine:
        events = Conversation(bundle, engine=engine).ask("I want to kill myself").events()
        assert isinstance(next(events), Notice)
        with pytest.raises(EngineError):
            next(events)


def test_the_system_prompt_is_the_domains_with_a_sentence_of_guidance(conversation: Conversation) -> None:
    turn = conversation.ask("I am so furious, how do I lead my team?")
    assert turn.guidance is not None
    assert (turn.guidance.domain, turn.guidance.name) == ("leadership", "conflict")
    messages = conversation.messages_for(turn.message, turn.domain, turn.guidance)
    assert messages[0]["role"] == "system"
    assert messages[0]["content"].endswith(turn.guidance.instruction)
    assert len(messages[0]["content"]) > len(turn.guidance.instruction) + 1
    assert messages[-1] == {"role": "user", "content": turn.message}
    plain = conversation.ask("How should I lead my team?")
    assert plain.guidance is None
    assert conversation.messages_for("hello", None, None) == [{"role": "user", "content": "hello"}]


class Listening:
    """An engine that notes how it was asked, and says one word."""

    def __init__(self) -> None:
        self.asked: list[SamplingOptions | None] = []

    def resident(self) -> frozenset[str]:
        return frozenset()

    def ask(
        self, messages: list[dict[str, str]], domain: str | None, options: SamplingOptions | None
    ) -> Iterator[Token | Done]:
        self.asked.append(options)
        yield Token("Go on. Dose: 0.5 mg. OK")
        yield Done("Go on. Dose: 0.5 mg. OK", 1, None, 0.1, "eos", domain)


def test_a_feeling_changes_how_tokens_are_chosen_but_never_the_text(bundle: Path) -> None:
    furious, calm = "I am so furious, how do I lead my team?", "How should I lead my team?"
    engine = Listening()

    def asked(given: SamplingOptions | None, message: str, kept: set[str] | None = None) -> SamplingOptions | None:
        talk = Conversation(bundle, engine=engine, sampling=given, kept=kept)  # type: ignore[arg-type]
        turn = talk.ask(message)
        assert "".join(turn.pieces()) == "Go on. Dose: 0.5 mg. OK"
        assert turn.done is not None
        assert turn.done.text == talk.history[1]["content"] == "Go on. Dose: 0.5 mg. OK"
        return engine.asked[-1]

    conflict = Guidance("", "", "", {"temperature": 0.4, "top_p": 0.9}, "")
    assert asked(None, furious) == conflict.apply(SamplingOptions())
    assert asked(None, calm) is None  # the engine's own defaults
    assert asked(GREEDY, furious) == GREEDY  # what the person asked for stays
    assert asked(GREEDY, furious, {"max_tokens"}) == conflict.apply(GREEDY)


def test_an_answer_that_was_left_is_remembered_as_far_as_it_was_seen(conversation: Conversation) -> None:
    events = conversation.ask("How should I lead my team?", sampling=SamplingOptions(300, 0)).events()
    first = next(events)
    assert isinstance(first, Token)
    events.close()  # type: ignore[attr-defined]
    assert conversation.history[1]["content"] == first.text


def test_a_cancelled_answer_ends_with_done(conversation: Conversation) -> None:
    turn = conversation.ask("How should I lead my team?", sampling=SamplingOptions(300, 0))
    events = turn.events()
    next(events)
    conversation.cancel()
    assert isinstance(list(events)[-1], Done)
    assert turn.done is not None
    assert turn.done.stopped_by == "cancelled"


def test_a_failed_question_is_not_kept(bundle: Path) -> None:
    with Conversation(bundle, engine=Engine(bundle, available=lambda: 0)) as conversation:
        with pytest.raises(EngineError):
            list(conversation.ask("How should I lead my team?").events())
        assert conversation.history == ()


def test_a_folder_that_is_no_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        Conversation(tmp_path)


@pytest.mark.parametrize(
    "request_",
    [Load("/a b/c.gguf", 512, 2), Ask(3, [{"role": "user", "content": "a\nb 😀"}], None, None, GREEDY), Cancel(3)],
)
def test_requests_survive_the_protocol(request_: Request) -> None:
    line = encode(request_)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_request(line) == request_


@pytest.mark.parametrize(
    "event",
    [
        Ready(0.5, 512),
        Piece(1, "\u2028\x1b[31m\n"),
        Finished(1, "a", 2, 3, None, 0.1, "eos"),
        Failed(None, "no", "do this"),
    ],
)
def test_events_survive_the_protocol(event: Event) -> None:
    line = encode(event)
    assert line.count(b"\n") == 1
    assert decode_event(line) == event


@pytest.mark.parametrize(
    "line", [b"", b"[]\n", b"{}\n", b'{"type": "Load"}\n', b'{"type": "Nothing"}\n', b"\xff\n", b'{"type": ["x"]}\n',
             json.dumps({"type": "Cancel", "id": 1, "more": 2}).encode()],
)  # fmt: skip
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(EngineError):
        decode_request(line)


def test_the_client_side_loads_no_model_library() -> None:
    code = (
        "import sys, core.chat.session\n"
        "bad = {'torch', 'transformers', 'llama_cpp', 'numpy', 'sqlmodel'} & set(sys.modules)\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
