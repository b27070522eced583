"""Quantization by the engine's own library, with its progress. Imports llama_cpp: for worker processes only.

Usage, for a size without the work: python -m core.gguf.quantizer SOURCE TYPE
"""

import ctypes
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.errors import InvalidInput, TaraError
from core.gguf.engine_log import capture_log, last_error, listening, raise_interruption
from core.gguf.header import TENSOR_TYPES, TensorInfo, read_header
from core.gguf.inspect import falls_back, inspect_gguf
from core.gguf.llama import llama_cpp

QUANTIZATIONS = {
    "Q2_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}

# Rows of a tensor are worked on in slabs of this size; without a limit the largest tensor is held whole, as float32
# and quantized at once (1.1 GB for a half-billion model with a large vocabulary).
BUFFER_BYTES = 128 << 20

_PLAIN = ("F32", "F16", "BF16")
_TENSOR_LINE = re.compile(r"\[ *(\d+)/ *(\d+)\] +(\S+) ")
_NEW_TYPE = re.compile(r"MiB \((\w+)\)\s*$")


@dataclass(frozen=True)
class PredictedSize:
    """What quantization would make: file bytes, tensors by type, and how many would fall back (see inspect)."""

    bytes: int
    types: dict[str, int]
    fallback_tensors: int


def quantize(
    source: Path,
    target: Path,
    quantization: str,
    *,
    threads: int,
    on_tensor: Callable[[int, int, str], None] | None = None,
) -> None:
    """Quantize the F16, BF16 or F32 file `source` into the new file `target`.

    `on_tensor(number, total, name)` is told of every tensor as it begins. Raises InvalidInput for an unknown type or
    a source that is quantized already, TaraError with the engine's words when it fails.
    """
    ftype = check_quantization(source, quantization)

    told = 0

    def line(text: str) -> None:
        nonlocal told
        found = _TENSOR_LINE.match(text)
        if found and on_tensor and int(found[1]) != told:  # a tensor's line comes in several pieces
            told = int(found[1])
            on_tensor(told, int(found[2]), found[3])

    with listening(line):
        _run(source, target, ftype, threads=threads, dry_run=False)


def predicted_size(source: Path, quantization: str) -> PredictedSize:
    """The size `source` would have in this type, by the engine's dry run: its own rules, no weights converted."""
    ftype = check_quantization(source, quantization)
    chosen: dict[str, str] = {}

    def line(text: str) -> None:
        found, new_type = _TENSOR_LINE.match(text), _NEW_TYPE.search(text)
        if found and new_type:
            chosen[found[3]] = new_type[1].upper()

    with listening(line, quiet=True):
        _run(source, source.with_name(source.name + ".dry-run"), ftype, threads=1, dry_run=True)
    header = read_header(source)
    sizes = {name: (block, block_bytes) for name, block, block_bytes in TENSOR_TYPES.values()}
    types: dict[str, int] = {}
    total, fallbacks = header.data_start, 0
    for tensor in header.tensors:
        kind = chosen.get(tensor.name, tensor.type)
        block, block_bytes = sizes[kind]
        new_bytes = tensor.elements // block * block_bytes
        total += -(-new_bytes // header.alignment) * header.alignment
        types[kind] = types.get(kind, 0) + 1
        fallbacks += falls_back(TensorInfo(tensor.name, tensor.shape, kind, new_bytes, 0), quantization)
    return PredictedSize(total, types, fallbacks)


def check_quantization(source: Path, quantization: str) -> int:
    """The engine's number of a type, after checking that `source` can be quantized to it."""
    if quantization not in QUANTIZATIONS:
        raise InvalidInput(f"unknown quantization {quantization!r}", f"use one of {', '.join(QUANTIZATIONS)}")
    info = inspect_gguf(source)
    if info.kind != "model":
        raise InvalidInput(f"{source} is an adapter, not a model", "quantize its base; adapters stay as they are")
    quantized = [kind for kind in info.types if kind not in (*_PLAIN, "I32", "I64", "I16", "I8", "F64")]
    if quantized:
        raise InvalidInput(f"{source} is quantized already ({quantized[0]})", "quantize its F16 file instead")
    return int(QUANTIZATIONS[quantization])


def _run(source: Path, target: Path, ftype: int, *, threads: int, dry_run: bool) -> None:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = ftype
    parameters.nthread = threads
    parameters.dry_run = dry_run
    parameters.max_buf_size = BUFFER_BYTES
    last_error()
    failed = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters))
    raise_interruption()
    if failed:
        raise TaraError(f"llama.cpp could not quantize {source}: {last_error() or 'no reason given'}", "see the log")


def main(arguments: list[str]) -> int:
    """Print the predicted size as JSON; the exit status."""
    if len(arguments) != 2:
        print("usage: python -m core.gguf.quantizer SOURCE TYPE", file=sys.stderr)
        return 2
    capture_log()
    try:
        size = predicted_size(Path(arguments[0]), arguments[1])
    except TaraError as error:
        print(error.one_line(), file=sys.stderr)
        return int(error.exit_code)
    print(json.dumps({"bytes": size.bytes, "types": size.types, "fallback_tensors": size.fallback_tensors}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
