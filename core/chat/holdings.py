"""What an engine can be asked: the bases and adapters of a bundle or release, their files checked before use."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.catalog.hashes import remembered_sha256
from core.chat.protocol import EngineError
from core.deploy.manifest import read_manifest
from core.errors import InvalidInput


@dataclass(frozen=True)
class Base:
    """A model file. `sha256` is the file's as the manifest has it, None where none was recorded; `identity` is what its
    adapters name as their base; a `merged` one has domains in its weights."""

    name: str
    path: Path
    sha256: str | None
    identity: str | None
    merged: bool = False


@dataclass(frozen=True)
class Adapter:
    """A domain on a base; without a path it is part of the base's weights."""

    base: str
    path: Path | None
    sha256: str | None


class Holdings:
    """Bases and adapters by name. `name` is what messages call the whole."""

    def __init__(self, name: str, bases: Mapping[str, Base], adapters: Mapping[str, Adapter]) -> None:
        self.name = name
        self.bases = dict(bases)
        self.adapters = dict(adapters)
        self._checked: set[tuple[Path, int, int]] = set()
        self._sizes: dict[Path, int] = {}  # of the files that were there, before anybody could change them
        paths = [base.path for base in self.bases.values()] + [one.path for one in self.adapters.values() if one.path]
        for path in paths:
            if path.is_file():
                self._sizes[path] = path.stat().st_size

    @classmethod
    def of_folder(cls, folder: Path) -> "Holdings":
        """Those of a bundle or release. Raises InvalidInput for another folder, or a manifest that is not whole."""
        return cls(folder.name, *_entries(folder, read_manifest(folder)))

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that can be asked."""
        return tuple(sorted(self.adapters))

    def most_used(self, leave_out: Collection[str] = ()) -> str:
        """The base that most domains use; one of `leave_out` only where there is no other."""
        used = [adapter.base for adapter in self.adapters.values()]
        return max(sorted(self.bases), key=lambda name: (name not in leave_out, used.count(name)))

    def base(self, name: str) -> Base:
        """A base whose file is there and is the manifest's. Raises EngineError otherwise."""
        base = self.bases[name]
        if not base.path.is_file():
            raise EngineError(f"{base.path} is missing", "deploy the phase again")
        self._check(f"the base {name}", base.path, base.sha256)
        return base

    def domain(self, name: str) -> tuple[Base, Adapter]:
        """A domain's base and adapter, checked. Raises EngineError for an unknown one and for files that changed."""
        adapter = self.adapters.get(name)
        if adapter is None:
            raise EngineError(f"{self.name} has no domain {name!r}", f"it has: {', '.join(self.domains)}")
        if adapter.path is not None:
            self._check(f"the adapter of {name}", adapter.path, adapter.sha256)
        return self.base(adapter.base), adapter

    def fault(self, name: str) -> str | None:
        """Why a domain's files cannot be used, as far as a look at them tells without reading them; None where nothing
        speaks against them."""
        adapter = self.adapters[name]
        for file in (adapter, self.bases[adapter.base]):
            if file.path is None:
                continue
            try:
                size = file.path.stat().st_size
            except FileNotFoundError:
                return f"{file.path.name} is missing"
            except OSError as error:
                return f"{file.path.name} cannot be read: {error.strerror}"
            if file.sha256 is not None and size != self._sizes.get(file.path, size):
                return f"{file.path.name} has another size than when the chat was opened"
        return None

    def _check(self, what: str, path: Path, sha256: str | None) -> None:
        """Compare a file with the manifest, once for each state of it."""
        try:
            status = path.stat()
            key = (path, status.st_mtime_ns, status.st_size)
            if sha256 is None or key in self._checked:
                return
            found = remembered_sha256([path])[0]
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error.strerror}", "deploy the phase again") from error
        if found != sha256:
            raise EngineError(f"{what} ({path}) differs from the manifest", "deploy the phase again")
        self._checked.add(key)


def _entries(folder: Path, manifest: dict[str, Any]) -> tuple[dict[str, Base], dict[str, Adapter]]:
    try:
        bases = {
            name: Base(
                name, _inside(folder, entry["file"]), entry.get("sha256"), entry.get("base_sha256"), "merged" in entry
            )
            for name, entry in manifest["bases"].items()
        }
        adapters = {
            name: Adapter(entry["base"], None, None)
            if entry["base"] in bases and bases[entry["base"]].merged and "adapter" not in entry
            else Adapter(entry["base"], _inside(folder, entry["adapter"]), entry["sha256"])
            for name, entry in manifest["domains"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"the manifest of {folder} lacks {error}", "deploy the phase again") from error
    if not bases:
        raise InvalidInput(f"the manifest of {folder} names no base", "deploy the phase again")
    for name, adapter in adapters.items():
        if adapter.base not in bases:
            raise InvalidInput(
                f"{folder}: the domain {name} names the base {adapter.base!r}, which is not in the manifest"
            )
    return bases, adapters


def _inside(folder: Path, name: str) -> Path:
    """A file the manifest names; a manifest must not lead out of its folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidInput(f"the manifest of {folder} names {name!r}, which is outside of it")
    return (folder / name).absolute()
