"""Job `unify`: one model for all domains of a base, their adapters combined in its weights, one tensor at a time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.files import write_manifest
from core.tasks.context import Context
from core.training.base import PROVENANCE, check_folder, load_tokenizer, name_and_sha256, read_provenance
from core.training.lora import adapter_identity, refuse_other_base
from core.training.merge import BLOCK_BYTES, Update, read_updates, write_changed
from core.training.runtime import library_versions, prepare
from core.training.unify import Recipe, combine


def run(ctx: Context) -> None:
    """params {name, base_name, method, weights: {domain: w}, scale, density | drop and seed | rank}, inputs {base,
    adapters: {domain: folder}} -> artifact `merged`, a Hugging Face folder.

    Whether the model is any good is not judged here but by `check-merge`. Refused for adapters of another base, and for
    those that are more than plain LoRA.
    """
    prepare(ctx.spec.get("threads"))
    base, recipe = Path(ctx.inputs["base"]), Recipe.from_params(ctx.params)
    adapters = {domain: Path(path) for domain, path in ctx.inputs["adapters"].items()}
    identities = {domain: adapter_identity(path) for domain, path in adapters.items()}
    for path in adapters.values():
        refuse_other_base(path, base)
    base_name, base_sha256 = name_and_sha256(base)
    updates = _by_weight({domain: read_updates(path) for domain, path in adapters.items()})
    about = {
        **(read_provenance(base) or {}),
        "name": f"{base_name} with {', '.join(adapters)}",
        "merged": {
            "base": {"name": base_name, "sha256": base_sha256},
            "adapters_sha256": identities,
            "recipe": {
                name: value for name, value in ctx.params.items() if name not in ("name", "base_name", "_parents")
            },
        },
        "libraries": library_versions(),
    }
    about.pop("sha256", None)  # the base's identity, which this folder no longer has
    energies: list[float] = []
    block = max(1, BLOCK_BYTES // len(adapters))  # of each domain's change as much is held as of the weight
    assert ctx.out is not None
    with ctx.staging() as folder:
        changed = write_changed(
            base,
            {weight: "/".join(adapters[domain].name for domain in parts) for weight, parts in updates.items()},
            lambda weight: combine(weight, updates[weight], recipe, block, energies.append),
            folder,
            lambda done, total: ctx.progress(done, total, unit="tensor", message="merging"),
            block,
        )
        check_folder(folder)
        load_tokenizer(folder)
        (folder / PROVENANCE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")
        digest, size = write_manifest(folder, {"kind": "merged", "domains": sorted(adapters)})
    energy = {"least_energy": min(energies), "mean_energy": sum(energies) / len(energies)} if energies else {}
    said = f", of the sum's squares at least {min(energies):.1%} kept at rank {recipe.rank}" if energies else ""
    print(f"{len(adapters)} domains by {recipe.method}: {changed} weights of {base_name} changed{said}", flush=True)
    ctx.artifact(
        "merged", ctx.params["name"], ctx.out, sha256=digest, bytes=size, base=ctx.params["base_name"],
        base_name=base_name, base_sha256=base_sha256, domains=sorted(adapters), method=recipe.method,
        changed_weights=changed, **energy,
    )  # fmt: skip
    ctx.result(changed_weights=changed, base=base_name, method=recipe.method, domains=len(adapters), **energy)


def _by_weight(updates: Mapping[str, Mapping[str, Update]]) -> dict[str, dict[str, Update]]:
    """The changes of each weight by domain; a domain that leaves a weight alone is absent there."""
    found: dict[str, dict[str, Any]] = {}
    for domain, changes in updates.items():
        for weight, update in changes.items():
            found.setdefault(weight, {})[domain] = update
    return found
