import pytest
import torch

from core.tasks.context import TaskError
from core.training import precision
from core.training.precision import choose_precision, matmul_gflops

CPU = torch.device("cpu")


def test_a_named_format_is_taken_without_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "matmul_gflops", lambda *_: pytest.fail("probed"))
    assert choose_precision("bfloat16", CPU).torch_dtype == torch.bfloat16
    assert choose_precision("float32", CPU).torch_dtype == torch.float32
    with pytest.raises(TaskError, match="int4"):
        choose_precision("int4", CPU)


@pytest.mark.parametrize(("speed", "expected"), [(30.0, "bfloat16"), (11.0, "float32"), (0.2, "float32")])
def test_auto_takes_bfloat16_only_where_it_clearly_wins(
    monkeypatch: pytest.MonkeyPatch, speed: float, expected: str
) -> None:
    speeds = {torch.float32: 10.0, torch.bfloat16: speed}
    monkeypatch.setattr(precision, "matmul_gflops", lambda dtype: speeds[dtype])
    chosen = choose_precision("auto", CPU)
    assert chosen.dtype == expected
    assert chosen.as_dict()["bfloat16_gflops"] == speed


def test_the_probe_measures() -> None:
    assert matmul_gflops(torch.float32, seconds=0.05) > 0.1
