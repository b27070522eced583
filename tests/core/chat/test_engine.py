"""The engine with its real child process: answers, switching, cancelling, crashes, and its end."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from core.chat.client import Done, Engine, Restarted, Token
from core.chat.protocol import (
    EngineClosed,
    EngineCrashed,
    EngineError,
    EngineTimeout,
    Load,
    PromptRefused,
    encode,
)
from core.errors import Refused
from tests.core.chat.conftest import GREEDY, LONG, SEEDED, answer, gone, user
from tests.models import embedded_gguf

QUESTION = user("What is the capital of France? Answer in one sentence.")


def test_the_base_answers_with_figures(engine: Engine) -> None:
    done = answer(engine, QUESTION, None, replace(GREEDY, max_tokens=24))
    assert "Paris" in done.text
    assert done.stopped_by == "eos"
    assert done.tokens > 1
    assert done.tokens_per_s is not None
    assert done.tokens_per_s > 0
    assert done.first_token_s is not None
    assert done.first_token_s > 0
    assert done.domain is None
    assert done.forgotten == 0


def test_domains_share_one_process_and_do_not_leak_into_each_other(tiny: Engine) -> None:
    def said(domain: str | None) -> str:
        return answer(tiny, QUESTION, domain, SEEDED, cached=False).text

    bare, health, lead = said(None), said("healthcare"), said("leadership")
    assert len({bare, health, lead}) == 3
    assert said(None) == bare
    assert said("healthcare") == health
    assert len(tiny.pids()) == 1
    assert {"healthcare", "leadership"} <= tiny.resident()


def test_what_starting_and_switching_took_is_told(tiny_bundle: Path) -> None:
    with Engine(tiny_bundle, n_ctx=512, threads=1) as engine:
        first = answer(engine, QUESTION, "healthcare", SEEDED)
        assert first.load_s is not None
        assert first.switch_s is not None
        assert first.first_token_s is not None
        assert first.waited_s is not None
        assert first.waited_s >= first.load_s + first.switch_s + first.first_token_s
        assert first.reused == 0
        longer = [*user("word " * 100), {"role": "assistant", "content": first.text}, *QUESTION]
        answer(engine, longer[:1], "healthcare")
        same = answer(engine, longer, "healthcare")
        assert same.load_s is None
        assert same.switch_s is None
        assert same.reused == 128  # what was evaluated in whole steps, and only that
        other = answer(engine, QUESTION, "leadership", SEEDED)
        assert other.load_s is None
        assert other.switch_s is not None
        assert other.reused == 0  # nothing that another adapter computed is attended to


def test_a_conversation_says_the_same_with_and_without_what_the_context_holds(tiny_bundle: Path) -> None:
    """Six questions of one conversation, asked of one engine and each of an engine that has seen nothing."""
    with Engine(tiny_bundle, n_ctx=1024, threads=1) as going, Engine(tiny_bundle, n_ctx=1024, threads=1) as fresh:
        talk: list[dict[str, str]] = []
        for number in range(6):
            talk += user(f"question {number}: and what of this?")
            done = answer(going, talk, "business", SEEDED, cached=False)
            answer(fresh, QUESTION, "business", SEEDED, cached=False)  # something else: nothing of it can be used
            afresh = answer(fresh, talk, "business", SEEDED, cached=False)
            assert (done.text, afresh.reused) == (afresh.text, 0)
            assert done.reused > 0 or number < 2
            talk.append({"role": "assistant", "content": done.text})


def test_a_domain_that_is_come_back_to_goes_on_with_what_it_computed_itself(tiny_bundle: Path) -> None:
    """The conversation goes to and fro between adapters; each answer is that of an engine that saw nothing else."""
    order = ("business", "creative", "business", None, "creative", "business", None)
    with Engine(tiny_bundle, n_ctx=1024, threads=1) as going:
        talk: list[dict[str, str]] = [{"role": "system", "content": "Be brief. " + "Be kind. " * 40}]
        reused: dict[str | None, list[int]] = {"business": [], "creative": [], None: []}
        asked = []
        for number, domain in enumerate(order):
            talk += user(f"question {number}: and what of this?")
            done = answer(going, talk, domain, SEEDED, cached=False)
            assert done.switch_s is not None or number == 0
            reused[domain].append(done.reused)
            asked.append((list(talk), domain, done.text))
            talk.append({"role": "assistant", "content": done.text})
        assert reused["business"][0] == reused["creative"][0] == reused[None][0] == 0  # of nobody else's
        assert reused["business"][1] == 128
        assert reused["business"][2] > 128
        assert reused["creative"][1] > 0
        assert reused[None][1] > 0
    for messages, domain, said in asked[3:]:
        with Engine(tiny_bundle, n_ctx=1024, threads=1) as fresh:
            assert answer(fresh, messages, domain, SEEDED, cached=False).text == said


def test_the_limit_ends_an_answer(tiny: Engine) -> None:
    done = answer(tiny, QUESTION, None, replace(SEEDED, max_tokens=5))
    assert done.stopped_by == "length"
    assert done.tokens == 5
    assert len(done.ids) == 5


def test_an_answer_is_cancelled_from_another_thread(tiny: Engine) -> None:
    events = tiny.ask(QUESTION, None, LONG, cached=False)
    first = next(events)
    assert isinstance(first, Token)
    canceller = threading.Thread(target=tiny.cancel)
    canceller.start()
    done = list(events)[-1]
    canceller.join()
    assert isinstance(done, Done)
    assert done.stopped_by == "cancelled"
    assert done.tokens < 400
    assert answer(tiny, QUESTION, None, cached=False).stopped_by in ("eos", "length")


def test_cancelling_without_an_answer_does_nothing(tiny: Engine) -> None:
    tiny.cancel()
    assert answer(tiny, QUESTION, None, cached=False).tokens > 0


def test_leaving_an_answer_does_not_spoil_the_next_one(tiny: Engine) -> None:
    expected = answer(tiny, QUESTION, None, cached=False).text
    pid = tiny.pids()
    events = tiny.ask(QUESTION, None, LONG, cached=False)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert answer(tiny, QUESTION, None, cached=False).text == expected
    assert tiny.pids() == pid


def test_two_answers_at_once_are_refused(tiny: Engine) -> None:
    events = tiny.ask(QUESTION, None, LONG, cached=False)
    next(events)
    with pytest.raises(Refused):
        next(tiny.ask(QUESTION, None, GREEDY))
    list(events)


def test_old_messages_are_left_out_when_the_context_is_full(tiny: Engine) -> None:
    turns = [{"role": role, "content": f"{n} " * 80} for n in range(8) for role in ("user", "assistant")]
    messages = [{"role": "system", "content": "Be brief."}, *turns, *QUESTION]
    done = answer(tiny, messages, None)
    assert done.forgotten > 0
    assert done.forgotten % 2 == 0
    assert answer(tiny, messages, None, context=512).forgotten > done.forgotten
    with pytest.raises(PromptRefused, match="the context holds 1024"):
        answer(tiny, user("word " * 2000), None)
    assert answer(tiny, QUESTION, None, cached=False).tokens > 0


def test_a_longer_context_starts_the_engine_again(tiny_bundle: Path) -> None:
    with Engine(tiny_bundle, n_ctx=256, threads=1) as engine:
        answer(engine, QUESTION, None)
        before = engine.pids()
        engine.n_ctx = 512
        assert answer(engine, user("word " * 300), None).load_s is not None
        assert engine.pids().keys() == before.keys()
        assert engine.pids() != before


# -- crashes and silence -----------------------------------------------------------------------------------------------


def test_a_killed_engine_is_started_again_and_the_conversation_goes_on(tiny: Engine) -> None:
    expected = answer(tiny, QUESTION, "healthcare", SEEDED, cached=False).text
    (pid,) = tiny.pids().values()
    os.kill(pid, signal.SIGKILL)
    done = answer(tiny, QUESTION, "healthcare", SEEDED, cached=False)
    assert done.text == expected
    assert done.restarts == 0  # nothing of an answer was at stake
    assert pid not in tiny.pids().values()
    gone(pid)


def test_an_engine_killed_in_the_middle_of_an_answer_goes_on_with_it(engine: Engine) -> None:
    story = replace(GREEDY, max_tokens=40)
    question = user("Tell me a long story about a ship.")
    expected = answer(engine, question, "leadership", story, cached=False)
    events = engine.ask(question, "leadership", story)
    seen = [next(events) for _ in range(8)]
    (pid,) = engine.pids().values()
    os.kill(pid, signal.SIGKILL)
    seen += list(events)
    (restarted,) = [event for event in seen if isinstance(event, Restarted)]
    assert "SIGKILL" in restarted.reason
    done = seen[-1]
    assert isinstance(done, Done)
    assert (done.restarts, done.stopped_by, done.tokens) == (1, expected.stopped_by, expected.tokens)
    said = "".join(event.text for event in seen if isinstance(event, Token))
    assert said == done.text == expected.text  # greedy: as if nothing had happened
    held = engine.answers.figures.held
    assert answer(engine, question, "leadership", story).restarts == 0  # what went on behind a crash is not kept
    assert engine.answers.figures.held == held + 1
    gone(pid)


def test_an_engine_that_dies_twice_in_an_answer_is_at_fault_itself(tiny: Engine) -> None:
    events = tiny.ask(QUESTION, None, LONG, cached=False)
    next(events)
    (first,) = tiny.pids().values()
    os.kill(first, signal.SIGKILL)
    while not isinstance(next(events), Restarted):
        pass
    next(events)
    (second,) = tiny.pids().values()
    os.kill(second, signal.SIGKILL)
    with pytest.raises(EngineCrashed, match="SIGKILL"):
        list(events)
    assert answer(tiny, QUESTION, None, cached=False).tokens > 0


def test_an_engine_that_says_nothing_is_ended_after_the_limit(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.chat.watchdog.GRACE_S", 0.2)
    with Engine(tiny_bundle, n_ctx=512, threads=1, limit_s=30.0) as engine:
        answer(engine, QUESTION, None)
        (pid,) = engine.pids().values()
        engine._limit_s = 0.2
        os.kill(pid, signal.SIGSTOP)  # it hears nothing, not even that it is to stop
        with pytest.raises(EngineTimeout, match=r"said nothing for 0\.2 s"):
            answer(engine, QUESTION, None, cached=False)
        gone(pid)
        engine._limit_s = 30.0
        assert answer(engine, QUESTION, None, cached=False).tokens > 0


def test_a_slow_reader_is_not_taken_for_a_silent_engine(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(tiny_bundle, n_ctx=512, threads=1, limit_s=30.0) as engine:
        engine.prepare()
        engine._limit_s = 1.0
        events = engine.ask(QUESTION, None, SEEDED, cached=False)
        next(events)
        threading.Event().wait(1.3)
        assert isinstance(list(events)[-1], Done)


def test_a_base_is_loaded_before_the_first_question(tiny_bundle: Path) -> None:
    with Engine(tiny_bundle, n_ctx=512, threads=1) as engine:
        engine.prepare("business")
        assert engine.resident()
        assert answer(engine, QUESTION, "business").load_s is None


def test_the_base_finds_an_answer_more_probable_after_its_question(engine: Engine) -> None:
    right = engine.judge(QUESTION, "The capital of France is Paris.")
    beside = engine.judge(QUESTION, "Mix the flour with two eggs and a cup of milk.")
    assert right.tokens == 7
    assert right.asked - right.unasked > 0.5
    assert right.asked - right.unasked > beside.asked - beside.unasked + 0.3
    with pytest.raises(EngineError, match="no answer to judge"):
        engine.judge(QUESTION, "")
    assert "Paris" in answer(engine, QUESTION, None, replace(GREEDY, max_tokens=24), cached=False).text


# -- the end -----------------------------------------------------------------------------------------------------------


def test_closing_ends_the_process_also_during_an_answer(tiny_bundle: Path) -> None:
    engine = Engine(tiny_bundle, n_ctx=512, threads=1)
    events = engine.ask(QUESTION, None, LONG)
    next(events)
    (pid,) = engine.pids().values()
    engine.close()
    with pytest.raises(EngineClosed):
        list(events)
    gone(pid)
    engine.close()
    with pytest.raises(EngineClosed, match="closed"):
        next(engine.ask(QUESTION, None, GREEDY))


def test_the_engine_ends_with_a_client_that_was_killed(tiny_bundle: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from core.chat.client import Engine\n"
        "engine = Engine(Path(sys.argv[1]), n_ctx=512, threads=1)\n"
        "events = engine.ask([{'role': 'user', 'content': 'Tell me a long story.'}])\n"
        "next(events)\n"
        "print(*engine.pids().values(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tiny_bundle)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        assert psutil.pid_exists(pid)
        client.kill()
    gone(pid)


def test_what_native_code_prints_does_not_enter_the_protocol(tmp_path: Path) -> None:
    code = (
        "import os, sys, threading\n"
        "from core.chat import engine_main\n"
        "import core.gguf.runtime as runtime\n"
        "load = runtime.Runtime._load\n"
        "def noisy(self, *args):\n"
        '    os.write(1, b\'{"type": "Nonsense"}\\n\')\n'
        "    print('native noise')\n"
        "    return load(self, *args)\n"
        "runtime.Runtime._load = noisy\n"
        "engine_main.main()\n"
    )
    lines = subprocess.run(
        [sys.executable, "-c", code],
        input=encode(Load(str(embedded_gguf()), 256, 1)),
        capture_output=True,
        timeout=120,
        check=True,
    )
    events = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [event["type"] for event in events] == ["Ready"]
    assert b"native noise" in lines.stderr
    assert b"Nonsense" in lines.stderr


def test_a_line_that_is_no_request_is_answered_with_a_failure() -> None:
    lines = subprocess.run(
        [sys.executable, "-m", "core.chat.engine_main"], input=b"hello\n", capture_output=True, timeout=120, check=True
    )
    (event,) = [json.loads(line) for line in lines.stdout.splitlines()]
    assert event["type"] == "Failed"
