"""Job `check-delivered`: how well the files a phase is about to deliver predict the held-out answers of its domains."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import sha256_of
from core.gguf.scoring import Text
from core.tasks.context import Context, TaskError
from core.tasks.domain_scores import Scored, score
from core.tasks.held_out import held_out_texts
from core.training.base import load_tokenizer


def run(ctx: Context) -> None:
    """params {phase, answering: {domain: model}, domains: {domain: {system_prompt, seed, held_out_fraction}},
    sequence_length, max_tokens}, inputs {bases: {model: {gguf, model (its folder)}}, adapters: {domain: GGUF} where
    domains have them, data: {domain: file}} -> artifact `delivered-check`, a JSON file {rows: [{domain, model, loss,
    accuracy, positions, texts}]}.

    Each domain is read by the file it will answer from, with the adapter it will have: what a quality gate judges.
    """
    texts = {
        model: _texts(
            ctx, Path(files["model"]), [name for name, one in ctx.params["answering"].items() if one == model]
        )
        for model, files in ctx.inputs["bases"].items()
    }
    total, done = sum(len(one) for some in texts.values() for one in some.values()), 0
    ctx.restart_clock()

    def step(domain: str) -> None:
        nonlocal done
        done += 1
        ctx.progress(done, total, unit="text", message=domain)

    adapters, rows = ctx.inputs.get("adapters") or {}, []
    for model, some in texts.items():
        file = Path(ctx.inputs["bases"][model]["gguf"])
        scored = score(model, file, adapters, some, threads=int(ctx.spec.get("threads") or 1), on_text=step)
        rows += [_row(scored, domain) for domain in some]
    _announce(ctx, rows)


def _texts(ctx: Context, model: Path, names: Sequence[str]) -> Mapping[str, Sequence[Text]]:
    found = held_out_texts(
        load_tokenizer(model),
        {name: ctx.inputs["data"][name] for name in names},
        {name: ctx.params["domains"][name] for name in names},
        length=ctx.params["sequence_length"],
        most=ctx.params["max_tokens"],
    )
    lacking = [name for name in names if not found.get(name)]
    if lacking:
        raise TaskError(f"{', '.join(lacking)} has no held-out answer to measure on", "give it more examples")
    return found


def _row(scored: Scored, domain: str) -> dict[str, Any]:
    if not math.isfinite(scored.loss(domain)):
        raise TaskError(f"{scored.name} predicts nothing of {domain}'s text", "its file is broken: build it again")
    return {
        "domain": domain,
        "model": scored.name,
        "loss": scored.loss(domain),
        "accuracy": scored.accuracy(domain),
        "positions": scored.positions(domain),
        "texts": len(scored.losses[domain]),
    }


def _announce(ctx: Context, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        print(
            f"{row['domain']}: loss {row['loss']:.3f}, accuracy {row['accuracy']:.1%} on {row['positions']} tokens of "
            f"{row['texts']} examples, from the file it will answer from",
            flush=True,
        )
    with ctx.staging() as staged:
        staged.write_text(json.dumps({"rows": rows}, indent=1, allow_nan=False) + "\n", "utf-8")
        digest, size = sha256_of(staged), staged.stat().st_size
    assert ctx.out is not None
    ctx.artifact("delivered-check", f"phase-{ctx.params['phase']}", ctx.out, sha256=digest, bytes=size, rows=rows)
    ctx.result(domains=len(rows), positions=sum(row["positions"] for row in rows))
