"""Sizes of a model's files before any is made, held against the files: of a folder, a GGUF base and an F16 file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InvalidInput, TaraError
from core.gguf.candidates import errors_of
from core.gguf.header import read_header
from core.gguf.imatrix import ImportanceMatrix, Statistic
from core.gguf.inspect import inspect_gguf
from core.gguf.mixture import build, matrices_of, solve_file, types_of
from core.gguf.outline import outline
from core.gguf.quantizer import QUANTIZATIONS, quantize
from core.gguf.skeleton import skeleton_of
from core.gguf.weights import Weights
from core.phases.dry_runs import Outline, outline_of
from core.phases.file_sizes import SIZES
from tests.core.gguf.conftest import run_task
from tests.models import build_tiny

HUNDREDTH = 0.01


@dataclass(frozen=True)
class Made:
    """A tiny model, what was told of its files beforehand, and its F16 file."""

    told: dict[str, Any]
    gguf: Path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One with a head of its own. That of one with a shared head is told in test_gguf_architectures."""
    folder = tmp_path_factory.mktemp("llama")
    base = build_tiny("llama", folder / "base")
    told, gguf = outline(base), folder / "f16.gguf"
    run_task(folder / "runs" / "1", "convert", gguf, {"name": "tiny"}, {"model": base})
    return Made(told, gguf)


def test_a_folder_is_outlined_without_its_weights(llama: Made, tmp_path: Path) -> None:
    assert llama.told["f16_bytes"] == pytest.approx(llama.gguf.stat().st_size, abs=64)  # the names of the two differ
    assert llama.told["parameters"] == inspect_gguf(llama.gguf).parameters
    assert llama.told["context_length"] == 512
    assert llama.told["cache_bytes_a_token"] == 2 * 2 * 2 * 64  # two values of two bytes, two layers, 64 channels
    for name in QUANTIZATIONS:
        quantize(llama.gguf, tmp_path / f"{name}.gguf", name, threads=2)
        info, size = inspect_gguf(tmp_path / f"{name}.gguf"), llama.told["sizes"][name]
        assert size["bytes"] == pytest.approx(info.bytes, rel=HUNDREDTH)
        assert size["types"] == info.types
        assert llama.told["least_bytes"] < size["bytes"] < llama.told["f16_bytes"]
    plain = inspect_gguf(tmp_path / "Q2_K.gguf")
    again = outline(tmp_path / "Q8_0.gguf")  # a quantized GGUF as base leads to the same F16 file
    assert again["f16_bytes"] == pytest.approx(llama.told["f16_bytes"], abs=256)
    assert again["sizes"]["Q2_K"]["types"] == llama.told["sizes"]["Q2_K"]["types"]
    sizes = {name: one["bytes"] for name, one in llama.told["sizes"].items()}
    rest = [llama.told[name] for name in ("least_bytes", "parameters", "cache_bytes_a_token", "context_length")]
    told = Outline(llama.told["f16_bytes"], sizes, *rest)
    tensors = matrices_of(inspect_gguf(llama.gguf), types_of(plain))
    imatrix = ImportanceMatrix({one.name: Statistic(np.ones(one.shape[0], np.float32), 1) for one in tensors})
    errors = errors_of(Weights(llama.gguf), tensors, imatrix, threads=2)
    # Two matrices hold nearly all of its weights, so that a step to the next type is up to a tenth of the file, and
    # that much of a budget may stay over. Of the embedded base it is far less (test_hybrid).
    for budget in (told.least_bytes + 200_000, told.sizes["Q4_K_M"]):
        solved = solve_file(plain, tensors, errors, budget)
        mixture = build(llama.gguf, tmp_path / f"{budget}.gguf", solved, "Q2_K", imatrix, threads=2)
        assert 0.9 * budget < mixture.bytes <= SIZES["hybrid"](told, "Q2_K", budget)
    assert solve_file(plain, tensors, errors, told.least_bytes + 256).bytes <= told.least_bytes + 256


def test_a_skeleton_takes_no_room(llama: Made, tmp_path: Path) -> None:
    skeleton = tmp_path / "skeleton.gguf"
    skeleton_of(llama.gguf, skeleton)
    mine, theirs = read_header(skeleton), read_header(llama.gguf)
    assert skeleton.stat().st_size == llama.gguf.stat().st_size
    assert skeleton.stat().st_blocks * 512 < theirs.data_start + 65536
    assert (mine.metadata, mine.data_start) == (theirs.metadata, theirs.data_start)
    assert mine.tensors == theirs.tensors


def test_what_was_outlined_is_remembered_and_what_cannot_be_is_said(
    llama: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = outline_of(llama.gguf, "a")
    monkeypatch.setattr("core.phases.dry_runs._ask", lambda source: pytest.fail(f"{source} was asked for again"))
    assert outline_of(llama.gguf, "a") == first
    assert first.cache_bytes(10**9) == first.cache_bytes_a_token * 512
    monkeypatch.undo()
    with pytest.raises(TaraError, match=r"nothing\.gguf cannot be foreseen: .+"):
        outline_of(tmp_path / "nothing.gguf", "b")
    with pytest.raises(InvalidInput):
        outline(Path(__file__))
