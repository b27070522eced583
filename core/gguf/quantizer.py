"""Quantization by the engine's own library, with its progress. Imports llama_cpp: for worker processes only."""

import ctypes
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InvalidInput, TaraError
from core.gguf.engine_log import last_error, listening, raise_interruption
from core.gguf.header import PLAIN, TYPE_NUMBERS, TensorInfo, padded, read_header, stored_bytes
from core.gguf.imatrix import ImportanceMatrix
from core.gguf.inspect import GgufInfo, falls_back, inspect_gguf
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

# What the engine's own program writes of a matrix that was used.
IMATRIX_ENTRIES, IMATRIX_CHUNKS = "quantize.imatrix.entries_count", "quantize.imatrix.chunks_count"

_INTEGER, _TEXT = 0, 3  # llama_model_kv_override_type
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
    imatrix: ImportanceMatrix | None = None,
    types: Mapping[str, str] | None = None,
    keys: Mapping[str, int | str] | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    on_tensor: Callable[[int, int, str], None] | None = None,
) -> None:
    """Quantize the F16, BF16 or F32 file `source` into the new file `target`.

    With `imatrix` the columns it says are used most are rounded best; `types` gives tensors, by name, another type
    than the quantization's mix means for them, and `keys` are written into the header. `buffer_bytes` bounds the rows
    held at once; the result does not depend on it. `on_tensor(number, total, name)` is told of every tensor as it
    begins. Raises InvalidInput for an unknown type, a source that is quantized already, or a matrix or types of another
    model, TaraError with the engine's words when it fails.
    """
    tensors = check_quantization(source, quantization).tensors
    if imatrix is not None:
        imatrix.check(tensors)
    unknown = (types or {}).keys() - {tensor.name for tensor in tensors}
    if unknown:
        raise InvalidInput(f"a type is given for {min(unknown)}, which {source} lacks", "solve the types for this file")

    told = 0

    def line(text: str) -> None:
        nonlocal told
        found = _TENSOR_LINE.match(text)
        if found and on_tensor and int(found[1]) != told:  # a tensor's line comes in several pieces
            told = int(found[1])
            on_tensor(told, int(found[2]), found[3])

    with listening(line):
        parameters = _parameters(quantization, threads=threads, buffer_bytes=buffer_bytes)
        told_of = {} if imatrix is None else _told_of(imatrix)
        kept = [
            _give_imatrix(parameters, imatrix),
            _give_keys(parameters, {**told_of, **(keys or {})}),
            _give_types(parameters, types or {}, tensors),
        ]
        _run(source, target, parameters)
        del kept  # what the engine reads during the call must live as long


def predicted_size(source: Path, quantization: str) -> PredictedSize:
    """The size `source` would have in this type, by the engine's dry run: its own rules, no weights converted."""
    return size_of(source, planned_types(source, quantization), quantization)


def planned_types(source: Path, quantization: str) -> dict[str, str]:
    """The type each tensor of `source` that would be converted would have, by name, by the engine's dry run."""
    check_quantization(source, quantization)
    chosen: dict[str, str] = {}

    def line(text: str) -> None:
        found, new_type = _TENSOR_LINE.match(text), _NEW_TYPE.search(text)
        if found and new_type:
            chosen[found[3]] = new_type[1].upper()

    with listening(line, quiet=True):
        parameters = _parameters(quantization, threads=1, buffer_bytes=BUFFER_BYTES)
        parameters.dry_run = True
        _run(source, source.with_name(source.name + ".dry-run"), parameters)
    return chosen


def size_of(source: Path, chosen: Mapping[str, str], quantization: str) -> PredictedSize:
    """The size of `source` with other types for some of its tensors, by name."""
    header = read_header(source)
    types: dict[str, int] = {}
    total, fallbacks = header.data_start, 0
    for tensor in header.tensors:
        kind = chosen.get(tensor.name, tensor.type)
        new_bytes = stored_bytes(kind, tensor.elements)
        total += padded(new_bytes, header.alignment)
        types[kind] = types.get(kind, 0) + 1
        fallbacks += falls_back(TensorInfo(tensor.name, tensor.shape, kind, new_bytes, 0), quantization)
    return PredictedSize(total, types, fallbacks)


def check_quantization(source: Path, quantization: str) -> GgufInfo:
    """What `source` is, after checking that it can be quantized to this type."""
    if quantization not in QUANTIZATIONS:
        raise InvalidInput(f"unknown quantization {quantization!r}", f"use one of {', '.join(QUANTIZATIONS)}")
    info = inspect_gguf(source)
    if info.kind != "model":
        raise InvalidInput(f"{source} is an {info.kind}, not a model", "quantize a base; adapters stay as they are")
    quantized = [kind for kind in info.types if kind not in (*PLAIN, "I32", "I64", "I16", "I8", "F64")]
    if quantized:
        raise InvalidInput(f"{source} is quantized already ({quantized[0]})", "quantize its F16 file instead")
    return info


def _parameters(quantization: str, *, threads: int, buffer_bytes: int) -> Any:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(QUANTIZATIONS[quantization])
    parameters.nthread = threads
    parameters.max_buf_size = buffer_bytes
    return parameters


def _give_imatrix(parameters: Any, imatrix: ImportanceMatrix | None) -> list[Any]:
    """Set the matrix; returns what must stay alive while the engine reads it."""
    if imatrix is None:
        return []
    means = {name: statistic.mean for name, statistic in sorted(imatrix.statistics.items())}
    entries = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()  # the last one, without a name, ends the list
    for entry, (name, mean) in zip(entries, means.items(), strict=False):
        entry.name = name.encode()
        entry.data = mean.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = len(mean)
    parameters.imatrix = entries
    return [means, entries]


def _told_of(imatrix: ImportanceMatrix) -> dict[str, int | str]:
    return {IMATRIX_ENTRIES: len(imatrix.statistics), IMATRIX_CHUNKS: imatrix.chunks}


def _give_keys(parameters: Any, told: Mapping[str, int | str]) -> Any:
    """Set keys of the header; returns what must stay alive."""
    keys = (llama_cpp.llama_model_kv_override * (len(told) + 1))()
    for key, (name, value) in zip(keys, told.items(), strict=False):
        key.key = name.encode()
        if isinstance(value, str):
            key.tag, key.value.val_str = _TEXT, value.encode()
        else:
            key.tag, key.value.val_i64 = _INTEGER, value
    if told:
        parameters.kv_overrides = keys
    return keys


def _give_types(parameters: Any, types: Mapping[str, str], tensors: tuple[TensorInfo, ...]) -> Any:
    """Set types by tensor; returns what must stay alive. Embedding and head have settings of their own, and an
    embedding that is also the head obeys the head's."""
    tied = all(tensor.name != "output.weight" for tensor in tensors)
    if "token_embd.weight" in types:
        parameters.token_embedding_type = TYPE_NUMBERS[types["token_embd.weight"]]
        if tied:
            parameters.output_tensor_type = parameters.token_embedding_type
    if "output.weight" in types:
        parameters.output_tensor_type = TYPE_NUMBERS[types["output.weight"]]
    others = {name: kind for name, kind in types.items() if name not in ("token_embd.weight", "output.weight")}
    overrides = (llama_cpp.llama_model_tensor_override * (len(others) + 1))()
    for override, (name, kind) in zip(overrides, others.items(), strict=False):
        override.pattern, override.type = f"^{re.escape(name)}$".encode(), TYPE_NUMBERS[kind]
    parameters.tt_overrides = overrides
    return overrides


def _run(source: Path, target: Path, parameters: Any) -> None:
    last_error()
    failed = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters))
    raise_interruption()
    if failed:
        raise TaraError(f"llama.cpp could not quantize {source}: {last_error() or 'no reason given'}", "see the log")
