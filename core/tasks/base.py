"""Job `base`: bring a base model into the workspace as a folder of config, safetensors and tokenizer files."""

from core.files import write_manifest
from core.tasks.context import Context
from core.training.base import BaseSource, materialise
from core.training.runtime import library_versions, prepare


def run(ctx: Context) -> None:
    """params {base: {name, kind, hub_id, path, gguf_file, identity}} -> artifact `base`, a Hugging Face folder."""
    prepare(ctx.spec.get("threads"))
    source = BaseSource.from_params(ctx.params["base"])
    assert ctx.out is not None
    with ctx.staging() as folder:
        about = materialise(source, ctx.workspace, folder)
        digest, size = write_manifest(folder, {"kind": "base", "libraries": library_versions(), **about})
    print(
        f"{source.name}: {about['parameters']:,} parameters, {about['architecture']}, {size / 1e6:.0f} MB", flush=True
    )
    meta = {name: value for name, value in about.items() if name not in ("name", "kind", "sha256")}
    ctx.artifact(
        "base",
        source.name,
        ctx.out,
        sha256=digest,
        bytes=size,
        source_kind=source.kind,
        identity=about["sha256"],
        **meta,
    )
    ctx.result(parameters=about["parameters"], architecture=about["architecture"], chat_template=about["chat_template"])
