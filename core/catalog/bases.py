"""Where a base model's files are on this machine, and what identifies them; nothing is downloaded or imported."""

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

from core.catalog.hashes import remembered_sha256
from core.catalog.model import BaseModel
from core.errors import EnvironmentLacks, InvalidInput
from core.files import hash_json
from core.workspace import Workspace

_GGUF_MAGIC = b"GGUF"
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
# What a folder's behaviour depends on besides its weights.
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.model",
    _INDEX,
)


@dataclass(frozen=True)
class Located:
    """A base model's files. `kind` is gguf (the file `gguf_file` in the folder `path`) or local (the folder `path`
    of config.json, safetensors and tokenizer): what a hub, embedded or any other base comes down to here."""

    name: str
    kind: str
    path: Path
    gguf_file: str | None = None

    @property
    def file(self) -> Path:
        """The GGUF file, or the folder."""
        return self.path / self.gguf_file if self.gguf_file else self.path


def locate(base: BaseModel, workspace: Workspace) -> Located:
    """Find a base model's files without loading, importing or downloading anything.

    Raises EnvironmentLacks saying where it looked and how to get the model, InvalidInput for files that are there but
    cannot be used.
    """
    if base.kind == "embedded":
        return _embedded(base)
    if base.kind == "gguf":
        assert base.gguf_file is not None
        path = workspace.absolute(Path(base.gguf_file).expanduser())
        if not path.is_file():
            raise EnvironmentLacks(
                f"the file of {base.name} is not there: {path}",
                "put it there, or correct gguf_file in the model mapping",
            )
        return _gguf(base, path)
    if base.kind == "local":
        assert base.path is not None
        folder = workspace.absolute(Path(base.path).expanduser())
        if not (folder / "config.json").is_file():
            raise EnvironmentLacks(
                f"{folder}, the folder of {base.name}, is not there or has no config.json",
                "put the model there, or correct its path in the model mapping",
            )
        return _folder(base, folder)
    return _hub(base, workspace)


def base_identity(located: Located) -> str:
    """SHA-256, as hex, of what identifies a base: of the GGUF file, or of the names, sizes and hashes of a folder's
    weights, config and tokenizer files. Remembered: a second call reads no large file."""
    if located.kind == "gguf":
        return remembered_sha256([located.file])[0]
    small = {path for pattern in _SMALL_FILES for path in located.path.glob(pattern) if path.is_file()}
    files = sorted(small.union(weights_of(located.name, located.path)))
    hashes = remembered_sha256(files)
    return hash_json([[path.name, path.stat().st_size, digest] for path, digest in zip(files, hashes, strict=True)])


def hub_cache() -> Path:
    """The folder in which Hugging Face tools keep downloaded models, found as they find it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if named := os.environ.get(variable):
            return Path(named).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache") / "huggingface" / "hub"


def _embedded(base: BaseModel) -> Located:
    assert base.module is not None
    assert base.gguf_file is not None
    # Found, not imported: importing the package wants another one that is not needed here.
    spec = importlib.util.find_spec(base.module)
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise EnvironmentLacks(
            f"{base.name} comes in the package {base.package}, which is not installed", f"pip install {base.package}"
        )
    path = Path(places[0]) / base.gguf_file
    if not path.is_file():
        raise EnvironmentLacks(
            f"{base.name}: the package {base.package} has no {base.gguf_file} (looked in {places[0]})",
            f"pip install --force-reinstall {base.package}",
        )
    return _gguf(base, path)


def _gguf(base: BaseModel, path: Path) -> Located:
    try:
        with open(path, "rb") as stream:
            magic = stream.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise EnvironmentLacks(f"{path}, the file of {base.name}, cannot be read: {error.strerror}") from error
    if magic != _GGUF_MAGIC:
        raise InvalidInput(f"{path}, the file of {base.name}, is no GGUF file", "download it again")
    return Located(base.name, "gguf", path.parent, path.name)


def _hub(base: BaseModel, workspace: Workspace) -> Located:
    assert base.hub_id is not None
    organisation, model = base.hub_id.split("/")
    own = workspace.root / "models" / organisation / model
    if (own / "config.json").is_file():
        return _folder(base, own)
    kept = hub_cache() / f"models--{organisation}--{model}"
    snapshot = _snapshot(base, kept)
    if snapshot is not None:
        return _folder(base, snapshot)
    raise EnvironmentLacks(
        f"{base.name} ({base.hub_id}) is not on this machine: looked in {own} and {kept}",
        f"fetch it with `hf download {base.hub_id} --local-dir {own}`, or put the domain on a base that is here",
    )


def _snapshot(base: BaseModel, kept: Path) -> Path | None:
    """The snapshot that `main` names, else the only one there is."""
    snapshots = kept / "snapshots"
    if not snapshots.is_dir():
        return None
    reference = kept / "refs" / "main"
    revision = reference.read_text("utf-8").strip() if reference.is_file() else ""
    if revision and revision == Path(revision).name and (snapshots / revision / "config.json").is_file():
        return snapshots / revision
    there = sorted(folder for folder in snapshots.iterdir() if (folder / "config.json").is_file())
    if len(there) > 1:
        raise InvalidInput(
            f"{base.name}: {snapshots} holds {len(there)} snapshots and refs/main names none of them",
            f"name one with kind: local and path: {there[0]} in the model mapping",
        )
    return there[0] if there else None


def _folder(base: BaseModel, folder: Path) -> Located:
    weights_of(base.name, folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise InvalidInput(f"{folder}, the folder of {base.name}, has no tokenizer", "fetch the whole model again")
    return Located(base.name, "local", folder)


def weights_of(name: str, folder: Path) -> list[Path]:
    """The safetensors files of the folder of the base `name`. Raises InvalidInput where one is missing."""
    index = folder / _INDEX
    names = [_SINGLE]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{index} of {name} cannot be read: {error}", "fetch the model again") from error
        if any(not isinstance(file, str) or Path(file).name != file for file in names):
            raise InvalidInput(f"{index} of {name} names files outside its folder", "do not use this model")
    missing = [file for file in names if not (folder / file).is_file()]
    if not missing:
        return [folder / file for file in names]
    pickled = next((path.name for pattern in _PICKLES for path in folder.glob(pattern)), None)
    if pickled:
        raise InvalidInput(
            f"{folder}, the folder of {name}, has {pickled} but no {missing[0]}: pickled weights are not read",
            "fetch a release with safetensors, or convert it where you trust it",
        )
    raise InvalidInput(f"{folder}, the folder of {name}, lacks {missing[0]}", "fetch the whole model again")
