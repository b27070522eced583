"""What the files of a model will be before any is made: `python -m core.gguf.outline SOURCE` prints it as JSON.

Imports the engine: for worker processes only.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from core.errors import InvalidInput
from core.fresh_process import answer
from core.gguf.cache import bytes_a_token, longest_context
from core.gguf.converter import run_converter
from core.gguf.engine_log import capture_log
from core.gguf.header import read_header
from core.gguf.inspect import inspect_gguf
from core.gguf.mixture import least_size
from core.gguf.model_folder import ready_model
from core.gguf.quantizer import QUANTIZATIONS, planned_types, size_of
from core.gguf.skeleton import is_plain, skeleton_of
from core.gguf.toolchain import CONVERT_MODEL

THROUGH = "core.gguf.header_only"


def outline(source: Path) -> dict[str, Any]:
    """The sizes of a model's files by the engine's dry run, without its weights: `f16_bytes`; `sizes` by quantization
    with `bytes`, `types` (tensors by type) and `fallback_tensors`; `least_bytes`, the smallest mixture of types;
    `parameters`; what its cache takes (`cache_bytes_a_token`, `context_length`).

    `source` is a folder with config.json, safetensors and tokenizer, or a GGUF model. Raises TaraError for what cannot
    be converted, with the converter's words.
    """
    with tempfile.TemporaryDirectory(prefix="tara-outline-") as scratch:
        return _of_f16(f16_of(source, Path(scratch)))


def f16_of(source: Path, scratch: Path) -> Path:
    """The header of the F16 file to be, made in `scratch`, or one that is there already."""
    target = scratch / "outline-F16.gguf"
    if source.is_dir():
        arguments = [str(ready_model(source, scratch)), "--outtype", "f16", "--outfile", str(target)]
        run_converter(CONVERT_MODEL, arguments, through=THROUGH)
        return target
    info = inspect_gguf(source)
    if info.kind != "model":
        raise InvalidInput(f"{source} is an {info.kind}, not a model", "give the base it belongs to")
    if info.file_type == "F16" and is_plain(read_header(source)):
        return source
    skeleton_of(source, target)
    return target


def _of_f16(f16: Path) -> dict[str, Any]:
    info = inspect_gguf(f16)
    types = {name: planned_types(f16, name) for name in QUANTIZATIONS}
    sizes = {name: size_of(f16, chosen, name) for name, chosen in types.items()}
    return {
        "f16_bytes": info.bytes,
        "sizes": {
            name: {"bytes": one.bytes, "types": one.types, "fallback_tensors": one.fallback_tensors}
            for name, one in sizes.items()
        },
        "least_bytes": least_size(f16, types["Q2_K"]),
        "parameters": info.parameters,
        "cache_bytes_a_token": bytes_a_token(info),
        "context_length": longest_context(info),
    }


def _told(source: str) -> dict[str, Any]:
    capture_log()
    return outline(Path(source))


if __name__ == "__main__":
    sys.exit(answer(sys.argv[1:], "python -m core.gguf.outline SOURCE", _told))
