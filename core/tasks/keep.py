"""keep: the GGUF file that a base came as goes into the bundle as it is, byte for byte."""

from pathlib import Path

from core.files import link_or_copy, sha256_of
from core.gguf.inspect import inspect_gguf
from core.tasks.context import Context, TaskError


def run(ctx: Context) -> None:
    """params {name, base: {name, kind, path, gguf_file, identity}} -> artifact `gguf`: a link to that file, or a copy.

    `inputs.gguf`, the F16 file of the base's dequantized weights, is not read: it is what the file is measured
    against. Raises TaskError where the file is not the one that was planned, or cannot be chatted with as it is.
    """
    about = ctx.params["base"]
    file = ctx.workspace.absolute(Path(about["path"])) / about["gguf_file"]
    if not file.is_file():
        raise TaskError(f"{file}, the file of {about['name']}, is not there", "put it back, or plan the build again")
    info = inspect_gguf(file)
    if info.kind != "model" or not info.chat_template:
        what = "has no chat template" if info.kind == "model" else f"is of kind {info.kind}"
        raise TaskError(
            f"{file} {what}, and a file that stays as it is is given none",
            "build with another quantization: its file gets the template that training uses",
        )
    assert ctx.out is not None
    with ctx.staging() as staged:
        link_or_copy(file, staged)
        digest = sha256_of(staged)
        if digest != about["identity"]:
            raise TaskError(
                f"{file} is not the file that was planned: {digest[:12]}, expected {about['identity'][:12]}",
                "plan the build again, or restore the file",
            )
    print(f"{about['name']} stays {file.name}: {info.file_type}, {info.bytes / 1e6:.1f} MB", flush=True)
    ctx.artifact(
        "gguf", ctx.params["name"], ctx.out, sha256=digest, bytes=info.bytes, architecture=info.architecture,
        file_type=info.file_type, types=info.types, parameters=info.parameters, as_is=True,
        fallback_tensors=info.fallback_tensors, weight_tensors=info.weight_tensors,
    )  # fmt: skip
    ctx.measure("bytes", info.bytes, method="size of the file", unit="B")
    ctx.measure("bits_per_weight", round(info.bits_per_weight, 4), method="tensor bits over weights, from its header")
    ctx.result(file_type=info.file_type, bytes=info.bytes, bits_per_weight=round(info.bits_per_weight, 4))
