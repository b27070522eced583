from pathlib import Path

import pytest
import torch

from core.tasks.context import TaskError
from core.training import precision
from core.training.precision import choose_precision, probe_gflops

CPU = torch.device("cpu")


def test_a_named_format_is_taken_without_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "probe_gflops", lambda *_: pytest.fail("probed"))
    assert choose_precision("bfloat16", CPU).torch_dtype == torch.bfloat16
    assert choose_precision("float32", CPU).torch_dtype == torch.float32
    with pytest.raises(TaskError, match="int4"):
        choose_precision("int4", CPU)


@pytest.mark.parametrize(("speed", "expected"), [(30.0, "bfloat16"), (11.0, "float32"), (0.2, "float32")])
def test_auto_takes_bfloat16_only_where_it_clearly_wins(
    monkeypatch: pytest.MonkeyPatch, speed: float, expected: str
) -> None:
    monkeypatch.setattr(precision, "probe_gflops", lambda: (10.0, speed))
    chosen = choose_precision("auto", CPU)
    assert chosen.dtype == expected
    assert chosen.as_dict()["bfloat16_gflops"] == speed


def test_the_probe_measures() -> None:
    assert all(speed > 0.1 for speed in probe_gflops(seconds=0.05))


def test_what_was_measured_holds_for_the_next_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "precision.json"
    monkeypatch.setattr(precision, "probe_gflops", lambda: (10.0, 5.0))
    first = choose_precision("auto", CPU, memory)
    monkeypatch.setattr(precision, "probe_gflops", lambda: (1.0, 50.0))  # as beside a busy process
    assert choose_precision("auto", CPU, memory) == first
    memory.write_text("{damaged")
    assert choose_precision("auto", CPU, memory).dtype == "bfloat16"
    monkeypatch.setattr(precision, "cpu_name", lambda: "another machine")
    monkeypatch.setattr(precision, "probe_gflops", lambda: (10.0, 5.0))
    assert choose_precision("auto", CPU, memory).dtype == "float32"
