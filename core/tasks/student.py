"""What heal and distil do: a pruned model is taught by what the whole one said of training text, and written down."""

import gc
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from core.files import write_manifest
from core.tasks.context import Context
from core.tasks.lessons import held_out, riding_cut, taught
from core.training.base import PROVENANCE, check_folder, load_model, read_provenance
from core.training.cut import read_cut
from core.training.lora import ADAPTER_WEIGHTS, read_adapter_tensors, save_adapter
from core.training.merge import Change, merge, write_changed
from core.training.pruning import Lessons, loss_of
from core.training.riders import Riders
from core.training.runtime import best_device, library_versions, prepare
from core.training.student import Lesson, Step, Taught, as_student, divergence, teach
from core.training.teacher import Teacher

LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class Figures:
    """What came of teaching: losses and divergence on held-out and on the teacher's text, nats a token."""

    taught: Taught
    held_out_before: float
    held_out: float
    kl_before: float
    kl: float


@dataclass(frozen=True)
class Replaced:
    """A weight put in place of the stored one."""

    values: torch.Tensor

    @property
    def shape(self) -> list[int]:
        """The shape of the weight."""
        return list(self.values.shape)

    def apply(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """Rows of the new weight in the dtype of the old."""
        return self.values[first : first + rows.shape[0]].to(rows.dtype) if rows.dim() else self.values.to(rows.dtype)


class Classroom:
    """A pruned model's folder, its texts and its teacher; students of it are made one at a time."""

    def __init__(self, ctx: Context) -> None:
        prepare(ctx.spec.get("threads"), ctx.params["seed"])
        self.ctx, self.model = ctx, Path(ctx.inputs["model"])
        assert ctx.out is not None
        ctx.out.parent.mkdir(parents=True, exist_ok=True)
        self.lessons: Lessons = taught(ctx, self.model, ctx.params["tokens"])
        self.teacher = Teacher(Path(ctx.inputs["teacher"]), self.lessons)
        self.held_out = held_out(ctx, self.model)
        self.updates = riding_cut(ctx, read_cut(self.model))
        self.device = best_device()

    def lesson(self, kl: float) -> Lesson:
        """How students are taught, as the job says."""
        names = ("steps", "batch_size", "learning_rate", "rank", "seed")
        return Lesson(kl=kl, **{name: self.ctx.params[name] for name in names})

    def teach(self, kl: float, keep: Callable[[Any], None], *, done: int, total: int, name: str) -> Figures:
        """Teach one student; `keep` gets it before it is let go. Progress goes from `done` of `total` steps on."""
        model = load_model(self.model, torch.float32).to(self.device)
        riders = Riders(model, self.updates)
        torch.manual_seed(self.ctx.params["seed"])  # of a fresh LoRA's values: alike for every student
        lesson = self.lesson(kl)
        before = loss_of(model, riders, self.held_out, self.device)
        kl_before = divergence(model, riders, self.lessons, self.teacher, self.device)
        student = as_student(model, lesson.rank)
        self.ctx.restart_clock(done)

        def tell(step: Step) -> None:
            said = f"loss {step.loss:.3f}" + (f", KL {step.kl:.3f}" if step.kl is not None else "")
            self.ctx.progress(done + step.step, total, message=f"{name}: {said}")
            self.ctx.metrics(done + step.step, loss=step.loss, **({"kl": step.kl} if step.kl is not None else {}))
            if step.step % LOG_EVERY == 0 or step.step == step.total:
                print(f"{name}: step {step.step}/{step.total}  {said}", flush=True)

        found = teach(student, riders, self.lessons, self.teacher if kl else None, lesson, self.device, tell)
        figures = Figures(
            found, before, loss_of(student, riders, self.held_out, self.device), kl_before,
            divergence(student, riders, self.lessons, self.teacher, self.device),
        )  # fmt: skip
        keep(student)
        print(
            f"{name}: held-out loss {figures.held_out_before:.4f} -> {figures.held_out:.4f}, KL to the teacher "
            f"{figures.kl_before:.4f} -> {figures.kl:.4f} on its text",
            flush=True,
        )
        del model, student, riders
        gc.collect()
        return figures


def keep_change(student: Any, rank: int, scratch: Path) -> None:
    """Write what was trained below `scratch`: an adapter, or the weights that were trained."""
    scratch.mkdir()
    if rank:
        save_adapter(student, scratch)
        return
    trained = {name: one for name, one in student.named_parameters() if one.requires_grad}
    save_file({name: one.detach().to("cpu").contiguous() for name, one in trained.items()}, scratch / ADAPTER_WEIGHTS)


def write_model(room: Classroom, scratch: Path, technique: str, facts: dict[str, Any]) -> None:
    """Write the taught model and announce it as artifact `small`."""
    ctx = room.ctx
    before = read_provenance(room.model) or {}
    about = {
        **before,
        "name": ctx.params["name"],
        "sha256": ctx.key,
        "compression": technique,
        technique: {**asdict(room.lesson(ctx.params["kl"])), **facts},
        "libraries": library_versions(),
    }
    assert ctx.out is not None
    with ctx.staging() as folder:
        _merge(room, scratch, folder)
        check_folder(folder)
        (folder / PROVENANCE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")
        digest, size = write_manifest(folder, {"kind": "small", "compression": technique})
    pruned = before["pruned"]
    ctx.artifact(
        "small", ctx.params["name"], ctx.out, sha256=digest, bytes=size, base=ctx.params["base_name"],
        base_name=about["name"], base_sha256=ctx.key, compression=technique, parameters=before["parameters"],
        whole=pruned["base"], **{name: value for name, value in pruned.items() if name != "base"},
    )  # fmt: skip


def _merge(room: Classroom, scratch: Path, folder: Path) -> None:
    def tell(at: int, total: int) -> None:
        room.ctx.progress(at, total, unit="tensor", message="writing")

    if room.ctx.params["rank"]:
        merge(room.model, scratch, folder, tell)
        return
    changed: dict[str, Change] = {name: Replaced(one) for name, one in read_adapter_tensors(scratch).items()}
    write_changed(room.model, dict.fromkeys(changed, "teaching"), changed.__getitem__, folder, tell)
