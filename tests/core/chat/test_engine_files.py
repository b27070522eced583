"""The files an engine is given: faulty ones, and several bases under a budget of memory."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from core.chat.client import Engine
from core.chat.pool import PROCESS_BYTES
from core.chat.process import EngineProcess
from core.chat.protocol import (
    EngineError,
    LowMemory,
)
from core.errors import InvalidInput
from core.files import sha256_of
from core.gguf.cache import cache_bytes
from core.gguf.inspect import inspect_gguf
from tests.core.chat.conftest import FIVE, answer, gone, user, write_bundle
from tests.core.chat.tiny import write_adapter
from tests.models import embedded_gguf

QUESTION = user("What is the capital of France? Answer in one sentence.")


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


def test_the_general_model_comes_from_a_base_that_fits(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path / "two", ("first", "second"), FIVE, tiny_model)
    with Engine(folder, n_ctx=256, threads=1) as engine:
        most = engine.holdings.most_used()
        monkeypatch.setattr(engine._pool, "shortage", lambda base, _: "too large" if base.name == most else None)
        answer(engine, QUESTION, None)
        assert set(engine.pids()) == {"first", "second"} - {most}


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
