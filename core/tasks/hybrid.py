"""Job `hybrid`: an F16 GGUF file becomes one with a type per tensor, solved for a budget of bytes; kept where it loses
less than the plain type does, and the plain type where not."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import Refused
from core.files import discard, sha256_of, staging_beside, sync_tree
from core.gguf.divergence import Doubles, Estimate
from core.gguf.imatrix import ImportanceMatrix, read_imatrix
from core.gguf.inspect import GgufInfo, inspect_gguf
from core.gguf.mixture import Solved, above_of, build, matrices_of, peer_of, solve_file, types_of
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
Divergence = Callable[[Path, str], Doubles]  # of a file, by its path and what it is called


@dataclass(frozen=True)
class Larger:
    """The next plain type above a target size, which is not what was asked for; `verdict` holds it against what is kept
    and says whether the bytes beyond the target would be worth it."""

    type: str
    bytes: int
    verdict: Paired


def run(ctx: Context) -> None:
    """Make a mixture of `inputs.gguf` and a plain file, keep the better -> artifact `gguf`.

    params: `name`; `type`, the plain type whose file's size is the budget; `target_bytes`, the budget where it is not
    null, the plain type being then the largest that fits into it; `domains` {domain: {system_prompt, seed,
    held_out_fraction}}; `sequence_length`; `max_tokens`, held-out positions at most a domain. inputs: `gguf`,
    `imatrix`, `costs` (of `type-costs`), `model` (the folder with the tokenizer), `data` {domain: file}.

    The costs come from training text, the verdict from what is held out. The base is judged as it is, without adapters.
    With a target the next larger plain type is made and measured too; it is said whether it is better, and not kept.
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
    above = above_of(source, budget) if target is not None else None
    step = _stepper(ctx, len(whole.tensors) + (3 if above is None else 4))
    costs = read_costs(Path(ctx.inputs["costs"]))
    try:
        solved = solve_file(plain, matrices_of(whole, types_of(plain)), costs, budget)
    except Refused as error:
        raise TaskError(error.message, error.hint) from error
    mixture = build(
        source, mixture_path, solved, peer, imatrix, threads=threads, on_tensor=lambda _, __, name: step(name)
    )
    divergence, blocks = _scorer(ctx, source, _held_out(ctx), step)
    of_mixture, of_plain = divergence(mixture_path, MIXTURE), divergence(plain_path, peer)
    verdict = paired(of_mixture, of_plain, blocks)
    kept, of_kept = (mixture, of_mixture) if verdict.better else (plain, of_plain)
    larger = None
    if above is not None:
        discard((plain if verdict.better else mixture).path)  # never three at a time
        larger_path = folder / "larger.gguf"
        quantize(source, larger_path, above, threads=threads, imatrix=imatrix)
        size = larger_path.stat().st_size
        larger = Larger(above, size, paired(divergence(larger_path, above), of_kept, blocks))
    why = _why(verdict, mixture, plain, peer, larger)
    print(why, flush=True)
    digest = sha256_of(kept.path)
    sync_tree(kept.path)
    os.replace(kept.path, out)
    sync_tree(out.parent, recurse=False)
    _announce(ctx, kept, mixture, plain, solved, peer, verdict, larger, why, imatrix, digest)


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


def _scorer(ctx: Context, source: Path, texts: Sequence[Text], step: Step) -> tuple[Divergence, list[int]]:
    """Run the F16 file over held-out text, of which 2.6 kB a position are kept; what runs another one over it, and the
    number of the text that each position is of."""
    threads = int(ctx.spec.get("threads") or 1)
    reference = scored_texts(source, texts, threads=threads, seed=ctx.params["seed"])
    step("held-out text, F16")

    def divergence(path: Path, name: str) -> Doubles:
        found: Doubles = np.concatenate(divergence_at(path, texts, reference, threads=threads))
        step(f"held-out text, {name}")
        return found

    return divergence, [number for number, kept in enumerate(reference) for _ in range(len(kept))]


def _why(verdict: Paired, mixture: GgufInfo, plain: GgufInfo, peer: str, larger: Larger | None) -> str:
    """What was kept and why, in a sentence, and what a plain type above the target would be."""
    figures = (
        f"KL {verdict.candidate.mean:.5f} of the mixture at {mixture.bytes / 1e6:.2f} MB, {verdict.plain.mean:.5f} of "
        f"{peer} at {plain.bytes / 1e6:.2f} MB, {verdict.figures}"
    )
    if verdict.better:
        kept, said = mixture, f"the mixture is kept: {figures}"
    else:
        kept = plain
        said = f"the plain {peer} is kept, for the mixture is not better by two standard errors: {figures}"
    return said if larger is None else f"{said}; {_beside(larger, kept)}"


def _beside(larger: Larger, kept: GgufInfo) -> str:
    better = "is better" if larger.verdict.better else "is not better by two standard errors"
    return (
        f"beside it {larger.type}, {(larger.bytes - kept.bytes) / 1e6:.2f} MB larger and above the target, {better}: "
        f"KL {larger.verdict.candidate.mean:.5f}, {larger.verdict.figures}"
    )


def _announce(
    ctx: Context,
    kept: GgufInfo,
    mixture: GgufInfo,
    plain: GgufInfo,
    solved: Solved,
    peer: str,
    verdict: Paired,
    larger: Larger | None,
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
        **({"larger_type": larger.type, "larger_better": larger.verdict.better} if larger is not None else {}),
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
    rows: list[tuple[str, Estimate, str]] = [
        ("mixture_kl", verdict.candidate, "of the mixture"),
        ("plain_kl", verdict.plain, f"of {peer}"),
        ("kl_difference", verdict.difference, f"of the mixture less that of {peer}, position by position"),
    ]
    if larger is not None:
        what_above = f"{larger.type}, the next plain type above the target"
        ctx.measure("larger_bytes", larger.bytes, method=f"size of the file of {what_above}; it is not kept", unit="B")
        less = f"of {larger.type} less that of {what}, position by position"
        rows += [("larger_kl", larger.verdict.candidate, f"of {what_above}"),
                 ("larger_kl_difference", larger.verdict.difference, less)]  # fmt: skip
    for name, of, whose in rows:
        how = f"{whose}, against F16, top 256 tokens, the rest by 32 drawn, {over}"
        ctx.measure(name, of.mean, method=how, unit="nats/token", n=verdict.positions)
        if of.se is not None:
            ctx.measure(f"{name}_se", of.se, method=f"standard error, {of.over} taken as independent, {how}",
                        unit="nats/token", n=verdict.positions)  # fmt: skip
    ctx.result(
        kept=what, file_type=kept.file_type, bytes=kept.bytes, mixture_bytes=mixture.bytes, plain_bytes=plain.bytes,
        mixture_kl=verdict.candidate.mean, plain_kl=verdict.plain.mean,
    )  # fmt: skip
