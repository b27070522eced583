"""What the runner reads and writes itself: event files, exit records, presence."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from core.runner import events, shim
from core.runner.executors import Exit
from core.runner.executors.local import LocalExecutor
from core.store.engine import open_store
from core.store.tables import Job
from core.workspace import Workspace


def test_events_are_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert events.read_events(path, 0) == ([], 0)
    path.write_bytes(b'{"event": "a"}\n\nnot json\n[1]\n{"event": "ha')
    found, offset = events.read_events(path, 0)
    assert [one["event"] for one in found] == ["a", "garbled", "garbled"]
    assert events.read_events(path, offset) == ([], offset)
    with open(path, "ab") as stream:
        stream.write(b'lf"}\n')
    assert events.read_events(path, offset)[0] == [{"event": "half"}]


def test_a_line_longer_than_a_reading_is_got_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_READ", 64)
    path = tmp_path / "events.jsonl"
    long = json.dumps({"event": "long", "text": "x" * 1000})
    path.write_text(f'{{"event": "first"}}\n{long}\n{{"event": "last"}}\n')
    assert [one["event"] for one in events.all_events(path)] == ["first", "long", "last"]


def test_events_that_cannot_be_used_are_left_out_not_fatal(workspace: Workspace) -> None:
    from core.runner import ledger

    store = open_store(workspace)
    with store.write() as session:
        session.add(Job(kind="clean", title="t", key="k", state="queued"))
    assert ledger.claim(store, 1) is not None
    run_dir = workspace.runs / "1"
    run_dir.mkdir()
    bad: list[dict[str, Any]] = [
        {"event": "metrics"},
        {"event": "metrics", "t": 1, "step": 1, "values": {"loss": "much"}},
        {"event": "result", "values": 5},
        {"event": "metrics", "t": 1, "step": 2, "values": {"loss": 2.5}},
    ]
    (run_dir / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in bad))
    assert ledger.finish(store, 1, Exit(0, None, False, 1.0, 2.0)) == "succeeded"
    with store.write() as session:
        job = session.get(Job, 1)
        assert job is not None
        assert json.loads(job.metrics) == {"loss": 2.5}


def test_torn_exit_record_reads_as_unknown(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text('{"code": 0, "si')
    found = LocalExecutor().exit_of(tmp_path)
    assert found is not None
    assert (found.code, found.signal) == (None, None)


def test_exit_record_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [errno.ENOSPC, errno.EDQUOT]
    real = os.fsync

    def full(descriptor: int) -> None:
        if failures:
            raise OSError(failures.pop(0), "full")
        real(descriptor)

    monkeypatch.setattr(shim, "ROOM_POLL_S", 0.0)
    monkeypatch.setattr(os, "fsync", full)
    shim._write(str(tmp_path / "exit.json"), {"code": 0})
    assert json.loads((tmp_path / "exit.json").read_text()) == {"code": 0}
    assert not failures
    failures.append(errno.EIO)
    with pytest.raises(OSError, match="full"):
        shim._write(str(tmp_path / "exit.json"), {"code": 1})
    assert json.loads((tmp_path / "exit.json").read_text()) == {"code": 0}
