"""Releases in a target folder: `versions/<n>/` each whole, and `current`, a link that is switched in one step."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.deploy.manifest import NAME, check_files, listed_files, read_manifest, write_manifest
from core.errors import InvalidInput, Refused
from core.files import STAGING_PREFIX, discard, staging_beside, sync_tree

VERSIONS = "versions"
CURRENT = "current"


def versions_in(target: Path) -> list[int]:
    """The versions a target holds, ascending."""
    folder = target / VERSIONS
    return sorted(int(path.name) for path in folder.iterdir() if _is_number(path.name)) if folder.is_dir() else []


def active_version(target: Path) -> int | None:
    """The version `current` leads to, or None."""
    link = target / CURRENT
    if not link.is_symlink():
        return None
    name = Path(os.readlink(link)).name
    return int(name) if _is_number(name) and (target / VERSIONS / name).is_dir() else None


def check_target(target: Path, phase: int) -> None:
    """Refuse a target that cannot hold a phase's releases: not a folder, somebody else's, or another phase's."""
    if not target.exists():
        nearest = next(parent for parent in target.parents if parent.exists())
        if not nearest.is_dir():
            raise InvalidInput(f"{target} cannot be made: {nearest} is not a folder", "choose another --target")
        if not os.access(nearest, os.W_OK):
            raise InvalidInput(f"{target} cannot be made: {nearest} is not writable", "choose another --target")
        return
    if not target.is_dir():
        raise InvalidInput(f"{target} is not a folder", "choose another --target")
    if not os.access(target, os.W_OK):
        raise InvalidInput(f"{target} is not writable", "choose another --target")
    found = versions_in(target)
    if not found and not _only_left_overs(target):
        raise Refused(f"{target} is not empty and holds no releases of TARA", "choose an empty folder as --target")
    if found:
        holder = read_manifest(target / VERSIONS / str(found[-1]))["phase"]
        if holder != phase:
            raise Refused(f"{target} holds the releases of phase {holder}", "choose another --target")


def put_release(
    bundle: Path,
    target: Path,
    version: int,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    told: Mapping[str, Any] | None = None,
) -> Path:
    """Copy a bundle into a target as a version, check every hash of the copy, and make it current.

    `progress` gets bytes done and bytes in all; what is `told` of the release is added to its manifest. Returns the
    version's folder. A failure leaves the target as it was.
    """
    manifest = read_manifest(bundle)
    files = {**listed_files(manifest), NAME: ("", (bundle / NAME).stat().st_size)}
    total, done = sum(size for _, size in files.values()), 0
    final = target / VERSIONS / str(version)
    if final.exists():
        raise Refused(f"{final} exists already")
    made = [folder for folder in (target / VERSIONS, target) if not folder.exists()]
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f"{STAGING_PREFIX}*"):  # of deployments that were killed
        if not Path("/proc", left.name.removeprefix(STAGING_PREFIX).partition("-")[0]).exists():
            discard(left)
    staged = staging_beside(final)
    try:
        for name, (_, size) in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, staged / name)
            done += size
            progress(done, total)
        check_files(staged, manifest)
        if told:
            write_manifest(staged, {**manifest, **told})
        sync_tree(staged)
        os.replace(staged, final)
        sync_tree(final.parent, recurse=False)
        switch(target, version)
    except BaseException:
        discard(staged)
        if active_version(target) != version:  # else the link leads to it: it is whole, and stays
            discard(final)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
    return final


def switch(target: Path, version: int) -> None:
    """Make a version the current one, in one rename."""
    folder = target / VERSIONS / str(version)
    if not folder.is_dir():
        raise InvalidInput(f"{target} has no version {version}", f"it has {versions_in(target)}")
    temporary = staging_beside(target / CURRENT)
    temporary.unlink(missing_ok=True)
    try:
        os.symlink(Path(VERSIONS) / str(version), temporary)
        os.replace(temporary, target / CURRENT)
    finally:
        temporary.unlink(missing_ok=True)
    sync_tree(target, recurse=False)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _only_left_overs(target: Path) -> bool:
    """Whether a folder is empty but for what a first deployment leaves behind that was killed half-way."""
    versions = target / VERSIONS
    inside = list(versions.iterdir()) if versions.is_dir() else []
    rest = [path for path in target.iterdir() if path != versions]
    return all(path.name.startswith(STAGING_PREFIX) for path in (*inside, *rest))
