"""Job `slice-adapter`: a domain's adapter becomes one of the pruned model, without training."""

import json
from pathlib import Path

from core.files import write_manifest
from core.tasks.context import Context
from core.training.base import PROVENANCE, name_and_sha256, read_provenance
from core.training.cut import read_cut
from core.training.lora import adapter_identity, refuse_other_base
from core.training.slicing import name_base, slice_adapter


def run(ctx: Context) -> None:
    """params {domain}, inputs {base, adapter, model (the small one)} -> artifact `sliced-adapter`, a PEFT folder that
    names the small model as its base."""
    base, adapter, model = (Path(ctx.inputs[name]) for name in ("base", "adapter", "model"))
    identity, domain = adapter_identity(adapter), ctx.params["domain"]
    refuse_other_base(adapter, base)
    name, sha256 = name_and_sha256(model)
    before = read_provenance(adapter) or {}
    about = {
        **before,
        "domain": domain,
        "key": ctx.key,
        "base": {"name": name, "sha256": sha256},
        "sliced": {"adapter_sha256": identity, "trained_on": before.get("base")},
    }
    assert ctx.out is not None
    with ctx.staging() as folder:
        kept, had = slice_adapter(adapter, read_cut(model), folder)
        name_base(folder, name)
        (folder / PROVENANCE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")
        digest, size = write_manifest(folder, {"kind": "sliced-adapter", "domain": domain})
    print(f"{domain}: {kept} of {had} tensors stay, for {name}", flush=True)
    ctx.artifact("sliced-adapter", domain, ctx.out, sha256=digest, bytes=size, base_name=name, base_sha256=sha256,
                 adapter_sha256=identity)  # fmt: skip
    ctx.result(tensors=kept, of=had, base=name)
