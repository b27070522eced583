"""kept-change: how much of a domain's adapter is left in a file that was merged and then quantized."""

import json
from dataclasses import asdict
from pathlib import Path

from core.files import sha256_of
from core.gguf.imatrix import read_imatrix
from core.gguf.inspect import inspect_gguf
from core.gguf.kept_change import Kept, kept_change
from core.tasks.context import Context


def run(ctx: Context) -> None:
    """Measure `inputs.gguf`, made of the F16 file `inputs.whole` that has `inputs.adapter` (GGUF) merged in, with the
    importance matrix `inputs.imatrix` where there was one -> artifact `kept-change`, JSON.

    params: `name`, `domain`. By tensor and in all: the share of the change that is left, its error, and the share of
    weights that are stored otherwise than without it.
    """
    small, whole, adapter = (Path(ctx.inputs[name]) for name in ("gguf", "whole", "adapter"))
    domain, matrix = ctx.params["domain"], ctx.inputs.get("imatrix")
    found = kept_change(
        small,
        whole,
        adapter,
        read_imatrix(Path(matrix)) if matrix else None,
        threads=int(ctx.spec.get("threads") or 1),
        on_tensor=lambda at, total, tensor: ctx.progress(at, total, unit="tensor", message=tensor),
    )
    total = sum(found.values(), Kept())
    info = inspect_gguf(small)
    figures = {"share": total.share, "error": total.error, "moved": total.moved / total.weights}
    tensors = {name: {**asdict(one), "share": one.share, "error": one.error} for name, one in found.items()}
    assert ctx.out is not None
    with ctx.staging() as staged:
        content = {"name": ctx.params["name"], "domain": domain, **figures, "tensors": tensors}
        staged.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
        digest, size = sha256_of(staged), staged.stat().st_size
    ctx.artifact(
        "kept-change", ctx.params["name"], ctx.out, sha256=digest, bytes=size, gguf_sha256=sha256_of(small), **figures
    )
    how = f"of {adapter.stem} in {small.name} ({info.file_type}), {len(found)} tensors"
    for name, value, method in (
        ("change_kept", total.share, f"(Q(W + D) - Q(W)) on D, over D squared, {how}"),
        ("change_error", total.error, f"length of Q(W + D) - Q(W) - D over that of D, {how}"),
        ("change_moved", figures["moved"], f"share of weights that the change has stored otherwise, {how}"),
    ):
        ctx.measure(name, value, method=method, n=total.weights, subject=domain)
    least, one = min(found.items(), key=lambda pair: pair[1].share)
    print(
        f"{domain} in {info.file_type}: {total.share:.1%} of its change is left, with an error of {total.error:.1%} of "
        f"it; {figures['moved']:.1%} of the weights moved; least in {least}, {one.share:.1%}",
        flush=True,
    )
    ctx.result(**figures)
