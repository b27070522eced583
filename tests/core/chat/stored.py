"""A workspace with a built phase on the tiny model: the bundle's files and rows, as if jobs had made them."""

import os
import shutil
from pathlib import Path

from core.files import sha256_of
from core.phases import service
from core.store.engine import dump, open_store
from core.store.tables import Artifact, ArtifactParent, Domain, Phase
from core.workspace import Workspace
from tests.core.chat.conftest import FIVE
from tests.core.chat.tiny import BASE_ID

BUNDLE = "artifacts/bundle/phase-1-0000abcd"


def store_bundle(workspace: Workspace, bundle: Path) -> Workspace:
    """Make phase 1 of the five domains and put the tiny bundle into it. Artifact 1 is the base, 2 its model file, 3 the
    bundle; the adapters follow."""
    service.create_phase(workspace, 1, FIVE)
    folder = workspace.root / BUNDLE
    shutil.copytree(bundle, folder)
    model = workspace.root / "artifacts" / "gguf" / "starter-135M-Q4_K_M-0000abcd.gguf"
    model.parent.mkdir(parents=True)
    os.link(folder / "base-tiny.gguf", model)
    base = workspace.root / "artifacts" / "base" / "starter-135M-0000abcd"
    base.mkdir(parents=True)
    with open_store(workspace).write() as db:
        rows = [
            ("base", "starter-135M", base, "b" * 64, {"identity": BASE_ID}, None),
            ("gguf", "starter-135M", model, sha256_of(model), {"file_type": "F16"}, None),
            ("bundle", "phase-1", folder, sha256_of(folder / "manifest.json"), {"unquantized_bytes": 1}, None),
        ]
        for name in FIVE:
            made = workspace.root / "artifacts" / "gguf-adapter" / f"{name}-0000abcd.gguf"
            made.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / "adapters" / f"{name}.gguf", made)
            rows.append(("gguf-adapter", name, made, sha256_of(made), {"base_sha256": BASE_ID}, name))
        for number, (kind, name, path, sha256, meta, domain) in enumerate(rows, 1):
            where = workspace.relative(path)
            db.add(
                Artifact(
                    id=number,
                    key=f"key-{number}",
                    kind=kind,
                    name=name,
                    path=where,
                    sha256=sha256,
                    bytes=1,
                    meta=dump(meta),
                    phase=1,
                    domain=domain,
                )
            )
        db.flush()
        db.add(ArtifactParent(artifact_id=2, parent_id=1))
        phase = db.get(Phase, 1)
        assert phase is not None
        phase.bundle_key = "key-3"
        assert all(db.get(Domain, name) is not None for name in FIVE)
    return workspace
