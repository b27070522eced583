"""What rounding leaves of a merged change, on matrices whose answer is known."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from core.errors import InvalidInput
from core.gguf.kept_change import Kept, kept_change
from core.gguf.rounding import quantize_rows
from core.gguf.weights import Rows, Weights

SHAPE, RANK, ALPHA = (96, 64), 2, 4.0
NAME = "blk.0.attn_q.weight"


def put(path: Path, tensors: dict[str, Rows], kind: str, *, adapter: bool = False) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    if adapter:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, ALPHA)
    for name, rows in tensors.items():
        if kind in ("F32", "F16"):
            writer.add_tensor(name, rows.astype(np.float32 if kind == "F32" else np.float16))
        else:
            writer.add_tensor(name, quantize_rows(rows, kind), raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def left(folder: Path, weight: Rows, strength: float, kind: str) -> Kept:
    """What is left of a random change of this size, by the code that is tested."""
    random = np.random.default_rng(1)
    a = random.standard_normal((RANK, SHAPE[1])).astype(np.float32)
    b = (strength * random.standard_normal((SHAPE[0], RANK))).astype(np.float32)
    merged = weight + ALPHA / RANK * (b @ a)
    adapter = put(folder / "a.gguf", {f"{NAME}.lora_a": a, f"{NAME}.lora_b": b}, "F32", adapter=True)
    whole = put(folder / "w.gguf", {NAME: merged}, "F32")
    small = put(folder / "s.gguf", {NAME: merged}, kind)
    (found,) = kept_change(small, whole, adapter, None, threads=2).values()
    change = ALPHA / RANK * (b @ a)
    after = Weights.floats(kind, quantize_rows(merged, kind)) - Weights.floats(kind, quantize_rows(weight, kind))
    assert found.share == pytest.approx(float((after * change).sum() / (change * change).sum()), rel=0.02, abs=0.02)
    return found


@pytest.fixture(scope="module")
def weight() -> Rows:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def test_a_change_that_is_large_beside_a_step_is_kept(tmp_path: Path, weight: Rows) -> None:
    found = left(tmp_path, weight, 0.5, "Q8_0")
    assert found.share == pytest.approx(1, abs=0.01)
    assert found.error < 0.05
    assert found.moved > 0.95 * found.weights


def test_a_change_below_the_step_of_a_weight_on_the_grid_is_lost(tmp_path: Path, weight: Rows) -> None:
    grid = Weights.floats("Q4_0", quantize_rows(weight, "Q4_0"))
    found = left(tmp_path, grid, 1e-4, "Q4_0")
    assert abs(found.share) < 0.2
    assert found.error > 0.9
    off = left(tmp_path, weight, 1e-4, "Q4_0")  # off the grid a few weights move by a whole step: noise, not the change
    assert off.error > 2


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, weight: Rows) -> None:
    whole = put(tmp_path / "w.gguf", {NAME: weight}, "F32")
    a = np.ones((RANK, 32), np.float32)
    b = np.ones((SHAPE[0], RANK), np.float32)
    adapter = put(tmp_path / "a.gguf", {f"{NAME}.lora_a": a, f"{NAME}.lora_b": b}, "F32", adapter=True)
    with pytest.raises(InvalidInput, match=f"a.gguf changes {NAME}, which w.gguf has not so"):
        kept_change(whole, whole, adapter, None, threads=1)
    with pytest.raises(InvalidInput, match="is not a LoRA adapter"):
        kept_change(whole, whole, whole, None, threads=1)
