"""Job `hybrid`: an F16 GGUF file becomes one with a type per tensor, solved for a budget of bytes; kept where it loses
less than the plain type does, and the plain type where not."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from core.errors import Refused
from core.files import discard, sha256_of, staging_beside, sync_tree
from core.gguf.divergence import Doubles
from core.gguf.imatrix import ImportanceMatrix, read_imatrix
from core.gguf.inspect import GgufInfo, inspect_gguf
from core.gguf.mixture import Solved, build, matrices_of, peer_of, solve_file, types_of
from core.gguf.paired import Paired, paired
from core.gguf.quantizer import QUANTIZATIONS, quantize
from core.gguf.scoring import Text
from core.gguf.sensitivity import divergence_at, scored_texts
from core.tasks.context import Context, TaskError
from core.tasks.held_out import WINDOW, held_out_texts
from core.tasks.type_costs import read_costs
from core.training.base import load_tokenizer

MIXTURE = "mixture"

Step = Callable[[str], None]


def run(ctx: Context) -> None:
    """Make a mixture of `inputs.gguf` and a plain file, keep the better -> artifact `gguf`.

    params: `name`; `type`, the plain type whose file's size is the budget; `target_bytes`, the budget where it is not
    null, the plain type being then the largest that fits into it; `domains` {domain: {system_prompt, seed,
    held_out_fraction}}; `sequence_length`; `max_tokens`, held-out positions at most a domain. inputs: `gguf`,
    `imatrix`, `costs` (of `type-costs`), `model` (the folder with the tokenizer), `data` {domain: file}.

    The costs come from training text, the verdict from what is held out. The base is judged as it is, without adapters.
    A target that no mixture reaches is refused with the least size there is.
    """
    assert ctx.out is not None
    folder = staging_beside(ctx.out)  # the artifact's own temporary name: what a kill leaves there is removed
    folder.mkdir(parents=True)
    try:
        _make(ctx, folder, ctx.out)
    finally:
        discard(folder)


def _make(ctx: Context, folder: Path, out: Path) -> None:
    mixture_path, plain_path = folder / "mixture.gguf", folder / "plain.gguf"
    source, threads = Path(ctx.inputs["gguf"]), int(ctx.spec.get("threads") or 1)
    imatrix = read_imatrix(Path(ctx.inputs["imatrix"]))
    target = ctx.params["target_bytes"]
    peer = ctx.params["type"] if target is None else peer_of(source, target)
    if peer not in QUANTIZATIONS:
        raise TaskError(f"unknown quantization {peer!r}", f"use one of {', '.join(QUANTIZATIONS)}")
    quantize(source, plain_path, peer, threads=threads, imatrix=imatrix)
    whole, plain = inspect_gguf(source), inspect_gguf(plain_path)
    budget = plain.bytes if target is None else int(target)
    print(f"budget {budget / 1e6:.2f} MB; beside it {peer}, {plain.bytes / 1e6:.2f} MB", flush=True)
    step = _stepper(ctx, len(whole.tensors) + 3)
    costs = read_costs(Path(ctx.inputs["costs"]))
    try:
        solved = solve_file(plain, matrices_of(whole, types_of(plain)), costs, budget)
    except Refused as error:
        raise TaskError(error.message, error.hint) from error
    mixture = build(
        source, mixture_path, solved, peer, imatrix, threads=threads, on_tensor=lambda _, __, name: step(name)
    )
    verdict = _judge(ctx, source, mixture_path, plain_path, _held_out(ctx), step)
    why = _why(verdict, mixture, plain, peer)
    print(why, flush=True)
    kept = mixture if verdict.better else plain
    digest = sha256_of(kept.path)
    sync_tree(kept.path)
    os.replace(kept.path, out)
    sync_tree(out.parent, recurse=False)
    _announce(ctx, kept, mixture, plain, solved, peer, verdict, why, imatrix, digest)


def _held_out(ctx: Context) -> list[Text]:
    """Held-out text of all domains."""
    found = held_out_texts(
        load_tokenizer(Path(ctx.inputs["model"])), ctx.inputs["data"], ctx.params["domains"],
        length=min(WINDOW, ctx.params["sequence_length"]), most=ctx.params["max_tokens"],
    )  # fmt: skip
    return [text for texts in found.values() for text in texts]


def _stepper(ctx: Context, total: int) -> Step:
    done = 0
    ctx.restart_clock()

    def step(message: str) -> None:
        nonlocal done
        done += 1
        ctx.progress(min(done, total), total, unit="step", message=message)

    return step


def _judge(ctx: Context, source: Path, mixture: Path, plain: Path, texts: Sequence[Text], step: Step) -> Paired:
    """Run the F16 file, then both others over held-out text; of the first 2.6 kB a position are kept."""
    threads = int(ctx.spec.get("threads") or 1)
    reference = scored_texts(source, texts, threads=threads, seed=ctx.params["seed"])
    step("held-out text, F16")
    found: list[Doubles] = []
    for path, name in ((mixture, MIXTURE), (plain, "plain")):
        found.append(np.concatenate(divergence_at(path, texts, reference, threads=threads)))
        step(f"held-out text, {name}")
    return paired(found[0], found[1], [number for number, kept in enumerate(reference) for _ in range(len(kept))])


def _why(verdict: Paired, mixture: GgufInfo, plain: GgufInfo, peer: str) -> str:
    """What was kept and why, in a sentence."""
    figures = (
        f"KL {verdict.candidate.mean:.5f} of the mixture at {mixture.bytes / 1e6:.2f} MB, {verdict.plain.mean:.5f} of "
        f"{peer} at {plain.bytes / 1e6:.2f} MB, {verdict.figures}"
    )
    if verdict.better:
        return f"the mixture is kept: {figures}"
    return f"the plain {peer} is kept, for the mixture is not better by two standard errors: {figures}"


def _announce(
    ctx: Context,
    kept: GgufInfo,
    mixture: GgufInfo,
    plain: GgufInfo,
    solved: Solved,
    peer: str,
    verdict: Paired,
    why: str,
    imatrix: ImportanceMatrix,
    digest: str,
) -> None:
    assert ctx.out is not None
    what = MIXTURE if kept is mixture else peer
    ctx.artifact(
        "gguf", ctx.params["name"], ctx.out, sha256=digest, bytes=kept.bytes, architecture=kept.architecture,
        file_type=kept.file_type, types=kept.types, parameters=kept.parameters, fallback_tensors=kept.fallback_tensors,
        weight_tensors=kept.weight_tensors, imatrix_entries=len(imatrix.statistics), compression="hybrid", kept=what,
        why=why, plain_type=peer,
    )  # fmt: skip
    header = "from its header"
    types = ", ".join(f"{count} {kind}" for kind, count in kept.types.items())
    ctx.measure("bytes", kept.bytes, method="size of the file", unit="B")
    ctx.measure("bits_per_weight", round(kept.bits_per_weight, 4), method=f"tensor bits over weights, {header}")
    ctx.measure("types", types, method=f"tensors, {header}")
    ctx.measure(
        "fallback_tensors",
        kept.fallback_tensors,
        method=f"weight matrices whose rows do not divide by the type's block, {header}",
        n=kept.weight_tensors,
    )
    ctx.measure("kept", what, method=why)
    ctx.measure("predicted_bytes", solved.bytes, method="tensors in their types, and what the plain file's rest takes",
                unit="B")  # fmt: skip
    ctx.measure("mixture_bytes", mixture.bytes, method="size of the mixture's file", unit="B")
    ctx.measure("plain_bytes", plain.bytes, method=f"size of the {peer} file", unit="B")
    over = f"{verdict.positions} held-out positions of {verdict.texts} texts, without adapters"
    for name, of, whose in (
        ("mixture_kl", verdict.candidate, "of the mixture"),
        ("plain_kl", verdict.plain, f"of {peer}"),
        ("kl_difference", verdict.difference, f"of the mixture less that of {peer}, position by position"),
    ):
        how = f"{whose}, against F16, top 256 tokens, the rest by 32 drawn, {over}"
        ctx.measure(name, of.mean, method=how, unit="nats/token", n=verdict.positions)
        if of.se is not None:
            ctx.measure(f"{name}_se", of.se, method=f"standard error, {of.over} taken as independent, {how}",
                        unit="nats/token", n=verdict.positions)  # fmt: skip
    ctx.result(
        kept=what, file_type=kept.file_type, bytes=kept.bytes, mixture_bytes=mixture.bytes, plain_bytes=plain.bytes,
        mixture_kl=verdict.candidate.mean, plain_kl=verdict.plain.mean,
    )  # fmt: skip
