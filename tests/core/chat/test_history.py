"""A person's history: kept without what was said in a crisis, shown, erased for good."""

from pathlib import Path

import pytest

from core.chat.client import Engine
from core.chat.history import erase, history_of, memory_of, remember, turns_of, user_named
from core.chat.session import Conversation, Turn
from core.errors import InvalidInput
from core.store.reads import open_reader
from core.workspace import Workspace
from tests.core.chat.conftest import SEEDED

GLAD, CRISIS = "I am so happy, how do I lead my team?", "I want to kill myself tonight"


@pytest.fixture
def told(workspace: Workspace, tiny_bundle: Path, tiny: Engine) -> Workspace:
    """Anna asked twice, once in a crisis; somebody else once."""
    for user, messages in (("anna", (GLAD, CRISIS)), ("ben", ("hello",))):
        conversation = Conversation(tiny_bundle, engine=tiny, sampling=SEEDED)
        for message in messages:
            turn = conversation.ask(message)
            remember(workspace, "chat", str(tiny_bundle), 1, turn, "".join(turn.pieces()), user)
    return workspace


def test_turns_are_kept_with_person_and_feelings_and_of_a_crisis_only_that_there_was_one(told: Workspace) -> None:
    found = history_of(told, "anna", 48)
    glad, crisis = found.turns
    assert (glad["message"], glad["domain"], glad["crisis"]) == (GLAD, "leadership", False)
    assert glad["emotions"]["joy"] > 0.2
    assert (crisis["message"], crisis["answer"], crisis["emotions"], crisis["crisis"]) == (None, None, {}, True)
    assert crisis["domain"] == "healthcare"
    raw = b"".join(path.read_bytes() for path in told.root.glob("state.db*"))
    assert GLAD.encode() in raw
    assert b"kill myself" not in raw
    assert found.past.domains == {"leadership": pytest.approx(1, abs=0.01)}
    lines = "\n".join(found.lines())
    assert GLAD in lines
    assert "(a crisis: nothing of it was kept)" in lines
    shown = found.as_json()
    assert shown["influence"] == found.past.weight > 0
    assert [turn["message"] for turn in shown["turns"]] == [GLAD, None]
    assert len(history_of(told, "anna", 48, limit=1).turns) == 1
    assert [turn["message"] for turn in turns_of(told, "chat")] == [GLAD, None, "hello"]


def test_a_conversation_begins_with_what_is_remembered(told: Workspace) -> None:
    past = memory_of(told, "anna", 48).past()
    assert past.emotions["joy"] > 0.2
    assert past.domains == {"leadership": 1.0}
    assert memory_of(told, "nobody", 48).past().weight == 0
    assert memory_of(told, "anna", 1e-6).past().weight == 0  # long faded


def test_the_newest_turns_are_told_from_the_whole(workspace: Workspace, tiny_bundle: Path) -> None:
    decision = Conversation(tiny_bundle).route("hello")
    for number in range(7):
        remember(workspace, "chat", "bundle", 1, Turn(f"hello {number}", decision, None, None), "an answer", "anna")
    some, every = history_of(workspace, "anna", 48, limit=5), history_of(workspace, "anna", 48)
    assert [turn["message"] for turn in some.turns] == [f"hello {number}" for number in range(2, 7)]
    assert (some.total, some.as_json()["total"], len(some.as_json()["turns"])) == (7, 7, 5)
    assert some.lines()[0].startswith("anna: newest 5 of 7 turns; of the emotion term ")
    assert every.lines()[0].startswith("anna: 7 turns; of the emotion term ")
    assert every.as_json()["total"] == 7
    assert history_of(workspace, "nobody", 48).total == 0


def test_a_question_that_was_stood_in_for_counts_for_its_domain(workspace: Workspace, tiny_bundle: Path) -> None:
    decision = Conversation(tiny_bundle).route(GLAD)
    turn = Turn(GLAD, decision, "leadership", None)
    turn.fallback, turn.stood_in_for, turn.domain = "leadership could not answer", "leadership", None
    remember(workspace, "chat", "bundle", 1, turn, "an answer", "anna")
    assert memory_of(workspace, "anna", 48).past().domains == {"leadership": 1.0}
    (kept,) = history_of(workspace, "anna", 48).turns
    assert kept["domain"] is None  # who answered


def test_what_is_erased_is_not_in_the_file_any_more(told: Workspace) -> None:
    assert erase(told, "anna") == 2
    with open_reader(told) as reader:
        assert reader.users() == {"ben": 1}
    raw = b"".join(path.read_bytes() for path in told.root.glob("state.db*"))
    assert GLAD.encode() not in raw
    assert b"hello" in raw
    assert erase(told, "anna") == 0
    assert erase(told, None) == 1
    assert history_of(told, "ben", 48).turns == ()


def test_a_users_name_is_plain() -> None:
    assert user_named(" anna ") == "anna"
    assert user_named(None)
    for name in ("", "  ", "a" * 65, "a\nb", "\x1b[31m"):
        with pytest.raises(InvalidInput):
            user_named(name)
