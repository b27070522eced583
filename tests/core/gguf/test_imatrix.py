"""Importance matrices: equal to what the engine's own layers are given, read and written in its format, and of use."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from core.errors import InvalidInput
from core.gguf.imatrix import ImportanceMatrix, Statistic, read_imatrix, write_imatrix
from core.gguf.inspect import inspect_gguf
from core.gguf.quantizer import IMATRIX_ENTRIES, quantize
from core.hygiene.gguf_check import check_gguf
from core.training.base import load_model, load_tokenizer
from core.training.data import read_examples, split_examples
from core.training.importance import collect, gguf_names
from core.training.render import render_all
from tests.core.gguf.conftest import Task
from tests.core.gguf.engine_activations import engine_statistics
from tests.models import build_tiny, make_convertible

DATA = Path("configs/starter_data/healthcare.jsonl")
SEED, HELD_OUT = 42, 0.2
PROMPT = "You are a careful health guide."


def sequences(base: Path, count: int) -> list[tuple[int, ...]]:
    train, _ = split_examples(read_examples(DATA), SEED, HELD_OUT)
    rendered, _ = render_all(load_tokenizer(base), train[:count], PROMPT, 256)
    return [example.input_ids for example in rendered]


@pytest.fixture(scope="module")
def made(f16: Path, base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The matrix of the embedded base, by its task."""
    from tests.core.gguf.conftest import run_task

    folder = tmp_path_factory.mktemp("imatrix")
    params = {
        "name": "smollm2", "tokens": 400, "sequence_length": 256,
        "domains": {"healthcare": {"system_prompt": PROMPT, "seed": SEED, "held_out_fraction": HELD_OUT}},
    }  # fmt: skip
    inputs = {"base": base_folder, "gguf": f16, "data": {"healthcare": str(DATA.absolute())}}
    run_task(folder / "run", "imatrix", folder / "smollm2.gguf", params, inputs)
    return folder / "smollm2.gguf"


def test_it_is_what_the_engine_itself_sees_on_the_same_text(made: Path, f16: Path, base_folder: Path) -> None:
    matrix = read_imatrix(made)
    theirs = engine_statistics(f16, sequences(base_folder, matrix.chunks))
    head = theirs.pop("token_embd.weight")
    ours = {name: statistic.mean for name, statistic in matrix.statistics.items()}
    np.testing.assert_allclose(ours.pop("token_embd.weight"), head, rtol=0.05)
    assert ours.keys() == theirs.keys()
    assert len(ours) == 30 * 7
    # The engine computes with weights rounded to F16 and activations too.
    worst = min(float(np.corrcoef(ours[name], theirs[name])[0, 1]) for name in ours)
    assert worst > 0.9999
    totals = [float(ours[name].sum() / theirs[name].sum()) for name in ours]
    assert max(abs(total - 1) for total in totals) < 0.01


@pytest.mark.parametrize("architecture", ["qwen2", "phi3", "gpt2"])
def test_every_architecture_has_a_statistic_for_every_matrix(
    architecture: str, tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not the family's name: llama.cpp expects a phi3 vocabulary of every file whose name has phi3 in it.
    base = make_convertible(build_tiny(architecture, tmp_path / "tiny"), architecture, tmp_path, monkeypatch)
    task("convert", tmp_path / "tiny.gguf", {"name": architecture}, {"model": base})
    info = inspect_gguf(tmp_path / "tiny.gguf")
    text = [list(range(100, 140)), list(range(7, 30))]
    import torch

    seen: list[int] = []
    found = collect(load_model(base, torch.float32), text, torch.device("cpu"), seen.append)
    named = gguf_names(found, info.architecture, 2, {tensor.name: tensor.shape for tensor in info.tensors})
    assert seen == [1, 2]
    assert {statistic.count for statistic in named.values()} == {63}
    matrices = {tensor.name for tensor in info.tensors if len(tensor.shape) > 1}
    embeddings = {"token_embd.weight", "position_embd.weight"}
    assert matrices - embeddings <= named.keys() <= matrices
    theirs = engine_statistics(tmp_path / "tiny.gguf", text)
    for name in named.keys() & theirs.keys():
        np.testing.assert_allclose(named[name].mean, theirs[name], rtol=0.02, atol=1e-4)
    assert matrices - embeddings <= theirs.keys()


def test_files_come_back_as_they_were_and_others_are_refused(tmp_path: Path, f16: Path) -> None:
    matrix = ImportanceMatrix({"blk.0.attn_q.weight": Statistic(np.arange(4, dtype=np.float32), 7)}, ("a", "b"), 2, 9)
    write_imatrix(tmp_path / "m.gguf", matrix)
    read = read_imatrix(tmp_path / "m.gguf")
    np.testing.assert_array_equal(read.statistics["blk.0.attn_q.weight"].sums, np.arange(4))
    assert (read.statistics["blk.0.attn_q.weight"].count, read.datasets, read.chunks, read.chunk_tokens) == (
        7, ("a", "b"), 2, 9,
    )  # fmt: skip
    names = [tensor.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors]
    assert names == ["blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts"]
    findings, facts = check_gguf(tmp_path / "m.gguf", "m.gguf")
    assert (findings, facts["gguf"]) == ([], "imatrix")
    (half, *_), _ = check_gguf(tmp_path / "m.gguf", "m.gguf", adapter=True)
    assert half.message == "m.gguf is an importance matrix, not what belongs here"
    renamed = (tmp_path / "m.gguf").read_bytes().replace(b".counts", b".county")
    (tmp_path / "half.gguf").write_bytes(renamed)
    (half,), _ = check_gguf(tmp_path / "half.gguf", "half.gguf")
    assert half.message == "half.gguf has of blk.0.attn_q.weight only sum or count"
    with pytest.raises(InvalidInput, match="is not an importance matrix"):
        read_imatrix(f16)
    (tmp_path / "torn.gguf").write_bytes((tmp_path / "m.gguf").read_bytes()[:-40])
    with pytest.raises(InvalidInput, match="not a readable"):
        read_imatrix(tmp_path / "torn.gguf")
    bad = ImportanceMatrix({"blk.0.attn_q.weight": Statistic(np.array([1, np.nan], dtype=np.float32), 7)})
    write_imatrix(tmp_path / "nan.gguf", bad)
    with pytest.raises(InvalidInput, match=r"no usable statistic of blk\.0\.attn_q\.weight"):
        read_imatrix(tmp_path / "nan.gguf")


def test_quantizing_with_it_errs_less_where_it_says_and_the_header_tells(
    made: Path, f16: Path, tmp_path: Path, task: Task
) -> None:
    task("quantize", tmp_path / "plain.gguf", {"name": "a", "type": "Q4_K_M"}, {"gguf": f16})
    task("quantize", tmp_path / "with.gguf", {"name": "a", "type": "Q4_K_M"}, {"gguf": f16, "imatrix": made})
    matrix = read_imatrix(made)
    assert inspect_gguf(tmp_path / "with.gguf").metadata[IMATRIX_ENTRIES] == len(matrix.statistics)
    assert IMATRIX_ENTRIES not in inspect_gguf(tmp_path / "plain.gguf").metadata
    name = "blk.11.ffn_up.weight"
    true = weights(f16, name)
    errors = {
        way: float((np.square(weights(tmp_path / f"{way}.gguf", name) - true) * matrix.statistics[name].mean).sum())
        for way in ("plain", "with")
    }
    assert errors["with"] < 0.9 * errors["plain"]


def test_a_matrix_of_another_model_is_refused(f16: Path, tmp_path: Path) -> None:
    strange = ImportanceMatrix({"blk.99.attn_q.weight": Statistic(np.ones(576, np.float32), 1)})
    with pytest.raises(InvalidInput, match=r"which the model lacks"):
        quantize(f16, tmp_path / "a.gguf", "Q8_0", threads=1, imatrix=strange)
    narrow = ImportanceMatrix({"blk.0.attn_q.weight": Statistic(np.ones(64, np.float32), 1)})
    with pytest.raises(InvalidInput, match=r"64 columns for blk\.0\.attn_q\.weight, the model 576"):
        quantize(f16, tmp_path / "a.gguf", "Q8_0", threads=1, imatrix=narrow)
    with pytest.raises(InvalidInput, match=r"given for nothing\.weight"):
        quantize(f16, tmp_path / "a.gguf", "Q8_0", threads=1, types={"nothing.weight": "Q8_0"})
    assert not (tmp_path / "a.gguf").exists()


def test_the_buffer_changes_memory_and_not_a_byte(f16: Path, made: Path, tmp_path: Path) -> None:
    matrix = read_imatrix(made)
    for name, size in (("small", 1 << 20), ("default", 0)):
        quantize(f16, tmp_path / name, "Q2_K", threads=2, imatrix=matrix, buffer_bytes=size)
    assert (tmp_path / "small").read_bytes() == (tmp_path / "default").read_bytes()


def weights(path: Path, name: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
