"""Job `merge`: an export in which the adapter is part of the weights, for programs that know no adapters."""

import json
from pathlib import Path

from core.files import write_manifest
from core.tasks.context import Context
from core.training.base import PROVENANCE, check_folder, load_tokenizer, name_and_sha256, read_provenance
from core.training.lora import adapter_identity, refuse_other_base
from core.training.merge import merge
from core.training.runtime import library_versions, prepare


def run(ctx: Context) -> None:
    """params {domain}, inputs {base, adapter} -> artifact `merged`, a Hugging Face folder.

    Refused for another base than the adapter's own, and for adapters that are more than plain LoRA.
    """
    prepare(ctx.spec.get("threads"))
    base, adapter, domain = Path(ctx.inputs["base"]), Path(ctx.inputs["adapter"]), ctx.params["domain"]
    adapter_sha256 = adapter_identity(adapter)
    refuse_other_base(adapter, base)
    base_name, base_sha256 = name_and_sha256(base)
    about = {
        **(read_provenance(base) or {}),
        "name": f"{base_name} with {domain}",
        "domain": domain,
        "merged": {"base": {"name": base_name, "sha256": base_sha256}, "adapter_sha256": adapter_sha256},
        "libraries": library_versions(),
    }
    about.pop("sha256", None)  # the base's identity, which this folder no longer has
    assert ctx.out is not None
    with ctx.staging() as folder:
        changed = merge(
            base, adapter, folder, lambda done, total: ctx.progress(done, total, unit="tensor", message="merging")
        )
        check_folder(folder)
        load_tokenizer(folder)
        (folder / PROVENANCE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")
        digest, size = write_manifest(folder, {"kind": "merged", "domain": domain})
    print(f"{domain}: {changed} weights of {base_name} changed, {size / 1e6:.0f} MB", flush=True)
    ctx.artifact(
        "merged", domain, ctx.out, sha256=digest, bytes=size, base_name=base_name, base_sha256=base_sha256,
        changed_weights=changed,
    )  # fmt: skip
    ctx.result(changed_weights=changed, base=base_name)
