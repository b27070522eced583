"""The general model answers once where a domain cannot, and what follows is still the domain's."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.chat.client import Done, Engine
from core.chat.memory import Memory
from core.chat.protocol import EngineError
from core.chat.session import Conversation, Notice
from tests.core.chat.conftest import FIVE, SEEDED, write_bundle


def test_a_domain_whose_files_are_broken_is_stood_in_for_once(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder, symlinks=True)
    adapter = folder / "adapters" / "leadership.gguf"
    adapter.write_bytes(b"x" * adapter.stat().st_size)
    with Conversation(folder, engine=Engine(folder, n_ctx=512, threads=1), sampling=SEEDED) as conversation:
        turn = conversation.ask("How should I lead my team?")
        assert turn.domain == "leadership"
        told, *rest = turn.events()
        assert isinstance(told, Notice)
        assert told.anew
        assert "the general model answers instead" in told.text
        assert turn.domain is None
        assert turn.done is rest[-1]
        assert turn.fallback is not None
        assert "leadership.gguf) differs from the manifest" in turn.fallback
        assert conversation.history[1]["content"] == turn.done.text


def test_what_follows_a_question_that_was_stood_in_for_is_its_domains(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation.memory = Memory()
    whole, failing = conversation.engine.ask, {"leadership", "healthcare"}

    def broken(messages: list[dict[str, str]], domain: str | None, *more: object, **how: object) -> Iterator[object]:
        if domain in failing:
            raise EngineError("its engine died twice")
        yield from whole(messages, domain, *more, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(conversation.engine, "ask", broken)
    turn = conversation.ask("How should I lead my team?")
    list(turn.events())
    assert (turn.domain, turn.about, turn.fallback is not None) == (None, "leadership", True)
    assert conversation.memory.past().domains == {"leadership": 1.0}
    follow_up = conversation.ask("And what about that?")
    assert (follow_up.domain, follow_up.decision.follow_up) == ("leadership", True)
    crisis = conversation.ask("I want to kill myself")
    list(crisis.events())
    assert (crisis.domain, crisis.about, crisis.fallback is not None) == (None, None, True)
    assert conversation.memory.past().domains == {"leadership": 1.0}


def test_a_domain_that_takes_too_long_is_stood_in_for(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.chat.watchdog.GRACE_S", 0.2)
    with Engine(tiny_bundle, n_ctx=512, threads=1, limit_s=30.0) as engine:
        conversation = Conversation(tiny_bundle, engine=engine, sampling=SEEDED)
        engine.prepare()
        (pid,) = engine.pids().values()
        os.kill(pid, signal.SIGSTOP)
        engine._limit_s = 0.2
        turn = conversation.ask("How should I lead my team?")
        events = turn.events()
        told = next(events)
        engine._limit_s = 30.0
        assert isinstance(told, Notice)
        assert isinstance(list(events)[-1], Done)
        assert "said nothing for 0.2 s" in (turn.fallback or "")


def test_a_base_that_does_not_fit_is_stood_in_for_by_another(tiny_model: Path, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "two", ("first", "second"), FIVE, tiny_model)
    free = {"bytes": 10**12}
    with Engine(folder, n_ctx=512, threads=1, available=lambda: free["bytes"]) as engine:
        conversation = Conversation(folder, engine=engine, sampling=SEEDED)
        list(conversation.ask("hello", domain="business").events())  # on the first
        free["bytes"] = 0
        turn = conversation.ask("hello", domain="creative")  # on the second
        assert isinstance(list(turn.events())[-1], Done)
        assert "creative could not answer: base-second.gguf needs" in (turn.fallback or "")
        assert set(engine.pids()) == {"first"}
