"""Job `distil`: a strongly pruned model taught by the whole model's predictions, and once more without, to compare."""

from core.tasks.context import Context
from core.tasks.student import Classroom, keep_change, write_model

DISTILLED = "distilled"


def run(ctx: Context) -> None:
    """params and inputs as `heal` -> artifact `small`, a Hugging Face folder.

    The student is trained with the share `kl` of the loss from its teacher, and the same student once more for as many
    steps of the same text on cross entropy alone. The distilled one is what is kept, always: one that went through no
    distillation must not bear the name. Whether the teacher was worth it is measured on held-out text and said.
    """
    room = Classroom(ctx)
    steps = ctx.params["steps"]
    with ctx.scratch() as place:
        scratch = place / "change"
        figures = room.teach(
            ctx.params["kl"], lambda student: keep_change(student, ctx.params["rank"], scratch), done=0,
            total=2 * steps, name="distilling",
        )  # fmt: skip
        control = room.teach(0.0, lambda _student: None, done=steps, total=2 * steps, name="control")
        losses = {
            "pruned_loss": figures.held_out_before, "distilled_loss": figures.held_out,
            "control_loss": control.held_out,
        }  # fmt: skip
        write_model(room, scratch, DISTILLED, losses)
    better = figures.held_out < control.held_out
    said = (
        f"distilled: held-out loss {figures.held_out:.4f}, the same student without teacher {control.held_out:.4f}: "
        + ("the teacher helped" if better else "the teacher did not help; the distilled one is kept all the same")
    )
    print(said, flush=True)
    how = f"cross entropy of held-out answers in float32, {len(room.held_out)} examples, the domains' adapters on"
    ctx.measure("pruned_loss", figures.held_out_before, method=f"{how}, before teaching", unit="nats/token")
    ctx.measure("distilled_loss", figures.held_out, method=f"{how}, after {steps} steps", unit="nats/token")
    ctx.measure("control_loss", control.held_out, method=f"{how}, the same without teacher", unit="nats/token")
    kl = "divergence from the whole model on 16 of the texts it is taught with, the kept tokens and the rest as one"
    ctx.measure("kl_before", figures.kl_before, method=f"{kl}, before teaching", unit="nats/token")
    ctx.measure("kl_after", figures.kl, method=f"{kl}, after {steps} steps", unit="nats/token")
    ctx.measure("control_kl_after", control.kl, method=f"{kl}, the same without teacher", unit="nats/token")
    ctx.measure("teacher_helped", "yes" if better else "no", method=said)
    ctx.result(**losses, kl_before=figures.kl_before, kl_after=figures.kl, control_kl_after=control.kl,
               steps=steps, tokens=figures.taught.tokens)  # fmt: skip
