"""What prune, teach, heal and distil share: texts by domain, the domains' adapters, and who a model folder is."""

from pathlib import Path

from core.files import MANIFEST, sha256_of
from core.tasks.context import Context
from core.training.base import load_tokenizer, read_provenance
from core.training.calibration import calibration_by_domain, held_out_by_domain
from core.training.cut import Cut
from core.training.lora import refuse_other_base
from core.training.merge import Update, read_updates
from core.training.pruning import Lessons
from core.training.slicing import slice_adapter

HELD_OUT_TOKENS = 1000  # scored positions a domain at most


def taught(ctx: Context, model: Path, tokens: int) -> Lessons:
    """Training text of all domains, as training renders it, in equal shares up to `tokens` in all."""
    found = calibration_by_domain(
        load_tokenizer(model), ctx.inputs["data"], ctx.params["domains"], tokens=tokens,
        sequence_length=ctx.params["sequence_length"],
    )  # fmt: skip
    lessons = [(domain, example) for domain, examples in found.items() for example in examples]
    count = sum(len(example.input_ids) for _, example in lessons)
    print(f"{len(lessons)} training examples of {len(found)} domains, {count} tokens", flush=True)
    return lessons


def held_out(ctx: Context, model: Path) -> Lessons:
    """Held-out text of all domains, of each whole examples while they have at most 1000 predicted tokens."""
    found = held_out_by_domain(
        load_tokenizer(model), ctx.inputs["data"], ctx.params["domains"], length=ctx.params["sequence_length"],
        most=HELD_OUT_TOKENS,
    )  # fmt: skip
    return [(domain, example) for domain, examples in found.items() for example in examples]


def riding(ctx: Context, model: Path) -> dict[str, dict[str, Update]]:
    """The changes of the domains' adapters, by domain; each must be of this model."""
    found = {}
    for domain, path in (ctx.inputs.get("adapters") or {}).items():
        refuse_other_base(Path(path), model)
        found[domain] = read_updates(Path(path))
    return found


def riding_cut(ctx: Context, cut: Cut) -> dict[str, dict[str, Update]]:
    """The same for the pruned model. The adapters name the whole one, as `prune` has checked."""
    found = {}
    for domain, path in (ctx.inputs.get("adapters") or {}).items():
        with ctx.scratch() as scratch:
            slice_adapter(Path(path), cut, scratch / "sliced")
            found[domain] = read_updates(scratch / "sliced")
    return found


def identity_of(folder: Path) -> dict[str, str]:
    """Name and SHA-256 of a model folder: its own identity where it has one, else its manifest's."""
    about = read_provenance(folder) or {}
    return {
        "name": str(about.get("hub_id") or about.get("name") or folder.name),
        "sha256": str(about.get("sha256") or sha256_of(folder / MANIFEST)),
    }
