"""Releases and switches between them: from what could be read, from deployments recorded anew, and from the folders."""

from pathlib import Path
from typing import Any

from sqlmodel import Session, col, delete, select

from core.deploy.manifest import NAME, listed_files, read_manifest
from core.deploy.releases import CURRENT, VERSIONS, active_version, versions_in
from core.errors import TaraError
from core.files import sha256_of
from core.store.tables import Artifact, Deployment, Release
from core.workspace import Workspace


def add_found(session: Session, workspace: Workspace, targets: set[str]) -> list[str]:
    """The releases that lie in `targets` and in the workspace's own folder and are not recorded. Returns what cannot
    be."""
    left = []
    folders = {*targets, *(str(path) for path in workspace.releases.glob("phase-*"))}
    for target in sorted(folders):
        for version in versions_in(Path(target)):
            known = session.exec(select(Release).where(Release.target == target, Release.version == version)).first()
            folder = Path(target) / VERSIONS / str(version)
            try:
                if known is None:
                    session.add(_release(session, workspace, target, version, folder))
            except (TaraError, KeyError, TypeError, OSError) as error:
                left.append(f"{folder} ({error})")
    session.flush()
    return left


def _release(session: Session, workspace: Workspace, target: str, version: int, folder: Path) -> Release:
    manifest = read_manifest(folder)
    key = str(manifest["key"])
    made = session.exec(select(Artifact).where(Artifact.key == key)).first()
    path = made.path if made is not None else f"artifacts/bundle/phase-{manifest['phase']}-{key[:8]}"
    return Release(
        phase=int(manifest["phase"]),
        version=version,
        target=target,
        bundle_key=key,
        bundle_path=path,
        manifest_sha256=sha256_of(folder / NAME),
        bytes=sum(size for _, size in listed_files(manifest).values()) + (folder / NAME).stat().st_size,
        created_at=(folder / NAME).stat().st_mtime,
    )


def order_switches(session: Session, known: list[dict[str, Any]]) -> tuple[int, int]:
    """Put what the old store said of switches and what was recorded anew in the order of time, once each, and add the
    last switch of a target where its link leads elsewhere than they say.

    Returns how many the old store said, and how many had to be concluded so.
    """
    there = set(session.exec(select(Release.id)).all())
    switches = [row for row in known if row["release_id"] in there]
    said = len(switches)
    deployed = {row["release_id"] for row in switches if row["action"] == "deploy"}
    for one in session.exec(select(Deployment)).all():
        if one.release_id not in deployed:
            switches.append(one.model_dump())
    for release in session.exec(select(Release)).all():  # one found in its folder was put there at some time
        if not any(row["release_id"] == release.id for row in switches):
            switches.append({"release_id": release.id, "action": "deploy", "at": release.created_at})
    switches.sort(key=lambda row: row["at"])
    session.exec(delete(Deployment))
    session.flush()
    newest: dict[str, int] = {}
    targets = {one.id: one for one in session.exec(select(Release)).all()}
    for row in switches:
        session.add(Deployment(release_id=row["release_id"], action=row["action"], at=row["at"]))
        newest[targets[row["release_id"]].target] = targets[row["release_id"]].version
        session.flush()  # numbered in this order: the newest of a target is the active one
    concluded = 0
    for target, version in sorted(newest.items()):
        active = active_version(Path(target))
        if active is None or active == version:
            continue
        found = session.exec(select(Release).where(Release.target == target, Release.version == active)).first()
        if found is not None and found.id is not None:
            at = (Path(target) / CURRENT).lstat().st_mtime
            session.add(Deployment(release_id=found.id, action="rollback", at=at))
            concluded += 1
    session.flush()
    return said, concluded


def targets_of(session: Session) -> set[str]:
    """The targets that are recorded."""
    return set(session.exec(select(col(Release.target))).all())
