"""The converter that writes large tensors block by block makes the very file that the stock one makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import TaraError
from core.gguf.by_blocks import LIMIT_VARIABLE
from core.gguf.converter import run_converter
from core.gguf.toolchain import CONVERT_MODEL
from tests.models import build_tiny

BLOCK = 1000  # values; every weight of the tiny model has more
ROOT = Path(__file__).parents[3]
# What by_blocks does, and then how many tensors went through it, and in how many blocks.
COUNTING = """
import sys
import gguf.lazy
from core.gguf import by_blocks
blocks, stock = [], gguf.lazy.LazyChunkedTensor.tofile
def tofile(self, *args, **kwargs):
    blocks.append(len(self._chunks))
    stock(self, *args, **kwargs)
gguf.lazy.LazyChunkedTensor.tofile = tofile
by_blocks.main(sys.argv[1:])
print("COUNTED", len(blocks), min(blocks))
"""


def convert(toolchain: Path, arguments: list[str], model: Path, out: Path) -> str:
    paths = [str(toolchain / "gguf-py"), str(toolchain), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    environment[LIMIT_VARIABLE] = str(BLOCK)
    command = [sys.executable, *arguments, str(toolchain / CONVERT_MODEL), str(model), "--outtype", "f16"]
    done = subprocess.run(
        [*command, "--outfile", str(out)], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_bytes_are_those_of_the_stock_converter(tmp_path: Path, toolchain: Path) -> None:
    """Weights of all three types in one file, and llama's query and key weights, which are rearranged."""
    model = build_tiny("llama", tmp_path / "model")
    types = {
        "q_proj": torch.bfloat16,
        "up_proj": torch.float16,
        "embed_tokens": torch.bfloat16,
        "v_proj": torch.bfloat16,
    }
    stored = {
        name: tensor.to(next((dtype for part, dtype in types.items() if part in name), torch.float32))
        for name, tensor in load_file(model / "model.safetensors").items()
    }
    save_file(stored, model / "model.safetensors", metadata={"format": "pt"})
    stock, ours = tmp_path / "stock.gguf", tmp_path / "ours.gguf"
    convert(toolchain, [], model, stock)
    said = convert(toolchain, ["-c", COUNTING], model, ours)
    matrices = [name for name, tensor in stored.items() if tensor.dim() > 1]
    rearranged = [name for name in matrices if "q_proj" in name or "k_proj" in name]
    count, fewest = map(int, said.split("COUNTED")[1].split())
    assert len(rearranged) == 4
    assert count == len(matrices) - len(rearranged)
    assert fewest >= 64 * 64 // BLOCK
    assert ours.read_bytes() == stock.read_bytes()


def test_our_converter_writes_by_blocks(tmp_path: Path, toolchain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is no number is read, and refused, by the changed writing alone."""
    (tmp_path / "config.json").write_text(json.dumps({}))
    monkeypatch.setenv(LIMIT_VARIABLE, "many")
    with pytest.raises(TaraError, match=r"invalid literal for int.*many"):
        run_converter(CONVERT_MODEL, [str(tmp_path), "--outfile", str(tmp_path / "x.gguf")])
