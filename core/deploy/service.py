"""Deploying a phase and rolling it back: the guards, the job, and the record."""

from pathlib import Path
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from core.deploy.manifest import NAME, check_files, read_manifest
from core.deploy.releases import VERSIONS, active_version, check_target, switch, versions_in
from core.errors import BelowThreshold, InvalidInput, Refused
from core.files import hash_json, sha256_of
from core.lifecycle import UNDONE
from core.phases.gating import declared_of
from core.phases.kinds import KINDS
from core.phases.overrides import DEPLOY, note_of
from core.store.engine import dump, open_store
from core.store.reads import open_reader
from core.store.tables import Deployment, Job, Note, Phase, Release
from core.store.views import PhaseView
from core.training.threshold import DELIVERED, OWN, SMALL, UNIFIED, WHAT_TO_DO, Judged, below, refusal
from core.workspace import Workspace

# Of what a domain's quality in a bundle was measured, by a figure that is there beside it.
_WHOSE = {"delivered_loss": DELIVERED, "small_loss": SMALL, "unified_loss": UNIFIED}


def deploy_phase(
    workspace: Workspace, number: int, *, target: str | Path | None = None, override_quality: str | None = None
) -> int | None:
    """Queue the deployment of a phase's bundle to a target (default: the workspace's own `releases/phase-N`).

    Returns the job's number, or None where the target has this very bundle as its current version, whole. A domain
    below the phase's quality threshold refuses the deployment (BelowThreshold) unless `override_quality` gives a
    reason, which is kept, also in the manifest of the release.
    """
    with open_reader(workspace) as reader:
        phase = reader.phase(number)
    if any(domain.job is not None and domain.job.state in UNDONE for domain in phase.domains):
        raise Refused(f"jobs of phase {number} are not done", "tara jobs wait, then deploy")
    if phase.bundle_path is None:
        raise Refused(f"phase {number} has no built bundle", f"tara build-phase {number}")
    bundle = workspace.absolute(phase.bundle_path)
    manifest = read_manifest(bundle)
    found = below_threshold(phase, manifest)
    failing = [one.one_line() for one in found]
    if found and not override_quality:
        assert phase.quality_threshold is not None
        raise BelowThreshold(refusal(found, phase.quality_threshold, number), WHAT_TO_DO, tuple(failing))
    overridden = {"reason": override_quality, "threshold": phase.quality_threshold, "below": failing}
    folder = target_of(workspace, number, target)
    check_target(folder, number)
    store = open_store(workspace)
    with store.write() as session:
        row = session.get(Phase, number)
        assert row is not None
        key = row.bundle_key
        newest = _current_release(session, folder)
    current = newest is not None and newest.bundle_key == key and active_version(folder) == newest.version
    # Hashed outside of a transaction: it takes a while, and the runner writes meanwhile.
    if newest is not None and current and _is_whole(folder / VERSIONS / str(newest.version), manifest):
        return None
    with store.write() as session:
        last = session.exec(select(func.max(Release.version)).where(Release.target == str(folder))).one()
        if failing and override_quality:
            session.add(note_of(number, override_quality, DEPLOY, phase.quality_threshold, failing, target=str(folder)))
        job = Job(
            kind="deploy",
            title=f"deploy phase {number}",
            key=hash_json({"kind": "deploy", "bundle": key, "target": str(folder), "after": last}),
            phase=number,
            heavy=KINDS["deploy"].heavy,
            params=dump(
                {
                    "phase": number,
                    "target": str(folder),
                    "last_version": last or 0,
                    "bundle_key": key,
                    **({"override_quality": overridden} if failing else {}),
                }
            ),
            inputs=dump({"bundle": phase.bundle_path}),
            out=workspace.relative(folder),
            disk_bytes=phase.bundle_bytes,
        )
        waiting = session.exec(
            select(Job).where(Job.key == job.key, col(Job.state).in_(("queued", "starting", "running", "stopping")))
        ).first()
        if waiting is None:
            session.add(job)
            session.flush()
        number_of_job = (waiting or job).id
    _start(workspace)
    return number_of_job


def rollback(
    workspace: Workspace, number: int, *, to: int | None = None, target: str | Path | None = None
) -> tuple[int, int, Path]:
    """Switch a phase's target back to an earlier version (the one before the current, or `to`), after hashing it.

    Returns the version left, the version now current, and the target.
    """
    with open_reader(workspace) as reader:
        reader.phase(number)
        releases = reader.releases(number)
    if not releases:
        raise Refused(f"phase {number} was never deployed", f"tara deploy-phase {number}")
    folder = target_of(workspace, number, target) if target is not None else Path(releases[0].target)
    held = versions_in(folder)
    current = active_version(folder)
    if current is None:
        raise Refused(f"{folder} has no current version", f"tara deploy-phase {number} --target {folder}")
    earlier = [version for version in held if version < current]
    if to is None:
        if not earlier:
            raise Refused(f"{folder} has no version before {current}", "deploy again after a change")
        to = earlier[-1]
    if to == current:
        raise Refused(f"version {to} is the current one already")
    if to not in held:
        raise InvalidInput(f"{folder} has no version {to}", f"it has {', '.join(map(str, held))}")
    store = open_store(workspace)
    with store.write() as session:
        release = session.exec(select(Release).where(Release.target == str(folder), Release.version == to)).first()
    if release is None:
        raise InvalidInput(f"version {to} in {folder} was not deployed from this workspace")
    if release.phase != number:
        raise Refused(f"{folder} holds the releases of phase {release.phase}", f"tara rollback {release.phase}")
    version_folder = folder / VERSIONS / str(to)
    manifest = read_manifest(version_folder)
    if sha256_of(version_folder / NAME) != release.manifest_sha256:
        raise InvalidInput(f"{version_folder / NAME} is not what was deployed", "deploy again")
    check_files(version_folder, manifest)
    try:
        with store.write() as session:
            assert release.id is not None
            session.add(Deployment(release_id=release.id, action="rollback"))
            session.add(Note(subject=f"phase {number}", action="rollback", detail=dump({"from": current, "to": to})))
            session.flush()
            switch(folder, to)  # inside the transaction: if the link cannot be switched, nothing is recorded
    except BaseException:
        if active_version(folder) != current:  # and where it cannot be recorded, it is not switched
            switch(folder, current)
        raise
    return current, to, folder


def below_threshold(phase: PhaseView, manifest: dict[str, Any]) -> list[Judged]:
    """Domains whose quality lies below the phase's threshold, or was not measured.

    Judged is what the bundle says of its domains, not what was trained since: measured of its files where it was built
    under a threshold or of a smaller model, else of the adapter before anything was quantized.
    """
    if phase.quality_threshold is None:
        return []
    declared = declared_of(phase.domains)
    found = []
    for name, domain in manifest["domains"].items():
        measured = domain.get("measurements", {})
        quality = measured.get("quality")
        of = next((whose for key, whose in _WHOSE.items() if key in measured), OWN)
        found.append(Judged(name, None if quality is None else float(quality), of, declared.get(name)))
    return below(found, phase.quality_threshold)


def _is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    try:
        check_files(folder, manifest)
    except InvalidInput:
        return False  # damaged since: it is deployed again
    return True


def _start(workspace: Workspace) -> None:
    from core.runner.client import ensure_runner

    ensure_runner(workspace)


def target_of(workspace: Workspace, number: int, target: str | Path | None) -> Path:
    """The folder a phase is deployed to."""
    if target is None:
        return workspace.releases / f"phase-{number}"
    return Path(target).expanduser().resolve()


def _current_release(session: Session, folder: Path) -> Release | None:
    return session.exec(
        select(Release)
        .join(Deployment, col(Deployment.release_id) == Release.id)
        .where(Release.target == str(folder))
        .order_by(col(Deployment.id).desc())
    ).first()
