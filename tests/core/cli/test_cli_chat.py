"""`tara chat`, `history`, `smoke` and `route --prefer` as processes, on the tiny model."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.workspace import Workspace
from tests.conftest import new_workspace
from tests.core.chat.conftest import FIVE, write_bundle
from tests.core.chat.stored import store_bundle
from tests.core.chat.tiny import write_model
from tests.core.cli.command import TARA, assert_one_line, tara
from tests.terminal.pseudo_terminal import Terminal

MOMENT_S = 0.02  # that an engine computes while it is held back
QUOKKAS = "Zanzibar has quokkas everywhere today"  # nobody's domain, and no follow-up


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a built phase on the tiny model."""
    folder = tmp_path_factory.mktemp("talk")
    bundle = write_bundle(folder / "bundle", ("tiny",), FIVE, write_model(folder / "tiny.gguf"))
    workspace = store_bundle(new_workspace(folder / "workspace"), bundle)
    (workspace.configs / "smoke.yaml").write_text("general:\n  words: {prompt: Say something., max_tokens: 8}\n")
    return workspace


def engine_of(terminal: Terminal) -> psutil.Process:
    """The engine's process of a chat, as soon as there is one."""
    found: list[psutil.Process] = []

    def started() -> bool:
        for one in psutil.Process(terminal.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # gone since the list was made
                if "core.chat.engine_main" in one.cmdline():
                    found.append(one)
        return bool(found)

    terminal.read_until(started)
    return found[0]


def drip(terminal: Terminal, engine: psutil.Process, holds: Callable[[], object]) -> None:
    """Let the engine compute for moments, between which what came of them is read, until the condition holds; then it
    stands still. So a tiny model's long answer is not at its end before the test has read its beginning, however slow
    the terminal is."""
    engine.suspend()

    def look() -> object:
        seen = holds()
        if not seen:
            engine.resume()
            time.sleep(MOMENT_S)
            engine.suspend()
        return seen

    terminal.read_until(look, within=90.0)


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a text, one after the other."""
    found, decoder = [], json.JSONDecoder()
    while text.strip():
        one, end = decoder.raw_decode(text.lstrip())
        found.append(one)
        text = text.lstrip()[end:]
    return found


def test_a_conversation_by_pipe_has_its_figures_and_goes_into_the_history(stored: Workspace) -> None:
    said = "How should I lead my team?\nI want to kill myself\n" + QUOKKAS + "\n"
    words = ("chat", "--json", "--user", "anna", "--prefer", "speed", "--max-tokens", "12", "--seed", "3")
    answer = tara(*words, cwd=stored.root, stdin=said)
    assert answer.status == 0, answer
    lead, crisis, base = objects(answer.out)
    assert (lead["domain"], lead["user"], lead["cached"], lead["restarts"]) == ("leadership", "anna", False, 0)
    assert lead["tokens"] == 12
    assert lead["load_s"] > 0
    assert lead["switch_s"] > 0
    assert lead["waited_s"] >= lead["load_s"]
    assert lead["decision"]["weights"]["speed"] == pytest.approx(0.3)
    assert (crisis["domain"], bool(crisis["resources"])) == ("healthcare", True)
    assert base["domain"] is None
    assert base["load_s"] is None
    assert base["stats"]["routing"] == {"hits": 0, "misses": 2, "held": 1, "rate": 0.0}  # none behind a crisis
    assert base["stats"]["answers"]["misses"] == 2  # a crisis does not ask
    history = tara("history", "--user", "anna", "--json", cwd=stored.root).json()
    assert [turn["message"] for turn in history["turns"]] == [
        "How should I lead my team?",
        None,
        QUOKKAS,
    ]
    assert [turn["crisis"] for turn in history["turns"]] == [False, True, False]
    assert history["domains"] == {"leadership": pytest.approx(1, abs=0.01)}
    text = tara("history", "--user", "anna", cwd=stored.root)
    assert "anna: 3 turns" in text.out
    assert "kill" not in text.out
    refused = tara("history", "erase", "--user", "anna", cwd=stored.root, stdin="n\n")
    assert refused.status == 4
    assert tara("history", "erase", "--user", "anna", "--yes", "--json", cwd=stored.root).json() == {
        "user": "anna", "erased": 3,
    }  # fmt: skip
    assert_one_line(tara("history", "erase", "--user", "anna", "--yes", cwd=stored.root), 4)
    assert tara("history", "--user", "anna", "--json", cwd=stored.root).json()["turns"] == []


def test_an_answer_stopped_at_the_keyboard_is_part_of_the_conversation(stored: Workspace) -> None:
    words = ("--domain", "leadership", "--max-tokens", "1500", "--temperature", "0.8", "--seed", "3", "--user", "frida")
    terminal = Terminal(str(TARA), "--root", str(stored.root), "chat", *words)
    try:
        terminal.shows("> ")
        terminal.write("Who leads?\n")
        engine = engine_of(terminal)
        terminal.read_until(lambda: b"stopped by length" in terminal.raw, within=90.0)
        engine.suspend()  # before it is asked: nothing is said behind the test's back
        seen = len(terminal.raw)
        terminal.write("How should I lead my team?\n")
        drip(terminal, engine, lambda: len(terminal.raw[seen:].partition(b"[leadership]")[2]) > 300)
        terminal.write("\x03")
        drip(terminal, engine, lambda: b"[stopped]" in terminal.raw)
        engine.resume()
        terminal.write("\n")
        assert terminal.ended() == 0
    finally:
        terminal.close()
    whole, turn = tara("history", "--user", "frida", "--json", cwd=stored.root).json()["turns"]
    assert turn["message"] == "How should I lead my team?"
    assert 10 < len(turn["answer"]) < len(whole["answer"])
    assert turn["domain"] == "leadership"


def test_a_message_that_fails_does_not_end_the_conversation(stored: Workspace) -> None:
    said = "How should I lead my team?\n" + "word " * 4000 + "\n" + QUOKKAS + "\n"
    words = ("chat", "--user", "carla", "--max-tokens", "8")
    answer = tara(*words, "--json", cwd=stored.root, stdin=said)
    assert answer.status == 1, answer
    lead, failed, base = objects(answer.out)
    assert set(failed) == {"error", "hint"}
    assert "context" in failed["error"]
    assert (lead["domain"], base["domain"], base["tokens"]) == ("leadership", None, 8)
    assert (lead["notices"], base["notices"]) == ([], [])
    plain = tara(*words, cwd=stored.root, stdin=said)
    assert plain.status == 1, plain
    (line,) = [line for line in plain.err.splitlines() if line.startswith("tara: ")]
    assert failed["error"] in line
    assert plain.err.count("[8 tokens, ") == 2
    history = tara("history", "--user", "carla", "--json", "--limit", "3", cwd=stored.root).json()
    assert (history["total"], len(history["turns"])) == (4, 3)
    assert "carla: newest 3 of 4 turns; " in tara("history", "--user", "carla", "--limit", "3", cwd=stored.root).out
    assert_one_line(tara(*words, "--once", "word " * 4000, "--json", cwd=stored.root), 1)


def test_what_the_caches_knew_is_told_at_the_end(stored: Workspace) -> None:
    """Not its answer, for the conversation before it is part of the prompt; its routing once the engine is loaded."""
    answer = tara("chat", "--max-tokens", "6", cwd=stored.root, stdin="hello\nhello\nhello\n")
    assert answer.status == 0, answer
    assert "[caches: answers 0 of 3, routing 1 of 3, emotion 1 of 2]" in answer.err
    assert answer.err.count("[6 tokens, ") == 3  # "816 tokens/s" has one too
    assert "first after" in answer.err
    assert "engine started in" in answer.err


def test_an_artifact_is_talked_to_with_or_without_a_workspace(stored: Workspace, outside: Path) -> None:
    once = ("chat", "--once", "hello there", "--json", "--max-tokens", "6")
    adapter = tara(*once, "--artifact", "5", cwd=stored.root).json()
    assert adapter["domain"] == "creative"
    model = tara(*once, "--artifact", "2", cwd=stored.root).json()
    assert model["domain"] is None
    assert model["answer"] != adapter["answer"]
    inside = stored.root / "artifacts" / "bundle" / "phase-1-0000abcd" / "adapters" / "creative.gguf"
    path = tara(*once, "--artifact", str(inside), cwd=outside).json()
    assert path["domain"] == "creative"
    assert_one_line(tara(*once, "--artifact", "nowhere", cwd=outside), 3)
    assert_one_line(tara(*once, "--artifact", "1", cwd=stored.root), 4)
    assert_one_line(tara(*once, "--artifact", "5", "--phase", "1", cwd=stored.root), 3)
    assert_one_line(tara("chat", "hello", "--once", "hello", cwd=stored.root), 3)
    assert_one_line(tara("chat", "hello", "--domain", "cooking", cwd=stored.root), 3)


def test_a_smoke_test_that_fails_leaves_with_1_and_is_shown_with_the_phase(stored: Workspace) -> None:
    assert "smoke test: not measured" in tara("show-phase", "1", cwd=stored.root).out
    failed = tara("smoke", "1", "--domain", "business", cwd=stored.root)
    assert failed.status == 1, failed
    assert failed.out.startswith("0 of 1 passed; failed: business words (business only)\n")
    assert "it does not end within 8 tokens" in failed.out
    assert "smoke test: 0 of 1 passed; failed: business words" in tara("show-phase", "1", cwd=stored.root).out
    shown = tara("show-phase", "1", "--json", cwd=stored.root).json()["smoke"]
    assert (shown["passed"], shown["results"][0]["broken"]) == (False, ["it does not end within 8 tokens"])
    assert_one_line(tara("smoke", "1", "--domain", "cooking", cwd=stored.root), 3)
    assert_one_line(tara("smoke", "7", cwd=stored.root), 3)


def test_a_preference_changes_the_weights_of_a_route(stored: Workspace) -> None:
    plain = tara("route", "lead my team", "--json", cwd=stored.root).json()
    fast = tara("route", "lead my team", "--prefer", "speed", "--json", cwd=stored.root).json()
    best = tara("route", "lead my team", "--prefer", "quality", "--json", cwd=stored.root).json()
    assert [one["weights"]["quality"] for one in (plain, fast, best)] == [0.1, 0, pytest.approx(0.3)]
