"""The engine with its real child process: answers, switching, cancelling, crashes, faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from core.chat.client import Done, Engine, Restarted, Token
from core.chat.pool import PROCESS_BYTES
from core.chat.process import EngineProcess
from core.chat.protocol import (
    EngineClosed,
    EngineCrashed,
    EngineError,
    EngineTimeout,
    Load,
    LowMemory,
    PromptRefused,
    encode,
)
from core.errors import InvalidInput, Refused
from core.files import sha256_of
from core.gguf.cache import cache_bytes
from core.gguf.inspect import inspect_gguf
from tests.core.chat.conftest import FIVE, GREEDY, LONG, SEEDED, answer, user, write_bundle
from tests.core.chat.tiny import write_adapter
from tests.models import embedded_gguf

QUESTION = user("What is the capital of France? Answer in one sentence.")


def gone(pid: int) -> None:
    """Wait until a process has ended."""
    try:
        psutil.Process(pid).wait(20)
    except psutil.NoSuchProcess:
        return


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
            answer(fresh, QUESTION, "creative", SEEDED, cached=False)  # another adapter: the context is emptied
            afresh = answer(fresh, talk, "business", SEEDED, cached=False)
            assert (done.text, afresh.reused) == (afresh.text, 0)
            assert done.reused > 0 or number < 2
            talk.append({"role": "assistant", "content": done.text})


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


# -- faults ----------------------------------------------------------------------------------------------------------


def copied(bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder, symlinks=True)
    return folder


def changed_adapter(folder: Path, **settings: object) -> None:
    """Replace the healthcare adapter, and its hash in the manifest."""
    path = folder / "adapters" / "healthcare.gguf"
    path.unlink()
    write_adapter(path, 5, **settings)  # type: ignore[arg-type]
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["domains"]["healthcare"]["sha256"] = sha256_of(path)
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def test_missing_and_changed_files_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = copied(tiny_bundle, tmp_path)
    with Engine(folder, n_ctx=256, threads=1) as engine:
        with pytest.raises(EngineError, match="no domain 'cooking'"):
            answer(engine, QUESTION, "cooking")
        adapter = folder / "adapters" / "healthcare.gguf"
        with adapter.open("ab") as stream:
            stream.write(b"x")
        with pytest.raises(EngineError, match="differs from the manifest"):
            answer(engine, QUESTION, "healthcare")
        adapter.unlink()
        with pytest.raises(EngineError, match=r"healthcare\.gguf cannot be read"):
            answer(engine, QUESTION, "healthcare")
        (folder / "base-tiny.gguf").unlink()
        with pytest.raises(EngineError, match=r"base-tiny\.gguf is missing"):
            answer(engine, QUESTION, "leadership")
        assert engine.pids() == {}


def test_an_adapter_of_another_base_or_shape_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = copied(tiny_bundle, tmp_path)
    changed_adapter(folder, base_sha256="c" * 64)
    with Engine(folder, n_ctx=256, threads=1) as engine:
        with pytest.raises(EngineError, match="belongs to embedded"):
            answer(engine, QUESTION, "healthcare")
        assert answer(engine, QUESTION, "leadership").tokens > 0
    changed_adapter(folder, width=32)
    with Engine(folder, n_ctx=256, threads=1) as engine, pytest.raises(EngineError, match=r"healthcare\.gguf"):
        answer(engine, QUESTION, "healthcare")


def test_a_base_that_is_no_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = copied(tiny_bundle, tmp_path)
    (folder / "base-tiny.gguf").unlink()
    (folder / "base-tiny.gguf").write_bytes(b"not a model")
    with Engine(folder, n_ctx=256, threads=1) as engine, pytest.raises(EngineError, match=r"the base tiny .* differs"):
        answer(engine, QUESTION, None)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["bases"]["tiny"]["sha256"] = sha256_of(folder / "base-tiny.gguf")
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with Engine(folder, n_ctx=256, threads=1) as engine, pytest.raises(InvalidInput, match=r"base-tiny\.gguf"):
        answer(engine, QUESTION, None)


def test_a_manifest_must_stay_in_its_folder_and_be_whole(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = copied(tiny_bundle, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for change in ({"file": "../elsewhere.gguf"}, {"file": "/etc/passwd"}):
        broken = {**manifest, "bases": {"tiny": {**manifest["bases"]["tiny"], **change}}}
        (folder / "manifest.json").write_text(json.dumps(broken), "utf-8")
        with pytest.raises(InvalidInput, match="outside"):
            Engine(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "bases": {"other": manifest["bases"]["tiny"]}}))
    with pytest.raises(InvalidInput, match="not in the manifest"):
        Engine(folder)
    with pytest.raises(InvalidInput):
        Engine(tmp_path / "nowhere")


# -- several bases -----------------------------------------------------------------------------------------------------


def test_several_bases_have_a_process_each_while_memory_allows(tmp_path: Path, tiny_model: Path) -> None:
    folder = write_bundle(tmp_path / "two", ("first", "second"), model=tiny_model)
    free = {"bytes": 10**12}
    with Engine(folder, n_ctx=256, threads=1, available=lambda: free["bytes"]) as engine:
        answer(engine, QUESTION, "healthcare")
        assert engine.resident() == {"healthcare"}
        answer(engine, QUESTION, "leadership")
        both = engine.pids()
        assert set(both) == {"first", "second"}
        os.kill(both["second"], signal.SIGKILL)
        gone(both["second"])
        free["bytes"] = 0
        with pytest.raises(LowMemory, match=r"needs \d+ MB"):
            answer(engine, QUESTION, "leadership", cached=False)
        assert set(engine.pids()) == {"first"}  # nobody is sent away where even that would not help
        free["bytes"] = PROCESS_BYTES + 1_000_000
        answer(engine, QUESTION, "leadership", cached=False)
        assert set(engine.pids()) == {"second"}  # the other was let go to make room
        gone(both["first"])
        free["bytes"] = 10**12
        answer(engine, QUESTION, "healthcare", cached=False)
        assert set(engine.pids()) == {"first", "second"}


def test_the_base_not_used_for_longest_goes_where_the_budget_asks_for_it(tmp_path: Path, tiny_model: Path) -> None:
    folder = write_bundle(tmp_path / "three", ("first", "second", "third"), FIVE, tiny_model)
    of = {"first": "business", "second": "creative", "third": "education"}
    with Engine(folder, n_ctx=256, threads=1) as engine:
        answer(engine, QUESTION, of["first"])
        one = engine._pool.held()
    budget = 2 * one + PROCESS_BYTES + 20_000_000  # two of them, and what a third is expected to take at least
    with Engine(folder, n_ctx=256, threads=1, budget=budget) as engine:
        for name, left in (("first", {"first"}), ("second", {"first", "second"}), ("first", {"first", "second"})):
            answer(engine, QUESTION, of[name], cached=False)
            assert set(engine.pids()) == left
        engine._pool._budget = one + PROCESS_BYTES + 20_000_000
        answer(engine, QUESTION, of["third"])
        assert set(engine.pids()) == {"first", "third"}
        engine._pool._budget = 1_000_000
        with pytest.raises(LowMemory, match=r"chat\.memory_mb"):
            answer(engine, QUESTION, of["second"])


def test_cache_bytes_follow_the_model_and_the_context() -> None:
    # 30 layers of 3 key-value heads of 64 channels, keys and values, two bytes each
    info = inspect_gguf(embedded_gguf())
    assert cache_bytes(info, 1024) == 2 * 2 * 30 * 3 * 64 * 1024
    assert cache_bytes(info, 10**9) == 2 * 2 * 30 * 3 * 64 * 8192


def test_a_process_that_cannot_load_tells_why(tmp_path: Path) -> None:
    process = EngineProcess(tmp_path / "none.gguf", n_ctx=256, threads=1)
    started = time.monotonic()
    try:
        with pytest.raises(EngineError, match=r"none\.gguf"):
            process.start()
    finally:
        process.close()
    assert not process.alive
    assert time.monotonic() - started < 60
