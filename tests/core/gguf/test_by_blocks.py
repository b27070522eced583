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
from core.gguf.metadata import add_metadata
from core.gguf.toolchain import CONVERT_MODEL
from tests.models import build_tiny

BLOCK = 4000  # values; every matrix of the tiny model has more
ROOT = Path(__file__).parents[3]
# In one process, for its imports take most of the time: the stock converter, then the changed one, and how many tensors
# went through it, in how many blocks at least.
BOTH = """
import runpy, sys
import gguf.lazy
from core.gguf import by_blocks
script, model, stock, ours = sys.argv[1:]
def arguments(out):
    return [script, model, "--outtype", "f16", "--outfile", out]
sys.argv = arguments(stock)
runpy.run_path(script, run_name="__main__")
blocks, write = [], gguf.lazy.LazyChunkedTensor.tofile
def tofile(self, *args, **kwargs):
    blocks.append(len(self._chunks))
    write(self, *args, **kwargs)
gguf.lazy.LazyChunkedTensor.tofile = tofile
by_blocks.main(arguments(ours))
print("COUNTED", len(blocks), min(blocks))
"""


def convert_twice(toolchain: Path, model: Path, stock: Path, ours: Path) -> str:
    paths = [str(toolchain / "gguf-py"), str(toolchain), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    environment[LIMIT_VARIABLE] = str(BLOCK)
    command = [sys.executable, "-c", BOTH, *map(str, (toolchain / CONVERT_MODEL, model, stock, ours))]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


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
    said = convert_twice(toolchain, model, stock, ours)
    matrices = [name for name, tensor in stored.items() if tensor.dim() > 1]
    rearranged = [name for name in matrices if "q_proj" in name or "k_proj" in name]
    count, fewest = map(int, said.split("COUNTED")[1].split())
    assert len(rearranged) == 4
    assert count == len(matrices)
    assert fewest > 1
    assert ours.read_bytes() == stock.read_bytes()


def test_our_converter_writes_by_blocks(tmp_path: Path, toolchain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is no number is read, and refused, by the changed writing alone."""
    (tmp_path / "config.json").write_text(json.dumps({}))
    monkeypatch.setenv(LIMIT_VARIABLE, "many")
    with pytest.raises(TaraError, match=r"invalid literal for int.*many"):
        run_converter(CONVERT_MODEL, [str(tmp_path), "--outfile", str(tmp_path / "x.gguf")])


def test_keys_are_put_into_the_header_as_it_is_written(tmp_path: Path, toolchain: Path) -> None:
    """The same bytes as from adding them to a finished file, which would need room for two."""
    model = build_tiny("llama", tmp_path / "model")
    plain, keyed, added = (tmp_path / f"{name}.gguf" for name in ("plain", "keyed", "added"))
    keys = {"tara.compression": "distilled"}
    for out, given in ((plain, None), (keyed, keys)):
        run_converter(CONVERT_MODEL, [str(model), "--outtype", "f16", "--outfile", str(out)], keys=given)
    add_metadata(plain, added, keys)
    assert keyed.read_bytes() == added.read_bytes()
    taken = [str(model), "--outfile", str(tmp_path / "taken.gguf")]
    with pytest.raises(TaraError, match=r"the header has the key general\.architecture already"):
        run_converter(CONVERT_MODEL, taken, keys={"general.architecture": "x"})
