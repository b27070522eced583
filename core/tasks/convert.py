"""convert: a Hugging Face model folder becomes an F16 GGUF file."""

import json
from pathlib import Path

from core.errors import InvalidInput, TaraError
from core.files import sha256_of
from core.gguf.converter import run_converter
from core.gguf.inspect import GgufInfo, inspect_gguf
from core.gguf.metadata import COMPRESSION
from core.gguf.model_folder import ready_model
from core.gguf.toolchain import CONVERT_MODEL, engine_version
from core.tasks.context import Context, TaskError

PROVENANCE = "tara.json"
UNKNOWN_TOKENIZER = "pre-tokenizer was not recognized"  # the converter's words


def run(ctx: Context) -> None:
    """Convert `inputs.model` (a folder with config.json, safetensors and tokenizer) to `out`.

    What the folder says of how it was made smaller goes into the file's header, and from there into every file made
    of it: only a model that went through a technique bears its name.
    """
    model, name = Path(ctx.inputs["model"]), ctx.params["name"]
    assert ctx.out is not None
    print(f"converting {model} to F16 with the converter of llama.cpp, engine {engine_version()}", flush=True)
    technique = _technique(model)
    with ctx.staging() as staged, ctx.scratch() as scratch:
        try:
            run_converter(
                CONVERT_MODEL,
                [str(ready_model(model, scratch)), "--outtype", "f16", "--outfile", str(staged)],
                keys={COMPRESSION: technique} if technique else {},
                on_percent=lambda percent: ctx.progress(percent, 100, unit="%", message="writing"),
            )
        except TaraError as error:
            if UNKNOWN_TOKENIZER not in error.message:
                raise
            raise TaskError(
                f"llama.cpp does not know the tokenizer of {model.name}",
                "use the tokenizer files its base was published with",
            ) from error
        info = _checked(staged, model)
        digest = sha256_of(staged)
    ctx.artifact(
        "gguf",
        name,
        ctx.out,
        sha256=digest,
        bytes=info.bytes,
        architecture=info.architecture,
        file_type=info.file_type,
        types=info.types,
        parameters=info.parameters,
        **({"technique": technique} if technique else {}),
    )
    ctx.measure("bytes", info.bytes, method="size of the file", unit="B")
    ctx.measure("bits_per_weight", round(info.bits_per_weight, 4), method="tensor bits over weights, from its header")
    ctx.result(file_type=info.file_type, bytes=info.bytes, architecture=info.architecture, parameters=info.parameters)


def _technique(model: Path) -> str | None:
    """How a model was made smaller, as its folder says; None where it was not."""
    path = model / PROVENANCE
    about = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    found = about.get("compression")
    return found if isinstance(found, str) else None


def _checked(path: Path, model: Path) -> GgufInfo:
    try:
        info = inspect_gguf(path)
    except InvalidInput as error:
        raise TaskError(f"the converter made an unusable file of {model}: {error.message}", "see the log") from error
    if info.kind != "model" or info.file_type != "F16" or not info.tensors:
        raise TaskError(f"the converter made {info.kind} {info.file_type} of {model}, not an F16 model", "see the log")
    if not info.chat_template:
        raise TaskError(
            f"{model} has no chat template, so chat would not write what training rendered",
            "make the base again: its job adds a template where the model has none",
        )
    return info
