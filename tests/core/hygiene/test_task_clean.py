"""The clean job: what it announces, what it says when it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.files import check_manifest
from core.tasks import clean as task
from core.tasks.context import Context, TaskError
from tests.core.hygiene.folders import write_adapter


def context(tmp_path: Path, source: str, output: str, attempt: int = 1) -> Context:
    run_dir = tmp_path / f"run{attempt}"
    run_dir.mkdir()
    spec = {
        "job_id": 1, "kind": "clean", "attempt": attempt, "key": "ab" * 32, "workspace": str(tmp_path), "inputs": {},
        "out": None, "threads": 2, "params": {"source": source, "output": output},
    }  # fmt: skip
    (run_dir / "spec.json").write_text(json.dumps(spec))
    return Context(run_dir)


def events(ctx: Context) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ctx.run_dir / "events.jsonl").read_text().splitlines()]


def test_clean_job_and_its_repetition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_adapter(tmp_path / "a")
    (source / "train.log").write_text("12345")
    ctx = context(tmp_path, "a", "b")
    task.run(ctx)
    check_manifest(tmp_path / "b")
    by_kind = {event["event"]: event for event in events(ctx)}
    assert by_kind["artifact"]["path"] == str(tmp_path / "b")
    assert by_kind["measurement"]["value"] == 5
    assert by_kind["result"]["values"]["dropped"] == 1
    assert "left out train.log" in capsys.readouterr().out
    again = context(tmp_path, "a", "b", attempt=2)
    task.run(again)
    assert events(again)[-1]["sha256"] == by_kind["artifact"]["sha256"]


def test_clean_job_explains_itself(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").touch()
    with pytest.raises(TaskError, match="not empty"):
        task.run(context(tmp_path, "a", "b"))
