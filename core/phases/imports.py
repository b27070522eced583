"""Adapters from elsewhere: checked against the domain's base, copied in whole, recorded with where they came from."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlmodel import select

from core.catalog import BaseModel, Catalog
from core.catalog.bases import base_identity, locate
from core.catalog.config import config_of
from core.errors import InvalidInput, Refused
from core.files import discard, hash_json, sha256_of, staging_beside, sync_tree, write_manifest
from core.hygiene.adapters import check_adapter
from core.hygiene.reading import Malformed
from core.phases.planned import SHORT_KEY
from core.store.engine import Store, dump
from core.store.tables import Artifact
from core.workspace import Workspace

CARRIED = ("adapter_config.json", "adapter_model.safetensors", "tara.json", "README.md")


def names_of(base: BaseModel) -> list[str]:
    """All names by which an adapter may call a base; its generic name first."""
    return [name for name in (base.name, base.hub_id, base.path, base.gguf_file) if name]


def target_of(workspace: Workspace, base: BaseModel, domain: str, source: Path) -> tuple[str, dict[str, str], Path]:
    """Where an adapter from elsewhere goes: its key, the hashes of the files that are carried, its folder."""
    identity = base_identity(locate(base, workspace))
    files = {name: sha256_of(source / name) for name in CARRIED if (source / name).is_file()}
    key = hash_json({"kind": "imported-adapter", "domain": domain, "base": identity, "files": files})
    return key, files, workspace.artifacts / "adapter" / f"{domain}-{key[:SHORT_KEY]}"


def import_adapter(
    workspace: Workspace,
    catalog: Catalog,
    store: Store,
    domain: str,
    base_name: str,
    source: Path,
    about: Mapping[str, Any] | None = None,
) -> str:
    """Copy a PEFT folder into the workspace as the adapter of a domain. Returns its stored path.

    `about` is what else is known of where it comes from, kept with it. Raises InvalidInput where it is not an adapter,
    Refused where it was made for another base, by its name or by the hash in its tara.json; InvalidInput too where its
    modules or their sizes are not those of the base. Nothing is changed then.
    """
    if not source.is_dir():
        raise InvalidInput(f"there is no adapter folder {source}", "give a folder with adapter_config.json")
    base = catalog.bases[base_name]
    located = locate(base, workspace)
    try:
        config = config_of(located)
    except Malformed as error:
        raise InvalidInput(f"{located.path / 'config.json'} of {base.name} {error}", "fetch the model again") from error
    findings = check_adapter(source, names_of(base), config, base_sha256=base_identity(located))
    faults = [finding for finding in findings if finding.severity == "error"]
    if faults:
        first = next((fault for fault in faults if fault.code == "other-base"), faults[0])
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        kind = Refused if first.code == "other-base" else InvalidInput
        raise kind(f"{source}: {first.message}{more}", first.fix)
    key, files, target = target_of(workspace, base, domain, source)
    origin = {**(about or {}), "imported_from": str(source)}
    stored = workspace.relative(target)
    if not target.is_dir():
        staged = staging_beside(target)
        staged.mkdir(parents=True)
        try:
            for name in files:
                shutil.copyfile(source / name, staged / name)
            # With its key and base: the store's row of it can be made anew from this.
            write_manifest(staged, {"kind": "adapter", "domain": domain, **origin, "key": key, "base": base_name})
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
                    meta=dump({**origin, "base": base_name}),
                    domain=domain,
                    created_at=time.time(),
                )
            )
    return stored
