"""`manifest.json` of a bundle or release: what it holds, for whoever loads it."""

import json
from pathlib import Path
from typing import Any

from core.errors import InvalidInput
from core.files import sha256_of

NAME = "manifest.json"
FORMAT = 1


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle or release folder. Raises InvalidInput where there is none or it cannot be read."""
    path = folder / NAME
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(f"{folder} is not a bundle or release (no {NAME})") from None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise InvalidInput(f"{path} has format {found!r}, this program reads {FORMAT}")
    return dict(manifest)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a folder that is not yet under its final name."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True)
    (folder / NAME).write_text(text + "\n", "utf-8")


def listed_files(manifest: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Every file a manifest names: its SHA-256 and bytes, by relative path.

    Raises InvalidInput where an entry lacks something, or names a file outside the folder.
    """
    try:
        adapted = [domain for domain in manifest["domains"].values() if not is_merged(manifest, domain)]
        entries = [*manifest["bases"].values(), *adapted, manifest["routing"]]
        files = {
            str(entry.get("file") or entry["adapter"]): (str(entry["sha256"]), int(entry["bytes"])) for entry in entries
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"the manifest of phase {manifest.get('phase')} is not whole: {error!r}") from error
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InvalidInput(f"the manifest names a file outside its folder: {name}", "do not use it")
    return files


def is_merged(manifest: dict[str, Any], domain: dict[str, Any]) -> bool:
    """Whether a domain's entry has no adapter because its model holds the domain in its weights."""
    return "adapter" not in domain and "merged" in manifest["bases"][domain["base"]]


def has_general_model(manifest: dict[str, Any]) -> bool:
    """Whether there is a model that answers for no domain in particular: a base without its adapters, or one that holds
    several domains. Where each domain has a model of its own there is none."""
    served = [domain["base"] for domain in manifest["domains"].values()]
    return any("merged" not in base or served.count(name) > 1 for name, base in manifest["bases"].items())


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Hash every file the manifest names. Raises InvalidInput for the first that is missing or differs."""
    for name, (sha256, size) in listed_files(manifest).items():
        path = folder / name
        if not path.is_file():
            raise InvalidInput(f"{path} is missing", "deploy again")
        if path.stat().st_size != size or sha256_of(path) != sha256:
            raise InvalidInput(f"{path} differs from the manifest", "deploy again")
