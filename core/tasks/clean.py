"""A clean, checked copy of a model's folder."""

from pathlib import Path

from core.errors import InvalidInput, TaraError
from core.files import MANIFEST, check_manifest, sha256_of
from core.hygiene.clean import CleanResult, clean
from core.hygiene.findings import shown
from core.tasks.context import Context, TaskError


def run(ctx: Context) -> None:
    """Clean `params.source` into `params.output` (absolute, or relative to the workspace)."""
    source = ctx.workspace.absolute(str(ctx.params["source"]))
    output = ctx.workspace.absolute(str(ctx.params["output"]))
    if _already_made(output, ctx.key):
        print(f"{output} was made by this job already", flush=True)
        size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        ctx.artifact("cleaned", output.name, output, sha256=sha256_of(output / MANIFEST), bytes=size)
        return
    print(f"cleaning {source} into {output}", flush=True)
    try:
        result = clean(
            source,
            output,
            lambda done, total, name: ctx.progress(done, total, unit="bytes", message=shown(name)),
            about={"key": ctx.key},
        )
    except TaraError as error:
        raise TaskError(error.message, error.hint) from error
    _say(result)
    plan = result.plan
    ctx.artifact(
        "cleaned", output.name, plan.output, sha256=result.sha256, bytes=result.bytes, content=result.report.kind
    )
    removed = sum(entry.bytes for entry in plan.dropped)
    ctx.measure("bytes_removed", removed, method="sizes of the files left out", unit="bytes", n=len(plan.dropped))
    ctx.result(
        kept=len(plan.kept), dropped=len(plan.dropped), fixed=len(result.fixes.changes), bytes=result.bytes,
        warnings=sum(finding.severity == "warning" for finding in result.report.findings),
    )  # fmt: skip


def _already_made(output: Path, key: str) -> bool:
    """Whether an earlier attempt of this very job got as far as the final name."""
    if not (output / MANIFEST).is_file():
        return False
    try:
        return check_manifest(output).get("key") == key
    except InvalidInput:
        return False  # someone's folder, or a damaged one: `clean` refuses to touch it


def _say(result: CleanResult) -> None:
    for entry in result.plan.dropped:
        print(f"left out {shown(entry.path)} ({entry.bytes} bytes): {entry.reason}")
    for change in result.fixes.changes:
        print(f"fixed {change.file} {change.key}: {shown(change.old)} -> {shown(change.new)} ({change.reason})")
    for cannot in result.fixes.cannot:
        print(f"not fixed {cannot.file} {cannot.key}: {shown(cannot.reason, 400)}")
    for finding in (*result.plan.warnings, *result.report.findings):
        print(f"{finding.severity}: {shown(finding.message, 400)}")
    print(f"kept {len(result.plan.kept)} files, {result.bytes} bytes", flush=True)
