"""Job `check-merge`: what a unified model loses of each domain, on the examples its own adapter was measured on."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from core.files import sha256_of
from core.tasks.context import Context, TaskError
from core.tasks.evaluate import held_out_examples
from core.training.base import load_model, load_tokenizer
from core.training.margin import Kept
from core.training.precision import DTYPES
from core.training.render import ensure_chat_template, template_hash
from core.training.runtime import best_device, library_versions, prepare
from core.training.scoring import score_examples, total


def run(ctx: Context) -> None:
    """params {name, method, domains: {domain: {seed, held_out_fraction, system_prompt}}, sequence_length}, inputs
    {model, data: {domain: file}, evaluations: {domain: file}} -> artifact `merge-check`, a JSON file, a row a domain.

    Scored as `evaluate` scores, in float32; base and own adapter are not scored again but taken from its report, which
    is refused where it was made of other text. Nothing is judged here: that is `accept-merge`, by a margin.
    """
    prepare(ctx.spec.get("threads"))
    model_folder = Path(ctx.inputs["model"])
    tokenizer = load_tokenizer(model_folder)
    ensure_chat_template(tokenizer)
    texts, reports = {}, {}
    for domain, path in ctx.inputs["data"].items():
        params = {**ctx.params["domains"][domain], "sequence_length": ctx.params["sequence_length"]}
        texts[domain], _ = held_out_examples(params, tokenizer, Path(path))
        reports[domain] = _report(domain, Path(ctx.inputs["evaluations"][domain]), Path(path), template_hash(tokenizer))
    device = best_device()
    model = load_model(model_folder, DTYPES["float32"]).to(device)
    ctx.restart_clock()
    rows, before, count = [], 0, sum(map(len, texts.values()))

    def tell(domain: str, before: int, done: int) -> None:
        ctx.progress(before + done, count, unit="example", message=domain)

    for domain, examples in texts.items():
        scores = score_examples(model, examples, device, partial(tell, domain, before))
        before += len(examples)
        rows.append(_row(domain, reports[domain], total(scores), len(examples)))
        print(f"{domain}: own adapter {rows[-1].adapter_loss:.4f}, unified {rows[-1].unified_loss:.4f}", flush=True)
    _announce(ctx, rows)


def _report(domain: str, path: Path, data: Path, template: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if (report["data_sha256"], report["chat_template_sha256"]) != (sha256_of(data), template):
        raise TaskError(f"{path.name} did not measure {domain} on {data.name} as it is now", "build the phase again")
    return report


def _row(domain: str, report: dict[str, Any], score: Any, examples: int) -> Kept:
    if (report["tokens"], report["examples"]) != (score.tokens, examples):
        raise TaskError(
            f"the evaluation of {domain} is of {report['tokens']} tokens, this text has {score.tokens}",
            "build the phase again",
        )
    if not math.isfinite(score.loss) or report["tuned_loss"] <= 0:
        raise TaskError(
            f"the losses of {domain} cannot be compared: own adapter {report['tuned_loss']}, unified {score.loss}",
            "use another merge method",
        )
    return Kept(
        domain, report["base_loss"], report["tuned_loss"], score.loss, report["base_accuracy"],
        report["tuned_accuracy"], score.accuracy, examples, score.tokens,
    )  # fmt: skip


def _announce(ctx: Context, rows: list[Kept]) -> None:
    assert ctx.out is not None
    name, method = ctx.params["name"], ctx.params["method"]
    content = {
        "name": name,
        "method": method,
        "measured": "cross entropy of the held-out answers' tokens in float32, as evaluate measures it",
        "rows": [row.as_dict() for row in rows],
        "libraries": library_versions(),
    }
    with ctx.staging() as staged:
        staged.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
        digest, size = sha256_of(staged), staged.stat().st_size
    ctx.artifact("merge-check", name, ctx.out, sha256=digest, bytes=size, method=method, rows=content["rows"])
    for row in rows:
        how = f"held-out cross entropy of the model unified by {method}, {row.examples} examples"
        ctx.measure("unified_loss", row.unified_loss, method=how, unit="nats/token", n=row.tokens, subject=row.domain)
        how = f"held-out token accuracy of the model unified by {method}, {row.examples} examples"
        ctx.measure("unified_accuracy", row.unified_accuracy, method=how, n=row.tokens, subject=row.domain)
        how = "unified over own adapter's held-out loss, less one"
        ctx.measure("unified_change", row.change, method=how, n=row.tokens, subject=row.domain)
    ctx.result(**{row.domain: round(row.change, 6) for row in rows})
