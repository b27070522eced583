"""Adapters from elsewhere: checked against the domain's base, copied in whole, recorded with where they came from."""

import os
import shutil
import time
from pathlib import Path

from sqlmodel import select

from core.catalog import Catalog
from core.catalog.bases import base_identity, locate
from core.errors import InvalidInput, Refused
from core.files import discard, hash_json, sha256_of, staging_beside, sync_tree, write_manifest
from core.hygiene.adapters import check_adapter
from core.phases.plan import SHORT_KEY
from core.store.engine import Store, dump
from core.store.tables import Artifact
from core.workspace import Workspace

CARRIED = ("adapter_config.json", "adapter_model.safetensors", "tara.json", "README.md")


def import_adapter(
    workspace: Workspace, catalog: Catalog, store: Store, domain: str, base_name: str, source: Path
) -> str:
    """Copy a PEFT folder into the workspace as the adapter of a domain. Returns its stored path.

    Raises InvalidInput where it is not an adapter, Refused where it was made for another base; nothing is changed then.
    """
    if not source.is_dir():
        raise InvalidInput(f"there is no adapter folder {source}", "give a folder with adapter_config.json")
    base = catalog.bases[base_name]
    names = [name for name in (base_name, base.hub_id, base.path, base.gguf_file) if name]
    faults = [finding for finding in check_adapter(source, names, None) if finding.severity == "error"]
    if faults:
        first = next((fault for fault in faults if fault.code == "other-base"), faults[0])
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        kind = Refused if first.code == "other-base" else InvalidInput
        raise kind(f"{source}: {first.message}{more}", first.fix)
    identity = base_identity(locate(base, workspace))
    files = {name: sha256_of(source / name) for name in CARRIED if (source / name).is_file()}
    key = hash_json({"kind": "imported-adapter", "domain": domain, "base": identity, "files": files})
    target = workspace.artifacts / "adapter" / f"{domain}-{key[:SHORT_KEY]}"
    stored = workspace.relative(target)
    if not target.is_dir():
        staged = staging_beside(target)
        staged.mkdir(parents=True)
        try:
            for name in files:
                shutil.copyfile(source / name, staged / name)
            # With its key and base: the store's row of it can be made anew from this.
            about = {"kind": "adapter", "domain": domain, "imported_from": str(source), "key": key, "base": base_name}
            write_manifest(staged, about)
            sync_tree(staged)
            os.replace(staged, target)
        finally:
            discard(staged)
    with store.write() as session:
        if session.exec(select(Artifact).where(Artifact.key == key)).first() is None:
            session.add(
                Artifact(
                    key=key,
                    kind="adapter",
                    name=domain,
                    path=stored,
                    sha256=sha256_of(target / "MANIFEST.json"),
                    bytes=sum(path.stat().st_size for path in target.iterdir()),
                    meta=dump({"imported_from": str(source), "base": base_name}),
                    domain=domain,
                    created_at=time.time(),
                )
            )
    return stored
