"""Job `teach`: what a model says of training text, kept so that a smaller one can learn from it without it."""

from pathlib import Path

import torch

from core.files import sha256_of
from core.tasks.context import Context
from core.tasks.lessons import identity_of, riding, taught
from core.training.base import load_model
from core.training.riders import Riders
from core.training.runtime import best_device, prepare
from core.training.teacher import write_teacher


def run(ctx: Context) -> None:
    """params {name, domains, tokens, sequence_length, top}, inputs {base, data, adapters} -> artifact `teacher`, a
    safetensors file: of each predicted token the `top` most likely tokens and the mass of the others.

    The text is training text; what is held out is never read. Computed in float32, with the domains' adapters on.
    """
    prepare(ctx.spec.get("threads"))
    base = Path(ctx.inputs["base"])
    lessons = taught(ctx, base, ctx.params["tokens"])
    device = best_device()
    model = load_model(base, torch.float32).to(device)
    riders = Riders(model, riding(ctx, base))
    ctx.restart_clock()
    assert ctx.out is not None
    with ctx.staging() as staged:
        positions = write_teacher(
            staged, model, riders, lessons, ctx.params["top"], device,
            lambda done: ctx.progress(done, len(lessons), unit="example", message="reading"),
        )  # fmt: skip
        digest, size = sha256_of(staged), staged.stat().st_size
    before = identity_of(base)
    ctx.artifact(
        "teacher", ctx.params["name"], ctx.out, sha256=digest, bytes=size, base_name=before["name"],
        base_sha256=before["sha256"], positions=positions, examples=len(lessons), top=ctx.params["top"],
    )  # fmt: skip
    ctx.result(positions=positions, examples=len(lessons), bytes=size)
