"""Deploy: a bundle copied into a target as a new version, checked there, then made current."""

from pathlib import Path

from core.deploy.manifest import NAME
from core.deploy.releases import check_target, put_release, versions_in
from core.files import sha256_of
from core.tasks.context import Context


def run(ctx: Context) -> None:
    """Deploy `inputs["bundle"]` to `params["target"]`; the version is one above the highest there or on record.

    An override of the quality threshold (`params["override_quality"]`) is put into the manifest of the release."""
    bundle, target = Path(ctx.inputs["bundle"]), Path(ctx.params["target"])
    check_target(target, ctx.params["phase"])
    version = max([*versions_in(target), ctx.params["last_version"]], default=0) + 1
    print(f"deploying {bundle.name} to {target} as version {version}")
    folder = put_release(
        bundle,
        target,
        version,
        lambda done, total: ctx.progress(done, total, unit="B", message=f"version {version}"),
        {name: ctx.params[name] for name in ("override_quality",) if name in ctx.params},
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    ctx.emit(
        "release",
        target=str(target),
        version=version,
        bundle_key=ctx.params["bundle_key"],
        bundle_path=ctx.workspace.relative(bundle),
        manifest_sha256=sha256_of(folder / NAME),
        bytes=size,
    )
    ctx.result(version=version, target=str(target), bytes=size)
