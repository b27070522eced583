"""Files that are whole or not there: temporary names, flushed renames, hashes and folder manifests."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import EnvironmentLacks, InvalidInput

MANIFEST = "MANIFEST.json"
FULL = (errno.ENOSPC, errno.EDQUOT)  # what the system says where a disk, or a person's share of it, has no room
STAGING_PREFIX = ".tmp-"
SCRATCH_SUFFIX = ".scratch"
_BLOCK = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h: share a file's blocks until one of the two is written


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, as hex: equal values have equal hashes, whatever their key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def staging_beside(target: Path) -> Path:
    """A temporary name on the same file system as `target`, recognisable as garbage if it is left behind."""
    return target.parent / f"{STAGING_PREFIX}{os.getpid()}-{target.name}"


def scratch_beside(target: Path) -> Path:
    """The name of a folder, likewise recognisable, for what is needed while `target` is made and is no part of it."""
    return staging_beside(target.with_name(target.name + SCRATCH_SUFFIX))


def left_beside(target: Path) -> list[Path]:
    """What processes that were killed left under the temporary names of `target`, if none of them lives."""
    name = re.compile(rf"{re.escape(STAGING_PREFIX)}[0-9]+-{re.escape(target.name)}(?:{re.escape(SCRATCH_SUFFIX)})?")
    try:
        return sorted(path for path in target.parent.iterdir() if name.fullmatch(path.name))
    except FileNotFoundError:  # nothing was ever made there
        return []


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name where the file system allows, else copy it: for what is never written to again."""
    try:
        os.link(source.resolve(), target)  # resolved: a hub's cache is made of links
    except OSError:  # another file system, another's file, or one without links
        shutil.copyfile(source, target)


def first_writable(paths: Sequence[Path], what: str) -> Path:
    """The first of some places for `what` that can be written, its folder made.

    Raises EnvironmentLacks with what is wrong with each.
    """
    refused: list[str] = []
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refused.append(str(error))
            continue
        if os.access(path.parent, os.W_OK):
            return path
        refused.append(f"{path.parent} is not writable")
    raise EnvironmentLacks(f"no folder for {what}: {'; '.join(refused)}", "make one of them writable")


def discard(path: Path) -> None:
    """Remove a file, link or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_tree(path: Path, *, recurse: bool = True) -> None:
    """Flush a file, or a folder and all in it, to the disk."""
    children = sorted(path.iterdir()) if recurse and path.is_dir() and not path.is_symlink() else []
    for child in children:
        if not child.is_symlink():
            sync_tree(child)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_tree(source: Path, target: Path) -> None:
    """A copy of a folder that costs nothing where the file system allows: blocks shared, else hard links, else copies.

    Whoever changes such a file must replace it, never write into it.
    """
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_dir():
            link_tree(path, target / path.name)
        elif not _share_blocks(path, target / path.name):
            try:
                os.link(path, target / path.name)
            except OSError:  # no links on this file system, or not to this owner's file
                shutil.copy2(path, target / path.name)


def _share_blocks(source: Path, target: Path) -> bool:
    with open(source, "rb") as reader, open(target, "xb") as writer:
        try:
            fcntl.ioctl(writer, _FICLONE, reader.fileno())
            return True
        except OSError:
            target.unlink()
            return False


def tree_bytes(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file: temporary name, flush, rename."""
    data = content.encode() if isinstance(content, str) else content
    temporary = staging_beside(path)
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_tree(path.parent, recurse=False)
    finally:
        temporary.unlink(missing_ok=True)


def write_manifest(folder: Path, about: dict[str, Any]) -> tuple[str, int]:
    """Write `MANIFEST.json` last into a folder: every file's size and SHA-256, and what `about` says of the whole.

    Returns the manifest's own SHA-256 (the folder's hash) and the bytes of all files it lists.
    """
    files: dict[str, dict[str, Any]] = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    write_atomically(folder / MANIFEST, json.dumps({**about, "files": files}, indent=1, sort_keys=True) + "\n")
    return sha256_of(folder / MANIFEST), sum(entry["bytes"] for entry in files.values())


def check_manifest(folder: Path, *, hashes: bool = True) -> dict[str, Any]:
    """Read a folder's manifest and check its files against it (sizes, and with `hashes` their SHA-256).

    Returns the manifest. Raises InvalidInput naming the first file that is missing or differs.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InvalidInput(f"{folder} has no {MANIFEST}: it was not finished", "make it again")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
        listed = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", "make it again") from error
    for name, (size, sha256) in listed.items():
        file = folder / name
        if not file.is_file():
            raise InvalidInput(f"{file} is missing", "make it again")
        if file.stat().st_size != size or (hashes and sha256_of(file) != sha256):
            raise InvalidInput(f"{file} differs from its manifest", "make it again")
    return manifest
