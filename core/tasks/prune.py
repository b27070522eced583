"""Job `prune`: a model becomes one with fewer layers and narrower feed-forward parts, those missed least."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from core.files import discard, staging_beside, write_manifest
from core.gguf.hollow import smaller_size
from core.tasks.context import Context, TaskError
from core.tasks.lessons import identity_of, riding, taught
from core.training.base import PROVENANCE, check_folder, load_model, read_provenance
from core.training.cut import Cut, anatomy, write_cut
from core.training.fitting import BLOCK, Anatomy, Choice, choices_within, fewest, weights_of, widths
from core.training.pruning import as_cut, cut_of, loss_of, measure, removal_order, tries
from core.training.riders import Riders
from core.training.runtime import best_device, library_versions, prepare


def run(ctx: Context) -> None:
    """params {name, keep | target_bytes and type, domains, tokens, sequence_length}, inputs {base, gguf (its F16 file),
    data, adapters} -> artifact `pruned`, a Hugging Face folder.

    `keep` is the share of the layers' weights that stays at most; `target_bytes` what the model's file may have in the
    plain type `type`. Layers and channels are chosen by what they do to training text with the domains' adapters on:
    of the combinations that fit, the one whose loss is least. Refused where nothing need be removed, or where even the
    least that can stay does not fit, with its size.
    """
    prepare(ctx.spec.get("threads"))
    base, about = Path(ctx.inputs["base"]), anatomy(Path(ctx.inputs["base"]))
    found = choices_within(about, _fits(ctx, about))
    _refuse(ctx, about, found)
    lessons = taught(ctx, base, ctx.params["tokens"])
    device = best_device()
    model = load_model(base, torch.float32).to(device)
    model.eval()
    riders = Riders(model, riding(ctx, base))
    most = about.layers - min(choice.layers for choice in found)
    count, done = tries(about.layers, most) + len(found) + 2, 0
    ctx.restart_clock()

    def step(message: str) -> None:
        nonlocal done
        done += 1
        ctx.progress(done, count, unit="pass", message=message)

    whole_loss = loss_of(model, riders, lessons, device)
    step("the whole model")
    statistics = measure(model, riders, lessons, about, device)
    step("layers and channels")
    order = removal_order(
        model, riders, lessons, statistics.influence, most, device, lambda: step("layers left out in turn")
    )
    losses: dict[Choice, float] = {}
    cuts: dict[Choice, Cut] = {}
    for choice in found:
        cuts[choice] = cut_of(about, choice, order, statistics)
        with as_cut(model, cuts[choice]):
            losses[choice] = loss_of(model, riders, lessons, device)
        step(f"{choice.layers} layers, {choice.width} channels")
        print(f"{cuts[choice].one_line()}: loss {losses[choice]:.4f} on training text", flush=True)
    best = min(found, key=lambda choice: losses[choice])
    del model, riders
    _write(ctx, base, cuts[best], whole_loss, losses[best])


def _fits(ctx: Context, about: Anatomy) -> Callable[[Choice], bool]:
    target = ctx.params["target_bytes"]
    if target is None:
        keep = float(ctx.params["keep"])
        return lambda choice: weights_of(about, choice) <= keep * about.block_weights
    return lambda choice: _size(ctx, choice) <= target


def _size(ctx: Context, choice: Choice) -> int:
    assert ctx.out is not None
    ctx.out.parent.mkdir(parents=True, exist_ok=True)
    scratch = staging_beside(ctx.out)
    try:
        return smaller_size(Path(ctx.inputs["gguf"]), scratch, choice.layers, choice.width, ctx.params["type"])
    finally:
        discard(scratch)


def _refuse(ctx: Context, about: Anatomy, found: list[Choice]) -> None:
    target = ctx.params["target_bytes"]
    if not found:
        least = Choice(fewest(about.layers), widths(about)[0][-1])
        if target is None:
            raise TaskError(
                f"no model of {about.layers} layers keeps only {ctx.params['keep']:.0%} of its layers' weights",
                "keep more",
            )
        size = _size(ctx, least)
        raise TaskError(
            f"a target size of {target / 1e6:g} MB is too small: with {least.layers} of {about.layers} layers and "
            f"{least.width} of {about.channels} channels the {ctx.params['type']} file takes {size / 1e6:.1f} MB",
            f"give a target size of {-(-size // 10**5) / 10:g} or more, or a smaller type",
        )
    if found[0] == Choice(about.layers, about.channels):
        fits = f"the {ctx.params['type']} file has at most {target / 1e6:g} MB" if target is not None else "it fits"
        raise TaskError(f"nothing need be removed: {fits} as it is", "build with --compression-type standard")
    block = widths(about)[1]
    if block == 0:
        print("its feed-forward channels cannot be taken out evenly: layers alone are removed", flush=True)
    elif block < BLOCK:
        print(f"channels go in blocks of {block}: {about.channels} is no multiple of {BLOCK}, so K types fall back "
              "to larger ones as in the whole model", flush=True)  # fmt: skip


def _write(ctx: Context, base: Path, cut: Cut, whole_loss: float, loss: float) -> None:
    before = identity_of(base)
    about = {
        **(read_provenance(base) or {}),
        "name": ctx.params["name"],
        "hub_id": None,
        "sha256": ctx.key,  # the key stands for the content: same base, text and settings, same result
        "pruned": {"base": before, "layers": len(cut.layers), "of_layers": cut.whole_layers, "channels": cut.width,
                   "of_channels": cut.whole_channels},
        "libraries": library_versions(),
    }  # fmt: skip
    assert ctx.out is not None
    with ctx.staging() as folder:
        write_cut(base, cut, folder, lambda at, total: ctx.progress(at, total, unit="tensor", message="writing"))
        about["parameters"] = check_folder(folder)
        (folder / PROVENANCE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")
        digest, size = write_manifest(folder, {"kind": "pruned"})
    print(f"{before['name']}: {cut.one_line()} stay, {about['parameters']:,} parameters", flush=True)
    ctx.artifact(
        "pruned", ctx.params["name"], ctx.out, sha256=digest, bytes=size, base_name=before["name"],
        base_sha256=before["sha256"], parameters=about["parameters"],
        **{name: value for name, value in about["pruned"].items() if name != "base"},
    )  # fmt: skip
    how = "cross entropy of training text's answers, before any healing"
    ctx.measure("whole_training_loss", whole_loss, method=how.replace(", before any healing", ""), unit="nats/token")
    ctx.measure("pruned_training_loss", loss, method=how, unit="nats/token")
    ctx.result(layers=len(cut.layers), channels=cut.width, parameters=about["parameters"], whole_loss=whole_loss,
               pruned_loss=loss)  # fmt: skip
