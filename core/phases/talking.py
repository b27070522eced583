"""What of a workspace can be talked to: a phase's release or bundle, a model file, an adapter on its own base."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.chat.holdings import Adapter, Base, Holdings
from core.chat.only import OnlyOne
from core.chat.subject import Subject
from core.deploy.current import release_folder
from core.deploy.manifest import NAME, read_manifest
from core.errors import InvalidInput, Refused
from core.gguf.inspect import inspect_gguf
from core.gguf.metadata import BASE_NAME, BASE_SHA256, DOMAIN
from core.phases.measured import Artifact, find_artifacts
from core.routing.data import crisis_resources
from core.store.reads import Reader, open_reader
from core.workspace import Workspace

if TYPE_CHECKING:
    from core.catalog import Catalog

TALKS = ("gguf", "gguf-adapter", "bundle")  # kinds of artifacts one can talk to as they are


def folder_of_phase(workspace: Workspace, number: int | None) -> tuple[Path, int]:
    """The folder that answers for a phase, by default the current one, and its number. Raises Refused where there is
    none yet."""
    if number is None:
        with open_reader(workspace) as reader:
            number = next((one.number for one in reader.phases() if one.current), None)
    if number is None:
        raise Refused("there is no phase yet", "tara quickstart, or tara create-phase 1 --domains …")
    found = release_folder(workspace, number)
    if found is None:
        raise Refused(f"phase {number} has neither a release nor a built bundle", f"tara build-phase {number}")
    return found, number


def folder_of_release(path: str) -> Path:
    """A release folder's current version, or the folder itself."""
    folder = Path(path).expanduser().resolve()
    current = folder / "current"
    return current.resolve() if current.is_symlink() else folder


def subject_of_artifact(workspace: Workspace | None, name: str) -> Subject:
    """A GGUF model, an adapter on its own base, or a bundle: by number, name or path of an artifact, or the path of a
    file. Raises InvalidInput or Refused for what cannot be talked to; an adapter whose base is not there is refused."""
    path = Path(name).expanduser()
    if (path / NAME).is_file() or (path / "current" / NAME).is_file():
        return Subject.of_folder(folder_of_release(name))
    if workspace is None:
        if not path.is_file():
            raise InvalidInput(f"there is no file {name}", "give the path of a GGUF file, or --root")
        return _of_file(None, path.resolve(), None)
    with open_reader(workspace) as reader:
        row = find_artifacts(reader, name)[0]
        if row["kind"] == "adapter":
            row = _converted(reader, row)
        where = workspace.absolute(row["path"])
        if row["kind"] == "bundle":
            return Subject.of_folder(where)
        if row["kind"] not in TALKS:
            raise Refused(
                f"{row['path']} ({row['kind']}) cannot be talked to",
                "give a GGUF model, an adapter or a bundle; tara export-domain makes a model of an adapter",
            )
        if not where.is_file():
            raise InvalidInput(f"{where} is missing", "build the phase again")
        return _of_file(reader, where, row["sha256"], row["domain"])


def talkable(reader: Reader) -> list[Artifact]:
    """The artifacts one can talk to whose files are there, newest first."""
    rows = [row for row in reader.artifacts() if row["kind"] in TALKS]
    return [row for row in rows if reader.workspace.absolute(row["path"]).exists()]


def made_by(reader: Reader, job_id: int) -> Artifact:
    """What a job made that can be talked to, a trained adapter by its GGUF file. Raises Refused where it is none."""
    for row in reader.artifacts():
        if row["job_id"] == job_id:
            row = _converted(reader, row) if row["kind"] == "adapter" else row
            if row["kind"] in TALKS and reader.workspace.absolute(row["path"]).exists():
                return row
    raise Refused(f"job {job_id} made nothing one can talk to", "choose a conversion, a quantization or a bundle")


def newest_of(reader: Reader, domain: str) -> Artifact:
    """The newest adapter of a domain as a GGUF file. Raises Refused where there is none."""
    for row in reader.artifacts(kind="gguf-adapter"):
        if row["domain"] == domain and reader.workspace.absolute(row["path"]).is_file():
            return row
    raise Refused(f"{domain} has no adapter that can be talked to yet", "build its phase: b")


def _converted(reader: Reader, adapter: Artifact) -> Artifact:
    """The newest GGUF file of a trained adapter."""
    for row in reader.artifacts(kind="gguf-adapter"):
        if any(parent["id"] == adapter["id"] for parent in reader.parents(row["id"])):
            return row
    raise Refused(f"{adapter['path']} has no GGUF file yet", f"tara build-phase {adapter['phase'] or 'N'} makes it")


def _of_file(reader: Reader | None, path: Path, sha256: str | None, domain: str | None = None) -> Subject:
    info = inspect_gguf(path)
    catalog = _catalog(reader)
    crisis = crisis_resources(catalog.settings.crisis_dict() if catalog is not None else None)
    if info.kind == "model":
        base = Base(path.stem, path, sha256, None, merged=domain is not None)
        adapters = {domain: Adapter(base.name, None, None)} if domain is not None else {}
        prompts = {domain: _prompt(catalog, domain)} if domain is not None else {}
        only = OnlyOne(domain, crisis)
        return Subject(
            path.name, path, Holdings(path.name, {base.name: base}, adapters), only, "", prompts, domain is None
        )
    if info.kind != "adapter":
        raise InvalidInput(f"{path} is a GGUF file of kind {info.kind}", "give a model or an adapter")
    named = info.metadata.get(BASE_SHA256)
    if not isinstance(named, str):
        raise Refused(f"{path.name} does not say which base it belongs to", "convert the adapter again with TARA")
    base = _base_of(reader, path, sha256, named, str(info.metadata.get(BASE_NAME) or "its base"))
    domain = str(info.metadata.get(DOMAIN) or path.stem)
    holdings = Holdings(path.name, {base.name: base}, {domain: Adapter(base.name, path, sha256)})
    prompts = {domain: _prompt(catalog, domain) or _prompt_beside(path, domain)}
    return Subject(path.name, path, holdings, OnlyOne(domain, crisis), "", prompts, True)


def _base_of(reader: Reader | None, path: Path, sha256: str | None, identity: str, name: str) -> Base:
    """The file to put an adapter on: the one it is bundled with, else one of its base in a bundle, else the newest
    quantized file made of its base. Raises Refused where none of them is there."""
    folders = [path.parent.parent] if (path.parent.parent / NAME).is_file() else []
    if reader is not None:
        folders += [reader.workspace.absolute(row["path"]) for row in reader.artifacts(kind="bundle")]
    fitting: list[Base] = []
    for folder in folders:
        try:
            manifest, held = read_manifest(folder), Holdings.of_folder(folder)
        except InvalidInput:  # gone, or an older program's
            continue
        for entry in manifest["domains"].values():
            mine = folder / entry.get("adapter", "") == path or (sha256 is not None and entry.get("sha256") == sha256)
            if mine and held.bases[entry["base"]].identity == identity:
                return held.bases[entry["base"]]
        fitting += [base for base in held.bases.values() if base.identity == identity and not base.merged]
    if reader is not None:
        fitting += [
            _as_base(reader, row, identity) for row in reader.artifacts(kind="gguf") if _made_of(reader, row, identity)
        ]
    found = next((base for base in fitting if base.path.is_file()), None)
    if found is None:
        raise Refused(
            f"{path.name} belongs to {name} ({identity[:12]}), of which there is no GGUF file here",
            "tara build-phase makes one, or give a release it is part of with --release",
        )
    return found


def _as_base(reader: Reader, row: Artifact, identity: str) -> Base:
    return Base(row["name"], reader.workspace.absolute(row["path"]), row["sha256"], identity)


def _made_of(reader: Reader, row: Artifact, identity: str) -> bool:
    """Whether a model file was made of the base of this identity and nothing else."""
    if "+" in row["name"] or row["domain"] is not None:
        return False
    waiting, seen = [row], set()
    while waiting:
        one = waiting.pop()
        if one["id"] in seen:
            continue
        seen.add(one["id"])
        if one["kind"] in ("merged", "small", "pruned"):
            return False
        if one["kind"] == "base" and one["meta"].get("identity") == identity:
            return True
        waiting += reader.parents(one["id"])
    return False


def _catalog(reader: Reader | None) -> "Catalog | None":
    from core.catalog import load_catalog

    return load_catalog(reader.workspace) if reader is not None else None


def _prompt(catalog: "Catalog | None", domain: str) -> str:
    return catalog.domains[domain].system_prompt if catalog is not None and domain in catalog.domains else ""


def _prompt_beside(path: Path, domain: str) -> str:
    """The system prompt that the release around an adapter has for it."""
    folder = path.parent.parent
    if not (folder / NAME).is_file():
        return ""
    entry: Any = read_manifest(folder)["domains"].get(domain) or {}
    return str(entry.get("system_prompt") or "")
