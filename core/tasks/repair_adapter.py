"""repair-adapter: a domain's adapter with the repair of its quantized base on top, where that wins on held-out text."""

import os
import shutil
from pathlib import Path

import numpy as np

from core.files import discard, sha256_of, staging_beside, sync_tree
from core.gguf.divergence import Doubles
from core.gguf.inspect import inspect_gguf
from core.gguf.metadata import BASE_SHA256
from core.gguf.paired import Paired, paired
from core.gguf.scoring import Text
from core.gguf.sensitivity import divergence_at, scored_texts
from core.gguf.stacking import read_pairs, stacked, write_pairs
from core.tasks.context import Context, TaskError
from core.tasks.held_out import held_out_texts
from core.training.base import load_tokenizer

REPAIR_RANK = "tara.repair.rank"


def run(ctx: Context) -> None:
    """params {domain, base_name, base_sha256, domains: {domain: {system_prompt, seed, held_out_fraction}},
    sequence_length, max_tokens, seed}, inputs {adapter, repair, gguf (the base's F16 file), quantized, model, data}
    -> artifact `gguf-adapter`.

    Measured is the divergence of the quantized base with either adapter from the F16 base with the domain's own, on
    the domain's held-out answers. Without a gain of two standard errors the adapter stays as it was, byte for byte.
    """
    adapter, repair, domain = Path(ctx.inputs["adapter"]), Path(ctx.inputs["repair"]), ctx.params["domain"]
    texts = held_out_texts(
        load_tokenizer(Path(ctx.inputs["model"])), {domain: ctx.inputs["data"]}, ctx.params["domains"],
        length=ctx.params["sequence_length"], most=ctx.params["max_tokens"],
    )[domain]  # fmt: skip
    (pairs, keys), (more, about) = read_pairs(adapter), read_pairs(repair)
    for path, named in ((adapter, keys), (repair, about)):
        if named.get(BASE_SHA256) != ctx.params["base_sha256"]:
            raise TaskError(f"{path.name} is of another base than {ctx.params['base_name']}", "build again")
    added = max(pair.rank for pair in more.values())
    assert ctx.out is not None
    folder = staging_beside(ctx.out)  # the artifact's own temporary name: what a kill leaves there is removed
    folder.mkdir(parents=True)
    try:
        candidate, plain = folder / "repaired.gguf", folder / "plain.gguf"
        write_pairs(
            candidate, str(about["general.architecture"]), stacked(pairs, more), {**keys, REPAIR_RANK: str(added)}
        )
        verdict = _judged(ctx, adapter, candidate, texts)
        shutil.copyfile(adapter, plain)
        kept = candidate if verdict.better else plain
        info, digest = inspect_gguf(kept), sha256_of(kept)
        sync_tree(kept)
        os.replace(kept, ctx.out)
        sync_tree(ctx.out.parent, recurse=False)
    finally:
        discard(folder)
    _announce(ctx, verdict, info.bytes, digest, added, info.architecture)


def _judged(ctx: Context, adapter: Path, candidate: Path, texts: list[Text]) -> Paired:
    threads, done = int(ctx.spec.get("threads") or 1), 0
    ctx.restart_clock()

    def step(message: str) -> None:
        nonlocal done
        done += 1
        ctx.progress(done, 3, unit="pass", message=message)

    reference = scored_texts(Path(ctx.inputs["gguf"]), texts, threads=threads, seed=ctx.params["seed"], adapter=adapter)
    step("F16 with the domain's adapter")
    blocks = [number for number, kept in enumerate(reference) for _ in range(len(kept))]
    if not blocks:
        raise TaskError(f"{ctx.params['domain']} has no held-out answer to measure on", "give it more examples")
    found: list[Doubles] = []
    for path, name in ((candidate, "repaired"), (adapter, "as it is")):
        there = divergence_at(Path(ctx.inputs["quantized"]), texts, reference, threads=threads, adapter=path)
        found.append(np.concatenate(there))
        step(f"quantized, adapter {name}")
    return paired(found[0], found[1], blocks)


def _announce(ctx: Context, verdict: Paired, size: int, digest: str, added: int, architecture: str) -> None:
    domain, kept = ctx.params["domain"], verdict.better
    what = "is kept" if kept else "is left out, for it is not better by two standard errors"
    why = (
        f"the repair {what}: KL {verdict.candidate.mean:.5f} with it, {verdict.plain.mean:.5f} without, "
        f"{verdict.figures}"
    )
    print(f"{domain}: {why}", flush=True)
    assert ctx.out is not None
    ctx.artifact(
        "gguf-adapter", domain, ctx.out, sha256=digest, bytes=size, architecture=architecture,
        base_name=ctx.params["base_name"], base_sha256=ctx.params["base_sha256"], repaired=kept,
        repair_rank=added if kept else 0, why=why,
    )  # fmt: skip
    ctx.measure("bytes", size, method="size of the file", unit="B")
    over = f"{verdict.positions} held-out positions of {verdict.texts} texts"
    how = "from the F16 base with the domain's adapter, top 256 tokens, the rest by 32 drawn"
    for name, of, whose in (
        ("repaired_kl", verdict.candidate, "quantized base, adapter with the repair"),
        ("unrepaired_kl", verdict.plain, "quantized base, adapter as it was"),
        ("repair_kl_difference", verdict.difference, "with the repair less without, position by position"),
    ):
        ctx.measure(
            name, of.mean, method=f"{whose}, {how}, {over}", unit="nats/token", n=verdict.positions, subject=domain
        )
    if verdict.difference.se is not None:
        ctx.measure(
            "repair_kl_difference_se", verdict.difference.se, n=verdict.positions, unit="nats/token", subject=domain,
            method=f"standard error, {verdict.difference.over} taken as independent, {over}",
        )  # fmt: skip
    ctx.result(
        repaired=kept, bytes=size, repaired_kl=verdict.candidate.mean, unrepaired_kl=verdict.plain.mean,
    )  # fmt: skip
