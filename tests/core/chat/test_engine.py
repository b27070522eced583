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

from core.chat.client import Done, Engine, Token
from core.chat.process import EngineProcess
from core.chat.protocol import EngineCrashed, EngineError, Load, SamplingOptions, encode
from core.errors import InvalidInput, Refused
from core.files import sha256_of
from core.gguf.cache import cache_bytes
from core.gguf.inspect import inspect_gguf
from tests.core.chat.conftest import GREEDY, user, write_adapter, write_bundle
from tests.models import embedded_gguf

LONG = SamplingOptions(max_tokens=400, temperature=0)
QUESTION = user("What is the capital of France? Answer in one sentence.")


def answer(
    engine: Engine, messages: list[dict[str, str]], domain: str | None, options: SamplingOptions = GREEDY
) -> Done:
    events = list(engine.ask(messages, domain, options))
    done = events[-1]
    assert isinstance(done, Done)
    pieces = [event.text for event in events[:-1] if isinstance(event, Token)]
    assert len(pieces) == len(events) - 1
    assert "".join(pieces) == done.text
    return done


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


def test_domains_share_one_process_and_do_not_leak_into_each_other(engine: Engine) -> None:
    bare = answer(engine, QUESTION, None).text
    health = answer(engine, QUESTION, "healthcare").text
    lead = answer(engine, QUESTION, "leadership").text
    assert len({bare, health, lead}) == 3
    assert answer(engine, QUESTION, None).text == bare
    assert answer(engine, QUESTION, "healthcare").text == health
    assert len(engine.pids()) == 1
    assert engine.resident() == {"healthcare", "leadership"}


def test_the_limit_ends_an_answer(engine: Engine) -> None:
    done = answer(engine, user("Tell me a long story."), None, replace(GREEDY, max_tokens=5))
    assert done.stopped_by == "length"
    assert done.tokens == 5


def test_an_answer_is_cancelled_from_another_thread(engine: Engine) -> None:
    events = engine.ask(user("Tell me a long story about a ship."), None, LONG)
    first = next(events)
    assert isinstance(first, Token)
    canceller = threading.Thread(target=engine.cancel)
    canceller.start()
    done = list(events)[-1]
    canceller.join()
    assert isinstance(done, Done)
    assert done.stopped_by == "cancelled"
    assert done.tokens < 400
    assert answer(engine, QUESTION, None).stopped_by in ("eos", "length")


def test_cancelling_without_an_answer_does_nothing(engine: Engine) -> None:
    engine.cancel()
    assert answer(engine, QUESTION, None).tokens > 0


def test_leaving_an_answer_does_not_spoil_the_next_one(engine: Engine) -> None:
    expected = answer(engine, QUESTION, None).text
    pid = engine.pids()
    events = engine.ask(user("Tell me a long story about a ship."), None, LONG)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert answer(engine, QUESTION, None).text == expected
    assert engine.pids() == pid


def test_two_answers_at_once_are_refused(engine: Engine) -> None:
    events = engine.ask(QUESTION, None, LONG)
    next(events)
    with pytest.raises(Refused):
        next(engine.ask(QUESTION, None, GREEDY))
    list(events)


def test_old_messages_are_left_out_when_the_context_is_full(engine: Engine) -> None:
    turns = [{"role": role, "content": f"{n} " * 40} for n in range(8) for role in ("user", "assistant")]
    messages = [{"role": "system", "content": "Be brief."}, *turns, *QUESTION]
    done = answer(engine, messages, None)
    assert done.forgotten > 0
    assert done.forgotten % 2 == 0
    with pytest.raises(EngineError, match="the context holds 512"):
        answer(engine, user("word " * 2000), None)
    assert answer(engine, QUESTION, None).tokens > 0


def test_a_killed_engine_is_started_again_and_the_conversation_goes_on(engine: Engine) -> None:
    expected = answer(engine, QUESTION, "healthcare").text
    (pid,) = engine.pids().values()
    os.kill(pid, signal.SIGKILL)
    assert answer(engine, QUESTION, "healthcare").text == expected
    assert pid not in engine.pids().values()
    gone(pid)


def test_an_engine_killed_in_the_middle_of_an_answer_says_so_once(engine: Engine) -> None:
    events = engine.ask(user("Tell me a long story about a ship."), None, LONG)
    next(events)
    (pid,) = engine.pids().values()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed, match="SIGKILL"):
        list(events)
    assert answer(engine, QUESTION, None).tokens > 0
    assert pid not in engine.pids().values()


def test_closing_ends_the_process_also_during_an_answer(bundle: Path) -> None:
    engine = Engine(bundle, n_ctx=512, threads=1)
    events = engine.ask(user("Tell me a long story about a ship."), None, LONG)
    next(events)
    (pid,) = engine.pids().values()
    engine.close()
    with pytest.raises(EngineError):
        list(events)
    gone(pid)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        next(engine.ask(QUESTION, None, GREEDY))


def test_the_engine_ends_with_a_client_that_was_killed(bundle: Path) -> None:
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
        [sys.executable, "-c", code, str(bundle)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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


def test_missing_and_changed_files_are_named(bundle: Path, tmp_path: Path) -> None:
    folder = copied(bundle, tmp_path)
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
        (folder / "base-small.gguf").unlink()
        with pytest.raises(EngineError, match=r"base-small\.gguf is missing"):
            answer(engine, QUESTION, "leadership")
        assert engine.pids() == {}


def test_an_adapter_of_another_base_or_shape_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = copied(bundle, tmp_path)
    changed_adapter(folder, base_sha256="c" * 64)
    with Engine(folder, n_ctx=256, threads=1) as engine:
        with pytest.raises(EngineError, match="belongs to embedded"):
            answer(engine, QUESTION, "healthcare")
        assert answer(engine, QUESTION, "leadership").tokens > 0
    changed_adapter(folder, width=64)
    with Engine(folder, n_ctx=256, threads=1) as engine, pytest.raises(EngineError, match=r"healthcare\.gguf"):
        answer(engine, QUESTION, "healthcare")


def test_a_base_that_is_no_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = copied(bundle, tmp_path)
    (folder / "base-small.gguf").unlink()
    (folder / "base-small.gguf").write_bytes(b"not a model")
    with Engine(folder, n_ctx=256, threads=1) as engine, pytest.raises(InvalidInput, match=r"base-small\.gguf"):
        answer(engine, QUESTION, None)


def test_a_manifest_must_stay_in_its_folder_and_be_whole(bundle: Path, tmp_path: Path) -> None:
    folder = copied(bundle, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for change in ({"file": "../elsewhere.gguf"}, {"file": "/etc/passwd"}):
        broken = {**manifest, "bases": {"small": {**manifest["bases"]["small"], **change}}}
        (folder / "manifest.json").write_text(json.dumps(broken), "utf-8")
        with pytest.raises(InvalidInput, match="outside"):
            Engine(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "bases": {"other": manifest["bases"]["small"]}}))
    with pytest.raises(InvalidInput, match="not in the manifest"):
        Engine(folder)
    with pytest.raises(InvalidInput):
        Engine(tmp_path / "nowhere")


# -- several bases -----------------------------------------------------------------------------------------------------


def test_several_bases_have_a_process_each_while_memory_allows(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "two", ("first", "second"))
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
        with pytest.raises(EngineError, match=r"needs \d+ MB"):
            answer(engine, QUESTION, "leadership")
        assert engine.pids() == {}  # the other was let go to make room
        gone(both["first"])
        free["bytes"] = 10**12
        assert answer(engine, QUESTION, "leadership").tokens > 0
        assert set(engine.pids()) == {"second"}


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
