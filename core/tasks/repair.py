"""repair: what quantization took from a base's layers, as one small adapter for all its domains. No training."""

from pathlib import Path

from core.files import sha256_of
from core.gguf.compensation import compensations, rounded_layers
from core.gguf.imatrix import read_imatrix
from core.gguf.inspect import inspect_gguf
from core.gguf.metadata import BASE_NAME, BASE_SHA256
from core.gguf.stacking import write_pairs
from core.gguf.weights import Weights
from core.tasks.context import Context, TaskError


def run(ctx: Context) -> None:
    """params {name, base_name, base_sha256, rank, seed}, inputs {gguf (the F16 file), quantized, imatrix where there
    is one} -> artifact `repair`, a GGUF adapter for the quantized file.

    Raises TaskError where no layer of a block is of a smaller type.
    """
    source, quantized = Path(ctx.inputs["gguf"]), Path(ctx.inputs["quantized"])
    imatrix = read_imatrix(Path(ctx.inputs["imatrix"])) if "imatrix" in ctx.inputs else None
    whole, rounded = Weights(source), Weights(quantized, rounded=True)
    layers = rounded_layers(whole, rounded)
    if not layers:
        raise TaskError(f"{quantized.name} has no rounded layer to repair", "build without --repair")
    ctx.restart_clock()
    found = compensations(
        whole, rounded, layers, imatrix, int(ctx.params["rank"]), seed=int(ctx.params["seed"]),
        on_layer=lambda done, name: ctx.progress(done, len(layers), unit="layer", message=name),
    )  # fmt: skip
    before, after = sum(one.before for one in found.values()), sum(one.after for one in found.values())
    assert ctx.out is not None
    keys = {BASE_NAME: ctx.params["base_name"], BASE_SHA256: ctx.params["base_sha256"]}
    with ctx.staging() as staged:
        write_pairs(staged, whole.header.architecture, {name: one.pair for name, one in found.items()}, keys)
        info, digest = inspect_gguf(staged), sha256_of(staged)
    how = "weighted by importance" if imatrix is not None else "unweighted"
    print(f"{len(layers)} layers, rank {ctx.params['rank']}: {1 - after / before:.1%} of the squared error, {how}")
    ctx.artifact(
        "repair", ctx.params["name"], ctx.out, sha256=digest, bytes=info.bytes, architecture=info.architecture,
        base_name=ctx.params["base_name"], base_sha256=ctx.params["base_sha256"], rank=ctx.params["rank"],
        layers=len(layers), quantized_sha256=sha256_of(quantized),
    )  # fmt: skip
    ctx.measure("bytes", info.bytes, method="size of the file", unit="B")
    ctx.measure(
        "repaired_share", 1 - after / before, n=len(layers),
        method=f"share of the layers' squared rounding error that the adapter gives back, {how}",
    )  # fmt: skip
    ctx.result(bytes=info.bytes, layers=len(layers), repaired_share=1 - after / before)
