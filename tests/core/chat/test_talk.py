"""`tara chat` as a conversation goes: what cannot be kept, and an answer that Ctrl-C stops."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.chat.client import Engine, Token
from core.chat.history import history_of
from core.chat.session import Conversation
from core.cli.talk import Talk
from core.errors import EnvironmentLacks
from core.workspace import Workspace
from tests.core.chat.conftest import GREEDY
from tests.core.cli.test_cli_chat import objects


def test_a_history_that_cannot_be_written_is_told_and_the_conversation_goes_on(
    tiny_bundle: Path,
    tiny: Engine,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise EnvironmentLacks("the disk is full", "free some room")

    monkeypatch.setattr("core.chat.history.remember", full)
    conversation = Conversation(tiny_bundle, engine=tiny, sampling=GREEDY)
    for as_json in (True, False):
        talk = Talk(conversation, None, workspace, 1, "dora", as_json)
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\nhello again\n"))
        assert talk.hold()
    shown = capsys.readouterr()
    assert [one["notices"] for one in objects(shown.out[: shown.out.rindex("}") + 1])] == [
        ["not kept in the history: the disk is full — free some room"]
    ] * 2
    assert shown.err.count("[not kept in the history: the disk is full — free some room]") == 2
    with pytest.raises(EnvironmentLacks):
        Talk(conversation, None, workspace, 1, "dora", False).turn("hello")


def test_who_cannot_answer_now_is_told_once_with_the_reason(
    tiny_bundle: Path, tiny: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {"leadership": "leadership.gguf is missing"}
    monkeypatch.setattr(tiny, "unavailable", lambda: gone)
    conversation = Conversation(tiny_bundle, engine=tiny, sampling=GREEDY)
    for as_json in (False, True):
        monkeypatch.setattr("sys.stdin", io.StringIO("How should I lead my team?\nhello again\n"))
        assert Talk(conversation, None, None, None, "gerd", as_json).hold()
        shown = capsys.readouterr()
        if as_json:
            assert [one["decision"]["unavailable"] for one in objects(shown.out)] == [gone, gone]
        else:
            assert shown.err.count("[leadership cannot answer now: leadership.gguf is missing]") == 1


def test_an_answer_that_ctrl_c_stopped_is_kept_as_far_as_it_came(
    tiny_bundle: Path,
    tiny: Engine,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def at_terminal() -> bool:
        return True

    keyboard = io.StringIO("How should I lead my team?\nAnd what about that?\n")
    keyboard.isatty = at_terminal  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", keyboard)
    monkeypatch.setattr("core.cli.talk.is_terminal", at_terminal)
    conversation = Conversation(tiny_bundle, engine=tiny, sampling=GREEDY)
    whole, prompts = tiny.ask, list[list[dict[str, str]]]()

    def interrupted(messages: list[dict[str, str]], *more: Any, **how: Any) -> Iterator[object]:
        prompts.append(messages)
        if len(prompts) == 1:
            yield Token("Listen ")
            yield Token("first")
            raise KeyboardInterrupt
        yield from whole(messages, *more, **how)

    monkeypatch.setattr(tiny, "ask", interrupted)
    assert Talk(conversation, None, workspace, 1, "emil", False).hold()
    assert "[stopped]" in capsys.readouterr().err
    assert {"role": "assistant", "content": "Listen first"} in prompts[1]
    kept = history_of(workspace, "emil", 48).turns
    assert [turn["message"] for turn in kept] == ["How should I lead my team?", "And what about that?"]
    assert kept[0]["answer"] == "Listen first"
    conversation.router.close()
