"""Job `heal`: a pruned model made better by a low-rank change, taught by the whole model's predictions; `sparse`."""

from core.tasks.context import Context
from core.tasks.student import Classroom, keep_change, write_model

SPARSE = "sparse"


def run(ctx: Context) -> None:
    """params {name, base_name, domains, tokens, sequence_length, steps, batch_size, learning_rate, rank, kl, seed},
    inputs {model (pruned), teacher, data, adapters} -> artifact `small`, a Hugging Face folder.

    Trained on the teacher's text with the domains' adapters, cut likewise, on. Held-out text is only scored.
    """
    room = Classroom(ctx)
    steps = ctx.params["steps"]
    with ctx.scratch() as place:
        scratch = place / "change"
        figures = room.teach(
            ctx.params["kl"], lambda student: keep_change(student, ctx.params["rank"], scratch), done=0, total=steps,
            name="healing",
        )  # fmt: skip
        losses = {"pruned_loss": figures.held_out_before, "healed_loss": figures.held_out}
        write_model(room, scratch, SPARSE, losses)
    how = f"cross entropy of held-out answers in float32, {len(room.held_out)} examples, the domains' adapters on"
    ctx.measure("pruned_loss", figures.held_out_before, method=f"{how}, before healing", unit="nats/token")
    ctx.measure("healed_loss", figures.held_out, method=f"{how}, after {steps} steps", unit="nats/token")
    kl = "divergence from the whole model on 16 of the texts it is taught with, the kept tokens and the rest as one"
    ctx.measure("kl_before", figures.kl_before, method=f"{kl}, before healing", unit="nats/token")
    ctx.measure("kl_after", figures.kl, method=f"{kl}, after {steps} steps", unit="nats/token")
    ctx.result(**losses, kl_before=figures.kl_before, kl_after=figures.kl, steps=steps, tokens=figures.taught.tokens)
