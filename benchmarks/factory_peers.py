"""What others do for the same work, each as a program of its own: peft's merge, the stock converter, llama.cpp's
quantizer with its default buffers. Usage: python factory_peers.py merge BASE ADAPTER OUT | convert MODEL OUT |
quantize GGUF OUT THREADS. Each flushes its result to the disk, as our tasks do."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from core.files import sync_tree


def merge(base: str, adapter: str, out: str) -> None:
    """peft: load, merge_and_unload, save_pretrained."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, local_files_only=True)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(out)
    AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(out)


def convert(model: str, out: str) -> None:
    """llama.cpp's converter as it comes."""
    from core.gguf.toolchain import CONVERT_MODEL, converters_folder

    folder = converters_folder()
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'gguf-py'}{os.pathsep}{folder}", "HF_HUB_OFFLINE": "1"}
    script = [sys.executable, str(folder / CONVERT_MODEL), model, "--outtype", "f16", "--outfile", out]
    subprocess.run(script, env=environment, check=True)


def quantize(source: str, out: str, threads: str) -> None:
    """llama_model_quantize with its default parameters but for the type and the threads."""
    from core.gguf.llama import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    parameters.nthread = int(threads)
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(parameters)):
        raise SystemExit("llama_model_quantize failed")


if __name__ == "__main__":
    {"merge": merge, "convert": convert, "quantize": quantize}[sys.argv[1]](*sys.argv[2:])
    sync_tree(Path({"quantize": sys.argv[3:4], "convert": sys.argv[3:4], "merge": sys.argv[4:5]}[sys.argv[1]][0]))
