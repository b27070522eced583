"""Job `check-small`: what a pruned or distilled file loses on held-out text, beside plain files of the whole model."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.files import discard, sha256_of, staging_beside
from core.gguf.divergence import Estimate, estimate
from core.gguf.imatrix import read_imatrix
from core.gguf.inspect import inspect_gguf
from core.gguf.mixture import peer_of
from core.gguf.paired import ERRORS
from core.gguf.quantizer import quantize
from core.tasks.context import Context, TaskError
from core.tasks.domain_scores import Scored, score
from core.tasks.held_out import held_out_texts
from core.training.base import load_tokenizer


def run(ctx: Context) -> None:
    """params {name, technique, type, domains, sequence_length, max_tokens}, inputs {gguf (the small model's file),
    model (its folder), whole (F16 file of the whole model), imatrix of it where there is one, data, small_adapters and
    adapters {domain: GGUF} where domains have them} -> artifact `small-check`, a JSON file.

    Beside it the whole model is scored as the plain type `type`, and as the largest plain type whose file has no more
    bytes than the small one; where there is none, as the smallest. Nothing is refused: the person asked for a smaller
    file, and is told what it costs and what the same bytes buy without pruning.
    """
    small, whole = Path(ctx.inputs["gguf"]), Path(ctx.inputs["whole"])
    technique, info = ctx.params["technique"], inspect_gguf(small)
    texts = held_out_texts(
        load_tokenizer(Path(ctx.inputs["model"])), ctx.inputs["data"], ctx.params["domains"],
        length=ctx.params["sequence_length"], most=ctx.params["max_tokens"],
    )  # fmt: skip
    peer = peer_of(whole, info.bytes)
    plains = list(dict.fromkeys((ctx.params["type"], peer)))
    total, done = (1 + len(plains)) * sum(map(len, texts.values())), 0
    ctx.restart_clock()

    def scored_of(name: str, path: Path, adapters: Mapping[str, str]) -> Scored:
        def step(domain: str) -> None:
            nonlocal done
            done += 1
            ctx.progress(done, total, unit="text", message=f"{name}, {domain}")

        return score(name, path, adapters, texts, threads=_threads(ctx), on_text=step)

    scored = [scored_of(technique, small, ctx.inputs.get("small_adapters") or {})]
    assert ctx.out is not None
    scratch = staging_beside(ctx.out)
    scratch.mkdir(parents=True)
    imatrix = read_imatrix(Path(ctx.inputs["imatrix"])) if ctx.inputs.get("imatrix") else None
    try:
        for plain in plains:
            path = scratch / f"{plain}.gguf"
            quantize(whole, path, plain, threads=_threads(ctx), imatrix=imatrix)
            scored.append(scored_of(plain, path, ctx.inputs.get("adapters") or {}))
            path.unlink()
    finally:
        discard(scratch)
    _announce(ctx, scored, peer, sha256_of(small))


def _threads(ctx: Context) -> int:
    return int(ctx.spec.get("threads") or 1)


def difference_of(one: Scored, other: Scored) -> Estimate:
    """Mean loss of a file less another's over all domains' positions, with its standard error over texts."""
    parts = [
        mine - theirs
        for domain in one.losses
        for mine, theirs in zip(one.losses[domain], other.losses[domain], strict=True)
    ]
    return estimate(np.concatenate(parts), [number for number, part in enumerate(parts) for _ in part])


def verdict_of(small: Scored, peer: Scored) -> tuple[str, str]:
    """`better`, `worse` or `even` of the small file against the plain one, or `no plain file` where that has more
    bytes; and the sentence that says it."""
    difference = difference_of(small, peer)
    error = f" ± {difference.se:.4f}" if difference.se is not None else ""
    figures = (
        f"held-out loss {difference.mean:+.4f}{error} nats a token beside {peer.name} at {peer.bytes / 1e6:.2f} MB"
    )
    if peer.bytes > small.bytes:
        return "no plain file", f"no plain file is as small, {peer.name} is the smallest: {figures}"
    within = difference.se is None or abs(difference.mean) <= ERRORS * difference.se
    if within:
        return "even", f"no better than the plain file of no more bytes, within two standard errors: {figures}"
    if difference.mean < 0:
        return "better", f"better than the plain file of no more bytes: {figures}"
    return "worse", f"worse than the plain file of no more bytes, which is the better choice for quality: {figures}"


def _announce(ctx: Context, scored: Sequence[Scored], peer: str, gguf_sha256: str) -> None:
    small = scored[0]
    if not all(math.isfinite(small.loss(domain)) for domain in small.losses):
        raise TaskError(f"{small.name} predicts nothing of this text", "its file is broken: build it again")
    word, sentence = verdict_of(small, next(one for one in scored[1:] if one.name == peer))
    technique = ctx.params["technique"]
    why = f"{technique}, {small.bytes / 1e6:.2f} MB: {sentence}"
    print(why, flush=True)
    rows: list[dict[str, Any]] = [
        {
            "domain": domain,
            "positions": small.positions(domain),
            "texts": len(small.losses[domain]),
            "loss": {one.name: one.loss(domain) for one in scored},
            "accuracy": {one.name: one.accuracy(domain) for one in scored},
        }
        for domain in small.losses
    ]
    content = {
        "name": ctx.params["name"], "technique": technique, "verdict": word, "why": why, "peer": peer,
        "bytes": {one.name: one.bytes for one in scored}, "gguf_sha256": gguf_sha256, "rows": rows,
        "measured": "cross entropy of the held-out answers' tokens by the engine, each file with its domains' adapters",
    }  # fmt: skip
    assert ctx.out is not None
    with ctx.staging() as staged:
        staged.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
        digest, size = sha256_of(staged), staged.stat().st_size
    kept = {key: value for key, value in content.items() if key not in ("name", "bytes")}
    ctx.artifact(
        "small-check", ctx.params["name"], ctx.out, sha256=digest, bytes=size, **kept, sizes=content["bytes"]
    )  # fmt: skip
    ctx.measure("verdict", word, method=why)
    for row in rows:
        for one in scored:
            how = f"by the engine, {one.name} at {one.bytes / 1e6:.2f} MB, {row['texts']} held-out texts"
            which = "small" if one is small else one.name.lower()
            ctx.measure(f"{which}_loss", row["loss"][one.name], method=f"cross entropy of the answers {how}",
                        unit="nats/token", n=row["positions"], subject=row["domain"])  # fmt: skip
            ctx.measure(f"{which}_accuracy", row["accuracy"][one.name], method=f"token accuracy {how}",
                        n=row["positions"], subject=row["domain"])  # fmt: skip
    ctx.result(verdict=word, bytes=small.bytes, **{row["domain"]: row["loss"] for row in rows})
