"""Job `quality-gate`: a phase goes on to conversion and packaging only where every domain meets its threshold."""

import json
from pathlib import Path
from typing import Any

from core.files import sha256_of
from core.tasks.context import Context, TaskError
from core.training.threshold import WHAT_TO_DO, below, judged, refusal


def run(ctx: Context) -> None:
    """params {phase, threshold, override, declared: {domain: value}}, inputs {evaluations: {domain: file of
    `evaluate`}, checks: {model: file of `check-merge`}}, or {delivered: file of `check-delivered`} -> artifact
    `quality-verdict`, a JSON file.

    Fails, naming each domain below the threshold, so that what needs it is not done; with a reason as `override` it
    goes on, and reason and figures are in the verdict, from where the bundle's manifest has them.
    """
    params = ctx.params
    threshold, reason = float(params["threshold"]), params["override"]
    evaluations = {name: _json(path) for name, path in ctx.inputs.get("evaluations", {}).items()}
    checks = [_json(path) for path in ctx.inputs.get("checks", {}).values()]
    delivered = _json(ctx.inputs["delivered"]) if "delivered" in ctx.inputs else None
    found = judged(evaluations, checks, params["declared"], delivered)
    for one in found:
        print(f"{one.one_line()}: {'met' if one.meets(threshold) else f'below {threshold:g}'}", flush=True)
    failing = below(found, threshold)
    if failing and reason is None:
        raise TaskError(refusal(failing, threshold, params["phase"]), WHAT_TO_DO)
    if failing:
        print(f"overridden: {reason}", flush=True)
    assert ctx.out is not None
    verdict = {
        "threshold": threshold,
        "override": reason if failing else None,
        "below": [one.domain for one in failing],
        "domains": {one.domain: one.as_dict() for one in found},
    }
    with ctx.staging() as staged:
        staged.write_text(json.dumps(verdict, indent=1, allow_nan=False) + "\n", "utf-8")
        digest, size = sha256_of(staged), staged.stat().st_size
    ctx.artifact("quality-verdict", f"phase-{params['phase']}", ctx.out, sha256=digest, bytes=size, **verdict)
    ctx.result(threshold=threshold, below=verdict["below"], override=verdict["override"])


def _json(path: str) -> dict[str, Any]:
    return dict(json.loads(Path(path).read_text("utf-8")))
