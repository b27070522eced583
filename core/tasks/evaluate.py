"""Job `evaluate`: how well an adapter predicts answers it never saw, beside its base without it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.files import sha256_of
from core.tasks.context import Context, TaskError
from core.tasks.train import HELD_OUT_FRACTION
from core.training.base import load_model, load_tokenizer, name_and_sha256, read_provenance
from core.training.data import read_examples, split_examples
from core.training.lora import adapter_identity, load_adapter, refuse_other_base
from core.training.precision import DTYPES
from core.training.render import Rendered, ensure_chat_template, render_all, template_hash
from core.training.runtime import best_device, library_versions, prepare
from core.training.scoring import Score, score_examples, total


def run(ctx: Context) -> None:
    """params {domain, seed, held_out_fraction, sequence_length, system_prompt}, inputs {base, adapter, data} ->
    artifact `evaluation`, a JSON file with a row an example.

    The examples are those that training held out, found again by the same seed; where the adapter says it was trained
    on another division, its score would be of what it knows by heart, and is refused. Computed in float32, so that
    results of different machines compare.
    """
    prepare(ctx.spec.get("threads"), ctx.params["seed"])
    base, adapter, data = (Path(ctx.inputs[name]) for name in ("base", "adapter", "data"))
    domain = ctx.params["domain"]
    adapter_sha256 = adapter_identity(adapter)
    refuse_other_base(adapter, base)
    known = _check_division(ctx, adapter, data)
    tokenizer = load_tokenizer(base)
    ensure_chat_template(tokenizer)
    examples, lines = held_out_examples(ctx.params, tokenizer, data)
    device = best_device()
    model = load_adapter(load_model(base, DTYPES["float32"]), adapter).to(device)
    ctx.restart_clock()
    count = len(examples)
    with model.disable_adapter():
        before = score_examples(
            model, examples, device, lambda done: ctx.progress(done, 2 * count, unit="example", message="base")
        )
    after = score_examples(
        model, examples, device, lambda done: ctx.progress(count + done, 2 * count, unit="example", message="adapter")
    )
    method = f"held-out token accuracy, {count} examples, seed {ctx.params['seed']}"
    if not known:
        method += ", training data unknown"
    summary = _summary(total(before), total(after), count)
    report = {
        "domain": domain,
        "method": method,
        **summary,
        "seed": ctx.params["seed"],
        "system_prompt": ctx.params["system_prompt"],
        "sequence_length": ctx.params["sequence_length"],
        "cut": lines["cut"],
        "dropped": lines["dropped"],
        "chat_template_sha256": template_hash(tokenizer),
        "base": dict(zip(("name", "sha256"), name_and_sha256(base), strict=True)),
        "adapter_sha256": adapter_sha256,
        "data_sha256": sha256_of(data),
        "libraries": library_versions(),
        "rows": [_row(*each) for each in zip(examples, before, after, strict=True)],
    }
    _write(ctx, domain, report, summary, method)


def _check_division(ctx: Context, adapter: Path, data: Path) -> bool:
    """Whether the adapter says how it was trained; refuse when what it says means these examples are not held out."""
    provenance = read_provenance(adapter)
    if provenance is None or "seed" not in provenance:
        print("the adapter does not say what it was trained on: its examples may be among those scored", flush=True)
        return False
    fraction = ctx.params.get("held_out_fraction", HELD_OUT_FRACTION)
    there = (provenance["data"]["sha256"], provenance["seed"], provenance["held_out_fraction"])
    here = (sha256_of(data), ctx.params["seed"], fraction)
    if there[0] != here[0]:
        print("the adapter was trained on other data: examples both sets share may be among those scored", flush=True)
        return False
    if there != here:
        raise TaskError(
            f"the adapter was trained on another division of these examples (seed {there[1]}, held-out share "
            f"{there[2]}; now {here[1]} and {here[2]}): some of those held out now were trained on",
            "train it again, or set seed and share back in configs/settings.yaml",
        )
    return True


def held_out_examples(params: Mapping[str, Any], tokenizer: Any, data: Path) -> tuple[list[Rendered], dict[str, int]]:
    """The examples of a file that its division by `params` (seed, held_out_fraction, sequence_length, system_prompt)
    holds out, as they are scored; and how many were cut and dropped."""
    fraction = params.get("held_out_fraction", HELD_OUT_FRACTION)
    _, held_out = split_examples(read_examples(data), params["seed"], fraction)
    length = params["sequence_length"]
    examples, report = render_all(tokenizer, held_out, params["system_prompt"], length)
    print(f"held out: {report.one_line(length)}", flush=True)
    return examples, {"cut": report.shortened, "dropped": len(report.dropped)}


def _summary(before: Score, after: Score, count: int) -> dict[str, Any]:
    if not (math.isfinite(before.loss) and math.isfinite(after.loss)):
        raise TaskError(
            f"the loss is not a number (base {before.loss}, adapter {after.loss})", "train the adapter again"
        )
    return {
        "examples": count,
        "tokens": after.tokens,
        "base_loss": before.loss,
        "tuned_loss": after.loss,
        "loss_change": after.loss / before.loss - 1,
        "base_accuracy": before.accuracy,
        "tuned_accuracy": after.accuracy,
    }


def _row(example: Rendered, before: Score, after: Score) -> dict[str, Any]:
    return {
        "line": example.line,
        "tokens": after.tokens,
        "base_loss": before.loss,
        "tuned_loss": after.loss,
        "base_correct": before.correct,
        "tuned_correct": after.correct,
    }


def _write(ctx: Context, domain: str, report: dict[str, Any], summary: dict[str, Any], method: str) -> None:
    assert ctx.out is not None
    with ctx.staging() as path:
        path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")
    print(
        f"{domain}: loss {summary['base_loss']:.3f} -> {summary['tuned_loss']:.3f} ({summary['loss_change']:+.1%}),"
        f" accuracy {summary['base_accuracy']:.1%} -> {summary['tuned_accuracy']:.1%}"
        f" on {summary['tokens']} tokens of {summary['examples']} examples",
        flush=True,
    )
    ctx.artifact(
        "evaluation", domain, ctx.out, sha256=sha256_of(ctx.out), bytes=ctx.out.stat().st_size, domain=domain, **summary
    )
    loss_method = method.replace("token accuracy", "cross entropy", 1)
    for name, value, unit, how in (
        ("base_loss", summary["base_loss"], "nats/token", loss_method),
        ("tuned_loss", summary["tuned_loss"], "nats/token", loss_method),
        ("base_accuracy", summary["base_accuracy"], "", method),
        ("quality", summary["tuned_accuracy"], "", method),
    ):
        ctx.measure(name, value, unit=unit, n=summary["tokens"], method=how)
    ctx.result(**summary)
