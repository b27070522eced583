"""Rounding by the engine's routine: the very bytes its quantizer writes, and errors that fall with the bits."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from core.gguf.quantizer import quantize
from core.gguf.rounding import can_hold, quantize_rows, rounding_error, stored_bytes

KINDS = ("Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "IQ4_NL", "IQ4_XS", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0")


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    order = np.random.default_rng(3)
    return (order.standard_normal((24, 512)) * order.lognormal(0, 1, (24, 1))).astype(np.float32)


def test_the_bytes_are_those_of_the_engines_quantizer(f16: Path, tmp_path: Path) -> None:
    names = {"blk.3.ffn_down.weight": "Q4_K", "blk.4.ffn_down.weight": "Q2_K", "blk.5.attn_q.weight": "IQ4_NL"}
    quantize(f16, tmp_path / "out.gguf", "Q8_0", threads=2, types=names)
    whole = {tensor.name: tensor for tensor in gguf.GGUFReader(f16).tensors}
    small = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    for name, kind in {**names, "blk.7.attn_v.weight": "Q8_0"}.items():
        assert small[name].tensor_type.name == kind
        ours = quantize_rows(np.asarray(whole[name].data, dtype=np.float32), kind)
        assert ours.tobytes() == np.asarray(small[name].data).tobytes()
        assert ours.nbytes == stored_bytes(kind, whole[name].n_elements)


def test_more_bits_err_less(rows: np.ndarray) -> None:
    errors = {kind: rounding_error(rows, kind) for kind in KINDS}
    for better, worse in (("Q8_0", "Q6_K"), ("Q6_K", "Q5_K"), ("Q5_K", "Q4_K"), ("Q4_K", "Q3_K"), ("Q3_K", "Q2_K")):
        assert errors[better] < errors[worse]
    assert 0 < errors["Q8_0"] < 1e-3 * float(np.square(rows).sum())


def test_importance_moves_the_error_to_where_it_counts_least(rows: np.ndarray) -> None:
    importance = np.ones(512, np.float32)
    importance[::8] = 100
    with_it = rounding_error(rows, "Q4_K", importance)
    stored = quantize_rows(rows, "Q4_K")
    back = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q4_K)
    without = float((np.square(back - rows).sum(0) * importance).sum())
    assert with_it < 0.9 * without


def test_rows_that_are_no_whole_blocks_are_refused(rows: np.ndarray) -> None:
    assert [can_hold(kind, 576) for kind in ("Q4_K", "Q4_0", "Q8_0", "IQ4_NL")] == [False, True, True, True]
    with pytest.raises(ValueError, match="no whole blocks of Q4_K"):
        quantize_rows(rows[:, :96], "Q4_K")
