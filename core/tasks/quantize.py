"""quantize: an F16 GGUF file becomes a smaller one; what it became is read back from the file itself."""

from pathlib import Path

from core.files import sha256_of
from core.gguf.imatrix import read_imatrix
from core.gguf.inspect import GgufInfo, inspect_gguf
from core.gguf.quantizer import QUANTIZATIONS, predicted_size, quantize
from core.tasks.context import Context, TaskError


def run(ctx: Context) -> None:
    """Quantize `inputs.gguf` to `params.type`, with the importance matrix `inputs.imatrix` where there is one."""
    source, name, quantization = Path(ctx.inputs["gguf"]), ctx.params["name"], ctx.params["type"]
    assert ctx.out is not None
    if quantization not in QUANTIZATIONS:
        raise TaskError(f"unknown quantization {quantization!r}", f"use one of {', '.join(QUANTIZATIONS)}")
    predicted = predicted_size(source, quantization)
    print(f"{source.name} as {quantization}: {predicted.bytes / 1e6:.1f} MB predicted", flush=True)
    imatrix = read_imatrix(Path(ctx.inputs["imatrix"])) if ctx.inputs.get("imatrix") else None
    if imatrix is None:
        print("without an importance matrix: every column is rounded alike", flush=True)
    threads = int(ctx.spec.get("threads") or 1)
    ctx.restart_clock()
    with ctx.staging() as staged:
        quantize(
            source,
            staged,
            quantization,
            threads=threads,
            imatrix=imatrix,
            on_tensor=lambda at, total, tensor: ctx.progress(at, total, unit="tensor", message=tensor),
        )
        info = inspect_gguf(staged)
        if info.file_type != quantization:
            raise TaskError(f"{quantization} was asked for, but the file says {info.file_type}", "see the log")
        digest = sha256_of(staged)
    print(_summary(info), flush=True)
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
        fallback_tensors=info.fallback_tensors,
        weight_tensors=info.weight_tensors,
        imatrix_entries=len(imatrix.statistics) if imatrix is not None else 0,
    )
    ctx.measure("bytes", info.bytes, method="size of the file", unit="B")
    ctx.measure("predicted_bytes", predicted.bytes, method="the engine's dry run over the F16 file", unit="B")
    ctx.measure("bits_per_weight", round(info.bits_per_weight, 4), method="tensor bits over weights, from its header")
    ctx.measure(
        "fallback_tensors",
        info.fallback_tensors,
        method="weight matrices whose rows do not divide by the type's block, from its header",
        n=info.weight_tensors,
    )
    ctx.result(
        file_type=info.file_type,
        bytes=info.bytes,
        bits_per_weight=round(info.bits_per_weight, 4),
        fallback_tensors=info.fallback_tensors,
    )


def _summary(info: GgufInfo) -> str:
    types = ", ".join(f"{count} {kind}" for kind, count in info.types.items())
    text = f"{info.file_type}: {info.bytes / 1e6:.1f} MB, {info.bits_per_weight:.2f} bits per weight ({types})"
    if info.fallback_tensors:
        text += (
            f"; {info.fallback_tensors} of {info.weight_tensors} weight matrices have rows that do not divide by the "
            "type's block and are stored in a larger type"
        )
    return text
